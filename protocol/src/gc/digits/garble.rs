//! The garbler of digits: tables and offsets offline, a masked label for each digit online.

use rand::CryptoRng;
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::{BATCH, Digit, DigitTests, MIN_BATCHES, Multiples, RADIX, join, times_x};
use crate::block::{Block, Delta, ZeroLabel};
use crate::error::{Error, Result};
use crate::gc::lanes::by_batch;
use crate::hash::LANES;
use crate::hash::path::Path;
use crate::hash::simd::{KEYS, Kernel, LANE_NUMBERS, Row, Simd};
use crate::prg::{Expander, Seed};

/// Rows that are hashed together.
const IN_FLIGHT: usize = 4;

/// What garbling leaves; everything is in the order of instances.
pub struct DigitGarbled {
    /// To send: the tables.
    pub tables: Vec<u8>,
    /// To send: the order of the rows, `l - 1` bits for each instance.
    pub orders: Vec<u64>,
    /// To keep: for each digit, what the evaluator's label of its random digit lacks of the table's label of zero.
    pub offsets: Zeroizing<Vec<Block>>,
    /// To keep: the output's label of [carry + random top bit of the evaluator = 0].
    pub outputs: Zeroizing<Vec<ZeroLabel>>,
}

/// Garbles all tests against `shares`, the garbler's.
///
/// `ots` are the sender's blocks, `l` for each instance, least significant bit first. `seed` serves one batch, as `Delta` and
/// the start key do not.
///
/// # Errors
/// [`Error::Misuse`] on wrong lengths.
pub fn garble_digits(
    tests: &DigitTests,
    delta: &Delta,
    seed: &Seed,
    ots: &[Block],
    shares: &[u64],
) -> Result<DigitGarbled> {
    garble_on(Path::best(), tests, delta, seed, ots, shares)
}

pub(super) fn garble_on(
    path: Path,
    tests: &DigitTests,
    delta: &Delta,
    seed: &Seed,
    ots: &[Block],
    shares: &[u64],
) -> Result<DigitGarbled> {
    tests.check()?;
    if ots.len() != tests.n_ots() || shares.len() != tests.n_instances {
        return Err(Error::Misuse(format!(
            "{} sign tests of {} bits, {} OTs and {} shares",
            tests.n_instances,
            tests.sign_bits,
            ots.len(),
            shares.len()
        )));
    }
    let ids = [tests.tweak.inference(), tests.tweak.layer() as u64];
    let mut rng = seed.stream("digit labels", &ids);
    let labels = Expander::new(*Zeroizing::new(Block::random(&mut rng)));
    let orders = random_bits(tests.n_instances, tests.sign_bits - 1, &mut rng);
    let (n, l) = (tests.n_digits(), tests.sign_bits as usize);
    let row_bytes = super::n_rows(tests.sign_bits) * Block::BYTES;
    let mut tables = vec![0; tests.table_bytes()];
    let mut offsets = Zeroizing::new(vec![Block::ZERO; tests.n_labels()]);
    let mut outputs = Zeroizing::new(vec![ZeroLabel::default(); tests.n_instances]);
    by_batch(&mut tables, tests.n_batches(), row_bytes)
        .into_par_iter()
        .zip(by_batch(&mut offsets, tests.n_batches(), n))
        .zip(by_batch(&mut outputs, tests.n_batches(), 1))
        .enumerate()
        .with_min_len(MIN_BATCHES)
        .for_each(|(batch, ((tables, offsets), outputs))| {
            let first = batch * BATCH;
            let instances = first..first + outputs.len();
            let mut labels_of_batch = Zeroizing::new(vec![Block::ZERO; offsets.len()]);
            labels.fill((first * n) as u64, &mut labels_of_batch);
            path.run(Garbling {
                tests,
                keys: tests.keys(batch),
                delta: delta.block(),
                labels: &labels_of_batch,
                ots: &ots[instances.start * l..instances.end * l],
                shares: &shares[instances.clone()],
                orders: &orders[instances],
                tables,
                offsets,
                outputs,
            });
        });
    Ok(DigitGarbled {
        tables,
        orders,
        offsets,
        outputs,
    })
}

fn random_bits(n: usize, bits: u32, rng: &mut impl CryptoRng) -> Vec<u64> {
    let keep = (1u64 << bits) - 1;
    (0..n).map(|_| rng.next_u64() & keep).collect()
}

/// One batch; slices hold its instances.
struct Garbling<'a> {
    tests: &'a DigitTests,
    keys: [u128; KEYS],
    delta: Block,
    /// Random labels of position zero, for each digit.
    labels: &'a [Block],
    ots: &'a [Block],
    shares: &'a [u64],
    orders: &'a [u64],
    tables: &'a mut [u8],
    offsets: &'a mut [Block],
    outputs: &'a mut [ZeroLabel],
}

impl Kernel for Garbling<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let keys = s.expand(&self.keys);
        let multiples = Multiples::new(self.delta);
        for group in 0..self.outputs.len().div_ceil(LANES) {
            self.group(s, &keys, group, &multiples);
        }
    }
}

impl Garbling<'_> {
    #[inline(always)]
    fn group<S: Simd>(&mut self, s: S, keys: &S::Keys, group: usize, multiples: &Multiples) {
        let first = group * LANES;
        let n_lanes = LANES.min(self.outputs.len() - first);
        let (n, l) = (self.tests.n_digits(), self.tests.sign_bits as usize);
        let mut carry = Zeroizing::new(Row::default());
        for (i, digit) in self.tests.digits().enumerate() {
            let mut base = Zeroizing::new(Row::default());
            let mut truths = Zeroizing::new(Row::default());
            for lane in 0..n_lanes {
                let (instance, at) = (first + lane, (first + lane) * n + i);
                let (share, order) = (self.shares[instance], self.orders[instance]);
                let bits = &self.ots[instance * l + digit.first_bit as usize..];
                let label = self.labels[at];
                let order = digit.of(order);
                self.offsets[at] = label ^ join(&bits[..digit.bits as usize]) ^ multiples.of(order);
                // The label of the carry whose colour is 0, and the carry that it stands for.
                let colour = carry.0[lane].lsb();
                let carried = times_x(carry.0[lane].xor_if(colour, self.delta), super::DIGIT_BITS);
                base.0[lane] = Block(label.0 ^ carried.0);
                truths.0[lane] = Block(truth(digit, digit.of(share), order, colour).into());
            }
            *carry = self.rows(s, keys, (group, i, n_lanes), digit, &base, &truths);
        }
        for lane in 0..n_lanes {
            let top = self.ots[(first + lane) * l + l - 1];
            self.outputs[first + lane] = ZeroLabel(carry.0[lane] ^ top);
        }
    }

    /// Hashes the rows of one digit of a group and writes them; returns the zero-labels of the carries.
    #[inline(always)]
    fn rows<S: Simd>(
        &mut self,
        s: S,
        keys: &S::Keys,
        (group, i, n_lanes): (usize, usize, usize),
        digit: Digit,
        base: &Row,
        truths: &Row,
    ) -> Row {
        let n_values = digit.n_values();
        let multiples = Multiples::new(self.delta);
        let (delta, base, truths) = (s.splat(self.delta.0), s.load(base), s.load(truths));
        let tweak = s.xor(s.load(&LANE_NUMBERS), s.splat((i * LANES) as u128));
        let one_of = |value: usize| s.spread_lsb(s.shift_right(truths, value as u32));
        let mut first_hash = base;
        let mut out = Zeroizing::new(Row::default());
        let table = group * LANES * super::n_rows(self.tests.sign_bits);
        for value in (0..n_values).step_by(IN_FLIGHT) {
            let mut h = [[base; IN_FLIGHT]];
            for (j, h) in h[0].iter_mut().enumerate() {
                *h = s.xor(base, s.splat(multiples.of((value + j) as u8).0));
            }
            s.tmmo(keys, group, &mut h, &[tweak; IN_FLIGHT]);
            if value == 0 {
                first_hash = h[0][0];
            }
            for (j, h) in h[0].iter().enumerate().take(n_values - value) {
                let flip = s.and(s.xor(one_of(value + j), one_of(0)), delta);
                s.store(s.xor(s.xor(*h, first_hash), flip), &mut out);
                if value + j == 0 {
                    continue;
                }
                let row = digit.first_row + value + j - 1;
                let at = (table + row * n_lanes) * Block::BYTES;
                let bytes = self.tables[at..].as_chunks_mut().0;
                for (bytes, block) in bytes.iter_mut().zip(&out.0[..n_lanes]) {
                    *bytes = block.to_le_bytes();
                }
            }
        }
        let mut carry = Row::default();
        s.store(s.xor(first_hash, s.and(one_of(0), delta)), &mut carry);
        carry
    }
}

/// Bit p says whether the row at position p stands for a carry: the evaluator's digit is p xor `order` in its low bits, the carry before
/// it is the bit above xor `colour`, and the garbler's digit is `share`. No branch on any of them.
#[inline(always)]
fn truth(digit: Digit, share: u8, order: u8, colour: u8) -> u32 {
    let n_values = 1u32 << digit.bits;
    let below = ((1u64 << n_values) - 1) as u32;
    // Bit d: whether d + share + carry >= n_values.
    let of_carry = |carry: u8| {
        let carried = u64::from(below) << (n_values - u32::from(share) - u32::from(carry));
        let mut bits = carried as u32 & below;
        for (j, low) in [0x5555u32, 0x3333, 0x0f0f, 0x00ff].into_iter().enumerate() {
            let swapped = (bits & low) << (1 << j) | bits >> (1 << j) & low;
            let swap = u32::from(order >> j & 1).wrapping_neg();
            bits ^= (bits ^ swapped) & swap;
        }
        bits
    };
    if digit.first_bit == 0 {
        return of_carry(0);
    }
    of_carry(colour) | of_carry(colour ^ 1) << (RADIX / 2)
}

/// The labels of the digits of `masked`, as they are sent: the evaluator adds its own of its random digits.
/// `masked` are its values, each bit masked by the random choice of its OT.
///
/// # Errors
/// [`Error::Misuse`] on wrong lengths.
pub fn digit_labels(
    tests: &DigitTests,
    offsets: &[Block],
    delta: &Delta,
    masked: &[u64],
) -> Result<Vec<u8>> {
    let n = tests.n_digits();
    if offsets.len() != tests.n_labels() || masked.len() != tests.n_instances {
        return Err(Error::Misuse(format!(
            "{} masked values and {} digits for {} sign tests",
            masked.len(),
            offsets.len(),
            tests.n_instances
        )));
    }
    let mut bytes = vec![0; tests.label_bytes()];
    if n == 0 {
        return Ok(bytes);
    }
    let multiples = Multiples::new(delta.block());
    bytes
        .par_chunks_exact_mut(n * Block::BYTES)
        .zip(offsets.par_chunks_exact(n))
        .zip(masked)
        .with_min_len(MIN_BATCHES * BATCH)
        .for_each(|((bytes, offsets), &masked)| {
            let labels = bytes.as_chunks_mut().0.iter_mut().zip(offsets);
            for ((label, &offset), digit) in labels.zip(tests.digits()) {
                *label = (offset ^ multiples.of(digit.of(masked))).to_le_bytes();
            }
        });
    Ok(bytes)
}
