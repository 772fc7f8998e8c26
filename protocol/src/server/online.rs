//! The server's online phase: one round trip for each layer that keeps a ReLU.
//!
//! In: the client's x - r. For each layer: y_s = W (x - r) + s on the server's shares, truncated locally; at kept positions the
//! method of the session opens signs and multiplies, elsewhere nothing moves. Out: the server's share of the logits, or labels.

use pi_model::bits::{pack, unpack};

use super::{Prepared, ServerSession};
use crate::error::Result;
use crate::kept::KeepError;
use crate::linear;
use crate::wire::channel::Channel;
use crate::wire::{Phase, Step, malformed};

impl<C: Channel> ServerSession<C> {
    pub(super) fn infer(&mut self, prepared: Prepared) -> Result<()> {
        let Self {
            wire, plan, layout, ..
        } = self;
        // The material left the store before this: whatever fails from here on, it is used up.
        let (item, public) = (prepared.item, plan.public());
        let tag = item.tag(Step::Input, 0);
        let message = wire.receive(tag, &linear::input_messages(public))?;
        let input = wire
            .ledger
            .time_of_layer(Phase::Online, "input", 0, || {
                let n_inputs = public.graph().tensors[0].n_values();
                unpack(&message, n_inputs, public.tensor_bits(0))
            })
            .map_err(|e| malformed(tag, &e))?;
        if prepared.from_keeper {
            // The item is gone from the keeper: from here on bytes may leave.
            let found = [KeepError::code(Ok(()))];
            wire.send(item.tag(Step::Found, 0), &found)?;
        }
        let mut tensors = vec![input];
        #[cfg(test)]
        let mut accumulators = vec![];
        for relu in layout.relu_layers.iter() {
            let mask = &prepared.masks[relu.layer];
            let y = linear::server::accumulate(wire, plan, relu.layer, &tensors, mask);
            #[cfg(test)]
            accumulators.push(y.values().to_vec());
            let relus = &prepared.relus;
            tensors.push(relus.evaluate(wire, item, relu, &prepared.delta, &y)?);
        }
        let last = layout.last_layer();
        let y = linear::server::accumulate(wire, plan, last, &tensors, &prepared.masks[last]);
        #[cfg(test)]
        {
            accumulators.push(y.values().to_vec());
            self.trace.push(super::Trace {
                index: item.index,
                tensors: tensors.clone(),
                accumulators,
            });
        }
        if let (Some(argmax), Some(material)) = (&layout.argmax, &prepared.argmax) {
            return material.send(wire, item, argmax, &prepared.delta, y.values());
        }
        // A logit is wrong, which would tell of the weights, with probability at most 2^-24 (linear::check, SECURITY.md 4.5).
        let message = wire
            .ledger
            .time_of_layer(Phase::Online, "output", last, || {
                pack(y.values(), layout.output_ring.bits())
            });
        wire.send(item.tag(Step::Logits, last), &message)
    }
}
