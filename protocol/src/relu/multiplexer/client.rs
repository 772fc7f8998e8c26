//! The client as evaluator of the sign tests and receiver of the multiplexer.

use pi_model::bits::{pack, unpack};
use zeroize::Zeroizing;

use super::algebra::{client_decrypt, client_products};
use super::{offline_messages, online_messages};
use crate::block::{ActiveLabel, Block};
use crate::error::Result;
use crate::gc::{CircuitParams, Scheme, active_label_hash, evaluate};
use crate::kept::{Kept, Reader, Writer};
use crate::relu::layer::{ReluLayer, bits_of};
use crate::relu::shares::Shares;
use crate::ring::{ClientShare, Share};
use crate::transfers::client::send_choices;
use crate::wire::channel::Channel;
use crate::wire::ledger::Work;
use crate::wire::{Item, Phase, Step, Wire, malformed};

/// What the client keeps for the kept ReLUs of one layer.
pub(crate) struct Layer {
    /// Empty until flight 4.
    tables: Vec<u8>,
    /// Labels of the client's bits; empty until flight 4.
    labels: Zeroizing<Vec<ActiveLabel>>,
    /// y'_c.
    truncated: ClientShare,
    /// u_c.
    products: ClientShare,
    /// r of the next tensor.
    next_mask: ClientShare,
}

/// Flight 3: the derandomisation bits of the client's labels, then the corrections of its products. `choices` are those of the
/// label OTs of this layer; `products` are its pads, among those of the batch.
pub(crate) fn send<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    relu: &ReluLayer,
    shares: Shares<'_>,
    choices: &[u8],
    pads: [&[u64]; 2],
) -> Result<Layer> {
    let ring = relu.ring_out;
    let values = relu.sign_values(shares.accumulators).into_iter();
    let inputs = bits_of(values, relu.sign_bits);
    send_choices(wire, item, relu.layer, &inputs, choices)?;
    let reduced = pads.map(|pads| {
        let pads = pads.iter().map(|&v| ring.reduce(v));
        Zeroizing::new(pads.collect::<Vec<u64>>())
    });
    let kept = shares.truncated.values();
    let (corrections, products) = client_products(ring, &reduced[0], &reduced[1], kept);
    wire.ledger.work(
        relu.layer,
        Work {
            n_ots: relu.n_relus() as u64,
            ..Work::default()
        },
    );
    wire.send(
        item.tag(Step::MuxCorrections, relu.layer),
        &pack(&corrections, ring.bits()),
    )?;
    Ok(Layer {
        tables: vec![],
        labels: Zeroizing::default(),
        truncated: shares.truncated,
        products: Share::new(products),
        next_mask: shares.next_mask,
    })
}

impl Layer {
    /// Flight 4: the tables. `labels` are the blocks of the label OTs of this layer.
    pub(crate) fn receive<C: Channel>(
        &mut self,
        wire: &mut Wire<C>,
        item: Item,
        relu: &ReluLayer,
        scheme: Scheme,
        labels: &[Block],
    ) -> Result<()> {
        let tag = item.tag(Step::Tables, relu.layer);
        self.tables = wire.receive(tag, &offline_messages(relu, scheme))?;
        wire.ledger.work(
            relu.layer,
            Work {
                n_ots: 0,
                ..super::work(relu)
            },
        );
        let labels = labels.iter().map(|&t| ActiveLabel::from_cot(t));
        self.labels = Zeroizing::new(labels.collect());
        Ok(())
    }

    /// Online: evaluates the sign tests with the server's labels, and answers with the masked results.
    pub(crate) fn answer<C: Channel>(
        &self,
        wire: &mut Wire<C>,
        item: Item,
        relu: &ReluLayer,
        circuits: &CircuitParams,
    ) -> Result<()> {
        let (layer, n, ring) = (relu.layer, relu.n_relus(), relu.ring_out);
        let messages = online_messages(relu);
        let labels = wire.receive(item.tag(Step::Labels, layer), &messages)?;
        let tag = item.tag(Step::MuxCiphertexts, layer);
        let message = wire.receive(tag, &messages)?;
        let ciphertexts = unpack(&message, n, ring.bits()).map_err(|e| malformed(tag, &e))?;
        let results =
            wire.ledger
                .time_of_layer(Phase::Online, "evaluate", layer, || -> Result<_> {
                    let signs = circuits.instances(&relu.circuit, n, item.tweak(layer)?);
                    let (labels, _) = labels.as_chunks::<{ ActiveLabel::BYTES }>();
                    let outputs = evaluate(&signs, &self.tables, labels, &self.labels)?;
                    let colours: Vec<u8> = outputs.iter().map(|label| label.colour()).collect();
                    let hashes = active_label_hash(&signs, &outputs, ring.bits())?;
                    let opened = client_decrypt(
                        ring,
                        &colours,
                        &hashes,
                        &ciphertexts,
                        self.truncated.values(),
                        self.products.values(),
                    );
                    let masks = self.next_mask.values();
                    let masked = opened.iter().zip(masks).map(|(&c, &r)| ring.sub(c, r));
                    Ok(masked.collect::<Vec<_>>())
                })?;
        wire.send(
            item.tag(Step::ReluResults, layer),
            &pack(&results, ring.bits()),
        )
    }

    /// Bytes that [`Self::write`] writes.
    pub(crate) fn n_bytes(relu: &ReluLayer, scheme: Scheme) -> usize {
        let tables = offline_messages(relu, scheme).n_bytes(Step::Tables);
        tables + Block::BYTES * relu.n_sign_bits() + 3 * relu.result_bytes()
    }

    pub(crate) fn write(&self, writer: &mut Writer, relu: &ReluLayer) {
        let bits = relu.ring_out.bits();
        writer.bytes(&self.tables);
        writer.blocks(self.labels.iter().map(|l| l.0));
        for share in [&self.truncated, &self.products, &self.next_mask] {
            writer.values(share.values(), bits);
        }
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(reader: &mut Reader<'_>, relu: &ReluLayer, scheme: Scheme) -> Kept<Self> {
        let (n, bits) = (relu.n_relus(), relu.ring_out.bits());
        let n_table_bytes = offline_messages(relu, scheme).n_bytes(Step::Tables);
        let tables = reader.bytes(n_table_bytes)?.to_vec();
        let labels = reader.blocks(relu.n_sign_bits())?;
        Ok(Self {
            tables,
            labels: Zeroizing::new(labels.map(ActiveLabel::from_cot).collect()),
            truncated: Share::new(reader.values(n, bits)?),
            products: Share::new(reader.values(n, bits)?),
            next_mask: Share::new(reader.values(n, bits)?),
        })
    }
}
