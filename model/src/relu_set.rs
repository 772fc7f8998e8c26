//! The surviving ReLU positions of a layer: gather them, compute on them as one batch, scatter the results.

use crate::error::{ModelError, Result};

/// Sorted positions, of a flattened (C, H, W) tensor, that keep their ReLU. Public by design.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReluSet {
    kept: Vec<u32>,
    removed: Vec<u32>,
}

impl ReluSet {
    /// From a mask of zeros and ones.
    ///
    /// # Errors
    /// [`ModelError::Op`] when a byte is neither.
    pub fn from_mask(op: &str, mask: &[u8]) -> Result<Self> {
        if let Some(position) = mask.iter().position(|&m| m > 1) {
            return Err(ModelError::op(
                op,
                format!(
                    "its mask holds {} at position {position}; only 0 and 1 are allowed",
                    mask[position]
                ),
            ));
        }
        let positions = |wanted| {
            (0u32..)
                .zip(mask)
                .filter(|&(_, &m)| m == wanted)
                .map(|(i, _)| i)
                .collect()
        };
        Ok(Self {
            kept: positions(1),
            removed: positions(0),
        })
    }

    /// Positions of the whole tensor.
    #[must_use]
    pub fn n_positions(&self) -> usize {
        self.kept.len() + self.removed.len()
    }

    /// Positions with a ReLU, sorted.
    #[must_use]
    pub fn kept(&self) -> &[u32] {
        &self.kept
    }

    /// Positions without, sorted.
    #[must_use]
    pub fn removed(&self) -> &[u32] {
        &self.removed
    }

    /// The mask as zeros and ones.
    #[must_use]
    pub fn to_mask(&self) -> Vec<u8> {
        let mut mask = vec![0; self.n_positions()];
        for &i in &self.kept {
            mask[i as usize] = 1;
        }
        mask
    }
}

/// The values at `positions`.
#[must_use]
pub fn gather<T: Copy>(values: &[T], positions: &[u32]) -> Vec<T> {
    positions.iter().map(|&i| values[i as usize]).collect()
}

/// Writes `values` to `positions` of `target`.
pub fn scatter<T: Copy>(target: &mut [T], positions: &[u32], values: &[T]) {
    for (&i, &v) in positions.iter().zip(values) {
        target[i as usize] = v;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gather_and_scatter_are_inverse() {
        let set = ReluSet::from_mask("r", &[1, 0, 0, 1, 1]).unwrap();
        assert_eq!((set.kept(), set.removed()), (&[0, 3, 4][..], &[1, 2][..]));
        let values = [5, 6, 7, 8, 9];
        let mut back = [0; 5];
        for positions in [set.kept(), set.removed()] {
            scatter(&mut back, positions, &gather(&values, positions));
        }
        assert_eq!(back, values);
        assert!(ReluSet::from_mask("r", &[0, 2]).is_err());
    }
}
