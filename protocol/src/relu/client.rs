//! The client's half of all ReLUs of one inference, whatever the method: prepare, answer, keep.

use pi_model::bits::pack;

use super::digits::client as digits;
use super::layer::ReluLayer;
use super::multiplexer::client as multiplexer;
use super::shares::Shares;
use super::{Method, digits::client::Ots};
use crate::block::Block;
use crate::error::{Error, Result};
use crate::gc::CircuitParams;
use crate::kept::{Kept, Reader, Writer};
use crate::layout::Layout;
use crate::linear::client::Draft;
use crate::transfers::client::{Sent, Transfers};
use crate::wire::channel::Channel;
use crate::wire::{Batch, Item, Phase, Step, Wire};

/// What the client keeps for the ReLUs of one inference. It serves once.
pub(crate) enum Material {
    /// The server garbled.
    Multiplexer(Vec<multiplexer::Layer>),
    /// The client garbled.
    Digits(digits::Material),
}

/// Flight 3: what the server needs of the client's shares, layer after layer. What is kept is complete after
/// [`Material::receive`].
pub(crate) fn send<C: Channel>(
    wire: &mut Wire<C>,
    batch: &Batch<'_>,
    layout: &Layout,
    item: Item,
    draft: &Draft,
    transfers: &Transfers,
) -> Result<Material> {
    let ots = layout.ots();
    let shares = |relu: &ReluLayer| {
        let accumulators = draft.accumulators[relu.layer].values();
        Shares::new(relu, accumulators, draft.masks[relu.layer + 1].values())
    };
    let choices = |relu: &ReluLayer| transfers.choices(ots.to_client(item, relu.layer));
    let layers = layout.relu_layers.iter();
    match (layout.method(), &transfers.sent) {
        (Method::Multiplexer(_), Sent::Pads(pads)) => {
            let layers = layers.map(|relu| {
                let (shares, identity) = shares(relu);
                let range = ots.to_server(item, relu.layer);
                let pads = pads.each_ref().map(|pads| &pads[range.clone()]);
                let layer = multiplexer::send(wire, item, relu, shares, choices(relu), pads)?;
                send_identity(wire, item, relu, &identity)?;
                Ok(layer)
            });
            let layers = layers.collect::<Result<Vec<_>>>()?;
            Ok(Material::Multiplexer(layers))
        }
        (Method::Digits, Sent::Labels(delta, blocks)) => {
            let keys = digits::Keys::new(batch, delta);
            let layers = layers.map(|relu| {
                let (shares, identity) = shares(relu);
                let ots = Ots {
                    blocks: &blocks[ots.to_server(item, relu.layer)],
                    choices: choices(relu),
                };
                let layer = digits::send(wire, item, relu, &keys, shares, &ots)?;
                send_identity(wire, item, relu, &identity)?;
                Ok(layer)
            });
            Ok(Material::Digits(digits::Material {
                layers: layers.collect::<Result<Vec<_>>>()?,
                delta: delta.clone(),
            }))
        }
        _ => Err(Error::Misuse("OTs of another method".into())),
    }
}

/// y'_c - r_next at the removed positions. The server may see it: r_next is uniform and hides y'_c.
fn send_identity<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    relu: &ReluLayer,
    identity: &[u64],
) -> Result<()> {
    let message = pack(identity, relu.ring_out.bits());
    wire.send(item.tag(Step::Identity, relu.layer), &message)
}

impl Material {
    /// Flight 4: tables, or what the complete OTs give. `blocks` are those of the batch in which the client receives.
    pub(crate) fn receive<C: Channel>(
        &mut self,
        wire: &mut Wire<C>,
        batch: &Batch<'_>,
        layout: &Layout,
        item: Item,
        blocks: &[Block],
    ) -> Result<()> {
        let scheme = layout.options().garbling.scheme();
        let relus = layout.relu_layers.iter();
        let range = |relu: &ReluLayer| layout.ots().to_client(item, relu.layer);
        match self {
            Self::Multiplexer(layers) => {
                for (relu, layer) in relus.zip(layers) {
                    layer.receive(wire, item, relu, scheme, &blocks[range(relu)])?;
                }
            }
            Self::Digits(digits) => {
                let start = batch.hash_start("product hash");
                for (relu, layer) in relus.zip(&mut digits.layers) {
                    let range = range(relu);
                    wire.ledger.time(Phase::Offline, "OT", || {
                        layer.complete(relu, start, range.start, &blocks[range])
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Online: the client's half of the round trip of one layer that keeps a ReLU.
    pub(crate) fn answer<C: Channel>(
        &self,
        wire: &mut Wire<C>,
        item: Item,
        relu: &ReluLayer,
        circuits: &CircuitParams,
    ) -> Result<()> {
        match self {
            Self::Multiplexer(layers) => layers[relu.layer].answer(wire, item, relu, circuits),
            Self::Digits(digits) => {
                digits.layers[relu.layer].answer(wire, item, relu, &digits.delta)
            }
        }
    }

    /// Bytes that [`Self::write`] writes.
    pub(crate) fn n_bytes(layout: &Layout) -> usize {
        let layers = &layout.relu_layers;
        match layout.method() {
            Method::Multiplexer(scheme) => {
                let relus = layers.iter();
                relus
                    .map(|relu| multiplexer::Layer::n_bytes(relu, scheme))
                    .sum()
            }
            Method::Digits => digits::Material::n_bytes(layers),
        }
    }

    pub(crate) fn write(&self, writer: &mut Writer, layout: &Layout) {
        match self {
            Self::Multiplexer(layers) => {
                for (relu, layer) in layout.relu_layers.iter().zip(layers) {
                    layer.write(writer, relu);
                }
            }
            Self::Digits(digits) => digits.write(writer, &layout.relu_layers),
        }
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(reader: &mut Reader<'_>, layout: &Layout) -> Kept<Self> {
        let relus = layout.relu_layers.iter();
        Ok(match layout.method() {
            Method::Multiplexer(scheme) => {
                let layers = relus.map(|relu| multiplexer::Layer::read(reader, relu, scheme));
                Self::Multiplexer(layers.collect::<Kept<_>>()?)
            }
            Method::Digits => Self::Digits(digits::Material::read(reader, &layout.relu_layers)?),
        })
    }
}
