//! The end of the client's offline phase: flight 3 up, what the server needs of the client's shares; flight 4 down, tables and labels.
//!
//! How a layer is garbled decides what is sent: derandomisation bits and multiplexer corrections if the server garbles, tables
//! ([`super::digits`]) if the client does. Identity shares go in either case.

use std::ops::Range;
use std::sync::Arc;

use pi_model::bits::pack;
use pi_model::relu_set::gather;
use zeroize::Zeroizing;

use super::digits::{DigitLayer, Digits, Shares, products};
use super::offline::{Draft, Transfers};
use super::{ArgmaxMaterial, ClientSession, LayerMaterial, Origin, Prepared};
use crate::block::{ActiveLabel, Block, Delta};
use crate::channel::Channel;
use crate::error::Result;
use crate::layout::{ReluLayer, instances};
use crate::ledger::{Phase, Work};
use crate::ot::correlated::receiver_pads;
use crate::ot::mode::Receiver;
use crate::ot::{CotReceiver as _, Extended};
use crate::relu::client_products;
use crate::session::{batch_tag, tag};
use crate::share::{Client, Share};
use crate::sizes;
use crate::wire::Step;

/// What the client keeps of one layer once it has sent what belongs to it.
pub(super) enum Sent {
    /// y'_c and u_c at the surviving positions.
    Shares(Share<Client>, Share<Client>),
    /// The client garbled it.
    Digits(DigitLayer),
}

/// How far an inference's layers have come in the OTs of a batch.
#[derive(Clone, Copy, Default)]
struct At {
    label: usize,
    mux: usize,
}

impl<C: Channel> ClientSession<C> {
    /// Sends derandomisation bits, multiplexer corrections and identity shares; keeps y'_c and u_c of each ReLU layer.
    pub(super) fn send_shares(
        &mut self,
        batch: u32,
        drafts: &[Draft],
        transfers: &Transfers,
    ) -> Result<Vec<Vec<Sent>>> {
        let layout = self.layout.clone();
        let mut at = At::default();
        let mut kept = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.iter().enumerate() {
            let mut of_layers = Vec::with_capacity(layout.relu_layers.len());
            for relu in &layout.relu_layers {
                of_layers.push(self.send_layer(batch, index, relu, draft, transfers, &mut at)?);
            }
            if let Some(argmax) = &layout.argmax {
                let inputs = argmax.inputs(draft.accumulators[layout.last_layer()].values());
                self.send_label_bits(
                    batch,
                    index,
                    layout.last_layer(),
                    &inputs,
                    &transfers.choices,
                    &mut at.label,
                )?;
            }
            kept.push(of_layers);
        }
        Ok(kept)
    }

    fn send_label_bits(
        &mut self,
        batch: u32,
        index: usize,
        layer: usize,
        inputs: &[u8],
        choices: &[u8],
        at: &mut usize,
    ) -> Result<()> {
        let corrections: Vec<u64> = inputs
            .iter()
            .zip(&choices[*at..])
            .map(|(e, c)| u64::from(e ^ c))
            .collect();
        *at += inputs.len();
        self.wire.ledger.work(
            layer,
            Work {
                n_ots: inputs.len() as u64,
                ..Work::default()
            },
        );
        self.wire.send(
            tag(Step::LabelBits, layer, batch, index),
            &pack(&corrections, 1),
        )
    }

    /// Sends what belongs to one layer, by the way this session garbles.
    fn send_layer(
        &mut self,
        batch: u32,
        index: usize,
        relu: &ReluLayer,
        draft: &Draft,
        transfers: &Transfers,
        at: &mut At,
    ) -> Result<Sent> {
        let (ring, ring_out) = (relu.ring, relu.ring_out);
        let accumulators = draft.accumulators[relu.layer].values();
        let truncated = Zeroizing::new(
            accumulators
                .iter()
                .map(|&y| ring_out.reduce(ring.truncate_client(y, relu.truncated_bits)))
                .collect::<Vec<u64>>(),
        );
        let kept = gather(&truncated, relu.positions.kept());
        let next = draft.masks[relu.layer + 1].values();
        let (first_label, first_mux) = (at.label, at.mux);
        let sent = if let Some(delta) = &transfers.delta {
            at.label += relu.n_relus();
            at.mux += relu.n_labels();
            let shares = Shares {
                accumulators,
                truncated: kept,
                next_mask: Zeroizing::new(gather(next, relu.positions.kept())),
                ots: &transfers.bits[first_mux..at.mux],
                choices: &transfers.choices[first_label..at.label],
            };
            Sent::Digits(self.send_digits(batch, index, relu, delta, shares)?)
        } else {
            self.send_label_bits(
                batch,
                index,
                relu.layer,
                &relu.sign_inputs(accumulators),
                &transfers.choices,
                &mut at.label,
            )?;
            at.mux += relu.n_relus();
            self.send_corrections(batch, index, relu, kept, transfers, first_mux)?
        };
        let identity: Vec<u64> = relu
            .positions
            .removed()
            .iter()
            .map(|&i| ring_out.sub(truncated[i as usize], next[i as usize]))
            .collect();
        self.wire.send(
            tag(Step::Identity, relu.layer, batch, index),
            &pack(&identity, ring_out.bits()),
        )?;
        Ok(sent)
    }

    /// Sends the corrections of one layer's products.
    fn send_corrections(
        &mut self,
        batch: u32,
        index: usize,
        relu: &ReluLayer,
        kept: Vec<u64>,
        transfers: &Transfers,
        at: usize,
    ) -> Result<Sent> {
        let ring_out = relu.ring_out;
        let reduce = |values: &[u64]| {
            Zeroizing::new(
                values[at..at + kept.len()]
                    .iter()
                    .map(|&v| ring_out.reduce(v))
                    .collect::<Vec<u64>>(),
            )
        };
        let (corrections, products) = if kept.is_empty() {
            (vec![], vec![])
        } else {
            client_products(
                ring_out,
                &reduce(&transfers.products[0]),
                &reduce(&transfers.products[1]),
                &kept,
            )
        };
        self.wire.ledger.work(
            relu.layer,
            Work {
                n_ots: kept.len() as u64,
                ..Work::default()
            },
        );
        self.wire.send(
            tag(Step::MuxCorrections, relu.layer, batch, index),
            &pack(&corrections, ring_out.bits()),
        )?;
        Ok(Sent::Shares(Share::new(kept), Share::new(products)))
    }

    /// Completes the labels' OTs.
    fn receive_labels(
        &mut self,
        batch: u32,
        labels: Option<(Receiver, Extended)>,
    ) -> Result<Zeroizing<Vec<Block>>> {
        let Some((mut receiver, mut extended)) = labels else {
            return Ok(Zeroizing::default());
        };
        let n = self.plan.batch() * self.layout.n_label_ots(self.options.garbling);
        let reply = self.wire.recv(
            batch_tag(Step::LabelReply, 0, batch),
            receiver.reply_bytes(n),
        )?;
        self.wire.ledger.time(Phase::Offline, "OT", || {
            receiver.finish(n, &mut extended, &reply)
        })?;
        Ok(extended.blocks)
    }

    pub(super) fn receive_tables(
        &mut self,
        batch: u32,
        drafts: Vec<Draft>,
        sent: Vec<Vec<Sent>>,
        labels: Option<(Receiver, Extended)>,
        delta: Option<Arc<Delta>>,
    ) -> Result<Vec<Prepared>> {
        let (layout, mode) = (self.layout.clone(), self.options.garbling);
        let start_key = if layout.has_circuits(mode) {
            let bytes = self
                .wire
                .recv(batch_tag(Step::HashKey, 0, batch), Block::BYTES)?;
            Block::from_le_bytes(bytes.try_into().unwrap_or_default())
        } else {
            Block::ZERO
        };
        let blocks = self.receive_labels(batch, labels)?;
        let start = sizes::hash_start(
            "product hash",
            &self.client_nonce,
            &self.server_nonce,
            batch,
        );
        let mut at = 0;
        let mut take = |n: usize| {
            let range = at..at + n;
            at += n;
            range
        };
        let active = |range: Range<usize>| {
            let labels = blocks[range].iter().map(|&t| ActiveLabel::from_cot(t));
            Zeroizing::new(labels.collect::<Vec<_>>())
        };
        let mut prepared = Vec::with_capacity(drafts.len());
        for (index, (mut draft, sent)) in drafts.into_iter().zip(sent).enumerate() {
            let (mut layers, mut digits) = (vec![], vec![]);
            for (relu, sent) in layout.relu_layers.iter().zip(sent) {
                let (truncated, u_c) = match sent {
                    Sent::Shares(truncated, u_c) => (truncated, u_c),
                    Sent::Digits(mut layer) => {
                        let range = take(relu.n_relus());
                        let ledger = &mut self.wire.ledger;
                        let pads = ledger.time(Phase::Offline, "OT", || {
                            let first = range.start as u64;
                            receiver_pads(start, first, &blocks[range], relu.ring_out.bits())
                        })?;
                        layer.products = products(relu.ring_out, &pads);
                        digits.push(layer);
                        continue;
                    }
                };
                let (circuit, n_relus) = (&relu.circuit, relu.n_relus());
                let signs = instances(circuit, n_relus, start_key, index, relu.layer, mode)?;
                let tables = self.wire.recv(
                    tag(Step::Tables, relu.layer, batch, index),
                    signs.table_bytes(),
                )?;
                self.wire.ledger.work(
                    relu.layer,
                    Work {
                        n_and_gates: signs.n_and() as u64,
                        ..Work::default()
                    },
                );
                let next_mask = Share::new(gather(
                    draft.masks[relu.layer + 1].values(),
                    relu.positions.kept(),
                ));
                layers.push(LayerMaterial {
                    tables,
                    labels: active(take(relu.n_labels())),
                    truncated,
                    products: u_c,
                    next_mask,
                });
            }
            let last = layout.last_layer();
            let argmax = match &layout.argmax {
                None => None,
                Some(argmax) => {
                    let circuit = instances(&argmax.circuit, 1, start_key, index, last, mode)?;
                    let tables = self
                        .wire
                        .recv(tag(Step::Tables, last, batch, index), circuit.table_bytes())?;
                    self.wire.ledger.work(
                        last,
                        Work {
                            n_and_gates: circuit.n_and() as u64,
                            ..Work::default()
                        },
                    );
                    Some(ArgmaxMaterial {
                        tables,
                        labels: active(take(argmax.n_labels())),
                    })
                }
            };
            let output = draft.accumulators.swap_remove(last);
            let input_mask = draft.masks.swap_remove(0);
            prepared.push(Prepared {
                origin: Origin::Session(self.client_nonce),
                options: self.options,
                batch,
                index,
                start_key,
                input_mask,
                layers,
                digits: delta.clone().map(|delta| Digits {
                    delta,
                    layers: digits,
                }),
                output,
                argmax,
            });
        }
        Ok(prepared)
    }
}
