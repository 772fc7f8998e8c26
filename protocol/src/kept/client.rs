//! The client's half of a kept inference: written down, and read again.

use pi_model::bits::packed_bytes;
use pi_model::plan::PublicPlan;
use zeroize::Zeroizing;

use super::{Header, ItemId, KeepError, Reader, Side, Writer};
use crate::argmax;
use crate::block::Block;
use crate::client::prepared::{Origin, Prepared};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::relu;
use crate::ring::Share;
#[cfg(test)]
use crate::session::options::SessionOptions;
use crate::wire::{Item, Tag, malformed};

/// What the server says to a request to keep a batch, or to run a kept inference.
pub(crate) fn outcome(tag: Tag, reply: &[u8]) -> Result<()> {
    let code = reply.first().copied().unwrap_or(u8::MAX);
    match KeepError::from_code(code) {
        Some(outcome) => Ok(outcome?),
        None => Err(malformed(tag, &format!("outcome {code}"))),
    }
}

impl Prepared {
    /// The secrets of this inference in the clear, to be encrypted and written down. It is consumed, and comes back by
    /// [`Self::from_secret_bytes`]. What was written must be gone, durably, before [`crate::client::ClientSession::infer`] is
    /// called: used twice it tells the server the difference of two inputs, and more if this client garbled it (SECURITY.md 5.1).
    ///
    /// # Errors
    /// [`Error::Misuse`] when the server does not keep its half.
    pub fn into_secret_bytes(self, plan: &PublicPlan) -> Result<Zeroizing<Vec<u8>>> {
        let misuse = |why: &str| Err(Error::Misuse(why.into()));
        let Origin::Kept { id, plan_hash } = &self.origin else {
            return misuse(
                "the server does not keep this inference beyond the session; prepare it with prepare_kept",
            );
        };
        if *plan_hash != plan.hash() {
            return misuse("this inference was prepared for another plan");
        }
        let layout = Layout::new(plan, self.options)?;
        let header = Header {
            side: Side::Client,
            options: self.options,
            plan_hash: *plan_hash,
            binding: *id.as_bytes(),
            batch: self.item.batch,
            index: self.item.index as u16,
        };
        let mut writer = Writer::new(&header, item_bytes(plan, &layout));
        writer.bytes(&self.start_key.to_le_bytes());
        writer.values(self.input_mask.values(), plan.tensor_bits(0));
        self.relus.write(&mut writer, &layout);
        writer.values(self.output.values(), layout.output_ring.bits());
        if let Some(argmax) = &self.argmax {
            argmax.write(&mut writer);
        }
        Ok(writer.finish())
    }

    /// Reads what [`Self::into_secret_bytes`] wrote, for the same plan.
    ///
    /// # Errors
    /// [`Error::Kept`] for an item of another plan, or bytes that are no item.
    pub fn from_secret_bytes(bytes: &[u8], plan: &PublicPlan) -> Result<Self> {
        let (mut reader, header) = Reader::new(bytes, Side::Client, &plan.hash())?;
        let index = usize::from(header.index);
        if index >= plan.batch() {
            return Err(KeepError::Damaged.into());
        }
        let layout = Layout::new(plan, header.options)?;
        let start_key = Block::from_le_bytes(reader.array()?);
        let n_inputs = plan.graph().tensors[0].n_values();
        let input_mask = Share::new(reader.values(n_inputs, plan.tensor_bits(0))?);
        let relus = relu::client::Material::read(&mut reader, &layout)?;
        let output = Share::new(reader.values(layout.n_outputs, layout.output_ring.bits())?);
        let scheme = header.options.garbling.scheme();
        let argmax = match &layout.argmax {
            None => None,
            Some(argmax) => Some(argmax::client::Material::read(&mut reader, argmax, scheme)?),
        };
        reader.finish()?;
        Ok(Self {
            origin: Origin::Kept {
                id: ItemId::from_bytes(header.binding),
                plan_hash: header.plan_hash,
            },
            options: header.options,
            item: Item {
                batch: header.batch,
                index,
            },
            start_key,
            input_mask,
            relus,
            output,
            argmax,
        })
    }
}

fn item_bytes(plan: &PublicPlan, layout: &Layout) -> usize {
    let scheme = layout.options().garbling.scheme();
    let argmax = layout.argmax.as_ref();
    Header::BYTES
        + Block::BYTES
        + packed_bytes(plan.graph().tensors[0].n_values(), plan.tensor_bits(0))
        + relu::client::Material::n_bytes(layout)
        + packed_bytes(layout.n_outputs, layout.output_ring.bits())
        + argmax.map_or(0, |argmax| {
            argmax::client::Material::n_bytes(argmax, scheme)
        })
}

/// Bytes of the client's half of one kept inference.
#[cfg(test)]
pub(crate) fn kept_bytes(plan: &PublicPlan, options: SessionOptions) -> Result<usize> {
    Ok(item_bytes(plan, &Layout::new(plan, options)?))
}
