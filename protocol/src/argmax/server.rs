//! The server as garbler of the argmax.

use zeroize::Zeroizing;

use super::Argmax;
use crate::block::{Block, Delta, ZeroLabel};
use crate::error::Result;
use crate::gc::{Scheme, active_label_bytes, garble};
use crate::kept::{Kept, Reader, Writer};
use crate::transfers::server::{Garbler, receive_choices};
use crate::wire::channel::Channel;
use crate::wire::ledger::Work;
use crate::wire::{Item, Phase, Step, Wire};

/// What the server keeps for the argmax of one inference.
pub(crate) struct Material {
    /// Zero-labels of the server's inputs.
    labels: Zeroizing<Vec<ZeroLabel>>,
    /// Colours of the outputs' zero-labels: what turns colours into the class.
    decode: Vec<u8>,
}

/// Flight 3: the client's derandomisation bits.
pub(crate) fn receive<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    argmax: &Argmax,
    scheme: Scheme,
) -> Result<Vec<u8>> {
    let (n, messages) = (argmax.n_labels(), argmax.messages(scheme));
    let bits = receive_choices(wire, item, argmax.layer, n, &messages)?;
    wire.ledger.work(
        argmax.layer,
        Work {
            n_and_gates: 0,
            ..argmax.work()
        },
    );
    Ok(bits)
}

/// Flight 4: garbles, and sends the tables.
pub(crate) fn garble_and_send<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    argmax: &Argmax,
    garbler: &Garbler<'_>,
    bits: &[u8],
) -> Result<Material> {
    let layer = argmax.layer;
    let garbled = wire
        .ledger
        .time_of_layer(Phase::Offline, "garble", layer, || {
            let (circuits, tweak) = (&garbler.circuits, item.tweak(layer)?);
            let circuit = circuits.instances(&argmax.circuit, 1, tweak);
            let range = garbler.ots.to_client(item, layer);
            let zeros = garbler.transfers.zero_labels(range, bits);
            garble(
                &circuit,
                &garbler.transfers.delta,
                &garbler.labels,
                &zeros,
                None,
            )
        })?;
    wire.ledger.work(
        layer,
        Work {
            n_ots: 0,
            ..argmax.work()
        },
    );
    wire.send(item.tag(Step::Tables, layer), &garbled.tables)?;
    let outputs = garbled.output_zero.iter();
    Ok(Material {
        decode: outputs.map(|zero| zero.colour()).collect(),
        labels: garbled.garbler_zero,
    })
}

impl Material {
    /// Online: the labels of the server's `shares` of the logits, then the decoding bits. Sent with the tables, the bits would let
    /// the tables fix an output before the input is chosen.
    pub(crate) fn send<C: Channel>(
        &self,
        wire: &mut Wire<C>,
        item: Item,
        argmax: &Argmax,
        delta: &Delta,
        shares: &[u64],
    ) -> Result<()> {
        let (layer, n_bits) = (argmax.layer, argmax.bits as usize);
        let labels = wire
            .ledger
            .time_of_layer(Phase::Online, "labels", layer, || {
                active_label_bytes(&self.labels, shares, n_bits, delta)
            })?;
        wire.send(item.tag(Step::Labels, layer), &labels)?;
        wire.send(item.tag(Step::DecodeBits, layer), &self.decode)
    }

    /// Bytes that [`Self::write`] writes.
    pub(crate) fn n_bytes(argmax: &Argmax) -> usize {
        let decode = pi_model::bits::packed_bytes(argmax.circuit.n_outputs(), 1);
        Block::BYTES * argmax.n_labels() + decode
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.blocks(self.labels.iter().map(|l| l.0));
        writer.bits(&self.decode);
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(reader: &mut Reader<'_>, argmax: &Argmax) -> Kept<Self> {
        let labels = reader.blocks(argmax.n_labels())?;
        Ok(Self {
            labels: Zeroizing::new(labels.map(ZeroLabel).collect()),
            decode: reader.bits(argmax.circuit.n_outputs())?.to_vec(),
        })
    }
}
