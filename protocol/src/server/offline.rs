//! The server's offline phase for one batch. The flights and their costs are described in the client's module of this name.
//!
//! Each source is answered as soon as it is in: the client has announced to its channel what may come while it still sends
//! ([`Channel::expect`]), so that full queues both ways stop neither. Of any other flight all is read before the next.

use super::{Prepared, ServerSession};
use crate::argmax;
use crate::block::Block;
use crate::error::Result;
use crate::gc::CircuitParams;
use crate::linear;
use crate::relu;
use crate::transfers::server::Garbler;
use crate::transfers::{self, Extensions};
use crate::wire::channel::Channel;
use crate::wire::{Batch, Step};

impl<C: Channel> ServerSession<C> {
    pub(super) fn prepare(&mut self) -> Result<()> {
        let Self {
            wire,
            plan,
            layout,
            seed,
            nonces,
            keys,
            receiving,
            ..
        } = self;
        let batch = Batch {
            number: self.n_batches,
            nonces: *nonces,
            seed,
        };
        let (n, scheme) = (plan.public().batch(), layout.options().garbling.scheme());
        let extensions = Extensions::new(layout, n);

        // Flight 1, up, and 2, down, side by side: each source is answered at once. A client gains no choice by it: what it sends for
        // a source does not depend on responses (SECURITY.md 4.3), and the noise of each response is fresh.
        let masks = linear::server::respond(wire, plan, &batch, keys)?;
        let begun = transfers::server::receive_base(wire, &batch, &extensions)?;

        // Flight 2 ends and flight 3 begins. The client's extension is checked in here, before anything is made of its choices: a
        // client that failed the check could otherwise learn Delta, and with it every label, bit by bit.
        let transfers = transfers::server::extend(wire, &batch, &extensions, receiving, begun)?;

        // Flight 3, up, read to its end before the first table leaves: otherwise both could wait for full queues, and the start key
        // would go before the client's last choice.
        let mut received = Vec::with_capacity(n);
        for index in 0..n {
            let item = batch.item(index);
            let relus = relu::server::receive(wire, item, layout)?;
            let argmax = match &layout.argmax {
                None => vec![],
                Some(argmax) => argmax::server::receive(wire, item, argmax, scheme)?,
            };
            received.push((relus, argmax));
        }

        // Flight 4, down. The start key is drawn and told only now that the client's OT choices and the bits of its shares are in, so
        // nobody can compute hashes under it beforehand. The input is not chosen yet: the tables withstand an input that is chosen
        // after they are seen (SECURITY.md 5).
        let start_key = Block::random(&mut batch.stream("hash key", &[]));
        if layout.has_circuits() {
            wire.send(batch.tag(Step::HashKey, 0), &start_key.to_le_bytes())?;
        }
        transfers.send_reply(wire, &batch)?;
        let garbler = Garbler {
            circuits: CircuitParams { scheme, start_key },
            labels: batch.derive("input labels"),
            transfers: &transfers,
            ots: layout.ots(),
        };
        for (index, (masks, (relus, bits))) in masks.into_iter().zip(received).enumerate() {
            let item = batch.item(index);
            let relus = relus.finish(wire, &batch, layout, item, &garbler)?;
            let argmax = match &layout.argmax {
                None => None,
                Some(argmax) => Some(argmax::server::garble_and_send(
                    wire, item, argmax, &garbler, &bits,
                )?),
            };
            let prepared = Prepared {
                item,
                from_keeper: false,
                delta: transfers.delta.clone(),
                masks,
                relus,
                argmax,
            };
            self.prepared.insert((item.batch, index as u16), prepared);
        }
        Ok(())
    }
}
