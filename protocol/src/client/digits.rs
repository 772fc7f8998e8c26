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
use crate::relu::reversed::{ClientKeys, client_answer, client_sums};
use crate::ring::Ring;
use crate::session::{malformed, tag};
use crate::share::{Client, Share};
use crate::sizes;
use crate::wire::Step;

/// What the client keeps of one inference whose ReLUs it garbled.
pub(super) struct Digits {
    /// Of the session that prepared it.
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
