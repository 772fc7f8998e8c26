//! The labels of the garbler's own inputs, online: 16 bytes for each bit, memory to memory, on all cores.
//!
//! Garbler -> evaluator, instance after instance, least significant bit first. Bits select by mask.

use rayon::prelude::*;

use crate::block::{ActiveLabel, Delta, ZeroLabel};
use crate::error::{Error, Result};

/// Values that one task of the thread pool takes at least.
const MIN_VALUES: usize = 512;

/// The labels of the low `n_bits` of each value, as they are sent; `zeros` are `n_bits` for each value.
///
/// # Errors
/// [`Error::Misuse`] unless `1 <= n_bits <= 64` and the lengths agree.
pub fn active_label_bytes(
    zeros: &[ZeroLabel],
    values: &[u64],
    n_bits: usize,
    delta: &Delta,
) -> Result<Vec<u8>> {
    if !(1..=64).contains(&n_bits) || zeros.len() != values.len() * n_bits {
        let (n_zeros, n_values) = (zeros.len(), values.len());
        return Err(Error::Misuse(format!(
            "{n_values} values of {n_bits} bits and {n_zeros} labels"
        )));
    }
    let mut bytes = vec![0; zeros.len() * ActiveLabel::BYTES];
    bytes
        .par_chunks_exact_mut(n_bits * ActiveLabel::BYTES)
        .zip(zeros.par_chunks_exact(n_bits))
        .zip(values)
        .with_min_len(MIN_VALUES)
        .for_each(|((bytes, zeros), &value)| {
            let labels = bytes.as_chunks_mut().0.iter_mut().zip(zeros);
            for (i, (label, zero)) in labels.enumerate() {
                *label = zero.active((value >> i) as u8, delta).to_bytes();
            }
        });
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn labels_are_those_of_the_bits() {
        let mut rng = ChaCha20Rng::seed_from_u64(21);
        let delta = Delta::random(&mut rng);
        for (n, n_bits) in [(0, 3), (1, 1), (7, 14), (2000, 14), (3, 64)] {
            let zeros: Vec<ZeroLabel> = (0..n * n_bits)
                .map(|_| ZeroLabel(Block::random(&mut rng)))
                .collect();
            let values: Vec<u64> = (0..n).map(|_| rng.random()).collect();
            let bytes = active_label_bytes(&zeros, &values, n_bits, &delta).unwrap();
            let (labels, rest) = bytes.as_chunks::<16>();
            assert!(rest.is_empty() && labels.len() == zeros.len());
            for (i, label) in labels.iter().enumerate() {
                let bit = values[i / n_bits] >> (i % n_bits) & 1;
                assert_eq!(*label, zeros[i].active(bit as u8, &delta).to_bytes());
            }
        }
        let zeros = [ZeroLabel::default(); 4];
        assert!(active_label_bytes(&zeros, &[0], 3, &delta).is_err());
        assert!(active_label_bytes(&zeros[..0], &[], 0, &delta).is_err());
        assert!(active_label_bytes(&zeros[..0], &[], 65, &delta).is_err());
    }
}
