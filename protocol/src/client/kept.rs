//! The client's half of kept inferences: ask for them, write them down, read them again, and a session that does nothing else.

use std::sync::Arc;

use pi_model::bits::packed_bytes;
use pi_model::plan::PublicPlan;
use zeroize::Zeroizing;

use super::digits::Digits;
use super::{ArgmaxMaterial, ClientSession, LayerMaterial, Origin, Prepared};
use crate::block::{ActiveLabel, Block};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::kept::{Handle, Header, ItemId, KeepError, Kept, Reader, Side, Writer};
use crate::layout::{Argmax, Layout, instances};
use crate::prg;
use crate::ring::Ring;
use crate::session::{
    HELLO_REPLY_BYTES, SessionOptions, batch_tag, decode_hello, encode_kept_hello, malformed,
    setup_tag, tag,
};
use crate::share::Share;
use crate::wire::{Step, Wire};

impl<C: Channel> ClientSession<C> {
    /// Opens a session that only runs kept inferences of `plan`: one round trip, no keys, no base OTs. It cannot prepare.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_online(channel: C, plan: Arc<PublicPlan>) -> Result<Self> {
        let seed = prg::os_seed()?;
        let layout = Arc::new(Layout::new(&plan)?);
        let mut wire = Wire::new(channel);
        let client_nonce = *seed.derive("client nonce", &[]).as_bytes();
        wire.send(
            setup_tag(Step::Hello),
            &encode_kept_hello(&client_nonce, &plan.hash()),
        )?;
        let reply = wire.recv(setup_tag(Step::HelloReply), HELLO_REPLY_BYTES)?;
        let (server_nonce, _) = decode_hello(Step::HelloReply, &reply)?;
        Ok(Self {
            wire,
            input_ring: Ring::new(plan.tensor_bits(0)),
            plan,
            layout,
            seed,
            client_nonce,
            server_nonce,
            keys: vec![],
            mux: None,
            digit_point: None,
            options: SessionOptions::default(),
            kept_only: true,
            n_batches: 0,
            over: false,
            #[cfg(test)]
            trace: vec![],
        })
    }

    /// Prepares one batch of inferences that the server keeps beyond this session: each can be used in this session or in
    /// any later one with the same server and plan, once.
    ///
    /// # Errors
    /// [`Error::Kept`] when the server did not keep them: nothing is prepared then, and the session goes on. Otherwise as
    /// [`Self::prepare`].
    pub fn prepare_kept(&mut self) -> Result<Vec<Prepared>> {
        self.unless_over()?;
        let result = self.prepare_kept_batch();
        self.note(result)
    }

    fn prepare_kept_batch(&mut self) -> Result<Vec<Prepared>> {
        let seed = self
            .seed
            .derive("handle of kept inferences", &[self.n_batches.into()]);
        let handle = Handle::new(&seed);
        let mut prepared = self.prepare_batch(Some(&handle))?;
        let reply = self
            .wire
            .recv(batch_tag(Step::Kept, 0, self.n_batches), 1)?;
        outcome(Step::Kept, &reply)?;
        for (index, prepared) in prepared.iter_mut().enumerate() {
            prepared.origin = Origin::Kept {
                id: handle.item(index),
                plan_hash: self.plan.hash(),
            };
        }
        Ok(prepared)
    }

    /// What the server says to the request for a kept inference.
    pub(super) fn receive_found(&mut self, prepared: &Prepared) -> Result<()> {
        let tag = tag(Step::Found, 0, prepared.batch, prepared.index);
        let reply = self.wire.recv(tag, 1)?;
        outcome(Step::Found, &reply)
    }
}

fn outcome(step: Step, reply: &[u8]) -> Result<()> {
    let code = reply.first().copied().unwrap_or(u8::MAX);
    match KeepError::from_code(code) {
        Some(outcome) => Ok(outcome?),
        None => Err(malformed(step, 0, &format!("outcome {code}"))),
    }
}

impl Prepared {
    /// The name of this inference at the server, if it is kept there.
    #[must_use]
    pub const fn kept_id(&self) -> Option<&ItemId> {
        match &self.origin {
            Origin::Session(_) => None,
            Origin::Kept { id, .. } => Some(id),
        }
    }

    /// The secrets of this inference in the clear, to be encrypted and written down. It is consumed, and comes back by
    /// [`Self::from_secret_bytes`]. What was written must be gone, durably, before [`ClientSession::infer`] is called: used
    /// twice it tells the server the difference of two inputs, and more if this client garbled it (SECURITY.md 5.1).
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
        let layout = Layout::new(plan)?;
        let header = Header {
            side: Side::Client,
            options: self.options,
            plan_hash: *plan_hash,
            binding: *id.as_bytes(),
            batch: self.batch,
            index: self.index as u16,
        };
        let mut writer = Writer::new(&header, item_bytes(plan, &layout, self.options)?);
        writer.bytes(&self.start_key.to_le_bytes());
        writer.values(self.input_mask.values(), plan.tensor_bits(0));
        if let Some(digits) = &self.digits {
            digits.write(&mut writer, &layout);
        }
        for (relu, material) in layout.relu_layers.iter().zip(&self.layers) {
            let LayerMaterial {
                tables,
                labels,
                truncated,
                products,
                next_mask,
            } = material;
            let bits = relu.ring_out.bits();
            writer.bytes(tables);
            writer.blocks(labels.iter().map(|l| l.0));
            for share in [truncated, products, next_mask] {
                writer.values(share.values(), bits);
            }
        }
        writer.values(self.output.values(), layout.output_ring.bits());
        if let Some(ArgmaxMaterial { tables, labels }) = &self.argmax {
            writer.bytes(tables);
            writer.blocks(labels.iter().map(|l| l.0));
        }
        Ok(writer.finish())
    }

    /// Reads what [`Self::into_secret_bytes`] wrote, for the same plan.
    ///
    /// # Errors
    /// [`Error::Kept`] for an item of another plan, or bytes that are no item.
    pub fn from_secret_bytes(bytes: &[u8], plan: &PublicPlan) -> Result<Self> {
        let layout = Layout::new(plan)?;
        let (mut reader, header) = Reader::new(bytes, Side::Client, &plan.hash())?;
        let (options, index) = (header.options, usize::from(header.index));
        if index >= plan.batch() {
            return Err(KeepError::Damaged.into());
        }
        let start_key = Block::from_le_bytes(reader.array()?);
        let n_inputs = plan.graph().tensors[0].n_values();
        let input_mask = Share::new(reader.values(n_inputs, plan.tensor_bits(0))?);
        let digits = match layout.client_garbles(options.garbling) {
            true => Some(Digits::read(&mut reader, &layout)?),
            false => None,
        };
        let mut layers = Vec::with_capacity(layout.relu_layers.len());
        for (relu, n_table_bytes) in layout
            .relu_layers
            .iter()
            .zip(table_bytes(&layout, options)?)
            .take(if digits.is_some() { 0 } else { usize::MAX })
        {
            let (n, bits) = (relu.n_relus(), relu.ring_out.bits());
            layers.push(LayerMaterial {
                tables: reader.bytes(n_table_bytes)?.to_vec(),
                labels: labels(&mut reader, relu.n_labels())?,
                truncated: Share::new(reader.values(n, bits)?),
                products: Share::new(reader.values(n, bits)?),
                next_mask: Share::new(reader.values(n, bits)?),
            });
        }
        let output = Share::new(reader.values(layout.n_outputs, layout.output_ring.bits())?);
        let argmax = match &layout.argmax {
            None => None,
            Some(argmax) => {
                let n_table_bytes = table_bytes(&layout, options)?.pop().unwrap_or_default();
                Some(ArgmaxMaterial {
                    tables: reader.bytes(n_table_bytes)?.to_vec(),
                    labels: labels(&mut reader, argmax.n_labels())?,
                })
            }
        };
        reader.finish()?;
        Ok(Self {
            origin: Origin::Kept {
                id: ItemId::from_bytes(header.binding),
                plan_hash: header.plan_hash,
            },
            options,
            batch: header.batch,
            index,
            start_key,
            input_mask,
            layers,
            digits,
            output,
            argmax,
        })
    }
}

fn labels(reader: &mut Reader<'_>, n: usize) -> Kept<Zeroizing<Vec<ActiveLabel>>> {
    let blocks = reader.blocks(n)?;
    Ok(Zeroizing::new(blocks.map(ActiveLabel::from_cot).collect()))
}

/// Bytes of the tables of each ReLU layer, then of the argmax.
fn table_bytes(layout: &Layout, options: SessionOptions) -> Result<Vec<usize>> {
    let of = |circuit, n, layer| -> Result<usize> {
        let mode = options.garbling;
        Ok(instances(circuit, n, Block::ZERO, 0, layer, mode)?.table_bytes())
    };
    let relus = layout.relu_layers.iter();
    let mut all = relus
        .map(|relu| of(&relu.circuit, relu.n_relus(), relu.layer))
        .collect::<Result<Vec<_>>>()?;
    if let Some(argmax) = &layout.argmax {
        all.push(of(&argmax.circuit, 1, layout.last_layer())?);
    }
    Ok(all)
}

fn item_bytes(plan: &PublicPlan, layout: &Layout, options: SessionOptions) -> Result<usize> {
    let argmax = layout.argmax.as_ref();
    let relus = if layout.client_garbles(options.garbling) {
        let table = match argmax {
            Some(_) => table_bytes(layout, options)?.pop().unwrap_or_default(),
            None => 0,
        };
        let labels = argmax.map_or(0, Argmax::n_labels);
        table + Block::BYTES * labels + Digits::n_bytes(layout)
    } else {
        let tables: usize = table_bytes(layout, options)?.iter().sum();
        let shares = layout.relu_layers.iter().map(|r| 3 * r.result_bytes());
        tables + Block::BYTES * layout.n_labels() + shares.sum::<usize>()
    };
    Ok(Header::BYTES
        + Block::BYTES
        + relus
        + packed_bytes(plan.graph().tensors[0].n_values(), plan.tensor_bits(0))
        + packed_bytes(layout.n_outputs, layout.output_ring.bits()))
}

/// Bytes of the client's half of one kept inference of `plan` in a session with these `options`.
///
/// # Errors
/// [`Error::Plan`] when the plan cannot be laid out.
pub fn kept_bytes(plan: &PublicPlan, options: SessionOptions) -> Result<usize> {
    item_bytes(plan, &Layout::new(plan)?, options)
}
