//! The server as garbler of the sign tests and sender of the multiplexer.

use pi_model::bits::{pack, packed_bytes, unpack};
use zeroize::Zeroizing;

use super::algebra::{ServerKeys, server_encrypt, server_products};
use super::{offline_messages, online_messages};
use crate::block::{Block, Delta, ZeroLabel};
use crate::error::Result;
use crate::gc::{Garbled, Scheme, active_label_bytes, garble, label_hash};
use crate::kept::{Kept, Reader, Writer};
use crate::relu::layer::ReluLayer;
use crate::ring::{ServerShare, Share};
use crate::transfers::server::{Garbler, receive_choices};
use crate::wire::channel::Channel;
use crate::wire::ledger::Work;
use crate::wire::{Item, Phase, Step, Wire, malformed};

/// What the client has sent of one layer in flight 3.
pub(crate) struct Received {
    /// Derandomisation bits of its labels.
    label_bits: Vec<u8>,
    /// Corrections of its products.
    corrections: Vec<u64>,
}

/// Hashes of the output labels of colour 0 and of colour 1, h_0 and h_1.
type Hashes = [Zeroizing<Vec<u64>>; 2];

/// What the server keeps for the kept ReLUs of one layer.
pub(crate) struct Layer {
    /// m: what the client sees of a sign is xor this.
    choices: Zeroizing<Vec<u8>>,
    /// u_s.
    products: ServerShare,
    /// Zero-labels of the server's bits.
    input_labels: Zeroizing<Vec<ZeroLabel>>,
    hashes: Hashes,
}

/// Flight 3: derandomisation bits and corrections of one layer.
pub(crate) fn receive<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    relu: &ReluLayer,
    scheme: Scheme,
) -> Result<Received> {
    let (layer, messages) = (relu.layer, offline_messages(relu, scheme));
    let label_bits = receive_choices(wire, item, layer, relu.n_sign_bits(), &messages)?;
    let tag = item.tag(Step::MuxCorrections, layer);
    let message = wire.receive(tag, &messages)?;
    let corrections = wire
        .ledger
        .time_of_layer(Phase::Offline, "unpack", layer, || {
            unpack(&message, relu.n_relus(), relu.ring_out.bits())
        })
        .map_err(|e| malformed(tag, &e))?;
    wire.ledger.work(
        layer,
        Work {
            n_and_gates: 0,
            ..super::work(relu)
        },
    );
    Ok(Received {
        label_bits,
        corrections,
    })
}

/// Flight 4: garbles the sign tests of one layer, and sends the tables.
pub(crate) fn garble_and_send<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    relu: &ReluLayer,
    garbler: &Garbler<'_>,
    received: &Received,
    pads: &[u64],
) -> Result<Layer> {
    let (layer, ring) = (relu.layer, relu.ring_out);
    if relu.n_relus() == 0 {
        return Ok(Layer::empty());
    }
    let range = garbler.ots.to_server(item, layer);
    let choices = Zeroizing::new(garbler.transfers.choices(range).to_vec());
    let products = wire
        .ledger
        .time_of_layer(Phase::Offline, "multiplex", layer, || {
            let pads = pads.iter().map(|&v| ring.reduce(v));
            let pads = Zeroizing::new(pads.collect::<Vec<_>>());
            Share::new(server_products(
                ring,
                &choices,
                &pads,
                &received.corrections,
            ))
        });
    let (garbled, hashes) = wire
        .ledger
        .time_of_layer(Phase::Offline, "garble", layer, || {
            garble_signs(item, relu, garbler, &received.label_bits, &choices)
        })?;
    wire.ledger.work(
        layer,
        Work {
            n_ots: 0,
            ..super::work(relu)
        },
    );
    wire.send(item.tag(Step::Tables, layer), &garbled.tables)?;
    Ok(Layer {
        choices,
        products,
        input_labels: garbled.garbler_zero,
        hashes,
    })
}

/// Garbles the sign tests of a layer so that the client sees the colour `[y >= 0]` xor m: the top bit is 1 for a negative y,
/// so the zero-label of the output has the colour 1 xor m.
fn garble_signs(
    item: Item,
    relu: &ReluLayer,
    garbler: &Garbler<'_>,
    label_bits: &[u8],
    choices: &[u8],
) -> Result<(Garbled, Hashes)> {
    let (delta, tweak) = (&garbler.transfers.delta, item.tweak(relu.layer)?);
    let circuits = &garbler.circuits;
    let signs = circuits.instances(&relu.circuit, relu.n_relus(), tweak);
    let range = garbler.ots.to_client(item, relu.layer);
    let zeros = garbler.transfers.zero_labels(range, label_bits);
    let colours = Zeroizing::new(choices.iter().map(|m| m ^ 1).collect::<Vec<u8>>());
    let garbled = garble(&signs, delta, &garbler.labels, &zeros, Some(&colours))?;
    let hashes = label_hash(&signs, delta, &garbled.output_zero, relu.ring_out.bits())?;
    Ok((garbled, hashes))
}

impl Layer {
    fn empty() -> Self {
        Self {
            choices: Zeroizing::default(),
            products: Share::new(vec![]),
            input_labels: Zeroizing::default(),
            hashes: Hashes::default(),
        }
    }

    /// Online: ReLU(y') - r_next at the kept positions, from y_s at all positions and y'_s at the kept ones.
    pub(crate) fn evaluate<C: Channel>(
        &self,
        wire: &mut Wire<C>,
        item: Item,
        relu: &ReluLayer,
        delta: &Delta,
        accumulators: &[u64],
        truncated: &[u64],
    ) -> Result<Vec<u64>> {
        let (layer, ring) = (relu.layer, relu.ring_out);
        let labels = wire
            .ledger
            .time_of_layer(Phase::Online, "labels", layer, || {
                let values = relu.sign_values(accumulators);
                let n_bits = relu.sign_bits as usize;
                active_label_bytes(&self.input_labels, &values, n_bits, delta)
            })?;
        wire.send(item.tag(Step::Labels, layer), &labels)?;
        let (ciphertexts, offsets) =
            wire.ledger
                .time_of_layer(Phase::Online, "multiplex", layer, || {
                    let keys = ServerKeys {
                        choices: &self.choices,
                        products: self.products.values(),
                        hash_of_colour_0: &self.hashes[0],
                        hash_of_colour_1: &self.hashes[1],
                    };
                    let (ciphertexts, offsets) = server_encrypt(ring, &keys, truncated);
                    (pack(&ciphertexts, ring.bits()), offsets)
                });
        wire.send(item.tag(Step::MuxCiphertexts, layer), &ciphertexts)?;
        let tag = item.tag(Step::ReluResults, layer);
        let message = wire.receive(tag, &online_messages(relu))?;
        wire.ledger
            .time_of_layer(Phase::Online, "multiplex", layer, || {
                let results = unpack(&message, relu.n_relus(), ring.bits())
                    .map_err(|e| malformed(tag, &e))?;
                let masked = results.iter().zip(&offsets);
                Ok(masked.map(|(&c, &q)| ring.sub(c, q)).collect())
            })
    }

    /// Bytes that [`Self::write`] writes.
    pub(crate) fn n_bytes(relu: &ReluLayer) -> usize {
        let labels = Block::BYTES * relu.n_sign_bits();
        packed_bytes(relu.n_relus(), 1) + labels + 3 * relu.result_bytes()
    }

    /// Bytes in memory: labels, and for each ReLU m, u_s, h_0 and h_1.
    pub(crate) fn memory_bytes(relu: &ReluLayer) -> usize {
        Block::BYTES * relu.n_sign_bits() + relu.n_relus() * (1 + 3 * 8)
    }

    pub(crate) fn write(&self, writer: &mut Writer, relu: &ReluLayer) {
        let bits = relu.ring_out.bits();
        writer.bits(&self.choices);
        writer.values(self.products.values(), bits);
        writer.blocks(self.input_labels.iter().map(|l| l.0));
        for hashes in &self.hashes {
            writer.values(hashes, bits);
        }
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(reader: &mut Reader<'_>, relu: &ReluLayer) -> Kept<Self> {
        let (n, bits) = (relu.n_relus(), relu.ring_out.bits());
        let choices = reader.bits(n)?;
        let products = Share::new(reader.values(n, bits)?);
        let labels = reader.blocks(relu.n_sign_bits())?;
        Ok(Self {
            choices,
            products,
            input_labels: Zeroizing::new(labels.map(ZeroLabel).collect()),
            hashes: [
                Zeroizing::new(reader.values(n, bits)?),
                Zeroizing::new(reader.values(n, bits)?),
            ],
        })
    }
}
