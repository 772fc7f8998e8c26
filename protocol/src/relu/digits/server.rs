//! The server as evaluator of the sign tests that the client garbled: what it keeps offline, and its half of each round trip.

use pi_model::bits::{pack, unpack};
use zeroize::Zeroizing;

use super::algebra::{Opened, ServerKeys, server_open};
use super::{bits_bytes, messages, sign_tests, tops, work};
use crate::block::{Block, Delta};
use crate::error::Result;
use crate::gc::digits::{evaluate_digits, evaluator_keys, n_digits, n_rows};
use crate::kept::{Kept, Reader, Writer};
use crate::ot::correlated::sender_pads;
use crate::relu::layer::ReluLayer;
use crate::ring::{ServerShare, Share};
use crate::wire::channel::Channel;
use crate::wire::{Item, Phase, Step, Wire, malformed};

/// What the client has sent of one layer in flight 3.
pub(crate) struct Received {
    orders: Vec<u64>,
    tables: Vec<u8>,
    sums: Vec<u64>,
}

/// What the server has of the OTs of one layer.
pub(crate) struct Ots<'a> {
    /// The receiver's blocks of its bits.
    pub(crate) blocks: &'a [Block],
    /// Its choices there, one byte each.
    pub(crate) choices: &'a [u8],
    /// The sender's blocks of the products.
    pub(crate) products: &'a [Block],
    /// Number in its batch of the first of those.
    pub(crate) first_product: usize,
    /// Their correlation.
    pub(crate) delta: &'a Delta,
    /// Where they are hashed from.
    pub(crate) start: Block,
}

/// What the server keeps for the kept ReLUs of one inference.
pub(crate) struct Material {
    /// Where the hash of the batch starts.
    pub(crate) start_key: Block,
    pub(crate) layers: Vec<Layer>,
}

/// What the server keeps for the kept ReLUs of one layer.
pub(crate) struct Layer {
    tables: Vec<u8>,
    /// Labels of random digits and of the top bit.
    keys: Zeroizing<Vec<Block>>,
    /// rho, `l` bits for each ReLU: what masks the server's bits.
    choices: Zeroizing<Vec<u64>>,
    /// Order of the rows, and f as the top bit.
    orders: Vec<u64>,
    /// S + h_0 + h_1.
    sums: Vec<u64>,
    /// a.
    blinds: Zeroizing<Vec<u64>>,
    /// w_s.
    products: ServerShare,
}

/// Flight 3: orders, tables and sums of one layer.
pub(crate) fn receive<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    relu: &ReluLayer,
) -> Result<Received> {
    let (layer, n, messages) = (relu.layer, relu.n_relus(), messages(relu));
    let tag = |step| item.tag(step, layer);
    let orders = wire.receive(tag(Step::DigitOrders), &messages)?;
    let tables = wire.receive(tag(Step::DigitTables), &messages)?;
    let sums = wire.receive(tag(Step::AnswerSums), &messages)?;
    wire.ledger.work(layer, work(relu));
    wire.ledger
        .time_of_layer(Phase::Offline, "unpack", layer, || {
            let orders = unpack(&orders, n, relu.sign_bits);
            let sums = unpack(&sums, n, relu.ring_out.bits());
            Ok(Received {
                orders: orders.map_err(|e| malformed(tag(Step::DigitOrders), &e))?,
                tables,
                sums: sums.map_err(|e| malformed(tag(Step::AnswerSums), &e))?,
            })
        })
}

impl Layer {
    /// From what the client sent and this layer's OTs.
    pub(crate) fn new(
        item: Item,
        relu: &ReluLayer,
        received: Received,
        ots: &Ots<'_>,
    ) -> Result<Self> {
        let ring = relu.ring_out;
        let (first, width) = (ots.first_product as u64, ring.bits());
        let [r0, r1] = sender_pads(ots.start, first, ots.products, ots.delta, width)?;
        let join = |bits: &[u8]| bits.iter().rev().fold(0, |v, &bit| v << 1 | u64::from(bit));
        let per_relu = relu.sign_bits as usize;
        let blinds = r0.iter().zip(r1.iter());
        let blinds = blinds.map(|(&r0, &r1)| ring.sub(ring.reduce(r1), ring.reduce(r0)));
        let products = r0.iter().map(|&r0| ring.sub(0, ring.reduce(r0)));
        Ok(Self {
            tables: received.tables,
            keys: evaluator_keys(&sign_tests(relu, item, Block::ZERO)?, ots.blocks)?,
            choices: Zeroizing::new(ots.choices.chunks_exact(per_relu).map(join).collect()),
            orders: received.orders,
            sums: received.sums,
            blinds: Zeroizing::new(blinds.collect()),
            products: Share::new(products.collect()),
        })
    }

    /// Online: ReLU(y') - r_next at the kept positions, from y_s at all positions and y'_s at the kept ones.
    pub(crate) fn evaluate<C: Channel>(
        &self,
        wire: &mut Wire<C>,
        item: Item,
        relu: &ReluLayer,
        start_key: Block,
        accumulators: &[u64],
        truncated: &[u64],
    ) -> Result<Vec<u64>> {
        let (layer, l, ring) = (relu.layer, relu.sign_bits, relu.ring_out);
        let messages = messages(relu);
        let (values, masked, shares) =
            wire.ledger.time_of_layer(Phase::Online, "mask", layer, || {
                self.mask(relu, accumulators, truncated)
            });
        let tag = |step| item.tag(step, layer);
        wire.send(tag(Step::MaskedDigits), &pack(&masked, l))?;
        wire.send(tag(Step::MaskedShares), &pack(&shares, ring.bits()))?;
        let labels = wire.receive(tag(Step::DigitLabels), &messages)?;
        let answers = wire.receive(tag(Step::Answers), &messages)?;
        wire.ledger
            .time_of_layer(Phase::Online, "evaluate", layer, || {
                let answers = unpack(&answers, relu.n_relus(), ring.bits())
                    .map_err(|e| malformed(tag(Step::Answers), &e))?;
                let tests = sign_tests(relu, item, start_key)?;
                let pairs = values.iter().zip(&self.orders);
                let positions = pairs.map(|(x, order)| x ^ order).collect::<Vec<_>>();
                let positions = Zeroizing::new(positions);
                let opened =
                    evaluate_digits(&tests, &self.tables, &self.keys, &labels, &positions)?;
                let colours: Vec<u8> = opened.iter().map(|label| label.colour()).collect();
                let hashes = tests.output_hash(opened.iter().map(|label| label.0), ring.bits())?;
                let keys = ServerKeys {
                    flips: &tops(relu, &self.orders),
                    sums: &self.sums,
                    products: self.products.values(),
                };
                let seen = Opened {
                    masked_tops: &tops(relu, &masked),
                    colours: &colours,
                    hashes: &hashes,
                    answers: &answers,
                };
                Ok(server_open(ring, &keys, &seen, truncated))
            })
    }

    /// The server's bits, masked bits, and e = y'_s - a.
    fn mask(
        &self,
        relu: &ReluLayer,
        accumulators: &[u64],
        truncated: &[u64],
    ) -> (Zeroizing<Vec<u64>>, Vec<u64>, Vec<u64>) {
        let keep = u64::MAX >> (64 - relu.sign_bits);
        let mut values = Zeroizing::new(relu.sign_values(accumulators));
        values.iter_mut().for_each(|v| *v &= keep);
        let masked = values.iter().zip(self.choices.iter());
        let masked = masked.map(|(x, rho)| x ^ rho).collect();
        let blinded = truncated.iter().zip(self.blinds.iter());
        let blinded = blinded.map(|(&y, &a)| relu.ring_out.sub(y, a));
        (values, masked, blinded.collect())
    }
}

impl Material {
    /// Bytes that [`Self::write`] writes.
    pub(crate) fn n_bytes(layers: &[ReluLayer]) -> usize {
        let of = |relu: &ReluLayer| {
            let (n, l) = (relu.n_relus(), relu.sign_bits);
            let blocks = n * (n_rows(l) + n_digits(l) + 1);
            blocks * Block::BYTES + 2 * bits_bytes(relu) + 3 * relu.result_bytes()
        };
        Block::BYTES + layers.iter().map(of).sum::<usize>()
    }

    /// Bytes in memory: tables, labels of digits and of the top bit, five words for each ReLU.
    pub(crate) fn memory_bytes(relu: &ReluLayer) -> usize {
        let l = relu.sign_bits;
        relu.n_relus() * (Block::BYTES * (n_rows(l) + n_digits(l) + 1) + 5 * 8)
    }

    pub(crate) fn write(&self, writer: &mut Writer, layers: &[ReluLayer]) {
        writer.blocks(std::iter::once(self.start_key));
        for (relu, layer) in layers.iter().zip(&self.layers) {
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
    pub(crate) fn read(reader: &mut Reader<'_>, layers: &[ReluLayer]) -> Kept<Self> {
        let start_key = Block::from_le_bytes(reader.array()?);
        let layers = layers.iter().map(|relu| {
            let (n, bits, l) = (relu.n_relus(), relu.ring_out.bits(), relu.sign_bits);
            let tables = reader.bytes(messages(relu).n_bytes(Step::DigitTables))?;
            Ok(Layer {
                tables: tables.to_vec(),
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
