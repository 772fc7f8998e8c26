//! The server's half of a kept inference: written down for the keeper, and read again.
//!
//! An item is bound to the plan and to the weights: s hides W r for the weights with which it was made, and with others the
//! online phase would give a wrong answer, silently.

use std::sync::Arc;

use pi_model::bits::packed_bytes;
use pi_model::plan::{Plan, PublicPlan};
use zeroize::Zeroizing;

use super::{Header, KeepError, Kept, Reader, Side, Writer};
use crate::argmax;
use crate::block::{Block, Delta};
#[cfg(test)]
use crate::error::Result;
use crate::layout::Layout;
use crate::relu;
use crate::ring::Share;
use crate::server::prepared::Prepared;
#[cfg(test)]
use crate::session::options::SessionOptions;
use crate::wire::Item;

/// Bytes of the server's half of one kept inference.
#[cfg(test)]
pub(crate) fn kept_bytes(plan: &PublicPlan, options: SessionOptions) -> Result<usize> {
    Ok(item_bytes(plan, &Layout::new(plan, options)?))
}

pub(crate) fn item_bytes(plan: &PublicPlan, layout: &Layout) -> usize {
    let layers = plan.graph().layers.iter().enumerate();
    let masks = layers.map(|(i, l)| packed_bytes(l.shape.n_values(), plan.accumulator_bits(i)));
    let argmax = layout.argmax.as_ref();
    Header::BYTES
        + Block::BYTES
        + masks.sum::<usize>()
        + relu::server::Material::n_bytes(layout)
        + argmax.map_or(0, argmax::server::Material::n_bytes)
}

pub(crate) fn to_secret_bytes(
    prepared: &Prepared,
    plan: &Plan,
    layout: &Layout,
) -> Zeroizing<Vec<u8>> {
    let public = plan.public();
    let header = Header {
        side: Side::Server,
        options: layout.options(),
        plan_hash: public.hash(),
        binding: plan.model().weights_digest(),
        batch: prepared.item.batch,
        index: prepared.item.index as u16,
    };
    let mut writer = Writer::new(&header, item_bytes(public, layout));
    writer.blocks(std::iter::once(prepared.delta.block()));
    for (layer, share) in prepared.masks.iter().enumerate() {
        writer.values(share.values(), public.accumulator_bits(layer));
    }
    prepared.relus.write(&mut writer, layout);
    if let Some(argmax) = &prepared.argmax {
        argmax.write(&mut writer);
    }
    writer.finish()
}

/// Reads what [`to_secret_bytes`] wrote. `layout` is of the same plan, with any options.
pub(crate) fn from_secret_bytes(bytes: &[u8], plan: &Plan, layout: &Layout) -> Kept<Prepared> {
    let public = plan.public();
    let (mut reader, header) = Reader::new(bytes, Side::Server, &public.hash())?;
    if header.binding != plan.model().weights_digest() {
        return Err(KeepError::OtherModel);
    }
    let layout = layout.with_options(header.options);
    let delta = Delta::from_block(Block::from_le_bytes(reader.array()?));
    let delta = Arc::new(delta.ok_or(KeepError::Damaged)?);
    let mut masks = Vec::with_capacity(public.graph().layers.len());
    for (layer, node) in public.graph().layers.iter().enumerate() {
        let bits = public.accumulator_bits(layer);
        masks.push(Share::new(reader.values(node.shape.n_values(), bits)?));
    }
    let relus = relu::server::Material::read(&mut reader, &layout)?;
    let argmax = match &layout.argmax {
        None => None,
        Some(argmax) => Some(argmax::server::Material::read(&mut reader, argmax)?),
    };
    reader.finish()?;
    Ok(Prepared {
        item: Item {
            batch: header.batch,
            index: header.index.into(),
        },
        from_keeper: true,
        delta,
        masks,
        relus,
        argmax,
    })
}

/// Whether these bytes are an item of this plan.
#[cfg(test)]
pub(crate) fn loads(bytes: &[u8], plan: &Plan) -> bool {
    let layout = Layout::new(plan.public(), SessionOptions::default());
    layout.is_ok_and(|layout| from_secret_bytes(bytes, plan, &layout).is_ok())
}
