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
use crate::kept::{self, Handle, client::outcome};
use crate::layout::Layout;
use crate::linear;
use crate::relu;
use crate::ring::ClientShare;
use crate::session::Request;
use crate::transfers::{self, Extensions};
use crate::wire::channel::Channel;
use crate::wire::{Batch, Item, Step, Tag, Wire};

/// What the client keeps of one inference between flights 3 and 4.
struct Unfinished {
    /// r of the input.
    input_mask: ClientShare,
    relus: relu::client::Material,
    /// Its share of the logits.
    output: ClientShare,
}

/// What flight 4 brings for a whole batch.
struct Garbled {
    /// Where the hashes of the circuits start; zero if there are none.
    start_key: Block,
    /// The blocks of the OTs in which the client receives, complete.
    blocks: Zeroizing<Vec<Block>>,
}

impl Unfinished {
    /// Flight 4 of one inference: tables, layer after layer, the argmax last.
    fn receive<C: Channel>(
        mut self,
        wire: &mut Wire<C>,
        batch: &Batch<'_>,
        layout: &Layout,
        item: Item,
        garbled: &Garbled,
    ) -> Result<Prepared> {
        let (options, blocks) = (layout.options(), &garbled.blocks);
        self.relus.receive(wire, batch, layout, item, blocks)?;
        let argmax = match &layout.argmax {
            None => None,
            Some(argmax) => {
                let labels = &blocks[layout.ots().to_client(item, argmax.layer)];
                let scheme = options.garbling.scheme();
                Some(argmax::client::receive(wire, item, argmax, scheme, labels)?)
            }
        };
        Ok(Prepared {
            origin: Origin::Session(batch.nonces.client),
            options,
            item,
            start_key: garbled.start_key,
            input_mask: self.input_mask,
            relus: self.relus,
            output: self.output,
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
        let batch = self.next_batch()?;
        let result = self.prepare_batch(batch, None);
        self.note(result)
    }

    /// Prepares one batch of inferences that the server keeps beyond this session: each can be used in this session or in
    /// any later one with the same server and plan, once.
    ///
    /// # Errors
    /// [`Error::Kept`] when the server did not keep them: nothing is prepared then, and the session goes on. Otherwise as
    /// [`Self::prepare`].
    pub fn prepare_kept(&mut self) -> Result<Vec<Prepared>> {
        let batch = self.next_batch()?;
        let result = self.prepare_kept_batch(batch);
        self.note(result)
    }

    fn prepare_kept_batch(&mut self, batch: u32) -> Result<Vec<Prepared>> {
        // Named by the batches before it.
        let seed = self
            .seed
            .derive("handle of kept inferences", &[(batch - 1).into()]);
        let handle = Handle::new(&seed);
        let mut prepared = self.prepare_batch(batch, Some(&handle))?;
        let tag = Tag {
            batch,
            ..Tag::setup(Step::Kept)
        };
        // Only the server's word that its halves are stored makes the client's halves worth keeping.
        let reply = self.wire.receive(tag, &kept::messages())?;
        outcome(tag, &reply)?;
        for (index, prepared) in prepared.iter_mut().enumerate() {
            prepared.origin = Origin::Kept {
                id: handle.item(index),
                plan_hash: self.plan.hash(),
            };
        }
        Ok(prepared)
    }

    fn prepare_batch(&mut self, batch: u32, keep: Option<&Handle>) -> Result<Vec<Prepared>> {
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

        // Flight 1, up. All of it is made before anything comes back. Sources first: the server's products take longest, and it
        // starts on each as soon as it is in; the order is the order in which the server reads, and the ledger counts no round
        // trip for responses that come in between.
        let mut linear = linear::client::Preparing::send_sources(wire, plan, &batch, keys)?;
        let begun = transfers::client::begin(wire, &batch, &extensions, sending)?;
        // From here on this side only reads until flight 3: nothing needs to be taken in while it sends.
        wire.expect(0);

        // Flight 2, down. Every share of the client follows from the responses, and flight 3 is made of these shares. `extend` checks
        // the server's extension before anything that is made of y_c leaves: a server that had failed the check could learn Delta,
        // with it both pads or labels, and with them y_c (SECURITY.md 6).
        linear.receive_rest(wire)?;
        let drafts = linear.finish();
        let transfers = transfers::client::extend(wire, &batch, &extensions, sending, begun)?;

        // Flight 3, up. Its first messages left in `extend`: the server checks the client's extension before it garbles, and uses no
        // derandomisation bit of a client that failed. With silent OT the trees of the server's reply are checked in flight 4 only,
        // after these bits have gone. Within an inference the order is that of the layers, the argmax last.
        #[cfg(test)]
        self.trace.extend(drafts.iter().map(trace));
        let mut unfinished = Vec::with_capacity(n);
        for (index, mut draft) in drafts.into_iter().enumerate() {
            let item = batch.item(index);
            let relus = relu::client::send(wire, &batch, layout, item, &draft, &transfers)?;
            if let Some(argmax) = &layout.argmax {
                let choices = transfers.choices(layout.ots().to_client(item, argmax.layer));
                let shares = draft.accumulators[argmax.layer].values();
                argmax::client::send(wire, item, argmax, shares, choices)?;
            }
            // All other masks and shares are wiped here: nothing needs them any more.
            unfinished.push(Unfinished {
                input_mask: draft.masks.swap_remove(0),
                relus,
                output: draft.accumulators.swap_remove(layout.last_layer()),
            });
        }

        // Flight 4, down. The start key is drawn and told only now that the client's OT choices and the bits of its shares are in, so
        // nobody can compute hashes under it beforehand. The input is not chosen yet: the tables withstand an input that is chosen
        // after they are seen (SECURITY.md 5).
        let key = wire.receive(batch.tag(Step::HashKey, 0), &layout.circuit_messages())?;
        let garbled = Garbled {
            // Empty where the server garbles no circuit.
            start_key: key
                .first_chunk()
                .map_or(Block::ZERO, |key| Block::from_le_bytes(*key)),
            blocks: transfers.complete(wire, &batch, &extensions)?,
        };
        let unfinished = unfinished.into_iter().enumerate();
        unfinished
            .map(|(index, one)| one.receive(wire, &batch, layout, batch.item(index), &garbled))
            .collect()
    }

    /// Counts a batch; from here on its number is used, whatever happens.
    fn next_batch(&mut self) -> Result<u32> {
        self.unless_over()?;
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
