//! The client's online phase: evaluate the garbled signs of each layer that keeps a ReLU, and answer once.

use pi_model::bits::{pack, packed_bytes, unpack};

use super::{ClientSession, LayerMaterial, Origin, Output, Prepared};
use crate::block::ActiveLabel;
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::gc::{active_label_hash, evaluate};
use crate::layout::{ReluLayer, instances};
use crate::ledger::Phase;
use crate::relu::client_decrypt;
use crate::session::{Request, malformed, tag};
use crate::wire::Step;

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
            Origin::Session(nonce) if *nonce != self.client_nonce => "in another session",
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
        let ring = self.input_ring;
        let limit = 1i64 << (ring.bits() - 1);
        if input.iter().any(|v| !(-limit..limit).contains(v)) {
            return Err(Error::Misuse(format!(
                "an input value does not fit {} bits",
                ring.bits()
            )));
        }
        self.unless_over()?;
        let result = self.run(&prepared, input);
        self.note(result)
    }

    fn run(&mut self, prepared: &Prepared, input: &[i64]) -> Result<Output> {
        let ring = self.input_ring;
        let (batch, index) = (prepared.batch, prepared.index);
        let index_on_wire = index as u16;
        let request = match prepared.origin {
            Origin::Session(_) => Request::Infer {
                batch,
                index: index_on_wire,
            },
            Origin::Kept { id, .. } => Request::InferKept {
                id,
                batch,
                index: index_on_wire,
            },
        };
        let (request_tag, request) = request.encode();
        self.wire.send(request_tag, &request)?;
        let masked: Vec<u64> = input
            .iter()
            .zip(prepared.input_mask.values())
            .map(|(&x, &r)| ring.sub(ring.encode(x), r))
            .collect();
        self.wire.send(
            tag(Step::Input, 0, batch, index),
            &pack(&masked, ring.bits()),
        )?;
        if prepared.kept_id().is_some() {
            self.receive_found(prepared)?;
        }
        let layout = self.layout.clone();
        for (relu, material) in layout.relu_layers.iter().zip(&prepared.layers) {
            if relu.n_relus() > 0 {
                self.relu_layer(relu, material, prepared)?;
            }
        }
        self.output(prepared)
    }

    fn relu_layer(
        &mut self,
        relu: &ReluLayer,
        material: &LayerMaterial,
        prepared: &Prepared,
    ) -> Result<()> {
        let (batch, index, ring) = (prepared.batch, prepared.index, relu.ring_out);
        let mode = prepared.options.garbling;
        let labels = self.wire.recv(
            tag(Step::Labels, relu.layer, batch, index),
            relu.n_labels() * ActiveLabel::BYTES,
        )?;
        let message = self.wire.recv(
            tag(Step::MuxCiphertexts, relu.layer, batch, index),
            relu.result_bytes(),
        )?;
        let ciphertexts = unpack(&message, relu.n_relus(), ring.bits())
            .map_err(|e| malformed(Step::MuxCiphertexts, relu.layer, &e))?;
        let results = self.wire.ledger.time_of_layer(
            Phase::Online,
            "evaluate",
            relu.layer,
            || -> Result<_> {
                let signs = instances(
                    &relu.circuit,
                    relu.n_relus(),
                    prepared.start_key,
                    index,
                    relu.layer,
                    mode,
                )?;
                let outputs = evaluate(
                    &signs,
                    &material.tables,
                    labels.as_chunks::<{ ActiveLabel::BYTES }>().0,
                    &material.labels,
                )?;
                let colours: Vec<u8> = outputs.iter().map(|label| label.colour()).collect();
                let hashes = active_label_hash(&signs, &outputs, ring.bits())?;
                let opened = client_decrypt(
                    ring,
                    &colours,
                    &hashes,
                    &ciphertexts,
                    material.truncated.values(),
                    material.products.values(),
                );
                Ok(opened
                    .iter()
                    .zip(material.next_mask.values())
                    .map(|(&c, &r)| ring.sub(c, r))
                    .collect::<Vec<_>>())
            },
        )?;
        self.wire.send(
            tag(Step::ReluResults, relu.layer, batch, index),
            &pack(&results, ring.bits()),
        )
    }

    fn output(&mut self, prepared: &Prepared) -> Result<Output> {
        let (batch, index, last) = (prepared.batch, prepared.index, self.layout.last_layer());
        let (layout, mode) = (self.layout.clone(), prepared.options.garbling);
        let (Some(argmax), Some(material)) = (&layout.argmax, &prepared.argmax) else {
            let ring = layout.output_ring;
            let message = self.wire.recv(
                tag(Step::Logits, last, batch, index),
                packed_bytes(layout.n_outputs, ring.bits()),
            )?;
            let shares = unpack(&message, layout.n_outputs, ring.bits())
                .map_err(|e| malformed(Step::Logits, last, &e))?;
            let opened = shares
                .iter()
                .zip(prepared.output.values())
                .map(|(&s, &c)| ring.decode(ring.add(s, c)));
            return Ok(Output::Logits(opened.collect()));
        };
        let labels = self.wire.recv(
            tag(Step::Labels, last, batch, index),
            argmax.n_labels() * ActiveLabel::BYTES,
        )?;
        let decode = self.wire.recv(
            tag(Step::DecodeBits, last, batch, index),
            argmax.circuit.n_outputs(),
        )?;
        let class =
            self.wire
                .ledger
                .time_of_layer(Phase::Online, "evaluate", last, || -> Result<_> {
                    let start_key = prepared.start_key;
                    let circuit = instances(&argmax.circuit, 1, start_key, index, last, mode)?;
                    let outputs = evaluate(
                        &circuit,
                        &material.tables,
                        labels.as_chunks::<{ ActiveLabel::BYTES }>().0,
                        &material.labels,
                    )?;
                    let bits = outputs
                        .iter()
                        .zip(&decode)
                        .map(|(label, &decode)| label.colour() ^ (decode & 1));
                    Ok(bits
                        .enumerate()
                        .fold(0usize, |class, (i, bit)| class | usize::from(bit) << i))
                })?;
        if class >= argmax.n_classes {
            return Err(malformed(
                Step::Labels,
                last,
                &format!("class {class} of {}", argmax.n_classes),
            ));
        }
        Ok(Output::Class(class))
    }
}
