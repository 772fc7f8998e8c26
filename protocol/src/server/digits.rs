//! The server as evaluator of the ReLUs that the client garbled: what it keeps offline, and its half of each layer's round trip.

use pi_model::bits::{pack, unpack};
use pi_model::relu_set::gather;
use zeroize::Zeroizing;

use super::garbling::{Garbling, Received, Transfers, garble_argmax};
use super::{LayerMaterial, Prepared, ServerSession};
use crate::block::Block;
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::gc::digits::{evaluate_digits, evaluator_keys, n_digits, n_rows};
use crate::kept::{Kept, Reader, Writer};
use crate::layout::{Layout, ReluLayer};
use crate::ledger::Phase;
use crate::mux::ServerMux;
use crate::ot::correlated::sender_pads;
use crate::ot::softspoken;
use crate::prg::Seed;
use crate::relu::reversed::{Opened, ServerKeys, server_open};
use crate::session::{batch_tag, malformed, tag};
use crate::share::{Server, Share};
use crate::sizes;
use crate::wire::Step;

/// What the server keeps of one inference whose ReLUs the client garbled.
pub(super) struct Digits {
    /// Of the hash of the batch.
    pub(super) start_key: Block,
    pub(super) layers: Vec<DigitLayer>,
}

impl Digits {
    /// Bytes that [`Self::write`] writes.
    pub(super) fn n_bytes(layout: &Layout) -> usize {
        let of = |relu: &ReluLayer| {
            let (n, l) = (relu.n_relus(), relu.sign_bits);
            let blocks = n * (n_rows(l) + n_digits(l) + 1);
            blocks * Block::BYTES + 2 * relu.bits_bytes() + 3 * relu.result_bytes()
        };
        Block::BYTES + layout.relu_layers.iter().map(of).sum::<usize>()
    }

    pub(super) fn write(&self, writer: &mut Writer, layout: &Layout) {
        writer.blocks(std::iter::once(self.start_key));
        for (relu, layer) in layout.relu_layers.iter().zip(&self.layers) {
            let (bits, l) = (relu.ring_out.bits(), relu.sign_bits);
            writer.bytes(&layer.tables);
            writer.blocks(layer.keys.iter().copied());
            writer.values(&layer.choices, l);
            writer.values(&layer.orders, l);
            for values in [&layer.sums, &*layer.blinds, layer.products.values()] {
                writer.values(values, bits);
            }
        }
    }

    /// Reads what [`Self::write`] wrote.
    pub(super) fn read(reader: &mut Reader<'_>, layout: &Layout) -> Kept<Self> {
        let start_key = Block::from_le_bytes(reader.array()?);
        let layers = layout.relu_layers.iter().map(|relu| {
            let (n, bits, l) = (relu.n_relus(), relu.ring_out.bits(), relu.sign_bits);
            let tables = reader.bytes(n * n_rows(l) * Block::BYTES)?.to_vec();
            Ok(DigitLayer {
                tables,
                keys: Zeroizing::new(reader.blocks(n * (n_digits(l) + 1))?.collect()),
                choices: Zeroizing::new(reader.values(n, l)?),
                orders: reader.values(n, l)?,
                sums: reader.values(n, bits)?,
                blinds: Zeroizing::new(reader.values(n, bits)?),
                products: Share::new(reader.values(n, bits)?),
            })
        });
        let layers = layers.collect::<Kept<Vec<_>>>()?;
        Ok(Self { start_key, layers })
    }
}

/// Material for the surviving ReLUs of one layer.
pub(super) struct DigitLayer {
    pub(super) tables: Vec<u8>,
    /// Labels of random digits and of the top bit.
    pub(super) keys: Zeroizing<Vec<Block>>,
    /// rho, `l` bits for each ReLU.
    pub(super) choices: Zeroizing<Vec<u64>>,
    /// Order of the rows, and f as the top bit.
    pub(super) orders: Vec<u64>,
    /// S + h_0 + h_1.
    pub(super) sums: Vec<u64>,
    /// a.
    pub(super) blinds: Zeroizing<Vec<u64>>,
    /// w_s.
    pub(super) products: Share<Server>,
}

/// What the client sent of one layer.
pub(super) struct ReceivedDigits {
    pub(super) orders: Vec<u64>,
    pub(super) tables: Vec<u8>,
    pub(super) sums: Vec<u64>,
}

impl DigitLayer {
    /// From what the client sent and this layer's part of the OTs: blocks and choices of its bits, R_0 and R_1 of its products.
    pub(super) fn new(
        relu: &ReluLayer,
        received: ReceivedDigits,
        ots: &[Block],
        choices: &[u8],
        pads: [&[u64]; 2],
    ) -> Result<Self> {
        let ring = relu.ring_out;
        let join = |bits: &[u8]| bits.iter().rev().fold(0, |v, &bit| v << 1 | u64::from(bit));
        let per_relu = relu.sign_bits as usize;
        let blinds = pads[0].iter().zip(pads[1]);
        let products = pads[0].iter();
        Ok(Self {
            tables: received.tables,
            keys: evaluator_keys(&relu.digit_tests(Block::ZERO, 0)?, ots)?,
            choices: Zeroizing::new(choices.chunks_exact(per_relu).map(join).collect()),
            orders: received.orders,
            sums: received.sums,
            blinds: Zeroizing::new(
                blinds
                    .map(|(&r0, &r1)| ring.sub(ring.reduce(r1), ring.reduce(r0)))
                    .collect(),
            ),
            products: Share::new(products.map(|&r0| ring.sub(0, ring.reduce(r0))).collect()),
        })
    }
}

impl<C: Channel> ServerSession<C> {
    /// The client's answer for this batch's base OTs, if it garbles.
    pub(super) fn receive_digit_base(&mut self, batch: u32) -> Result<Option<Vec<u8>>> {
        if self.digit_setup.is_none() {
            return Ok(None);
        }
        let tag = batch_tag(Step::DigitBase, 0, batch);
        self.wire
            .recv(tag, softspoken::BASE_RECEIVER_BYTES)
            .map(Some)
    }

    /// The OTs of this batch's digits; begins those of the next one.
    pub(super) fn send_digit_trees(&mut self, batch: u32, answer: &[u8]) -> Result<ServerMux> {
        let setup = self.digit_setup.take();
        let setup = setup.ok_or_else(|| Error::Misuse("no base OTs were begun".into()))?;
        let (nonces, ot) = ([&self.client_nonce, &self.server_nonce], self.options.ot);
        let (ledger, seed) = (&mut self.wire.ledger, &self.seed);
        let (mux, trees, next, point) = ledger.time(Phase::Offline, "OT", || -> Result<_> {
            let finished = ServerMux::finish(setup, nonces[0], nonces[1], batch, answer, ot);
            let (mux, trees) = finished?;
            let next = batch.saturating_add(1);
            let (next, point) = ServerMux::begin(nonces[0], nonces[1], next, seed);
            Ok((mux, trees, next, point))
        })?;
        self.digit_setup = Some(next);
        let tag = |step| batch_tag(step, 0, batch);
        self.wire.send(tag(Step::DigitTrees), &trees)?;
        self.wire.send(tag(Step::DigitPoint), &point)?;
        Ok(mux)
    }

    /// One inference whose ReLUs the client garbled; tables to send there are of the argmax alone.
    #[allow(
        clippy::too_many_arguments,
        reason = "the pieces of one inference, each used once"
    )]
    pub(super) fn take_digits(
        &mut self,
        transfers: &Transfers,
        received: Received,
        masks: Vec<Share<Server>>,
        start_key: Block,
        labels: &Seed,
        batch: u32,
        index: usize,
    ) -> Result<Garbling> {
        let (layout, mode) = (self.layout.clone(), self.options.garbling);
        let nonces = [&self.client_nonce, &self.server_nonce];
        let of = |what| sizes::hash_start(what, nonces[0], nonces[1], batch);
        let (digit_key, product_start) = (of("digit hash"), of("product hash"));
        let mut at_label = index * layout.n_label_ots(mode);
        let mut at_bit = index * layout.n_mux_ots(mode);
        let mut layers = Vec::with_capacity(layout.relu_layers.len());
        let ledger = &mut self.wire.ledger;
        for (relu, received) in layout.relu_layers.iter().zip(received.digits) {
            let products = at_label..at_label + relu.n_relus();
            let bits = at_bit..at_bit + relu.n_labels();
            (at_label, at_bit) = (products.end, bits.end);
            layers.push(ledger.time_of_layer(Phase::Offline, "OT", relu.layer, || {
                let (first, ots) = (products.start as u64, &transfers.labels[products]);
                let width = relu.ring_out.bits();
                let pads = sender_pads(product_start, first, ots, &transfers.delta, width)?;
                let (blocks, choices) = (&transfers.bits[bits.clone()], &transfers.choices[bits]);
                DigitLayer::new(relu, received, blocks, choices, [&pads[0], &pads[1]])
            })?);
        }
        let mut garbling = Garbling {
            tables: vec![],
            prepared: Prepared {
                batch,
                index,
                kept: false,
                delta: transfers.delta.clone(),
                masks,
                layers: received
                    .identity
                    .into_iter()
                    .map(LayerMaterial::without_relus)
                    .collect(),
                digits: Some(Digits {
                    start_key: digit_key,
                    layers,
                }),
                argmax: None,
            },
        };
        if let Some(bits) = received.label_bits.last() {
            let argmax = garble_argmax(
                ledger, &layout, transfers, bits, at_label, start_key, labels, mode, index,
            )?;
            if let Some((tables, material)) = argmax {
                garbling.tables.push(tables);
                garbling.prepared.argmax = Some(material);
            }
        }
        Ok(garbling)
    }

    /// Orders, tables and sums of one layer of one inference.
    pub(super) fn receive_digits(
        &mut self,
        batch: u32,
        index: usize,
        relu: &ReluLayer,
    ) -> Result<ReceivedDigits> {
        let (layer, n) = (relu.layer, relu.n_relus());
        let tests = relu.digit_tests(Block::ZERO, index)?;
        let tag = |step| tag(step, layer, batch, index);
        let orders = self.wire.recv(tag(Step::DigitOrders), relu.bits_bytes())?;
        let tables = self
            .wire
            .recv(tag(Step::DigitTables), tests.table_bytes())?;
        let sums = self.wire.recv(tag(Step::AnswerSums), relu.result_bytes())?;
        let ledger = &mut self.wire.ledger;
        ledger.work(layer, relu.digit_work());
        ledger.time_of_layer(Phase::Offline, "unpack", layer, || {
            let orders = unpack(&orders, n, relu.sign_bits);
            let sums = unpack(&sums, n, relu.ring_out.bits());
            Ok(ReceivedDigits {
                orders: orders.map_err(|e| malformed(Step::DigitOrders, layer, &e))?,
                tables,
                sums: sums.map_err(|e| malformed(Step::AnswerSums, layer, &e))?,
            })
        })
    }

    /// ReLU(y') - r_next at the surviving positions of one layer, from y_s and the truncated shares, in one round trip.
    pub(super) fn evaluate_layer(
        &mut self,
        relu: &ReluLayer,
        material: &DigitLayer,
        start_key: Block,
        prepared: &Prepared,
        accumulators: &[u64],
        truncated: &[u64],
    ) -> Result<Vec<u64>> {
        let (batch, index, layer) = (prepared.batch, prepared.index, relu.layer);
        let (ring, l) = (relu.ring_out, relu.sign_bits);
        let tests = relu.digit_tests(start_key, index)?;
        let ledger = &mut self.wire.ledger;
        let (values, masked, shares, own) =
            ledger.time_of_layer(Phase::Online, "mask", layer, || {
                let keep = u64::MAX >> (64 - l);
                let mut values = Zeroizing::new(relu.sign_values(accumulators));
                values.iter_mut().for_each(|v| *v &= keep);
                let masked: Vec<u64> = values
                    .iter()
                    .zip(material.choices.iter())
                    .map(|(x, rho)| x ^ rho)
                    .collect();
                let own = Zeroizing::new(gather(truncated, relu.positions.kept()));
                let blinded = own.iter().zip(material.blinds.iter());
                let shares: Vec<u64> = blinded.map(|(&y, &a)| ring.sub(y, a)).collect();
                (values, masked, shares, own)
            });
        let tag = |step| tag(step, layer, batch, index);
        self.wire.send(tag(Step::MaskedDigits), &pack(&masked, l))?;
        self.wire
            .send(tag(Step::MaskedShares), &pack(&shares, ring.bits()))?;
        let labels = self
            .wire
            .recv(tag(Step::DigitLabels), tests.label_bytes())?;
        let answers = self.wire.recv(tag(Step::Answers), relu.result_bytes())?;
        let ledger = &mut self.wire.ledger;
        ledger.time_of_layer(Phase::Online, "evaluate", layer, || {
            let answers = unpack(&answers, relu.n_relus(), ring.bits())
                .map_err(|e| malformed(Step::Answers, layer, &e))?;
            let pairs = values.iter().zip(&material.orders);
            let positions = Zeroizing::new(pairs.map(|(x, order)| x ^ order).collect::<Vec<_>>());
            let opened = evaluate_digits(
                &tests,
                &material.tables,
                &material.keys,
                &labels,
                &positions,
            )?;
            let colours: Vec<u8> = opened.iter().map(|label| label.colour()).collect();
            let hashes = tests.output_hash(opened.iter().map(|label| label.0), ring.bits())?;
            let keys = ServerKeys {
                flips: &relu.tops(&material.orders),
                sums: &material.sums,
                products: material.products.values(),
            };
            let seen = Opened {
                masked_tops: &relu.tops(&masked),
                colours: &colours,
                hashes: &hashes,
                answers: &answers,
            };
            Ok(server_open(ring, &keys, &seen, &own))
        })
    }
}
