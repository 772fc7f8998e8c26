//! The server's set-up: the plan's hash is checked, nonces exchanged, the client's public keys taken.

use std::collections::HashMap;
use std::sync::Arc;

use pi_model::plan::Plan;
use subtle::ConstantTimeEq as _;

use super::{DEFAULT_MAX_PREPARED, ServerSession};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::he;
use crate::layout::Layout;
use crate::ledger::Phase;
use crate::mux::ServerMux;
use crate::ot::softspoken;
use crate::prg::{self, Seed};
use crate::session::{
    HELLO_BYTES, Nonce, Opening, SessionOptions, decode_client_hello, encode_hello, setup_tag,
};
use crate::wire::{Step, Wire};

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
        let layout = Arc::new(Layout::new(&public)?);
        let mut wire = Wire::new(channel);
        let hello = wire.recv(setup_tag(Step::Hello), HELLO_BYTES)?;
        let (client_nonce, hash, opening) = decode_client_hello(&hello)?;
        if !bool::from(hash.ct_eq(&public.hash())) {
            return Err(Error::peer(
                Step::Hello.name(),
                0,
                "the hash of this server's plan",
                "another hash: the client must describe the model again, and both sides must run the same release",
            ));
        }
        let server_nonce = *seed.derive("server nonce", &[]).as_bytes();
        let Opening::Full(options) = opening else {
            let reply = encode_hello(&server_nonce, &[0; 32]);
            wire.send(setup_tag(Step::HelloReply), &reply)?;
            return Ok(Self {
                setup_s: wire.ledger.now_s(),
                kept_only: true,
                ..Self::bare(wire, plan, layout, seed, [client_nonce, server_nonce])
            });
        };
        let (setup, point) = wire.ledger.time(Phase::Setup, "OT", || {
            ServerMux::begin(&client_nonce, &server_nonce, &seed)
        });
        wire.send(
            setup_tag(Step::HelloReply),
            &encode_hello(&server_nonce, &point),
        )?;

        let n_keys = public.sources().len();
        let message = wire.recv(setup_tag(Step::PublicKeys), n_keys * he::public_key_bytes())?;
        let common = prg::public_seed("he public key", &client_nonce, &server_nonce, &[]);
        let keys = wire.ledger.time(Phase::Setup, "keys", || {
            message
                .chunks(he::public_key_bytes())
                .enumerate()
                .map(|(i, key)| he::PublicKey::from_message(&common, i, key))
                .collect::<Result<Vec<_>>>()
        })?;
        let mux = if layout.n_relus() == 0 {
            None
        } else {
            let answer = wire.recv(setup_tag(Step::MuxBase), softspoken::BASE_RECEIVER_BYTES)?;
            let (mux, trees) = wire.ledger.time(Phase::Setup, "OT", || {
                ServerMux::finish(setup, &client_nonce, &server_nonce, &answer, options.ot)
            })?;
            wire.send(setup_tag(Step::MuxTrees), &trees)?;
            Some(mux)
        };
        Ok(Self {
            setup_s: wire.ledger.now_s(),
            keys,
            mux,
            options,
            ..Self::bare(wire, plan, layout, seed, [client_nonce, server_nonce])
        })
    }

    /// A session without keys.
    fn bare(
        wire: Wire<C>,
        plan: Arc<Plan>,
        layout: Arc<Layout>,
        seed: Seed,
        [client_nonce, server_nonce]: [Nonce; 2],
    ) -> Self {
        Self {
            setup_s: 0.0,
            observer: None,
            wire,
            plan,
            layout,
            seed,
            client_nonce,
            server_nonce,
            keys: vec![],
            mux: None,
            options: SessionOptions::default(),
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
