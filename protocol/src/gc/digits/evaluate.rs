//! The evaluator of digits: one hash and one row for each.

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::{BATCH, DIGIT_BITS, DigitTests, MIN_BATCHES, join, times_x};
use crate::block::{ActiveLabel, Block};
use crate::error::{Error, Result};
use crate::gc::lanes::by_batch;
use crate::hash::LANES;
use crate::hash::path::Path;
use crate::hash::simd::{KEYS, Kernel, LANE_NUMBERS, Row, Simd};

/// From the receiver's blocks, `l` for each test, what the evaluator keeps: the label of each random digit, then that of the top bit.
///
/// # Errors
/// [`Error::Misuse`] on wrong lengths.
pub fn evaluator_keys(tests: &DigitTests, ots: &[Block]) -> Result<Zeroizing<Vec<Block>>> {
    tests.check()?;
    if ots.len() != tests.n_ots() {
        return Err(Error::Misuse(format!(
            "{} OTs for {} sign tests",
            ots.len(),
            tests.n_instances
        )));
    }
    let mut keys = Zeroizing::new(Vec::with_capacity(tests.n_labels() + tests.n_instances));
    for ots in ots.chunks_exact(tests.sign_bits as usize) {
        for digit in tests.digits() {
            let bits = &ots[digit.first_bit as usize..];
            keys.push(join(&bits[..digit.bits as usize]));
        }
        keys.extend(ots.last());
    }
    Ok(keys)
}

/// Evaluates all tests: the labels of [sum negative] up to constants of the garbler.
///
/// `keys` are of [`evaluator_keys`], `labels` as they came, 16 bytes a digit; `positions` are the evaluator's values, each xor the order of
/// its rows, so that the rows that are read depend on no secret.
///
/// # Errors
/// [`Error::Peer`] where tables or labels have the wrong length, [`Error::Misuse`] for the evaluator's own.
pub fn evaluate_digits(
    tests: &DigitTests,
    tables: &[u8],
    keys: &[Block],
    labels: &[u8],
    positions: &[u64],
) -> Result<Zeroizing<Vec<ActiveLabel>>> {
    evaluate_on(Path::best(), tests, tables, keys, labels, positions)
}

pub(super) fn evaluate_on(
    path: Path,
    tests: &DigitTests,
    tables: &[u8],
    keys: &[Block],
    labels: &[u8],
    positions: &[u64],
) -> Result<Zeroizing<Vec<ActiveLabel>>> {
    tests.check()?;
    let n = tests.n_digits();
    let expected = [tests.table_bytes(), tests.label_bytes()];
    if [tables.len(), labels.len()] != expected {
        let [table_bytes, label_bytes] = expected;
        return Err(Error::peer(
            "garbled digits",
            tests.tweak.layer(),
            format!("{table_bytes} bytes of tables, {label_bytes} of labels"),
            format!("{} and {}", tables.len(), labels.len()),
        ));
    }
    if keys.len() != tests.n_instances * (n + 1) || positions.len() != tests.n_instances {
        return Err(Error::Misuse(format!(
            "{} keys and {} positions for {} sign tests",
            keys.len(),
            positions.len(),
            tests.n_instances
        )));
    }
    let rows = super::n_rows(tests.sign_bits);
    let tables = tables.as_chunks().0;
    let labels = labels.as_chunks().0;
    let mut outputs = Zeroizing::new(vec![ActiveLabel::default(); tests.n_instances]);
    by_batch(&mut outputs, tests.n_batches(), 1)
        .into_par_iter()
        .enumerate()
        .with_min_len(MIN_BATCHES)
        .for_each(|(batch, outputs)| {
            let first = batch * BATCH;
            let end = first + outputs.len();
            path.run(Evaluation {
                tests,
                hash_keys: tests.keys(batch),
                tables: &tables[first * rows..end * rows],
                keys: &keys[first * (n + 1)..end * (n + 1)],
                labels: &labels[first * n..end * n],
                positions: &positions[first..end],
                outputs,
            });
        });
    Ok(outputs)
}

/// One batch; slices hold its instances.
struct Evaluation<'a> {
    tests: &'a DigitTests,
    hash_keys: [u128; KEYS],
    tables: &'a [[u8; 16]],
    keys: &'a [Block],
    labels: &'a [[u8; 16]],
    positions: &'a [u64],
    outputs: &'a mut [ActiveLabel],
}

impl Kernel for Evaluation<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let hash_keys = s.expand(&self.hash_keys);
        let (n, n_rows) = (self.tests.n_digits(), super::n_rows(self.tests.sign_bits));
        let n_instances = self.outputs.len();
        let lane_numbers = s.load(&LANE_NUMBERS);
        // The rows that may be needed, for either carry: they lie far apart, so they are asked for at once.
        for (instance, &position) in self.positions.iter().enumerate() {
            let (group, lane) = (instance / LANES, instance % LANES);
            let n_lanes = LANES.min(n_instances - group * LANES);
            for digit in self.tests.digits() {
                let low = usize::from(digit.of(position));
                for value in (low..digit.n_values()).step_by(1 << digit.bits) {
                    let row = (digit.first_row + value).saturating_sub(1);
                    let at = group * LANES * n_rows + row * n_lanes + lane;
                    s.prefetch(self.tables.as_ptr().wrapping_add(at).cast());
                }
            }
        }
        let mut carries = Zeroizing::new([Row::default(); KEYS]);
        let mut hashes = Zeroizing::new([Row::default(); KEYS]);
        for (i, digit) in self.tests.digits().enumerate() {
            let mut x = [[lane_numbers; 1]; KEYS];
            for (group, x) in x.iter_mut().enumerate() {
                let mut row = Row::default();
                let instances = (group * LANES)..n_instances.min((group + 1) * LANES);
                for (lane, instance) in instances.enumerate() {
                    let own = self.keys[instance * (n + 1) + i];
                    let sent = Block::from_le_bytes(self.labels[instance * n + i]);
                    let carried = times_x(carries[group].0[lane], DIGIT_BITS);
                    row.0[lane] = own ^ sent ^ carried;
                }
                x[0] = s.load(&row);
            }
            let tweak = s.xor(lane_numbers, s.splat((i * LANES) as u128));
            s.tmmo(&hash_keys, 0, &mut x, &[tweak]);
            for (x, row) in x.iter().zip(hashes.iter_mut()) {
                s.store(x[0], row);
            }
            for instance in 0..n_instances {
                let (group, lane) = (instance / LANES, instance % LANES);
                let n_lanes = LANES.min(n_instances - group * LANES);
                let colour = usize::from(carries[group].0[lane].lsb());
                // Masked by the garbler's order and colour: it may be an address.
                let position = usize::from(digit.of(self.positions[instance]));
                let position = position | colour << digit.bits;
                let mut label = hashes[group].0[lane];
                if position > 0 {
                    let row = digit.first_row + position - 1;
                    let at = group * LANES * n_rows + row * n_lanes + lane;
                    label ^= Block::from_le_bytes(self.tables[at]);
                }
                carries[group].0[lane] = label;
            }
        }
        for (instance, output) in self.outputs.iter_mut().enumerate() {
            let top = self.keys[instance * (n + 1) + n];
            *output = ActiveLabel(carries[instance / LANES].0[instance % LANES] ^ top);
        }
    }
}
