//! The client's set-up: nonces, public keys, and the OT extension in which the server receives; or, for kept inferences alone,
//! nonces only.

use std::sync::Arc;

use pi_model::plan::PublicPlan;

use super::ClientSession;
use crate::error::Result;
use crate::he;
use crate::layout::Layout;
use crate::prg::{self, Seed};
use crate::session::SessionOptions;
use crate::session::hello::{decode_hello, encode_client_hello, encode_kept_hello, hello_messages};
use crate::transfers::client::Sending;
use crate::wire::channel::Channel;
use crate::wire::{Batch, Nonces, Phase, Step, Tag, Wire};

impl<C: Channel> ClientSession<C> {
    /// Sets up a session over `channel` for the plan that the client computed from the server's description.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] when the server follows another plan or version, [`crate::Error::Channel`] when it is gone.
    pub fn connect(channel: C, plan: Arc<PublicPlan>) -> Result<Self> {
        Self::connect_with(channel, plan, SessionOptions::default())
    }

    /// As [`Self::connect`], with OTs made and circuits garbled as `options` say.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_with(
        channel: C,
        plan: Arc<PublicPlan>,
        options: SessionOptions,
    ) -> Result<Self> {
        Self::connect_with_seed(channel, plan, options, prg::os_seed()?)
    }

    /// As [`Self::connect_with`], with all randomness from `seed`.
    pub(crate) fn connect_with_seed(
        channel: C,
        plan: Arc<PublicPlan>,
        options: SessionOptions,
        seed: Seed,
    ) -> Result<Self> {
        let layout = Layout::new(&plan, options)?;
        let mut wire = Wire::new(channel);
        let (nonces, point) = greet(&mut wire, &seed, |nonce| {
            encode_client_hello(nonce, &plan.hash(), options)
        })?;
        // Keys come after the server's nonce: the part that all public keys share is derived from both nonces, so that no party
        // chooses it alone and no earlier session has had it.
        let public = nonces.public_seed("he public key", &[]);
        let keys = wire.ledger.time(Phase::Setup, "keys", || {
            let pairs = (0..plan.sources().len())
                .map(|i| he::SecretKey::generate(&public, &mut seed.stream("he key", &[i as u64])));
            pairs.collect::<Vec<_>>()
        });
        let message = keys.iter().flat_map(|(_, public)| public.iter().copied());
        let message: Vec<u8> = message.collect();
        wire.send(Tag::setup(Step::PublicKeys), &message)?;
        let setup = Batch {
            number: 0,
            nonces,
            seed: &seed,
        };
        let sending = Sending::set_up(&mut wire, &setup, &layout, point)?;
        Ok(Self {
            keys: keys.into_iter().map(|(secret, _)| secret).collect(),
            sending,
            ..Self::bare(wire, plan, layout, seed, nonces)
        })
    }

    /// Opens a session that only runs kept inferences of `plan`: one round trip, no keys, no base OTs. It cannot prepare.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_online(channel: C, plan: Arc<PublicPlan>) -> Result<Self> {
        let seed = prg::os_seed()?;
        let layout = Layout::new(&plan, SessionOptions::default())?;
        let mut wire = Wire::new(channel);
        let (nonces, _) = greet(&mut wire, &seed, |nonce| {
            encode_kept_hello(nonce, &plan.hash())
        })?;
        Ok(Self {
            kept_only: true,
            ..Self::bare(wire, plan, layout, seed, nonces)
        })
    }

    /// A session without keys.
    fn bare(
        wire: Wire<C>,
        plan: Arc<PublicPlan>,
        layout: Layout,
        seed: Seed,
        nonces: Nonces,
    ) -> Self {
        Self {
            wire,
            plan,
            layout,
            seed,
            nonces,
            keys: vec![],
            sending: Sending::Nothing,
            kept_only: false,
            n_batches: 0,
            over: false,
            #[cfg(test)]
            trace: vec![],
        }
    }
}

/// Says hello with a fresh nonce and takes the server's; also its first message of the base OTs.
fn greet<C: Channel>(
    wire: &mut Wire<C>,
    seed: &Seed,
    hello: impl FnOnce(&[u8; 32]) -> Vec<u8>,
) -> Result<(Nonces, [u8; 32])> {
    let client = *seed.derive("client nonce", &[]).as_bytes();
    wire.send(Tag::setup(Step::Hello), &hello(&client))?;
    let reply = wire.receive(Tag::setup(Step::HelloReply), &hello_messages())?;
    let (server, point) = decode_hello(Step::HelloReply, &reply)?;
    Ok((Nonces { client, server }, point))
}
