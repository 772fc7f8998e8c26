//! The form in which either half of a prepared inference is written down: a header, then values packed to their bits.
//!
//! Nothing in an item says how long something is: the reader computes every length from its own plan.

use pi_model::bits::{pack, packed_bytes, unpack};
use zeroize::{Zeroize as _, Zeroizing};

use super::error::{KeepError, Kept};
use crate::block::Block;
use crate::session::options::SessionOptions;

/// Version of the two forms of an item.
const FORMAT: u8 = 1;

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
