//! 128-bit blocks and the wire labels made of them.
//!
//! A label is the key of one value of one wire (Zahur, Rosulek, Evans, Eurocrypt 2015): zero-label `L`, one-label
//! `L ^ Delta` (free XOR; Kolesnikov, Schneider, ICALP 2008). Its least significant bit is its *colour*
//! (point-and-permute); `Delta` has colour one, so the two labels of a wire always differ in colour.
//!
//! What may travel is in the types: the garbler holds [`Delta`] and [`ZeroLabel`]s and can write neither as bytes outside
//! this crate; only an [`ActiveLabel`], one per wire, has a byte form (labels of digits: [`crate::gc::digits`]). Selection by secret bits is by mask, without branches.

use std::fmt;
use std::ops::{BitXor, BitXorAssign};

use rand::CryptoRng;
use subtle::{Choice, ConstantTimeEq};
use zeroize::{DefaultIsZeroes, Zeroize};

/// A 128-bit block. `==` is for tests and public values; secrets are compared with [`ConstantTimeEq`].
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Block(pub u128);

/// All ones where `bit` is 1, zero where it is 0.
#[inline(always)]
pub(crate) fn mask(bit: u8) -> u128 {
    u128::from(bit & 1).wrapping_neg()
}

impl Block {
    /// The block of zeros.
    pub const ZERO: Self = Self(0);
    /// Bytes of a block on the wire.
    pub const BYTES: usize = 16;

    /// A uniform block.
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        let block = Self::from_le_bytes(bytes);
        bytes.zeroize();
        block
    }

    /// The least significant bit, 0 or 1: the colour of a label.
    #[inline(always)]
    pub fn lsb(self) -> u8 {
        (self.0 as u8) & 1
    }

    /// Bit `i` (0 is the least significant), 0 or 1.
    #[inline(always)]
    pub fn bit(self, i: usize) -> u8 {
        ((self.0 >> (i & 127)) as u8) & 1
    }

    /// `self ^ other` where `bit` is 1, `self` where it is 0, in constant time.
    #[inline(always)]
    #[must_use]
    pub fn xor_if(self, bit: u8, other: Self) -> Self {
        Self(self.0 ^ (other.0 & mask(bit)))
    }

    /// Little-endian bytes.
    #[inline(always)]
    pub fn to_le_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From little-endian bytes.
    #[inline(always)]
    pub fn from_le_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

impl DefaultIsZeroes for Block {}

impl ConstantTimeEq for Block {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.to_le_bytes().ct_eq(&other.to_le_bytes())
    }
}

impl BitXor for Block {
    type Output = Self;
    #[inline(always)]
    fn bitxor(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }
}

impl BitXorAssign for Block {
    #[inline(always)]
    fn bitxor_assign(&mut self, other: Self) {
        self.0 ^= other.0;
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Block(..)")
    }
}

/// The offset between the two labels of every wire, and of every correlated OT: the one secret of a garbler.
/// Least significant bit 1, hence 127 secret bits. Wiped on drop; it has no copy, and a byte form only in
/// what its holder keeps for itself ([`crate::kept`]).
pub struct Delta(Block);

impl Delta {
    /// A fresh offset.
    pub fn random<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self(Block(Block::random(rng).0 | 1))
    }

    /// The offset that [`Self::block`] gave; none if its colour is wrong.
    pub(crate) fn from_block(block: Block) -> Option<Self> {
        (block.lsb() == 1).then_some(Self(block))
    }

    /// The offset as a block, for arithmetic inside this crate.
    #[inline(always)]
    pub(crate) fn block(&self) -> Block {
        self.0
    }
}

impl Drop for Delta {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Delta(..)")
    }
}

/// The label of value 0 of a wire: the garbler's secret, never sent.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub struct ZeroLabel(pub(crate) Block);

impl ZeroLabel {
    /// The zero-label behind a correlated OT: `q ^ d Delta`, with `q` of the OT's sender and `d = e ^ c` the bit by which the
    /// receiver derandomised its choice `c` to its input `e`. The receiver then holds the active label of `e`.
    #[inline(always)]
    pub fn from_cot(q: Block, d: u8, delta: &Delta) -> Self {
        Self(q.xor_if(d, delta.block()))
    }

    /// The label of value `bit`: what may be sent.
    #[inline(always)]
    pub fn active(self, bit: u8, delta: &Delta) -> ActiveLabel {
        ActiveLabel(self.0.xor_if(bit, delta.block()))
    }

    /// The colour of value 0.
    #[inline(always)]
    pub fn colour(self) -> u8 {
        self.0.lsb()
    }
}

impl DefaultIsZeroes for ZeroLabel {}

impl fmt::Debug for ZeroLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZeroLabel(..)")
    }
}

/// The label of the value that a wire carries: the evaluator's. The only label with a byte form.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub struct ActiveLabel(pub(crate) Block);

impl ActiveLabel {
    /// Bytes on the wire.
    pub const BYTES: usize = Block::BYTES;

    /// The label that the receiver of a correlated OT holds for its input bit.
    #[inline(always)]
    pub fn from_cot(t: Block) -> Self {
        Self(t)
    }

    /// The colour: the value, masked by the colour of the zero-label.
    #[inline(always)]
    pub fn colour(self) -> u8 {
        self.0.lsb()
    }

    /// Little-endian bytes.
    #[inline(always)]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From little-endian bytes; every string is a label.
    #[inline(always)]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Block::from_le_bytes(bytes))
    }
}

/// Every string is a label.
impl From<[u8; 16]> for ActiveLabel {
    #[inline(always)]
    fn from(bytes: [u8; 16]) -> Self {
        Self::from_bytes(bytes)
    }
}

impl DefaultIsZeroes for ActiveLabel {}

impl fmt::Debug for ActiveLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActiveLabel(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn labels_differ_by_delta_and_colour() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let delta = Delta::random(&mut rng);
        assert_eq!(delta.block().lsb(), 1);
        let zero = ZeroLabel(Block::random(&mut rng));
        let (l0, l1) = (zero.active(0, &delta), zero.active(1, &delta));
        assert_eq!(l0.0 ^ l1.0, delta.block());
        assert_eq!(l0.colour() ^ l1.colour(), 1);
        assert_eq!(ActiveLabel::from_bytes(l1.to_bytes()).0, l1.0);
    }

    #[test]
    fn bytes_are_little_endian_and_debug_is_silent() {
        let block = Block(0x0f0e0d0c0b0a09080706050403020100);
        assert_eq!(block.to_le_bytes()[15], 15);
        assert_eq!(block.xor_if(0, block), block);
        assert_eq!(block.xor_if(1, block), Block::ZERO);
        let delta = Delta(Block(1));
        let text = format!(
            "{block:?} {delta:?} {:?} {:?}",
            ZeroLabel(block),
            ActiveLabel(block)
        );
        assert_eq!(text, "Block(..) Delta(..) ZeroLabel(..) ActiveLabel(..)");
    }
}
