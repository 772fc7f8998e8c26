//! The server's half of all ReLUs of one inference, whatever the method: prepare, evaluate, keep; and the removed positions.

use pi_model::bits::unpack;
use pi_model::relu_set::{gather, scatter};

use super::digits::server as digits;
use super::layer::ReluLayer;
use super::multiplexer::server as multiplexer;
use super::{Method, digits::server::Ots, identity_messages};
use crate::block::Delta;
use crate::error::{Error, Result};
use crate::kept::{Kept, Reader, Writer};
use crate::layout::Layout;
use crate::ring::{ServerShare, Share};
use crate::transfers::server::{self as transfers, Garbler};
use crate::wire::channel::Channel;
use crate::wire::{Batch, Item, Phase, Step, Wire, malformed};

/// What the client has sent for the ReLUs of one inference in flight 3.
pub(crate) struct Received {
    identity: Vec<ServerShare>,
    by_method: ReceivedByMethod,
}

enum ReceivedByMethod {
    Multiplexer(Vec<multiplexer::Received>),
    Digits(Vec<digits::Received>),
}

/// What the server keeps for the ReLUs of one inference. It serves once.
pub(crate) struct Material {
    /// For each layer, y'_c - r_next at the removed positions.
    identity: Vec<ServerShare>,
    by_method: ByMethod,
}

/// And for the kept ones.
enum ByMethod {
    /// The server garbled.
    Multiplexer(Vec<multiplexer::Layer>),
    /// The client garbled.
    Digits(digits::Material),
}

/// Flight 3: what the client sends of one inference, layer after layer.
pub(crate) fn receive<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    layout: &Layout,
) -> Result<Received> {
    let mut identity = Vec::with_capacity(layout.relu_layers.len());
    let by_method = match layout.method() {
        Method::Multiplexer(scheme) => {
            let layers = layout.relu_layers.iter().map(|relu| {
                let layer = multiplexer::receive(wire, item, relu, scheme)?;
                identity.push(receive_identity(wire, item, relu)?);
                Ok(layer)
            });
            ReceivedByMethod::Multiplexer(layers.collect::<Result<_>>()?)
        }
        Method::Digits => {
            let layers = layout.relu_layers.iter().map(|relu| {
                let layer = digits::receive(wire, item, relu)?;
                identity.push(receive_identity(wire, item, relu)?);
                Ok(layer)
            });
            ReceivedByMethod::Digits(layers.collect::<Result<_>>()?)
        }
    };
    Ok(Received {
        identity,
        by_method,
    })
}

fn receive_identity<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    relu: &ReluLayer,
) -> Result<ServerShare> {
    let tag = item.tag(Step::Identity, relu.layer);
    let message = wire.receive(tag, &identity_messages(relu))?;
    let identity = wire
        .ledger
        .time_of_layer(Phase::Offline, "unpack", relu.layer, || {
            unpack(
                &message,
                relu.positions.removed().len(),
                relu.ring_out.bits(),
            )
        });
    Ok(Share::new(identity.map_err(|e| malformed(tag, &e))?))
}

impl Received {
    /// Flight 4: what the server keeps. Where it garbles, tables go to the client as they are made.
    pub(crate) fn finish<C: Channel>(
        self,
        wire: &mut Wire<C>,
        batch: &Batch<'_>,
        layout: &Layout,
        item: Item,
        garbler: &Garbler<'_>,
    ) -> Result<Material> {
        let ots = layout.ots();
        let relus = layout.relu_layers.iter();
        let transfers = garbler.transfers;
        let by_method = match (self.by_method, &transfers.received) {
            (ReceivedByMethod::Multiplexer(layers), transfers::Received::Pads(pads)) => {
                let layers = relus.zip(&layers).map(|(relu, received)| {
                    let pads = &pads[ots.to_server(item, relu.layer)];
                    multiplexer::garble_and_send(wire, item, relu, garbler, received, pads)
                });
                ByMethod::Multiplexer(layers.collect::<Result<_>>()?)
            }
            (ReceivedByMethod::Digits(layers), transfers::Received::Labels(blocks)) => {
                let start = batch.hash_start("product hash");
                let layers = relus.zip(layers).map(|(relu, received)| {
                    let products = ots.to_client(item, relu.layer);
                    let bits = ots.to_server(item, relu.layer);
                    let ots = Ots {
                        blocks: &blocks[bits.clone()],
                        choices: transfers.choices(bits),
                        first_product: products.start,
                        products: &transfers.blocks[products],
                        delta: &transfers.delta,
                        start,
                    };
                    wire.ledger
                        .time_of_layer(Phase::Offline, "OT", relu.layer, || {
                            digits::Layer::new(item, relu, received, &ots)
                        })
                });
                ByMethod::Digits(digits::Material {
                    layers: layers.collect::<Result<_>>()?,
                    start_key: batch.hash_start("digit hash"),
                })
            }
            _ => return Err(Error::Misuse("OTs of another method".into())),
        };
        Ok(Material {
            identity: self.identity,
            by_method,
        })
    }
}

impl Material {
    /// Online: the server's share of the tensor that `relu` makes, from its share of the accumulator.
    pub(crate) fn evaluate<C: Channel>(
        &self,
        wire: &mut Wire<C>,
        item: Item,
        relu: &ReluLayer,
        delta: &Delta,
        y: &ServerShare,
    ) -> Result<Vec<u64>> {
        let (layer, ring) = (relu.layer, relu.ring_out);
        let mut next = vec![0; y.values().len()];
        let truncated = wire
            .ledger
            .time_of_layer(Phase::Online, "truncate", layer, || {
                let truncated = y
                    .values()
                    .iter()
                    .map(|&v| ring.reduce(relu.ring.truncate_server(v, relu.truncated_bits)));
                let truncated: ServerShare = Share::new(truncated.collect());
                let removed = gather(truncated.values(), relu.positions.removed());
                let identity = self.identity[layer].values();
                let removed: Vec<u64> = removed
                    .iter()
                    .zip(identity)
                    .map(|(&v, &d)| ring.add(v, d))
                    .collect();
                scatter(&mut next, relu.positions.removed(), &removed);
                let kept: ServerShare =
                    Share::new(gather(truncated.values(), relu.positions.kept()));
                kept
            });
        if relu.n_relus() == 0 {
            return Ok(next);
        }
        let (y, truncated) = (y.values(), truncated.values());
        let kept = match &self.by_method {
            ByMethod::Multiplexer(layers) => {
                layers[layer].evaluate(wire, item, relu, delta, y, truncated)?
            }
            ByMethod::Digits(digits) => {
                let layer = &digits.layers[layer];
                layer.evaluate(wire, item, relu, digits.start_key, y, truncated)?
            }
        };
        scatter(&mut next, relu.positions.kept(), &kept);
        Ok(next)
    }

    /// Bytes that [`Self::write`] writes.
    pub(crate) fn n_bytes(layout: &Layout) -> usize {
        let layers = &layout.relu_layers;
        let identity: usize = layers.iter().map(ReluLayer::identity_bytes).sum();
        let kept = match layout.method() {
            Method::Multiplexer(_) => layers.iter().map(multiplexer::Layer::n_bytes).sum(),
            Method::Digits => digits::Material::n_bytes(layers),
        };
        identity + kept
    }

    /// Bytes in memory, identity positions left out.
    pub(crate) fn memory_bytes(layout: &Layout) -> usize {
        let of = match layout.method() {
            Method::Multiplexer(_) => multiplexer::Layer::memory_bytes,
            Method::Digits => digits::Material::memory_bytes,
        };
        layout.relu_layers.iter().map(of).sum()
    }

    /// The layers of the multiplexer lie between the removed positions, digits behind all of them.
    pub(crate) fn write(&self, writer: &mut Writer, layout: &Layout) {
        for (relu, identity) in layout.relu_layers.iter().zip(&self.identity) {
            writer.values(identity.values(), relu.ring_out.bits());
            if let ByMethod::Multiplexer(layers) = &self.by_method {
                layers[relu.layer].write(writer, relu);
            }
        }
        if let ByMethod::Digits(digits) = &self.by_method {
            digits.write(writer, &layout.relu_layers);
        }
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(reader: &mut Reader<'_>, layout: &Layout) -> Kept<Self> {
        let (mut identity, mut layers) = (vec![], vec![]);
        for relu in layout.relu_layers.iter() {
            let (n, bits) = (relu.positions.removed().len(), relu.ring_out.bits());
            identity.push(Share::new(reader.values(n, bits)?));
            if let Method::Multiplexer(_) = layout.method() {
                layers.push(multiplexer::Layer::read(reader, relu)?);
            }
        }
        let by_method = match layout.method() {
            Method::Multiplexer(_) => ByMethod::Multiplexer(layers),
            Method::Digits => {
                ByMethod::Digits(digits::Material::read(reader, &layout.relu_layers)?)
            }
        };
        Ok(Self {
            identity,
            by_method,
        })
    }
}
