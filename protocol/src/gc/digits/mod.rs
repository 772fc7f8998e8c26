//! The sign test whose garbler knows its own share already: a comparison with a constant, by tables of radix-16 digits.
//!
//! Projection gates after Ball, Malkin, Rosulek (CCS 2016), on labels in GF(2^128): a digit of value d has the label L + d Delta, d a
//! polynomial of degree below four. Adding labels joins digits: three bits of the evaluator and the carry so far are one digit of
//! 16 values, and one hash opens one of 16 rows. The evaluator knows its own digits, so only the carry needs a colour. The argument
//! is in SECURITY.md 5.1.
//!
//! For l bits: `n = ceil((l - 2) / 3)` digits carry the low l - 1 bits, the first of them 1 to 4, the others 3 each. Garbler ->
//! evaluator, offline: 15 rows of 16 bytes a digit (the first: 2^bits - 1) and l bits; online 16 bytes a digit. Evaluator -> garbler,
//! online: l bits. For l = 14: 960 and 1.75 bytes offline, 64 and 1.75 online. Hashes: one a row and digit to garble, one a digit to evaluate.
//!
//! The top bit enters no table: its OT block is added to the label of the carry.

mod evaluate;
mod garble;
#[cfg(test)]
mod tests;

pub use evaluate::{evaluate_digits, evaluator_keys};
pub use garble::{DigitGarbled, digit_labels, garble_digits};

use zeroize::Zeroizing;

use crate::block::{Block, mask};
use crate::error::{Error, Result};
use crate::hash::simd::KEYS;
use crate::hash::{Domain, LANES, TweakBase, group_key, hash_to_bits};

/// Bits of every digit but the first.
const DIGIT_BITS: u32 = 3;
/// Values of a digit with its carry.
const RADIX: usize = 16;
/// Instances of a batch, whose four hash keys are expanded together.
const BATCH: usize = KEYS * LANES;
/// Batches that one task of the thread pool takes at least.
const MIN_BATCHES: usize = 4;

/// What both parties know of a set of sign tests.
#[derive(Clone, Copy, Debug)]
pub struct DigitTests {
    /// Bits of each share, l.
    pub sign_bits: u32,
    /// How many tests.
    pub n_instances: usize,
    /// Public start value of the hash keys: fresh and random for each batch under one `Delta`.
    pub start_key: Block,
    /// Inference and layer: unique under one start value.
    pub tweak: TweakBase,
}

/// One digit: `bits` bits of the share from `first_bit` on, rows from `first_row` on in the tables of a test.
#[derive(Clone, Copy)]
struct Digit {
    bits: u32,
    first_bit: u32,
    first_row: usize,
}

impl Digit {
    /// Values with the carry before it, which the first digit lacks.
    const fn n_values(self) -> usize {
        if self.first_bit == 0 {
            1 << self.bits
        } else {
            RADIX
        }
    }

    /// This digit of `value`.
    const fn of(self, value: u64) -> u8 {
        (value >> self.first_bit) as u8 & ((1 << self.bits) - 1)
    }
}

/// Digits of the carry of a test of `sign_bits` bits.
#[must_use]
pub const fn n_digits(sign_bits: u32) -> usize {
    match sign_bits {
        0 | 1 => 0,
        2 => 1,
        l => (l - 2).div_ceil(DIGIT_BITS) as usize,
    }
}

/// Rows of the tables of a test of `sign_bits` bits.
#[must_use]
pub const fn n_rows(sign_bits: u32) -> usize {
    match n_digits(sign_bits) {
        0 => 0,
        n => (1 << (sign_bits - 1 - DIGIT_BITS * (n as u32 - 1))) - 1 + (n - 1) * (RADIX - 1),
    }
}

impl DigitTests {
    /// Digits of one test.
    #[must_use]
    pub const fn n_digits(&self) -> usize {
        n_digits(self.sign_bits)
    }

    /// Digits of all tests: what [`digit_labels`] makes 16 bytes of each.
    #[must_use]
    pub const fn n_labels(&self) -> usize {
        self.n_instances * self.n_digits()
    }

    /// Correlated OTs of all tests.
    #[must_use]
    pub const fn n_ots(&self) -> usize {
        self.n_instances * self.sign_bits as usize
    }

    /// Bytes of all tables.
    #[must_use]
    pub const fn table_bytes(&self) -> usize {
        self.n_instances * n_rows(self.sign_bits) * Block::BYTES
    }

    /// Bytes that the labels of all digits take on the wire.
    #[must_use]
    pub const fn label_bytes(&self) -> usize {
        self.n_labels() * Block::BYTES
    }

    fn check(&self) -> Result<()> {
        if (1..=64).contains(&self.sign_bits) {
            return Ok(());
        }
        let l = self.sign_bits;
        Err(Error::Plan(format!(
            "a sign test of {l} bits; 1 to 64 exist"
        )))
    }

    fn digits(&self) -> impl Iterator<Item = Digit> + use<> {
        let n = self.n_digits() as u32;
        let first = (self.sign_bits - 1) - DIGIT_BITS * n.saturating_sub(1);
        (0..n).map(move |i| match i {
            0 => Digit {
                bits: first,
                first_bit: 0,
                first_row: 0,
            },
            _ => Digit {
                bits: DIGIT_BITS,
                first_bit: first + DIGIT_BITS * (i - 1),
                first_row: (1 << first) - 1 + (i as usize - 1) * (RADIX - 1),
            },
        })
    }

    fn n_batches(&self) -> usize {
        self.n_instances.div_ceil(BATCH)
    }

    /// The hash keys of the groups of `batch`.
    fn keys(&self, batch: usize) -> [u128; KEYS] {
        std::array::from_fn(|i| {
            let group = (batch * KEYS + i) as u64;
            group_key(self.start_key, Domain::Digit, self.tweak, group)
        })
    }

    /// `bits`-bit hashes of one output label of each test, in order.
    ///
    /// # Errors
    /// [`Error::Misuse`] unless `1 <= bits <= 64`.
    pub fn output_hash(
        &self,
        labels: impl ExactSizeIterator<Item = Block>,
        bits: u32,
    ) -> Result<Zeroizing<Vec<u64>>> {
        hash_to_bits(self.start_key, Domain::Output, self.tweak, 0, labels, bits)
            .map(Zeroizing::new)
    }
}

/// `block` times X^n in GF(2^128) modulo X^128 + X^7 + X^2 + X + 1, for 0 < n < 64.
#[inline(always)]
const fn times_x(block: Block, n: u32) -> Block {
    let carried = block.0 >> (128 - n);
    Block(block.0 << n ^ carried ^ carried << 1 ^ carried << 2 ^ carried << 7)
}

/// The sum of X^j times block j: blocks of bits to the block of their digit.
#[inline(always)]
fn join(blocks: &[Block]) -> Block {
    let next = |sum: Block, &block: &Block| times_x(sum, 1) ^ block;
    blocks.iter().rev().fold(Block::ZERO, next)
}

/// Delta times each digit.
struct Multiples([Block; 4]);

impl Multiples {
    fn new(delta: Block) -> Self {
        Self([0, 1, 2, 3].map(|n| if n == 0 { delta } else { times_x(delta, n) }))
    }

    /// Delta times `digit`, by mask.
    #[inline(always)]
    fn of(&self, digit: u8) -> Block {
        let bits = self.0.iter().zip(0..);
        bits.fold(Block::ZERO, |sum, (m, j)| {
            Block(sum.0 ^ m.0 & mask(digit >> j))
        })
    }
}

impl Drop for Multiples {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}
