//! The client as garbler of the sign tests: what it sends and keeps offline, and its one answer for each layer online.

use std::sync::Arc;

use pi_model::bits::{pack, packed_bytes, unpack};
use zeroize::Zeroizing;

use super::algebra::{ClientKeys, client_answer, client_sums};
use super::{messages, sign_tests, tops, work};
use crate::block::{Block, Delta};
use crate::error::Result;
use crate::gc::digits::{DigitGarbled, DigitTests, digit_labels, garble_digits, n_digits};
use crate::kept::{KeepError, Kept, Reader, Writer};
use crate::ot::correlated::receiver_pads;
use crate::prg::Seed;
use crate::relu::layer::ReluLayer;
use crate::relu::shares::Shares;
use crate::ring::{ClientShare, Share};
use crate::wire::channel::Channel;
use crate::wire::{Batch, Item, Phase, Step, Wire, malformed};

/// What the client garbles the digits of a batch with.
pub(crate) struct Keys<'a> {
    delta: &'a Delta,
    start_key: Block,
    seed: Seed,
}

impl<'a> Keys<'a> {
    /// Under the correlation of the batch.
    pub(crate) fn new(batch: &Batch<'_>, delta: &'a Delta) -> Self {
        Self {
            delta,
            start_key: batch.hash_start("digit hash"),
            seed: batch.derive("digits"),
        }
    }
}

/// What the client has of the OTs of one layer.
pub(crate) struct Ots<'a> {
    /// The sender's blocks of the server's bits.
    pub(crate) blocks: &'a [Block],
    /// m, its own choices behind the products.
    pub(crate) choices: &'a [u8],
}

/// What the client keeps for the kept ReLUs of one inference.
pub(crate) struct Material {
    /// The correlation of the batch.
    pub(crate) delta: Arc<Delta>,
    pub(crate) layers: Vec<Layer>,
}

/// What the client keeps for the kept ReLUs of one layer.
pub(crate) struct Layer {
    /// For each digit, what the server's label of a random digit lacks of the table's.
    offsets: Zeroizing<Vec<Block>>,
    /// m.
    choices: Zeroizing<Vec<u8>>,
    /// f: public once sent; what m would have to be, were the server's random top bit its real one, is m xor f.
    flips: Vec<u8>,
    /// y'_c.
    truncated: ClientShare,
    /// w_c; empty until flight 4.
    products: ClientShare,
    /// h_0 - r_next.
    pads: Zeroizing<Vec<u64>>,
}

/// Flight 3: garbles one layer, and sends what belongs to it.
pub(crate) fn send<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    relu: &ReluLayer,
    keys: &Keys<'_>,
    shares: Shares<'_>,
    ots: &Ots<'_>,
) -> Result<Layer> {
    let (ring, layer) = (relu.ring_out, relu.layer);
    let tests = sign_tests(relu, item, keys.start_key)?;
    let values = Zeroizing::new(relu.sign_values(shares.accumulators));
    let (mut garbled, hashes) =
        wire.ledger
            .time_of_layer(Phase::Offline, "garble", layer, || {
                garble(&tests, keys, ots.blocks, &values, ring.bits())
            })?;
    // The colour 0 means [y >= 0] if this bit, xor the server's masked top bit, is 1; m takes its place.
    let top = relu.sign_bits - 1;
    let flips: Vec<u8> = garbled
        .outputs
        .iter()
        .zip(values.iter().zip(ots.choices))
        .map(|(zero, (value, m))| 1 ^ zero.colour() ^ (value >> top) as u8 & 1 ^ m)
        .collect();
    for (order, flip) in garbled.orders.iter_mut().zip(&flips) {
        *order |= u64::from(*flip) << top;
    }
    let next_mask = shares.next_mask.values();
    let both = [&hashes[0][..], &hashes[1]];
    let sums = client_sums(ring, shares.truncated.values(), next_mask, both);
    wire.ledger.work(layer, work(relu));
    for (step, message) in [
        (Step::DigitOrders, pack(&garbled.orders, relu.sign_bits)),
        (Step::DigitTables, std::mem::take(&mut garbled.tables)),
        (Step::AnswerSums, pack(&sums, ring.bits())),
    ] {
        wire.send(item.tag(step, layer), &message)?;
    }
    let pads = hashes[0].iter().zip(next_mask);
    Ok(Layer {
        pads: Zeroizing::new(pads.map(|(&h, &r)| ring.sub(h, r)).collect()),
        offsets: garbled.offsets,
        choices: Zeroizing::new(ots.choices.to_vec()),
        flips,
        truncated: shares.truncated,
        products: Share::new(vec![]),
    })
}

/// Tables and labels of one layer, and h_0 and h_1.
fn garble(
    tests: &DigitTests,
    keys: &Keys<'_>,
    ots: &[Block],
    values: &[u64],
    bits: u32,
) -> Result<(DigitGarbled, [Zeroizing<Vec<u64>>; 2])> {
    let garbled = garble_digits(tests, keys.delta, &keys.seed, ots, values)?;
    let hash = |colour: u8| {
        let labels = garbled.outputs.iter();
        let labels = labels.map(|zero| zero.active(zero.colour() ^ colour, keys.delta).0);
        tests.output_hash(labels, bits)
    };
    let hashes = [hash(0)?, hash(1)?];
    Ok((garbled, hashes))
}

impl Layer {
    /// Flight 4, where nothing comes for this method: w_c, from the blocks of the products' OTs, of which the first is number
    /// `first` in its batch.
    pub(crate) fn complete(
        &mut self,
        relu: &ReluLayer,
        start: Block,
        first: usize,
        blocks: &[Block],
    ) -> Result<()> {
        let ring = relu.ring_out;
        let pads = receiver_pads(start, first as u64, blocks, ring.bits())?;
        self.products = Share::new(pads.iter().map(|&v| ring.reduce(v)).collect());
        Ok(())
    }

    /// Online: labels of the server's masked digits, and the answer for colour 0.
    pub(crate) fn answer<C: Channel>(
        &self,
        wire: &mut Wire<C>,
        item: Item,
        relu: &ReluLayer,
        delta: &Delta,
    ) -> Result<()> {
        let (layer, ring, messages) = (relu.layer, relu.ring_out, messages(relu));
        let mut receive = |step, bits| -> Result<Vec<u64>> {
            let tag = item.tag(step, layer);
            let message = wire.receive(tag, &messages)?;
            unpack(&message, relu.n_relus(), bits).map_err(|e| malformed(tag, &e))
        };
        let masked = receive(Step::MaskedDigits, relu.sign_bits)?;
        let shares = receive(Step::MaskedShares, ring.bits())?;
        let (labels, answers) =
            wire.ledger
                .time_of_layer(Phase::Online, "answer", layer, || -> Result<_> {
                    let tests = sign_tests(relu, item, Block::ZERO)?;
                    let labels = digit_labels(&tests, &self.offsets, delta, &masked)?;
                    let keys = ClientKeys {
                        choices: &self.choices,
                        flips: &self.flips,
                        truncated: self.truncated.values(),
                        products: self.products.values(),
                        pads: &self.pads,
                    };
                    let answers = client_answer(ring, &keys, &tops(relu, &masked), &shares);
                    Ok((labels, pack(&answers, ring.bits())))
                })?;
        wire.send(item.tag(Step::DigitLabels, layer), &labels)?;
        wire.send(item.tag(Step::Answers, layer), &answers)
    }
}

impl Material {
    /// Bytes that [`Self::write`] writes.
    pub(crate) fn n_bytes(layers: &[ReluLayer]) -> usize {
        let of = |relu: &ReluLayer| {
            let n_digits = relu.n_relus() * n_digits(relu.sign_bits);
            n_digits * Block::BYTES + 2 * packed_bytes(relu.n_relus(), 1) + 3 * relu.result_bytes()
        };
        Block::BYTES + layers.iter().map(of).sum::<usize>()
    }

    pub(crate) fn write(&self, writer: &mut Writer, layers: &[ReluLayer]) {
        writer.blocks(std::iter::once(self.delta.block()));
        for (relu, layer) in layers.iter().zip(&self.layers) {
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
    pub(crate) fn read(reader: &mut Reader<'_>, layers: &[ReluLayer]) -> Kept<Self> {
        let delta = Delta::from_block(Block::from_le_bytes(reader.array()?));
        let delta = Arc::new(delta.ok_or(KeepError::Damaged)?);
        let layers = layers.iter().map(|relu| {
            let (n, bits) = (relu.n_relus(), relu.ring_out.bits());
            let offsets = reader.blocks(n * n_digits(relu.sign_bits))?;
            Ok(Layer {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{ClientSession, Prepared};
    use crate::prg::Seed;
    use crate::relu::client::Material;
    use crate::server::ServerSession;
    use crate::session::{GarblingMode, SessionOptions};
    use crate::wire::channel::pair;
    use pi_model::plan::Plan;
    use pi_model::random::residual_network;
    use pi_model::spec::OutputMode;

    fn digits(prepared: &Prepared) -> &super::Material {
        match &prepared.relus {
            Material::Digits(digits) => digits,
            Material::Multiplexer(_) => panic!("the server garbled"),
        }
    }

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
            let all = batch.iter().map(|p| digits(p).delta.block());
            let mut all: Vec<_> = all.collect();
            all.dedup();
            assert_eq!(all.len(), 1, "one correlation for each batch");
            all[0]
        });
        assert!(deltas[0] != deltas[1], "two batches share a correlation");
        let layers = || batches.iter().flatten().flat_map(|p| &digits(p).layers);
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
