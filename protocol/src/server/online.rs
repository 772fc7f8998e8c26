//! The server's online phase: one round trip for each layer that keeps a ReLU.
//!
//! In: the client's x - r. For each layer: y_s = W (x - r) + s on the server's shares, truncated locally; for surviving
//! ReLUs out go 16 l bytes of labels and k bits of ciphertext each, and k bits come back; elsewhere nothing moves.

use pi_model::bits::{pack, packed_bytes, unpack};
use pi_model::linear;
use pi_model::relu_set::{gather, scatter};

use super::{LayerMaterial, Prepared, ServerSession};
use crate::block::ActiveLabel;
use crate::channel::Channel;
use crate::error::Result;
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
        let input =
            unpack(&message, n_inputs, input_bits).map_err(|e| malformed(Step::Input, 0, &e))?;
        let mut tensors = vec![input];
        #[cfg(test)]
        let mut accumulators = vec![];
        let layout = self.layout.clone();
        for (relu, material) in layout.relu_layers.iter().zip(&prepared.layers) {
            let y = self.linear_layer(relu.layer, &tensors, &prepared.masks[relu.layer]);
            #[cfg(test)]
            accumulators.push(y.values().to_vec());
            tensors.push(self.relu_layer(relu, material, &prepared, &y)?);
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
            let bits = argmax.inputs(y.values());
            let active = material
                .labels
                .iter()
                .zip(&bits)
                .flat_map(|(zero, &bit)| zero.active(bit, &prepared.delta).to_bytes());
            let message: Vec<u8> = active.collect();
            self.wire
                .send(tag(Step::Labels, last, batch, index), &message)?;
            return self
                .wire
                .send(tag(Step::DecodeBits, last, batch, index), &material.decode);
        }
        self.wire.send(
            tag(Step::Logits, last, batch, index),
            &pack(y.values(), layout.output_ring.bits()),
        )
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
        let sums = self.wire.ledger.time(Phase::Online, "convolutions", || {
            linear::accumulate(model, node, tensors)
        });
        Share::new(
            sums.iter()
                .zip(mask.values())
                .map(|(&y, &s)| ring.add(y, s))
                .collect(),
        )
    }

    /// The server's share of the tensor that `relu` makes.
    fn relu_layer(
        &mut self,
        relu: &ReluLayer,
        material: &LayerMaterial,
        prepared: &Prepared,
        y: &Share<Server>,
    ) -> Result<Vec<u64>> {
        let (batch, index, ring_out) = (prepared.batch, prepared.index, relu.ring_out);
        let truncated = Share::<Server>::new(
            y.values()
                .iter()
                .map(|&v| ring_out.reduce(relu.ring.truncate_server(v, relu.truncated_bits)))
                .collect(),
        );
        let mut next = vec![0; y.values().len()];
        let removed = gather(truncated.values(), relu.positions.removed());
        let removed: Vec<u64> = removed
            .iter()
            .zip(material.identity.values())
            .map(|(&v, &d)| ring_out.add(v, d))
            .collect();
        scatter(&mut next, relu.positions.removed(), &removed);
        if relu.n_relus() == 0 {
            return Ok(next);
        }
        let bits = relu.sign_inputs(y.values());
        let (labels, ciphertexts, offsets) =
            self.wire
                .ledger
                .time(Phase::Online, "labels and ciphertexts", || {
                    let mut labels = Vec::with_capacity(bits.len() * ActiveLabel::BYTES);
                    for (zero, &bit) in material.input_labels.iter().zip(&bits) {
                        labels.extend_from_slice(&zero.active(bit, &prepared.delta).to_bytes());
                    }
                    let keys = ServerKeys {
                        choices: &material.choices,
                        products: material.products.values(),
                        hash_of_colour_0: &material.hashes[0],
                        hash_of_colour_1: &material.hashes[1],
                    };
                    let shares = gather(truncated.values(), relu.positions.kept());
                    let (ciphertexts, offsets) = server_encrypt(ring_out, &keys, &shares);
                    (labels, ciphertexts, offsets)
                });
        self.wire
            .send(tag(Step::Labels, relu.layer, batch, index), &labels)?;
        self.wire.send(
            tag(Step::MuxCiphertexts, relu.layer, batch, index),
            &pack(&ciphertexts, ring_out.bits()),
        )?;
        let message = self.wire.recv(
            tag(Step::ReluResults, relu.layer, batch, index),
            relu.result_bytes(),
        )?;
        let results = unpack(&message, relu.n_relus(), ring_out.bits())
            .map_err(|e| malformed(Step::ReluResults, relu.layer, &e))?;
        let kept: Vec<u64> = results
            .iter()
            .zip(&offsets)
            .map(|(&c, &q)| ring_out.sub(c, q))
            .collect();
        scatter(&mut next, relu.positions.kept(), &kept);
        Ok(next)
    }
}
