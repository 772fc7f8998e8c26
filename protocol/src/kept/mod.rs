//! Prepared inferences that outlive their session: what both sides need to write one down, to name it, and to use it once.
//!
//! The client draws a random [`Handle`] for a batch and sends it with its request; inference i of the batch is then called
//! BLAKE3(handle, i) ([`ItemId`]) by both. The server hands its halves to a [`Keeper`], which stores them durably; the client
//! keeps its own. In any later session the client names an item, and the server takes it out of the keeper, for good, before
//! the first online byte leaves. The online phase is the usual one, with one byte before its first answer.
//!
//! Bytes on the wire beyond the usual flow: 32 with each of the two requests, and one for each answer; no round trip, unless
//! the network has no garbled circuit at all, when the keeper's answer is the only one to the client's last message offline.
//!
//! Security: an item's bytes are all secrets of one side for one inference, its Delta or its masks, in the clear: whoever
//! writes them down encrypts them. Used twice they give away what they should hide: to the client products of the weights, to
//! the server the difference of two inputs, and if the client garbled them its shares at the ReLUs of the whole batch
//! (SECURITY.md 5.1). An id is a capability: who knows it can use the item up.

pub(crate) mod client;
pub(crate) mod error;
mod form;
pub(crate) mod server;

pub use error::{KeepError, Kept};
pub(crate) use form::{Header, Reader, Side, Writer};

use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::prg::Seed;
use crate::wire::messages::Messages;
use crate::wire::step::Step;

/// What a client draws for a batch that it wants kept. Not shown, and wiped.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct Handle([u8; 32]);

impl Handle {
    /// Bytes on the wire.
    pub const BYTES: usize = 32;

    pub(crate) fn new(seed: &Seed) -> Self {
        Self(*seed.as_bytes())
    }

    /// From the wire; every string is a handle.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The name of inference `index` of the batch.
    #[must_use]
    pub fn item(&self, index: usize) -> ItemId {
        let mut hasher = blake3::Hasher::new_derive_key("private inference: id of a kept item");
        hasher.update(&self.0);
        hasher.update(&(index as u64).to_le_bytes());
        ItemId(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle(..)")
    }
}

/// The name of one kept inference. Who knows it can use it up, so it is not shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId([u8; 32]);

impl ItemId {
    /// Bytes on the wire.
    pub const BYTES: usize = 32;

    /// From the wire; every string is an id.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For the wire, and to find it again.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for ItemId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ItemId(..)")
    }
}

/// What the server says, one byte each: whether a batch is kept, whether a kept inference is there.
pub(crate) fn messages() -> Messages {
    [(Step::Kept, 1), (Step::Found, 1)].into()
}

/// Stores the server's halves beyond a session. The session's thread calls it, and waits.
pub trait Keeper: Send {
    /// Whether `n_items` of `item_bytes` bytes each may be kept: asked before the work to prepare them begins.
    ///
    /// # Errors
    /// [`KeepError::Full`] or [`KeepError::Unavailable`]; the session ends with it.
    fn admit(&mut self, n_items: usize, item_bytes: usize) -> Kept<()>;

    /// Stores all `items`, or none. When this returns they survive a crash.
    ///
    /// # Errors
    /// [`KeepError::Full`] or [`KeepError::Unavailable`]; the client is told, and the session goes on.
    fn put(&mut self, items: Vec<(ItemId, Zeroizing<Vec<u8>>)>) -> Kept<()>;

    /// Takes one item out: to one caller, once. When this returns the item is gone, whatever crashes.
    ///
    /// # Errors
    /// [`KeepError::NotThere`] or [`KeepError::Unavailable`]; the client is told, and the session goes on.
    fn take(&mut self, id: &ItemId) -> Kept<Zeroizing<Vec<u8>>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_handle_and_index_and_are_not_shown() {
        let handle = Handle::from_bytes([7; 32]);
        let ids = [
            handle.item(0),
            handle.item(1),
            Handle::from_bytes([8; 32]).item(0),
        ];
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
        assert_eq!(format!("{handle:?} {:?}", ids[0]), "Handle(..) ItemId(..)");
    }
}
