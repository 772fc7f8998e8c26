//! The client's online phase: one answer for each layer that keeps a ReLU, then the output.

use pi_model::bits::{pack, unpack};

use super::{ClientSession, Origin, Output, Prepared};
use crate::error::{Error, Result};
use crate::kept::{self, client::outcome};
use crate::linear;
use crate::ring::Ring;
use crate::session::Request;
use crate::wire::channel::Channel;
use crate::wire::{Step, malformed};

impl<C: Channel> ClientSession<C> {
    /// Runs one prepared inference on `input`, in (C, H, W) order with the model's activation fraction bits.
    ///
    /// The prepared material is consumed, also when the inference fails.
    ///
    /// # Errors
    /// [`Error::Misuse`] for an input of another size or range, [`Error::Kept`] for a kept inference that is not there any
    /// more (the session goes on), [`Error::Peer`] and [`Error::Channel`] otherwise.
    pub fn infer(&mut self, prepared: Prepared, input: &[i64]) -> Result<Output> {
        let why = match &prepared.origin {
            Origin::Session(nonce) if *nonce != self.nonces.client => "in another session",
            Origin::Kept { plan_hash, .. } if *plan_hash != self.plan.hash() => "for another plan",
            _ => "",
        };
        if !why.is_empty() {
            return Err(Error::Misuse(format!("this inference was prepared {why}")));
        }
        let n_inputs = self.plan.graph().tensors[0].n_values();
        if input.len() != n_inputs {
            return Err(Error::Misuse(format!(
                "the model takes {n_inputs} values, got {}",
                input.len()
            )));
        }
        let ring = Ring::new(self.plan.tensor_bits(0));
        let limit = 1i64 << (ring.bits() - 1);
        if input.iter().any(|v| !(-limit..limit).contains(v)) {
            return Err(Error::Misuse(format!(
                "an input value does not fit {} bits",
                ring.bits()
            )));
        }
        self.unless_over()?;
        let result = self.run(&prepared, ring, input);
        self.note(result)
    }

    fn run(&mut self, prepared: &Prepared, ring: Ring, input: &[i64]) -> Result<Output> {
        let (item, circuits) = (prepared.item, prepared.circuits());
        let (batch, index) = (item.batch, item.index as u16);
        let request = match prepared.origin {
            Origin::Session(_) => Request::Infer { batch, index },
            Origin::Kept { id, .. } => Request::InferKept { id, batch, index },
        };
        let (request_tag, request) = request.encode();
        self.wire.send(request_tag, &request)?;
        // x - r goes up at once, and waits for no answer. r is uniform to the server under RLWE (SECURITY.md 4.2) and serves this
        // inference alone, so x - r tells nothing, whatever the server does with it. From here on the material is used, also if
        // the server says that it has none: a second x under the same r would show the difference of both (SECURITY.md 11).
        let masks = input.iter().zip(prepared.input_mask.values());
        let masked = masks.map(|(&x, &r)| ring.sub(ring.encode(x), r));
        let masked = pack(&masked.collect::<Vec<u64>>(), ring.bits());
        self.wire.send(item.tag(Step::Input, 0), &masked)?;
        if prepared.kept_id().is_some() {
            let tag = item.tag(Step::Found, 0);
            let reply = self.wire.receive(tag, &kept::messages())?;
            outcome(tag, &reply)?;
        }
        // One round trip a layer, in the order of the network: the server's next message depends on the answer to the last. Each
        // answer is masked by the next layer's r, and given once: where the client garbles, a second one would open its Delta.
        for relu in self.layout.relu_layers.iter() {
            if relu.n_relus() > 0 {
                let relus = &prepared.relus;
                relus.answer(&mut self.wire, item, relu, &circuits)?;
            }
        }
        self.output(prepared)
    }

    /// What the server sends last: its share of the logits, or labels that open the class.
    fn output(&mut self, prepared: &Prepared) -> Result<Output> {
        let (item, layout, wire) = (prepared.item, &self.layout, &mut self.wire);
        if let (Some(argmax), Some(material)) = (&layout.argmax, &prepared.argmax) {
            let class = material.open(wire, item, argmax, &prepared.circuits())?;
            return Ok(Output::Class(class));
        }
        let (ring, tag) = (
            layout.output_ring,
            item.tag(Step::Logits, layout.last_layer()),
        );
        let message = wire.receive(tag, &linear::output_messages(layout))?;
        let shares = unpack(&message, layout.n_outputs, ring.bits());
        let shares = shares.map_err(|e| malformed(tag, &e))?;
        let opened = shares.iter().zip(prepared.output.values());
        let opened = opened.map(|(&s, &c)| ring.decode(ring.add(s, c)));
        Ok(Output::Logits(opened.collect()))
    }
}
