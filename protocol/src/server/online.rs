//! The server's online phase: one round trip for each layer that keeps a ReLU.
//!
//! Where the client garbles, see `digits`. In: the client's x - r. For each layer: y_s = W (x - r) + s on the server's shares, truncated locally; for surviving
//! ReLUs out go 16 l bytes of labels and k bits of ciphertext each, and k bits come back; elsewhere nothing moves.

use pi_model::bits::{pack, packed_bytes, unpack};
use pi_model::linear;
use pi_model::relu_set::{gather, scatter};

use super::{LayerMaterial, Prepared, ServerSession};
use crate::channel::Channel;
use crate::error::Result;
use crate::gc::active_label_bytes;
use crate::kept::KeepError;
use crate::layout::ReluLayer;
use crate::ledger::Phase;
use crate::relu::{ServerKeys, server_encrypt};
use crate::session::{malformed, tag};
use crate::share::{Server, Share};
use crate::wire::Step;

impl<C: Channel> ServerSession<C> {
    pub(super) fn infer(&mut self, prepared: Prepared) -> Result<()> {
        let (batch, index) = (prepared.batch, prepared.index);
        let input_bits = self.plan.public().tensor_bits(0);
        let n_inputs = self.plan.public().graph().tensors[0].n_values();
        let message = self.wire.recv(
            tag(Step::Input, 0, batch, index),
            packed_bytes(n_inputs, input_bits),
        )?;
        let input = self
            .wire
            .ledger
            .time_of_layer(Phase::Online, "input", 0, || {
                unpack(&message, n_inputs, input_bits)
            })
            .map_err(|e| malformed(Step::Input, 0, &e))?;
        if prepared.kept {
            // The item is gone from the keeper: from here on bytes may leave.
            let found = [KeepError::code(Ok(()))];
            self.wire.send(tag(Step::Found, 0, batch, index), &found)?;
        }
        let mut tensors = vec![input];
        #[cfg(test)]
        let mut accumulators = vec![];
        let layout = self.layout.clone();
        for (at, (relu, material)) in layout.relu_layers.iter().zip(&prepared.layers).enumerate() {
            let y = self.linear_layer(relu.layer, &tensors, &prepared.masks[relu.layer]);
            #[cfg(test)]
            accumulators.push(y.values().to_vec());
            tensors.push(self.relu_layer(relu, material, at, &prepared, &y)?);
        }
        let last = layout.last_layer();
        let y = self.linear_layer(last, &tensors, &prepared.masks[last]);
        #[cfg(test)]
        {
            accumulators.push(y.values().to_vec());
            self.trace.push(super::Trace {
                index,
                tensors: tensors.clone(),
                accumulators,
            });
        }
        if let (Some(argmax), Some(material)) = (&layout.argmax, &prepared.argmax) {
            let ledger = &mut self.wire.ledger;
            let message = ledger.time_of_layer(Phase::Online, "labels", last, || {
                let n_bits = argmax.bits as usize;
                active_label_bytes(&material.labels, y.values(), n_bits, &prepared.delta)
            })?;
            self.wire
                .send(tag(Step::Labels, last, batch, index), &message)?;
            return self
                .wire
                .send(tag(Step::DecodeBits, last, batch, index), &material.decode);
        }
        let ledger = &mut self.wire.ledger;
        let message = ledger.time_of_layer(Phase::Online, "output", last, || {
            pack(y.values(), layout.output_ring.bits())
        });
        self.wire
            .send(tag(Step::Logits, last, batch, index), &message)
    }

    /// The server's share of the accumulator of `layer`.
    fn linear_layer(
        &mut self,
        layer: usize,
        tensors: &[Vec<u64>],
        mask: &Share<Server>,
    ) -> Share<Server> {
        let node = &self.plan.public().graph().layers[layer];
        let ring = crate::ring::Ring::new(self.plan.public().accumulator_bits(layer));
        let model = self.plan.model();
        let ledger = &mut self.wire.ledger;
        ledger.time_of_layer(Phase::Online, "linear", layer, || {
            let sums = linear::accumulate(model, node, tensors);
            let masked = sums.iter().zip(mask.values());
            Share::new(masked.map(|(&y, &s)| ring.add(y, s)).collect())
        })
    }

    /// The server's share of the tensor that `relu` makes.
    fn relu_layer(
        &mut self,
        relu: &ReluLayer,
        material: &LayerMaterial,
        at: usize,
        prepared: &Prepared,
        y: &Share<Server>,
    ) -> Result<Vec<u64>> {
        let (batch, index, ring_out) = (prepared.batch, prepared.index, relu.ring_out);
        let layer = relu.layer;
        let mut next = vec![0; y.values().len()];
        let ledger = &mut self.wire.ledger;
        let truncated = ledger.time_of_layer(Phase::Online, "truncate", layer, || {
            let truncated = Share::<Server>::new(
                y.values()
                    .iter()
                    .map(|&v| ring_out.reduce(relu.ring.truncate_server(v, relu.truncated_bits)))
                    .collect(),
            );
            let removed = gather(truncated.values(), relu.positions.removed());
            let removed: Vec<u64> = removed
                .iter()
                .zip(material.identity.values())
                .map(|(&v, &d)| ring_out.add(v, d))
                .collect();
            scatter(&mut next, relu.positions.removed(), &removed);
            truncated
        });
        if relu.n_relus() == 0 {
            return Ok(next);
        }
        if let Some(digits) = &prepared.digits {
            let (start_key, digits) = (digits.start_key, &digits.layers[at]);
            let (y, truncated) = (y.values(), truncated.values());
            let kept = self.evaluate_layer(relu, digits, start_key, prepared, y, truncated)?;
            scatter(&mut next, relu.positions.kept(), &kept);
            return Ok(next);
        }
        let labels = ledger.time_of_layer(Phase::Online, "labels", layer, || {
            let values = relu.sign_values(y.values());
            let (zeros, n_bits) = (&material.input_labels, relu.sign_bits as usize);
            active_label_bytes(zeros, &values, n_bits, &prepared.delta)
        })?;
        self.wire
            .send(tag(Step::Labels, layer, batch, index), &labels)?;
        let ledger = &mut self.wire.ledger;
        let (ciphertexts, offsets) =
            ledger.time_of_layer(Phase::Online, "multiplex", layer, || {
                let keys = ServerKeys {
                    choices: &material.choices,
                    products: material.products.values(),
                    hash_of_colour_0: &material.hashes[0],
                    hash_of_colour_1: &material.hashes[1],
                };
                let shares = gather(truncated.values(), relu.positions.kept());
                let (ciphertexts, offsets) = server_encrypt(ring_out, &keys, &shares);
                (pack(&ciphertexts, ring_out.bits()), offsets)
            });
        self.wire
            .send(tag(Step::MuxCiphertexts, layer, batch, index), &ciphertexts)?;
        let message = self.wire.recv(
            tag(Step::ReluResults, layer, batch, index),
            relu.result_bytes(),
        )?;
        let ledger = &mut self.wire.ledger;
        ledger.time_of_layer(Phase::Online, "multiplex", layer, || {
            let results = unpack(&message, relu.n_relus(), ring_out.bits())
                .map_err(|e| malformed(Step::ReluResults, layer, &e))?;
            let kept: Vec<u64> = results
                .iter()
                .zip(&offsets)
                .map(|(&c, &q)| ring_out.sub(c, q))
                .collect();
            scatter(&mut next, relu.positions.kept(), &kept);
            Ok(next)
        })
    }
}
