//! The server's set-up: the plan's hash is checked, nonces exchanged, the client's public keys taken.

use std::collections::HashMap;
use std::sync::Arc;

use pi_model::plan::Plan;
use subtle::ConstantTimeEq as _;

use super::{DEFAULT_MAX_PREPARED, ServerSession};
use crate::error::{Error, Result};
use crate::he;
use crate::layout::Layout;
use crate::prg::{self, Seed};
use crate::session::hello::{Opening, decode_client_hello, encode_hello, hello_messages};
use crate::session::{SessionOptions, setup_messages};
use crate::transfers::server::Receiving;
use crate::wire::channel::Channel;
use crate::wire::{Batch, Nonces, Phase, Step, Tag, Wire};

impl<C: Channel> ServerSession<C> {
    /// Sets up a session with the client behind `channel`, for `plan`.
    ///
    /// # Errors
    /// [`Error::Peer`] when the client follows another plan or version, [`Error::Channel`] when it is gone.
    pub fn accept(channel: C, plan: Arc<Plan>) -> Result<Self> {
        Self::accept_with_seed(channel, plan, prg::os_seed()?)
    }

    /// As [`Self::accept`], with all randomness from `seed`.
    pub(crate) fn accept_with_seed(channel: C, plan: Arc<Plan>, seed: Seed) -> Result<Self> {
        let public = plan.public().clone();
        let mut wire = Wire::new(channel);
        // The plan's hash first: with another plan every later length would differ, and the client's material would serve nothing.
        let hello = wire.receive(Tag::setup(Step::Hello), &hello_messages())?;
        let (client, hash, opening) = decode_client_hello(&hello)?;
        if !bool::from(hash.ct_eq(&public.hash())) {
            return Err(Error::peer(
                Step::Hello.name(),
                0,
                "the hash of this server's plan",
                "another hash: the client must describe the model again, and both sides must run the same release",
            ));
        }
        // This side's nonce is drawn whatever the client's is: no value of an earlier session comes back.
        let server = *seed.derive("server nonce", &[]).as_bytes();
        let nonces = Nonces { client, server };
        let options = match opening {
            Opening::Full(options) => options,
            Opening::KeptOnly => SessionOptions::default(),
        };
        let layout = Layout::new(&public, options)?;
        if opening == Opening::KeptOnly {
            let reply = encode_hello(&server, &[0; 32]);
            wire.send(Tag::setup(Step::HelloReply), &reply)?;
            return Ok(Self {
                setup_s: wire.ledger.now_s(),
                kept_only: true,
                ..Self::bare(wire, plan, layout, seed, nonces)
            });
        }
        let setup = Batch {
            number: 0,
            nonces,
            seed: &seed,
        };
        let (base, point) = wire
            .ledger
            .time(Phase::Setup, "OT", || Receiving::begin(&setup, &layout));
        wire.send(Tag::setup(Step::HelloReply), &encode_hello(&server, &point))?;
        let messages = setup_messages(&public, &layout);
        let keys = wire.receive(Tag::setup(Step::PublicKeys), &messages)?;
        let common = nonces.public_seed("he public key", &[]);
        let keys = wire.ledger.time(Phase::Setup, "keys", || {
            let keys = keys.chunks(he::public_key_bytes()).enumerate();
            keys.map(|(i, key)| he::PublicKey::from_message(&common, i, key))
                .collect::<Result<Vec<_>>>()
        })?;
        let receiving = Receiving::set_up(&mut wire, &setup, &layout, base)?;
        Ok(Self {
            setup_s: wire.ledger.now_s(),
            keys,
            receiving,
            ..Self::bare(wire, plan, layout, seed, nonces)
        })
    }

    /// A session without keys.
    fn bare(wire: Wire<C>, plan: Arc<Plan>, layout: Layout, seed: Seed, nonces: Nonces) -> Self {
        Self {
            setup_s: 0.0,
            observer: None,
            wire,
            plan,
            layout,
            seed,
            nonces,
            keys: vec![],
            receiving: Receiving::Nothing,
            kept_only: false,
            keeper: None,
            n_batches: 0,
            over: false,
            prepared: HashMap::new(),
            max_prepared: DEFAULT_MAX_PREPARED,
            #[cfg(test)]
            trace: vec![],
        }
    }
}
