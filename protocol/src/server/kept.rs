//! Batches that outlive their session: handed to the keeper, and taken from it for good before the first online byte.

use super::{Prepared, ServerSession};
use crate::error::{Error, Result};
use crate::kept::server::{from_secret_bytes, item_bytes, to_secret_bytes};
use crate::kept::{Handle, ItemId, KeepError, Keeper, Kept};
use crate::linear;
use crate::wire::channel::Channel;
use crate::wire::{Item, Step};

impl<C: Channel> ServerSession<C> {
    /// From now on prepared inferences may be kept beyond this session, and taken from earlier ones, by `keeper`.
    pub fn keep_with(&mut self, keeper: Box<dyn Keeper>) {
        self.keeper = Some(keeper);
    }

    /// Whether the keeper has room for a batch: asked before the work of preparing it.
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

    /// Prepares a batch and hands it to the keeper. The client hears the outcome only once the items are durable.
    pub(super) fn prepare_kept(&mut self, handle: &Handle) -> Result<()> {
        let batch = self.n_batches;
        self.prepare()?;
        let n = self.plan.public().batch();
        let mut items = Vec::with_capacity(n);
        for index in 0..n {
            let Some(prepared) = self.prepared.remove(&(batch, index as u16)) else {
                continue;
            };
            let bytes = to_secret_bytes(&prepared, &self.plan, &self.layout);
            items.push((handle.item(index), bytes));
        }
        let outcome = match &mut self.keeper {
            Some(keeper) => keeper.put(items),
            None => Err(KeepError::Unavailable),
        };
        let tag = Item { batch, index: 0 }.tag(Step::Kept, 0);
        self.wire.send(tag, &[KeepError::code(outcome)])
    }

    /// Takes a kept inference for good. It is gone also if it is for other weights or another place: a client that tries again
    /// learns nothing from the difference.
    pub(super) fn take_kept(&mut self, id: &ItemId, item: Item) -> Kept<Prepared> {
        // Without a keeper nobody looked: `NotThere` would tell the client to give up all that it has.
        let keeper = self.keeper.as_mut().ok_or(KeepError::Unavailable)?;
        let bytes = keeper.take(id)?;
        let prepared = from_secret_bytes(&bytes, &self.plan, &self.layout)?;
        if prepared.item != item {
            return Err(KeepError::OtherModel);
        }
        Ok(prepared)
    }

    /// Says that there is no such kept inference, once the client's input, which nobody will use, is in.
    pub(super) fn miss(&mut self, why: KeepError, item: Item) -> Result<()> {
        let messages = linear::input_messages(self.plan.public());
        self.wire.receive(item.tag(Step::Input, 0), &messages)?;
        let code = KeepError::code(Err(why));
        self.wire.send(item.tag(Step::Found, 0), &[code])
    }
}
