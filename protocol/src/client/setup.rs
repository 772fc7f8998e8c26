//! The client's set-up: nonces, public keys, and the OT extension in which the server receives.

use std::sync::Arc;

use pi_model::plan::PublicPlan;

use super::ClientSession;
use crate::channel::Channel;
use crate::error::Result;
use crate::he;
use crate::layout::Layout;
use crate::ledger::Phase;
use crate::mux::ClientMux;
use crate::ot::softspoken;
use crate::prg::{self, Seed};
use crate::ring::Ring;
use crate::session::{
    HELLO_REPLY_BYTES, SessionOptions, decode_hello, encode_client_hello, setup_tag,
};
use crate::wire::{Step, Wire};

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
        let layout = Arc::new(Layout::new(&plan)?);
        let mut wire = Wire::new(channel);
        let client_nonce = *seed.derive("client nonce", &[]).as_bytes();
        wire.send(
            setup_tag(Step::Hello),
            &encode_client_hello(&client_nonce, &plan.hash(), options),
        )?;
        let reply = wire.recv(setup_tag(Step::HelloReply), HELLO_REPLY_BYTES)?;
        let (server_nonce, point) = decode_hello(Step::HelloReply, &reply)?;

        let public = prg::public_seed("he public key", &client_nonce, &server_nonce, &[]);
        let keys = wire.ledger.time(Phase::Setup, "keys", || {
            let pairs = (0..plan.sources().len())
                .map(|i| he::SecretKey::generate(&public, &mut seed.stream("he key", &[i as u64])));
            pairs.collect::<Vec<_>>()
        });
        let message: Vec<u8> = keys
            .iter()
            .flat_map(|(_, public)| public.iter().copied())
            .collect();
        wire.send(setup_tag(Step::PublicKeys), &message)?;
        let mux = if layout.n_relus() == 0 {
            None
        } else {
            let (setup, answer) = wire.ledger.time(Phase::Setup, "OT", || {
                ClientMux::answer(&client_nonce, &server_nonce, &point, &seed)
            })?;
            wire.send(setup_tag(Step::MuxBase), &answer)?;
            let trees = wire.recv(setup_tag(Step::MuxTrees), softspoken::TREES_BYTES)?;
            Some(ClientMux::finish(
                setup,
                &client_nonce,
                &server_nonce,
                &trees,
                options.ot,
                seed.derive("multiplexer silent OT", &[]),
            )?)
        };
        let input_ring = Ring::new(plan.tensor_bits(0));
        let keys = keys.into_iter().map(|(secret, _)| secret).collect();
        Ok(Self {
            wire,
            plan,
            layout,
            input_ring,
            seed,
            client_nonce,
            server_nonce,
            keys,
            mux,
            options,
            kept_only: false,
            n_batches: 0,
            over: false,
            #[cfg(test)]
            trace: vec![],
        })
    }
}
