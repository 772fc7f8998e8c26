//! The client's offline phase for one batch: everything before the inputs are known, in two round trips.
//!
//! Flight 1 up: noise bits and corrections of every source, first message of the labels' base OTs. Flight 2 down: responses
//! (each as soon as its source is in, so that the two flights share the wire), base-OT answer, the server's OT extension. Flight 3 up:
//! the client's extension, and for each layer of each inference what the method of its ReLUs needs, and identity shares. Flight 4
//! down: hash key and tables.
//!
//! Cost in bytes for each ReLU of l bits where the server garbles: 32 (l - 1) down (three-halves garbling: 24.625), (l + k') / 8
//! up, and the OT extension's 31 bits for each of l + 1 transfers. Where the client garbles, [`crate::relu::digits`].

use zeroize::Zeroizing;

use super::{ClientSession, Origin, Prepared};
use crate::argmax;
use crate::block::Block;
use crate::error::{Error, Result};
use crate::kept::{Handle, client::outcome};
use crate::layout::Layout;
use crate::linear;
use crate::relu;
use crate::session::Request;
use crate::transfers::{self, Extensions};
use crate::wire::channel::Channel;
use crate::wire::{Batch, Step, Wire};

/// One inference between flights 3 and 4.
struct Sent {
    draft: linear::client::Draft,
    relus: relu::client::Material,
}

/// What flight 4 brings for a whole batch.
struct Garbled {
    /// Where the hashes of the circuits start; zero if there are none.
    start_key: Block,
    /// The blocks of the OTs in which the client receives, complete.
    blocks: Zeroizing<Vec<Block>>,
}

impl Sent {
    /// Flight 4 of one inference: tables, layer after layer, the argmax last.
    fn receive<C: Channel>(
        mut self,
        wire: &mut Wire<C>,
        batch: &Batch<'_>,
        layout: &Layout,
        index: usize,
        garbled: &Garbled,
    ) -> Result<Prepared> {
        let (item, options, blocks) = (batch.item(index), layout.options(), &garbled.blocks);
        self.relus.receive(wire, batch, layout, index, blocks)?;
        let argmax = match &layout.argmax {
            None => None,
            Some(argmax) => {
                let labels = &blocks[layout.ots().to_client(index, argmax.layer)];
                let scheme = options.garbling.scheme();
                Some(argmax::client::receive(wire, item, argmax, scheme, labels)?)
            }
        };
        Ok(Prepared {
            origin: Origin::Session(batch.nonces.client),
            options,
            item,
            start_key: garbled.start_key,
            input_mask: self.draft.masks.swap_remove(0),
            relus: self.relus,
            output: self.draft.accumulators.swap_remove(layout.last_layer()),
            argmax,
        })
    }
}

impl<C: Channel> ClientSession<C> {
    /// Prepares one batch of inferences.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] or [`crate::Error::Channel`]; the session is over then.
    pub fn prepare(&mut self) -> Result<Vec<Prepared>> {
        self.unless_over()?;
        let result = self.prepare_batch(None);
        self.note(result)
    }

    /// Prepares one batch of inferences that the server keeps beyond this session: each can be used in this session or in
    /// any later one with the same server and plan, once.
    ///
    /// # Errors
    /// [`Error::Kept`] when the server did not keep them: nothing is prepared then, and the session goes on. Otherwise as
    /// [`Self::prepare`].
    pub fn prepare_kept(&mut self) -> Result<Vec<Prepared>> {
        self.unless_over()?;
        let result = self.prepare_kept_batch();
        self.note(result)
    }

    fn prepare_kept_batch(&mut self) -> Result<Vec<Prepared>> {
        let seed = self
            .seed
            .derive("handle of kept inferences", &[self.n_batches.into()]);
        let handle = Handle::new(&seed);
        let mut prepared = self.prepare_batch(Some(&handle))?;
        let tag = self.batch(self.n_batches).tag(Step::Kept, 0);
        // Only the server's word that its halves are stored makes the client's halves worth keeping.
        let reply = self.wire.recv(tag, 1)?;
        outcome(tag, &reply)?;
        for (index, prepared) in prepared.iter_mut().enumerate() {
            prepared.origin = Origin::Kept {
                id: handle.item(index),
                plan_hash: self.plan.hash(),
            };
        }
        Ok(prepared)
    }

    fn prepare_batch(&mut self, keep: Option<&Handle>) -> Result<Vec<Prepared>> {
        let batch = self.next_batch()?;
        let (request_tag, request) = Request::prepare(batch, keep).encode();
        self.wire.send(request_tag, &request)?;

        let Self {
            wire,
            plan,
            layout,
            seed,
            nonces,
            keys,
            sending,
            ..
        } = self;
        let batch = Batch {
            number: batch,
            nonces: *nonces,
            seed,
        };
        let n = plan.batch();
        let extensions = Extensions::new(layout, n);

        // Flight 1, up. Sources first: the server's products take longest, and it starts on each as soon as it is in. The points
        // of the base OTs wait for nothing and come last, so that flight 2 can follow in one go.
        let mut linear = linear::client::Preparing::send_sources(wire, plan, &batch, keys)?;
        let begun = transfers::client::begin(wire, &batch, &extensions, sending)?;
        // Only now has the last message of this flight gone.
        wire.expect(0);

        // Flight 2, down. Every share of the client follows from the responses, and flight 3 is made of these shares.
        linear.receive_rest(wire)?;
        let drafts = linear.finish();
        let transfers = transfers::client::extend(wire, &batch, &extensions, sending, begun)?;

        // Flight 3, up. The extension of the labels went first, with its check: the server uses no derandomisation bit of a client
        // that failed it. Order within an inference is that of the layers, the argmax last.
        #[cfg(test)]
        self.trace.extend(drafts.iter().map(trace));
        let mut sent = Vec::with_capacity(n);
        for (index, draft) in drafts.into_iter().enumerate() {
            let relus = relu::client::send(wire, &batch, layout, index, &draft, &transfers)?;
            if let Some(argmax) = &layout.argmax {
                let choices = transfers.choices(layout.ots().to_client(index, argmax.layer));
                let shares = draft.accumulators[argmax.layer].values();
                argmax::client::send(wire, batch.item(index), argmax, shares, choices)?;
            }
            sent.push(Sent { draft, relus });
        }

        // Flight 4, down. The hash key is the first thing that the server reveals of its circuits, after all of the client's
        // choices are fixed: no choice can depend on the hash that the tables are made with.
        let key = wire.receive(batch.tag(Step::HashKey, 0), &layout.circuit_messages())?;
        let garbled = Garbled {
            start_key: Block::from_le_bytes(key.try_into().unwrap_or_default()),
            blocks: transfers.complete(wire, &batch, &extensions)?,
        };
        let prepared = sent.into_iter().enumerate();
        let prepared =
            prepared.map(|(index, sent)| sent.receive(wire, &batch, layout, index, &garbled));
        prepared.collect()
    }

    /// Counts a batch; from here on its number is used, whatever happens.
    fn next_batch(&mut self) -> Result<u32> {
        if self.kept_only {
            return Err(Error::Misuse(
                "this session was opened for kept inferences only; connect anew to prepare".into(),
            ));
        }
        self.n_batches = self.n_batches.checked_add(1).ok_or_else(|| {
            Error::Misuse(
                "this session has prepared all the batches that it can; start a new one".into(),
            )
        })?;
        Ok(self.n_batches)
    }

    const fn batch(&self, number: u32) -> Batch<'_> {
        Batch {
            number,
            nonces: self.nonces,
            seed: &self.seed,
        }
    }
}

#[cfg(test)]
fn trace(draft: &linear::client::Draft) -> super::Trace {
    let values = |shares: &[crate::ring::ClientShare]| {
        let shares = shares.iter();
        shares.map(|share| share.values().to_vec()).collect()
    };
    super::Trace {
        masks: values(&draft.masks),
        accumulators: values(&draft.accumulators),
    }
}
