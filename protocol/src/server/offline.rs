//! The server's offline phase for one batch. The flights and their costs are described in the client's module of this name.
//!
//! Each source is answered as soon as it is in: the client has announced to its channel what may come while it still sends
//! ([`crate::channel::Channel::expect`]), so that full queues both ways stop neither. Of any other flight all is read before the next.

use std::sync::Arc;

use pi_model::bits::{packed_bytes, unpack};
use zeroize::Zeroizing;

use super::garbling::{Garbling, Received, Transfers, garble_inference};
use super::{LayerMaterial, Prepared, ServerSession};
use crate::block::{Block, Delta};
use crate::channel::Channel;
use crate::error::Result;
use crate::he;
use crate::ledger::{Phase, Work};
use crate::ot::CotSender as _;
use crate::ot::softspoken::{self, SenderSetup};
use crate::prg;
use crate::ring::Ring;
use crate::session::{batch_tag, malformed, tag};
use crate::share::{Server, Share};
use crate::sizes;
use crate::wire::Step;

impl<C: Channel> ServerSession<C> {
    pub(super) fn prepare(&mut self) -> Result<()> {
        let batch = self.n_batches;
        let mut masks = self.respond(batch)?;
        let n_labels = self.layout.n_labels();
        let point = if n_labels > 0 {
            Some(self.wire.recv(
                batch_tag(Step::LabelBase, 0, batch),
                softspoken::BASE_SENDER_BYTES,
            )?)
        } else {
            None
        };
        let transfers = self.transfer(batch, point)?;
        let n = self.plan.public().batch();
        let received = (0..n)
            .map(|index| self.receive_shares(batch, index))
            .collect::<Result<Vec<_>>>()?;
        if n_labels == 0 {
            for (index, (masks, received)) in masks.drain(..).zip(received).enumerate() {
                let layers = received
                    .identity
                    .into_iter()
                    .map(LayerMaterial::without_relus)
                    .collect();
                let prepared = Prepared {
                    batch,
                    index,
                    kept: false,
                    delta: transfers.delta.clone(),
                    masks,
                    layers,
                    argmax: None,
                };
                self.prepared.insert((batch, index as u16), prepared);
            }
            return Ok(());
        }
        let start_key = Block::random(&mut self.seed.stream("hash key", &[batch.into()]));
        self.wire
            .send(batch_tag(Step::HashKey, 0, batch), &start_key.to_le_bytes())?;
        self.wire
            .send(batch_tag(Step::LabelReply, 0, batch), &transfers.reply)?;
        let labels = self.seed.derive("input labels", &[batch.into()]);
        for (index, (masks, received)) in masks.drain(..).zip(received).enumerate() {
            let layout = self.layout.clone();
            let garbling = garble_inference(
                &mut self.wire.ledger,
                &layout,
                &transfers,
                received,
                masks,
                start_key,
                &labels,
                self.options.garbling,
                batch,
                index,
            )?;
            self.send_tables(batch, index, &garbling)?;
            self.prepared
                .insert((batch, index as u16), garbling.prepared);
        }
        Ok(())
    }

    /// Noise bits and corrections of one source.
    fn receive_source(&mut self, batch: u32, index: usize) -> Result<(Vec<u8>, Vec<u8>)> {
        let plan = self.plan.public().clone();
        let source = &plan.sources()[index];
        let layer = sizes::layer_of_source(&plan, index);
        let noise = self.wire.recv(
            batch_tag(Step::HeNoise, layer, batch),
            source.packing.noise_bytes(source.ring.up_bits()),
        )?;
        let corrections = self.wire.recv(
            batch_tag(Step::HeCorrections, layer, batch),
            source.packing.correction_bytes(source.ring.share_bits),
        )?;
        self.wire.ledger.work(
            layer,
            Work {
                n_ciphertexts: source.packing.n_polys() as u64,
                ..Work::default()
            },
        );
        Ok((noise, corrections))
    }

    /// Answers every source; returns s for each inference and layer.
    fn respond(&mut self, batch: u32) -> Result<Vec<Vec<Share<Server>>>> {
        let plan = self.plan.public().clone();
        let graph = plan.graph();
        let mut sums: Vec<Zeroizing<Vec<u64>>> = graph
            .layers
            .iter()
            .map(|l| Zeroizing::new(vec![0; plan.batch() * l.shape.n_values()]))
            .collect();
        for (index, source) in plan.sources().iter().enumerate() {
            let (noise, corrections) = self.receive_source(batch, index)?;
            let public = prg::public_seed(
                "he c1",
                &self.client_nonce,
                &self.server_nonce,
                &[batch.into(), index as u64],
            );
            let layer = sizes::layer_of_source(&plan, index);
            let params = sizes::rlwe(source.ring)?;
            let ledger = &mut self.wire.ledger;
            let state = ledger.time_of_layer(Phase::Offline, "transform", layer, || {
                he::ServerSource::new(
                    &params,
                    &source.packing,
                    &public,
                    layer,
                    &noise,
                    &corrections,
                )
            })?;
            for due in plan.responses().iter().filter(|r| r.source == index) {
                let (layer, conv) = (due.layer, due.convs[0]);
                let packing = plan.packing(due);
                let weights = self.plan.weights(due);
                let mut rng = self
                    .seed
                    .stream("he response", &[batch.into(), layer as u64, conv as u64]);
                let key = &self.keys[index];
                let ledger = &mut self.wire.ledger;
                let response = ledger.time_of_layer(Phase::Offline, "respond", layer, || {
                    state.respond(key, packing, &weights, &mut rng)
                })?;
                self.wire.ledger.work(
                    layer,
                    Work {
                        n_ciphertexts: packing.n_polys() as u64,
                        ..Work::default()
                    },
                );
                self.wire
                    .send(batch_tag(Step::HeResponse, layer, batch), &response.message)?;
                let shift = plan.shift(due);
                let ledger = &mut self.wire.ledger;
                ledger.time_of_layer(Phase::Offline, "masks", layer, || {
                    for (sum, value) in sums[layer].iter_mut().zip(response.share.iter()) {
                        *sum = sum.wrapping_add(value << shift);
                    }
                });
            }
        }
        let masks = |index: usize| {
            let of_layers = sums.iter().enumerate().map(|(layer, sum)| {
                let ring = Ring::new(plan.accumulator_bits(layer));
                let n = sum.len() / plan.batch();
                Share::new(
                    sum[index * n..(index + 1) * n]
                        .iter()
                        .map(|&v| ring.reduce(v))
                        .collect(),
                )
            });
            of_layers.collect()
        };
        let ledger = &mut self.wire.ledger;
        Ok(ledger.time(Phase::Offline, "masks", || {
            (0..plan.batch()).map(masks).collect()
        }))
    }

    fn transfer(&mut self, batch: u32, point: Option<Vec<u8>>) -> Result<Transfers> {
        let n = self.plan.public().batch();
        let mut rng = self.seed.stream("label OT", &[batch.into()]);
        let mut delta = Delta::random(&mut rng);
        let mut setup = None;
        if let Some(point) = point {
            let session =
                sizes::ot_session("labels", &self.client_nonce, &self.server_nonce, batch);
            let fresh = Delta::random(&mut rng);
            let (state, reply) = self.wire.ledger.time(Phase::Offline, "OT", || {
                SenderSetup::new(session, fresh, &point, &mut rng)
            })?;
            self.wire
                .send(batch_tag(Step::LabelBaseReply, 0, batch), &reply)?;
            setup = Some(state);
        }
        let n_products = n * self.layout.n_relus();
        let (mut choices, mut products) = (Zeroizing::default(), Zeroizing::default());
        if let Some(mux) = &mut self.mux {
            let extended = self
                .wire
                .ledger
                .time(Phase::Offline, "OT", || mux.extend(n_products))?;
            self.wire
                .send(batch_tag(Step::MuxExtension, 0, batch), &extended.message)?;
            let reply = self.wire.recv(
                batch_tag(Step::MuxReply, 0, batch),
                self.options.ot.reply_bytes(n_products),
            )?;
            (choices, products) = self.wire.ledger.time(Phase::Offline, "OT", || {
                mux.complete(n_products, extended, &reply)
            })?;
        }
        let n_labels = n * self.layout.n_labels();
        let (mut labels, mut reply) = (Zeroizing::default(), vec![]);
        let roots = self.seed.derive("label silent OT", &[batch.into()]);
        if let Some(setup) = setup {
            let trees = self.wire.recv(
                batch_tag(Step::LabelTrees, 0, batch),
                softspoken::TREES_BYTES,
            )?;
            let extension = self.wire.recv(
                batch_tag(Step::LabelExtension, 0, batch),
                self.options.ot.message_bytes(n_labels),
            )?;
            let session =
                sizes::ot_session("labels", &self.client_nonce, &self.server_nonce, batch);
            let ot = self.options.ot;
            (delta, labels, reply) =
                self.wire
                    .ledger
                    .time(Phase::Offline, "OT", || -> Result<_> {
                        let mut sender = ot.sender(setup.finish(&trees)?, session, roots);
                        let labels = sender.extend(n_labels, &extension)?;
                        let reply = sender.reply();
                        Ok((sender.into_delta(), labels, reply))
                    })?;
        }
        Ok(Transfers {
            delta: Arc::new(delta),
            labels,
            reply,
            choices,
            products,
        })
    }

    fn receive_shares(&mut self, batch: u32, index: usize) -> Result<Received> {
        let layout = self.layout.clone();
        let mut received = Received {
            label_bits: vec![],
            corrections: vec![],
            identity: vec![],
        };
        for relu in &layout.relu_layers {
            let (layer, bits) = (relu.layer, relu.ring_out.bits());
            received.label_bits.push(self.receive_label_bits(
                batch,
                index,
                layer,
                relu.n_labels(),
            )?);
            let message = self.wire.recv(
                tag(Step::MuxCorrections, layer, batch, index),
                relu.result_bytes(),
            )?;
            let ledger = &mut self.wire.ledger;
            let corrections = ledger
                .time_of_layer(Phase::Offline, "unpack", layer, || {
                    unpack(&message, relu.n_relus(), bits)
                })
                .map_err(|e| malformed(Step::MuxCorrections, layer, &e))?;
            received.corrections.push(corrections);
            let message = self.wire.recv(
                tag(Step::Identity, layer, batch, index),
                relu.identity_bytes(),
            )?;
            let ledger = &mut self.wire.ledger;
            let identity = ledger
                .time_of_layer(Phase::Offline, "unpack", layer, || {
                    unpack(&message, relu.positions.removed().len(), bits)
                })
                .map_err(|e| malformed(Step::Identity, layer, &e))?;
            received.identity.push(Share::new(identity));
            self.wire.ledger.work(
                layer,
                Work {
                    n_ots: (relu.n_labels() + relu.n_relus()) as u64,
                    ..Work::default()
                },
            );
        }
        if let Some(argmax) = &layout.argmax {
            received.label_bits.push(self.receive_label_bits(
                batch,
                index,
                layout.last_layer(),
                argmax.n_labels(),
            )?);
            self.wire.ledger.work(
                layout.last_layer(),
                Work {
                    n_ots: argmax.n_labels() as u64,
                    ..Work::default()
                },
            );
        }
        Ok(received)
    }

    fn receive_label_bits(
        &mut self,
        batch: u32,
        index: usize,
        layer: usize,
        n: usize,
    ) -> Result<Vec<u8>> {
        let message = self.wire.recv(
            tag(Step::LabelBits, layer, batch, index),
            packed_bytes(n, 1),
        )?;
        let ledger = &mut self.wire.ledger;
        ledger.time_of_layer(Phase::Offline, "unpack", layer, || {
            let bits = unpack(&message, n, 1).map_err(|e| malformed(Step::LabelBits, layer, &e))?;
            Ok(bits.into_iter().map(|b| b as u8).collect())
        })
    }

    fn send_tables(&mut self, batch: u32, index: usize, garbling: &Garbling) -> Result<()> {
        for (layer, tables) in garbling.tables.iter().enumerate() {
            self.wire.ledger.work(
                layer,
                Work {
                    n_and_gates: self.layout.n_and(layer) as u64,
                    ..Work::default()
                },
            );
            self.wire
                .send(tag(Step::Tables, layer, batch, index), tables)?;
        }
        Ok(())
    }
}
