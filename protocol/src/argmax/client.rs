//! The client as evaluator of the argmax.

use zeroize::Zeroizing;

use super::Argmax;
use crate::block::{ActiveLabel, Block};
use crate::error::Result;
use crate::gc::{CircuitParams, Scheme, evaluate};
use crate::kept::{Kept, Reader, Writer};
use crate::transfers::client::send_choices;
use crate::wire::channel::Channel;
use crate::wire::ledger::Work;
use crate::wire::{Item, Phase, Step, Wire};

/// What the client keeps for the argmax of one inference.
pub(crate) struct Material {
    tables: Vec<u8>,
    labels: Zeroizing<Vec<ActiveLabel>>,
}

/// Flight 3: the derandomisation bits of the labels of the client's `shares` of the logits.
pub(crate) fn send<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    argmax: &Argmax,
    shares: &[u64],
    choices: &[u8],
) -> Result<()> {
    send_choices(wire, item, argmax.layer, &argmax.inputs(shares), choices)
}

/// Flight 4: the tables. `labels` are the blocks of the client's OTs.
pub(crate) fn receive<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    argmax: &Argmax,
    scheme: Scheme,
    labels: &[Block],
) -> Result<Material> {
    let tables = wire.receive(
        item.tag(Step::Tables, argmax.layer),
        &argmax.messages(scheme),
    )?;
    wire.ledger.work(
        argmax.layer,
        Work {
            n_ots: 0,
            ..argmax.work()
        },
    );
    let labels = labels.iter().map(|&t| ActiveLabel::from_cot(t));
    Ok(Material {
        tables,
        labels: Zeroizing::new(labels.collect()),
    })
}

impl Material {
    /// Online: the class, from the server's labels and decoding bits.
    pub(crate) fn open<C: Channel>(
        &self,
        wire: &mut Wire<C>,
        item: Item,
        argmax: &Argmax,
        circuits: &CircuitParams,
    ) -> Result<usize> {
        let (layer, messages) = (argmax.layer, argmax.messages(circuits.scheme));
        let labels = wire.receive(item.tag(Step::Labels, layer), &messages)?;
        let decode = wire.receive(item.tag(Step::DecodeBits, layer), &messages)?;
        wire.ledger
            .time_of_layer(Phase::Online, "evaluate", layer, || -> Result<_> {
                let circuit = circuits.instances(&argmax.circuit, 1, item.tweak(layer)?);
                let (labels, _) = labels.as_chunks::<{ ActiveLabel::BYTES }>();
                let outputs = evaluate(&circuit, &self.tables, labels, &self.labels)?;
                let bits = outputs
                    .iter()
                    .zip(&decode)
                    .map(|(label, &decode)| label.colour() ^ (decode & 1));
                Ok(class_of(bits, argmax.n_classes))
            })
    }

    /// Bytes that [`Self::write`] writes.
    pub(crate) fn n_bytes(argmax: &Argmax, scheme: Scheme) -> usize {
        argmax.messages(scheme).n_bytes(Step::Tables) + Block::BYTES * argmax.n_labels()
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.bytes(&self.tables);
        writer.blocks(self.labels.iter().map(|l| l.0));
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(reader: &mut Reader<'_>, argmax: &Argmax, scheme: Scheme) -> Kept<Self> {
        let n_table_bytes = argmax.messages(scheme).n_bytes(Step::Tables);
        let tables = reader.bytes(n_table_bytes)?.to_vec();
        let labels = reader.blocks(argmax.n_labels())?;
        Ok(Self {
            tables,
            labels: Zeroizing::new(labels.map(ActiveLabel::from_cot).collect()),
        })
    }
}

/// The class that `bits` spell, least significant first. A server that follows the protocol opens one of the `n_classes`; where another one
/// makes it more, the answer is the last class: an error would show that server whether its change of the bits led there, and so a
/// bit about the class.
fn class_of(bits: impl Iterator<Item = u8>, n_classes: usize) -> usize {
    let class = bits
        .enumerate()
        .fold(0usize, |class, (i, bit)| class | usize::from(bit) << i);
    class.min(n_classes - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bits_of_a_class_are_refused() {
        let class = |number: u8| class_of((0..3).map(|i| number >> i & 1), 5);
        assert_eq!([0, 1, 4].map(class), [0, 1, 4]);
        assert_eq!([5, 6, 7].map(class), [4; 3]);
    }
}
