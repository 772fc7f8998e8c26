//! The server's half of kept inferences: hand a prepared batch to the keeper, and run one that the keeper gives back.
//!
//! An item is bound to the plan and to the weights: s hides W r for the weights with which it was made, and with others the
//! online phase would give a wrong answer, silently.

use std::sync::Arc;

use pi_model::bits::packed_bytes;
use pi_model::plan::{Plan, PublicPlan};
use zeroize::Zeroizing;

use super::{ArgmaxMaterial, LayerMaterial, Prepared, ServerSession};
use crate::block::{Block, Delta, ZeroLabel};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::kept::{Handle, Header, ItemId, KeepError, Keeper, Kept, Reader, Side, Writer};
use crate::layout::Layout;
use crate::session::{SessionOptions, batch_tag, tag};
use crate::share::Share;
use crate::wire::Step;

impl<C: Channel> ServerSession<C> {
    /// From now on prepared inferences may be kept beyond this session, and taken from earlier ones, by `keeper`.
    pub fn keep_with(&mut self, keeper: Box<dyn Keeper>) {
        self.keeper = Some(keeper);
    }

    /// Whether the keeper has room for a batch.
    pub(super) fn admit_kept(&mut self) -> Result<()> {
        let public = self.plan.public();
        let (n, item_bytes) = (public.batch(), item_bytes(public, &self.layout));
        match &mut self.keeper {
            Some(keeper) => Ok(keeper.admit(n, item_bytes)?),
            None => Err(Error::Refused(
                "this server keeps no prepared inferences beyond a session; prepare without keeping".into(),
            )),
        }
    }

    /// Prepares a batch and hands it to the keeper.
    pub(super) fn prepare_kept(&mut self, handle: &Handle) -> Result<()> {
        let batch = self.n_batches;
        self.prepare()?;
        let n = self.plan.public().batch();
        let mut items = Vec::with_capacity(n);
        for index in 0..n {
            let Some(prepared) = self.prepared.remove(&(batch, index as u16)) else {
                continue;
            };
            let bytes = to_secret_bytes(&prepared, &self.plan, &self.layout, self.options);
            items.push((handle.item(index), bytes));
        }
        let outcome = match &mut self.keeper {
            Some(keeper) => keeper.put(items),
            None => Err(KeepError::Unavailable),
        };
        self.wire
            .send(batch_tag(Step::Kept, 0, batch), &[KeepError::code(outcome)])
    }

    /// Takes a kept inference for good.
    pub(super) fn take_kept(&mut self, id: &ItemId, batch: u32, index: u16) -> Kept<Prepared> {
        let keeper = self.keeper.as_mut().ok_or(KeepError::NotThere)?;
        let bytes = keeper.take(id)?;
        let prepared = from_secret_bytes(&bytes, &self.plan, &self.layout)?;
        if (prepared.batch, prepared.index) != (batch, usize::from(index)) {
            return Err(KeepError::OtherModel);
        }
        Ok(prepared)
    }

    /// Says that there is no such kept inference, once the client's input, which nobody will use, is in.
    pub(super) fn miss(&mut self, why: KeepError, batch: u32, index: u16) -> Result<()> {
        let public = self.plan.public();
        let n_inputs = public.graph().tensors[0].n_values();
        let n_bytes = packed_bytes(n_inputs, public.tensor_bits(0));
        let tag = |step| tag(step, 0, batch, index.into());
        self.wire.recv(tag(Step::Input), n_bytes)?;
        let code = KeepError::code(Err(why));
        self.wire.send(tag(Step::Found), &[code])
    }
}

/// Bytes of the server's half of one kept inference of `plan`.
///
/// # Errors
/// [`Error::Plan`] when the plan cannot be laid out.
pub fn kept_bytes(plan: &PublicPlan) -> Result<usize> {
    Ok(item_bytes(plan, &Layout::new(plan)?))
}

fn item_bytes(plan: &PublicPlan, layout: &Layout) -> usize {
    let layers = plan.graph().layers.iter().enumerate();
    let masks = layers.map(|(i, l)| packed_bytes(l.shape.n_values(), plan.accumulator_bits(i)));
    let relus = layout.relu_layers.iter();
    let shares = relus.map(|r| {
        // u_s, h_0 and h_1 are there only where there is a ReLU, and so is m.
        r.identity_bytes() + packed_bytes(r.n_relus(), 1) + 3 * r.result_bytes()
    });
    let decode = layout.argmax.as_ref().map_or(0, |a| a.circuit.n_outputs());
    Header::BYTES
        + Block::BYTES * (1 + layout.n_labels())
        + masks.sum::<usize>()
        + shares.sum::<usize>()
        + packed_bytes(decode, 1)
}

pub(super) fn to_secret_bytes(
    prepared: &Prepared,
    plan: &Plan,
    layout: &Layout,
    options: SessionOptions,
) -> Zeroizing<Vec<u8>> {
    let Prepared {
        batch,
        index,
        kept: _,
        delta,
        masks,
        layers,
        argmax,
    } = prepared;
    let public = plan.public();
    let header = Header {
        side: Side::Server,
        options,
        plan_hash: public.hash(),
        binding: plan.model().weights_digest(),
        batch: *batch,
        index: *index as u16,
    };
    let mut writer = Writer::new(&header, item_bytes(public, layout));
    writer.blocks(std::iter::once(delta.block()));
    for (layer, share) in masks.iter().enumerate() {
        writer.values(share.values(), public.accumulator_bits(layer));
    }
    for (relu, material) in layout.relu_layers.iter().zip(layers) {
        let LayerMaterial {
            identity,
            choices,
            products,
            input_labels,
            hashes,
        } = material;
        let bits = relu.ring_out.bits();
        writer.values(identity.values(), bits);
        writer.bits(choices);
        writer.values(products.values(), bits);
        writer.blocks(input_labels.iter().map(|l| l.0));
        for hashes in hashes {
            writer.values(hashes, bits);
        }
    }
    if let Some(ArgmaxMaterial { labels, decode }) = argmax {
        writer.blocks(labels.iter().map(|l| l.0));
        writer.bits(decode);
    }
    writer.finish()
}

pub(super) fn from_secret_bytes(bytes: &[u8], plan: &Plan, layout: &Layout) -> Kept<Prepared> {
    let public = plan.public();
    let (mut reader, header) = Reader::new(bytes, Side::Server, &public.hash())?;
    if header.binding != plan.model().weights_digest() {
        return Err(KeepError::OtherModel);
    }
    let delta = Delta::from_block(Block::from_le_bytes(reader.array()?));
    let delta = Arc::new(delta.ok_or(KeepError::Damaged)?);
    let mut masks = Vec::with_capacity(public.graph().layers.len());
    for (layer, node) in public.graph().layers.iter().enumerate() {
        let bits = public.accumulator_bits(layer);
        masks.push(Share::new(reader.values(node.shape.n_values(), bits)?));
    }
    let mut layers = Vec::with_capacity(layout.relu_layers.len());
    for relu in &layout.relu_layers {
        let (n, bits) = (relu.n_relus(), relu.ring_out.bits());
        layers.push(LayerMaterial {
            identity: Share::new(reader.values(relu.positions.removed().len(), bits)?),
            choices: reader.bits(n)?,
            products: Share::new(reader.values(n, bits)?),
            input_labels: labels(&mut reader, relu.n_labels())?,
            hashes: [
                Zeroizing::new(reader.values(n, bits)?),
                Zeroizing::new(reader.values(n, bits)?),
            ],
        });
    }
    let argmax = match &layout.argmax {
        None => None,
        Some(argmax) => Some(ArgmaxMaterial {
            labels: labels(&mut reader, argmax.n_labels())?,
            decode: reader.bits(argmax.circuit.n_outputs())?.to_vec(),
        }),
    };
    reader.finish()?;
    Ok(Prepared {
        batch: header.batch,
        index: header.index.into(),
        kept: true,
        delta,
        masks,
        layers,
        argmax,
    })
}

/// Whether these bytes are an item of this plan.
#[cfg(test)]
pub(crate) fn loads(bytes: &[u8], plan: &Plan) -> bool {
    let layout = Layout::new(plan.public());
    layout.is_ok_and(|layout| from_secret_bytes(bytes, plan, &layout).is_ok())
}

fn labels(reader: &mut Reader<'_>, n: usize) -> Kept<Zeroizing<Vec<ZeroLabel>>> {
    let blocks = reader.blocks(n)?;
    Ok(Zeroizing::new(blocks.map(ZeroLabel).collect()))
}
