//! The client as garbler of the ReLUs ([`crate::gc::digits`], [`crate::relu::reversed`]): what it sends and keeps offline, and
//! its one answer for each layer online.
//!
//! Offline up, for each ReLU of l bits: tables (960 bytes for l = 14), l bits of orders, k bits of sums. Online down l + k bits, up 16
//! bytes a digit (64 for l = 14) and k bits.

use std::sync::Arc;

use pi_model::bits::{pack, packed_bytes, unpack};
use zeroize::Zeroizing;

use super::{ClientSession, Prepared};
use crate::block::{Block, Delta};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::gc::digits::{digit_labels, garble_digits, n_digits};
use crate::kept::{KeepError, Kept, Reader, Writer};
use crate::layout::{Layout, ReluLayer};
use crate::ledger::Phase;
use crate::mux::ClientMux;
use crate::ot::softspoken::{self, SenderSetup};
use crate::relu::reversed::{ClientKeys, client_answer, client_sums};
use crate::ring::Ring;
use crate::session::{batch_tag, malformed, tag};
use crate::share::{Client, Share};
use crate::sizes;
use crate::wire::Step;

/// What the client keeps of one inference whose ReLUs it garbled.
pub(super) struct Digits {
    /// Of the batch.
    pub(super) delta: Arc<Delta>,
    pub(super) layers: Vec<DigitLayer>,
}

impl Digits {
    /// Bytes that [`Self::write`] writes.
    pub(super) fn n_bytes(layout: &Layout) -> usize {
        let of = |relu: &ReluLayer| {
            let n_digits = relu.n_relus() * n_digits(relu.sign_bits);
            n_digits * Block::BYTES + 2 * packed_bytes(relu.n_relus(), 1) + 3 * relu.result_bytes()
        };
        Block::BYTES + layout.relu_layers.iter().map(of).sum::<usize>()
    }

    pub(super) fn write(&self, writer: &mut Writer, layout: &Layout) {
        writer.blocks(std::iter::once(self.delta.block()));
        for (relu, layer) in layout.relu_layers.iter().zip(&self.layers) {
            let bits = relu.ring_out.bits();
            writer.blocks(layer.offsets.iter().copied());
            writer.bits(&layer.choices);
            writer.bits(&layer.flips);
            writer.values(layer.truncated.values(), bits);
            writer.values(layer.products.values(), bits);
            writer.values(&layer.pads, bits);
        }
    }

    /// Reads what [`Self::write`] wrote.
    pub(super) fn read(reader: &mut Reader<'_>, layout: &Layout) -> Kept<Self> {
        let delta = Delta::from_block(Block::from_le_bytes(reader.array()?));
        let delta = Arc::new(delta.ok_or(KeepError::Damaged)?);
        let layers = layout.relu_layers.iter().map(|relu| {
            let (n, bits) = (relu.n_relus(), relu.ring_out.bits());
            let offsets = reader.blocks(n * n_digits(relu.sign_bits))?;
            Ok(DigitLayer {
                offsets: Zeroizing::new(offsets.collect()),
                choices: reader.bits(n)?,
                flips: reader.bits(n)?.to_vec(),
                truncated: Share::new(reader.values(n, bits)?),
                products: Share::new(reader.values(n, bits)?),
                pads: Zeroizing::new(reader.values(n, bits)?),
            })
        });
        let layers = layers.collect::<Kept<Vec<_>>>()?;
        Ok(Self { delta, layers })
    }
}

/// Material for the surviving ReLUs of one layer.
pub(super) struct DigitLayer {
    /// For each digit, what the server's label of a random digit lacks of the table's.
    pub(super) offsets: Zeroizing<Vec<Block>>,
    /// m.
    pub(super) choices: Zeroizing<Vec<u8>>,
    /// f.
    pub(super) flips: Vec<u8>,
    /// y'_c at the surviving positions.
    pub(super) truncated: Share<Client>,
    /// w_c; empty until the products' OTs are complete.
    pub(super) products: Share<Client>,
    /// h_0 - r_next.
    pub(super) pads: Zeroizing<Vec<u64>>,
}

/// What one layer's ReLUs are garbled from.
pub(super) struct Shares<'a> {
    /// y_c, at all positions.
    pub(super) accumulators: &'a [u64],
    /// y'_c at the surviving positions.
    pub(super) truncated: Vec<u64>,
    /// r_next at the surviving positions.
    pub(super) next_mask: Zeroizing<Vec<u64>>,
    /// The sender's blocks of the bits.
    pub(super) ots: &'a [Block],
    /// m.
    pub(super) choices: &'a [u8],
}

impl<C: Channel> ClientSession<C> {
    /// Answers the server's first message of this batch's base OTs, if the client garbles.
    pub(super) fn send_digit_base(&mut self, batch: u32) -> Result<Option<SenderSetup>> {
        let Some(point) = self.digit_point.take() else {
            return Ok(None);
        };
        let (nonces, seed) = ([&self.client_nonce, &self.server_nonce], &self.seed);
        let ledger = &mut self.wire.ledger;
        let (setup, answer) = ledger.time(Phase::Offline, "OT", || {
            ClientMux::answer(nonces[0], nonces[1], batch, &point, seed)
        })?;
        self.wire
            .send(batch_tag(Step::DigitBase, 0, batch), &answer)?;
        Ok(Some(setup))
    }

    /// The OTs of this batch's digits, and the first message of the next one's.
    pub(super) fn finish_digit_base(
        &mut self,
        batch: u32,
        setup: SenderSetup,
    ) -> Result<ClientMux> {
        let tag = |step| batch_tag(step, 0, batch);
        let trees = self
            .wire
            .recv(tag(Step::DigitTrees), softspoken::TREES_BYTES)?;
        let point = self
            .wire
            .recv(tag(Step::DigitPoint), softspoken::BASE_SENDER_BYTES)?;
        self.digit_point = point.first_chunk().copied();
        let roots = self.seed.derive("digit silent OT", &[batch.into()]);
        let nonces = [&self.client_nonce, &self.server_nonce];
        let ot = self.options.ot;
        let ledger = &mut self.wire.ledger;
        ledger.time(Phase::Offline, "OT", || {
            ClientMux::finish(setup, nonces[0], nonces[1], batch, &trees, ot, roots)
        })
    }

    /// Garbles one layer of one inference, and sends what belongs to it.
    pub(super) fn send_digits(
        &mut self,
        batch: u32,
        index: usize,
        relu: &ReluLayer,
        delta: &Delta,
        shares: Shares<'_>,
    ) -> Result<DigitLayer> {
        let (ring, layer) = (relu.ring_out, relu.layer);
        let start = sizes::hash_start("digit hash", &self.client_nonce, &self.server_nonce, batch);
        let tests = relu.digit_tests(start, index)?;
        let seed = self.seed.derive("digits", &[batch.into()]);
        let values = Zeroizing::new(relu.sign_values(shares.accumulators));
        let top = relu.sign_bits - 1;
        let ledger = &mut self.wire.ledger;
        let (mut garbled, hashes) =
            ledger.time_of_layer(Phase::Offline, "garble", layer, || {
                let garbled = garble_digits(&tests, delta, &seed, shares.ots, &values)?;
                let hash = |colour: u8| {
                    let labels = garbled.outputs.iter();
                    let labels = labels.map(|zero| zero.active(zero.colour() ^ colour, delta).0);
                    tests.output_hash(labels, ring.bits())
                };
                let hashes = [hash(0)?, hash(1)?];
                Ok::<_, Error>((garbled, hashes))
            })?;
        // The colour 0 means [y >= 0] if this bit, xor the server's masked top bit, is 1; m takes its place.
        let flips: Vec<u8> = garbled
            .outputs
            .iter()
            .zip(values.iter().zip(shares.choices))
            .map(|(zero, (value, m))| 1 ^ zero.colour() ^ (value >> top) as u8 & 1 ^ m)
            .collect();
        for (order, flip) in garbled.orders.iter_mut().zip(&flips) {
            *order |= u64::from(*flip) << top;
        }
        let sums = client_sums(
            ring,
            &shares.truncated,
            &shares.next_mask,
            [&hashes[0], &hashes[1]],
        );
        ledger.work(layer, relu.digit_work());
        for (step, message) in [
            (Step::DigitOrders, pack(&garbled.orders, relu.sign_bits)),
            (Step::DigitTables, std::mem::take(&mut garbled.tables)),
            (Step::AnswerSums, pack(&sums, ring.bits())),
        ] {
            self.wire.send(tag(step, layer, batch, index), &message)?;
        }
        let pads = hashes[0].iter().zip(shares.next_mask.iter());
        Ok(DigitLayer {
            pads: Zeroizing::new(pads.map(|(&h, &r)| ring.sub(h, r)).collect()),
            offsets: garbled.offsets,
            choices: Zeroizing::new(shares.choices.to_vec()),
            flips,
            truncated: Share::new(shares.truncated),
            products: Share::new(vec![]),
        })
    }

    /// Answers one layer online.
    pub(super) fn answer_digits(
        &mut self,
        relu: &ReluLayer,
        material: &DigitLayer,
        delta: &Delta,
        prepared: &Prepared,
    ) -> Result<()> {
        let (batch, index, layer) = (prepared.batch, prepared.index, relu.layer);
        let (n, ring) = (relu.n_relus(), relu.ring_out);
        let mut receive = |step, n_bytes, bits| -> Result<Vec<u64>> {
            let message = self.wire.recv(tag(step, layer, batch, index), n_bytes)?;
            unpack(&message, n, bits).map_err(|e| malformed(step, layer, &e))
        };
        let masked = receive(Step::MaskedDigits, relu.bits_bytes(), relu.sign_bits)?;
        let shares = receive(Step::MaskedShares, relu.result_bytes(), ring.bits())?;
        let ledger = &mut self.wire.ledger;
        let (labels, answers) =
            ledger.time_of_layer(Phase::Online, "answer", layer, || -> Result<_> {
                let tests = relu.digit_tests(Block::ZERO, index)?;
                let labels = digit_labels(&tests, &material.offsets, delta, &masked)?;
                let keys = ClientKeys {
                    choices: &material.choices,
                    flips: &material.flips,
                    truncated: material.truncated.values(),
                    products: material.products.values(),
                    pads: &material.pads,
                };
                let answers = client_answer(ring, &keys, &relu.tops(&masked), &shares);
                Ok((labels, pack(&answers, ring.bits())))
            })?;
        self.wire
            .send(tag(Step::DigitLabels, layer, batch, index), &labels)?;
        self.wire
            .send(tag(Step::Answers, layer, batch, index), &answers)
    }
}

/// w_c of one layer from the pads of its OTs.
pub(super) fn products(ring: Ring, pads: &[u64]) -> Share<Client> {
    Share::new(pads.iter().map(|&v| ring.reduce(v)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::pair;
    use crate::gc::GarblingMode;
    use crate::prg::Seed;
    use crate::server::ServerSession;
    use crate::session::SessionOptions;
    use pi_model::plan::Plan;
    use pi_model::random::residual_network;
    use pi_model::spec::OutputMode;

    /// Two batches of one session share nothing, and what hides signs is uniform.
    #[test]
    fn batches_have_their_own_correlation_and_masks_are_balanced() {
        let model = residual_network("m", [3, 8, 8], &[4, 6], 1, 5, 600, OutputMode::Logits);
        let model = Arc::new(model.unwrap());
        let plan = Arc::new(Plan::new(model.clone(), 2).unwrap());
        let public = plan.public().clone();
        let (to_server, to_client) = pair();
        let server = std::thread::spawn(move || {
            let mut session =
                ServerSession::accept_with_seed(to_client, plan, Seed::from([7; 32])).unwrap();
            session.serve().unwrap();
        });
        let options = SessionOptions {
            garbling: GarblingMode::ClientDigits,
            ..SessionOptions::default()
        };
        let mut client =
            ClientSession::connect_with_seed(to_server, public, options, Seed::from([8; 32]))
                .unwrap();
        let mut batches = [client.prepare().unwrap(), client.prepare().unwrap()];
        let deltas = batches.each_ref().map(|batch| {
            let all = batch
                .iter()
                .map(|p| p.digits.as_ref().unwrap().delta.block());
            let mut all: Vec<_> = all.collect();
            all.dedup();
            assert_eq!(all.len(), 1, "one correlation for each batch");
            all[0]
        });
        assert!(deltas[0] != deltas[1], "two batches share a correlation");
        let layers = || {
            batches
                .iter()
                .flatten()
                .flat_map(|p| &p.digits.as_ref().unwrap().layers)
        };
        let choices: Vec<u8> = layers().flat_map(|l| l.choices.iter().copied()).collect();
        let flips: Vec<u8> = layers().flat_map(|l| l.flips.iter().copied()).collect();
        let both: Vec<u8> = choices.iter().zip(&flips).map(|(m, f)| m ^ f).collect();
        assert_eq!(choices.len(), 4 * 600);
        for bits in [choices, flips, both] {
            let ones = bits.iter().filter(|b| **b == 1).count() as i64;
            // Six deviations of 2,400 fair bits.
            assert!((ones - 1200).abs() < 147, "{ones} of 2400");
        }
        // The same input gives what the plaintext executor gives, in either batch.
        let input = vec![100; 3 * 8 * 8];
        let expected = pi_model::executor::run(&model, &input).unwrap();
        let scale = f64::from(model.public().graph().layers.last().unwrap().fraction_bits).exp2();
        for batch in &mut batches {
            let output = client.infer(batch.remove(0), &input).unwrap();
            let crate::client::Output::Logits(logits) = output else {
                panic!("no logits")
            };
            for (got, want) in logits.iter().zip(&expected.logits) {
                let error = (got - want) as f64 / scale;
                assert!(error.abs() < 0.1, "{logits:?} for {:?}", expected.logits);
            }
        }
        client.close().unwrap();
        server.join().unwrap();
    }
}
