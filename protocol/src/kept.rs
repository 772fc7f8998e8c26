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

use pi_model::bits::{pack, packed_bytes, unpack};
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use crate::block::Block;
use crate::prg::Seed;
use crate::session::SessionOptions;

/// Version of the two forms of an item.
const FORMAT: u8 = 1;

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

/// Why an inference is not kept, or not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// No such item.
    #[error(
        "there is no such prepared inference at the server: it was used, has expired, or was never kept there; prepare another one"
    )]
    NotThere,
    /// The item was made for other weights, another plan or another client.
    #[error(
        "this prepared inference is for another model, plan or version of the weights; discard it and prepare another one"
    )]
    OtherModel,
    /// No room.
    #[error(
        "the server keeps no more prepared inferences for now; use some of them, or try again later"
    )]
    Full,
    /// The store does not work.
    #[error(
        "the server's store of prepared inferences does not work at the moment; prepare without keeping, or try again later"
    )]
    Unavailable,
    /// The bytes are not what was written.
    #[error(
        "this prepared inference is damaged, or written by another release; discard it and prepare another one"
    )]
    Damaged,
}

/// Result of a keeper.
pub type Kept<T> = Result<T, KeepError>;

impl KeepError {
    /// The number on the wire of an outcome; zero if all went well.
    pub(crate) fn code(outcome: Result<(), Self>) -> u8 {
        match outcome {
            Ok(()) => 0,
            Err(Self::NotThere) => 1,
            Err(Self::OtherModel) => 2,
            Err(Self::Full) => 3,
            Err(Self::Unavailable) => 4,
            Err(Self::Damaged) => 5,
        }
    }

    /// The outcome with this number, if there is one.
    pub(crate) const fn from_code(code: u8) -> Option<Result<(), Self>> {
        Some(match code {
            0 => Ok(()),
            1 => Err(Self::NotThere),
            2 => Err(Self::OtherModel),
            3 => Err(Self::Full),
            4 => Err(Self::Unavailable),
            5 => Err(Self::Damaged),
            _ => return None,
        })
    }
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

/// Whose half an item is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Side {
    Client = b'C',
    Server = b'S',
}

/// What every item begins with.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) side: Side,
    pub(crate) options: SessionOptions,
    pub(crate) plan_hash: [u8; 32],
    /// Of the weights at the server, the item's id at the client.
    pub(crate) binding: [u8; 32],
    pub(crate) batch: u32,
    pub(crate) index: u16,
}

impl Header {
    pub(crate) const BYTES: usize = 3 + 32 + 32 + 4 + 2;
}

/// Writes an item whose length is known: bytes that grow would leave copies behind.
pub(crate) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(crate) fn new(header: &Header, n_bytes: usize) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(n_bytes));
        bytes.extend_from_slice(&[FORMAT, header.side as u8, header.options.code()]);
        bytes.extend_from_slice(&header.plan_hash);
        bytes.extend_from_slice(&header.binding);
        bytes.extend_from_slice(&header.batch.to_le_bytes());
        bytes.extend_from_slice(&header.index.to_le_bytes());
        Self(bytes)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn values(&mut self, values: &[u64], bits: u32) {
        self.0
            .extend_from_slice(&Zeroizing::new(pack(values, bits)));
    }

    pub(crate) fn bits(&mut self, bits: &[u8]) {
        let words = Zeroizing::new(bits.iter().map(|&b| b.into()).collect::<Vec<u64>>());
        self.values(&words, 1);
    }

    pub(crate) fn blocks(&mut self, blocks: impl Iterator<Item = Block>) {
        for block in blocks {
            let mut bytes = block.to_le_bytes();
            self.0.extend_from_slice(&bytes);
            bytes.zeroize();
        }
    }

    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Reads what [`Writer`] wrote; all lengths are the reader's own.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads the header, which must be of this release, of `side` and for the plan with `plan_hash`.
    pub(crate) fn new(bytes: &'a [u8], side: Side, plan_hash: &[u8; 32]) -> Kept<(Self, Header)> {
        let mut reader = Self(bytes);
        let [format, whose, options] = reader.array()?;
        let options = SessionOptions::from_code(options).ok_or(KeepError::Damaged)?;
        if format != FORMAT || whose != side as u8 {
            return Err(KeepError::Damaged);
        }
        let header = Header {
            side,
            options,
            plan_hash: reader.array()?,
            binding: reader.array()?,
            batch: u32::from_le_bytes(reader.array()?),
            index: u16::from_le_bytes(reader.array()?),
        };
        if header.plan_hash != *plan_hash {
            return Err(KeepError::OtherModel);
        }
        Ok((reader, header))
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Kept<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(n).ok_or(KeepError::Damaged)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Kept<[u8; N]> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| KeepError::Damaged)
    }

    pub(crate) fn values(&mut self, n: usize, bits: u32) -> Kept<Vec<u64>> {
        let bytes = self.bytes(packed_bytes(n, bits))?;
        unpack(bytes, n, bits).map_err(|_| KeepError::Damaged)
    }

    pub(crate) fn bits(&mut self, n: usize) -> Kept<Zeroizing<Vec<u8>>> {
        let words = Zeroizing::new(self.values(n, 1)?);
        Ok(Zeroizing::new(words.iter().map(|&w| w as u8).collect()))
    }

    pub(crate) fn blocks(&mut self, n: usize) -> Kept<impl Iterator<Item = Block> + use<'a>> {
        let bytes = self.bytes(n.saturating_mul(Block::BYTES))?;
        let blocks = bytes.as_chunks::<{ Block::BYTES }>().0.iter();
        Ok(blocks.map(|&bytes| Block::from_le_bytes(bytes)))
    }

    pub(crate) const fn finish(self) -> Kept<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(KeepError::Damaged)
        }
    }
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

    #[test]
    fn outcomes_survive_the_wire() {
        for code in 0..=5 {
            let outcome = KeepError::from_code(code).unwrap();
            assert_eq!(KeepError::code(outcome), code);
        }
        assert_eq!(KeepError::from_code(6), None);
    }
}
