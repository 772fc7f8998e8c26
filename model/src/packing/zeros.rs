//! Which positions of a source are corrected: those that a used output reads and that hold no data of the source. They must
//! hold zero, or a guest's value.
//!
//! An implied mask is random at every coefficient, padding and unused tail included, so the client must send the mask of
//! each such position. The set is {(t - q) mod N : t used output, q kernel exponent} minus the data. It depends only on
//! the number of images and the phases of the channels in a polynomial; equal cases are computed once. Sets of
//! coefficients are bit sets, and "reads through exponent q" is a rotation by q.

use super::{ResponsePacking, SourcePacking};
use std::collections::HashMap;
use std::sync::Arc;

/// A response, and pairs of a filter in one of its polynomials and a slot of an input polynomial that it reads.
type Pairs = (usize, Vec<(usize, usize)>);

/// A set of coefficients modulo N, N a multiple of 64.
struct Coefficients(Vec<u64>);

impl Coefficients {
    fn empty(degree: usize) -> Self {
        Self(vec![0; degree.div_ceil(64)])
    }

    fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    /// Adds {(t - q) mod N : t in `other`}.
    fn add_shifted(&mut self, other: &Self, q: usize) {
        let (n, words, bits) = (self.0.len(), q / 64, q % 64);
        for (i, word) in self.0.iter_mut().enumerate() {
            let low = other.0[(i + words) % n] >> bits;
            let high = match bits {
                0 => 0,
                _ => other.0[(i + words + 1) % n] << (64 - bits),
            };
            *word |= low | high;
        }
    }

    fn without(&self, other: &Self) -> Arc<[u32]> {
        let mut indices = Vec::new();
        for (i, (word, removed)) in self.0.iter().zip(&other.0).enumerate() {
            let mut left = word & !removed;
            while left != 0 {
                indices.push(i as u32 * 64 + left.trailing_zeros());
                left &= left - 1;
            }
        }
        indices.into()
    }
}

impl SourcePacking {
    /// For each polynomial the sorted positions that must encrypt a given value: a guest's mask where
    /// [`Self::guest_positions`] says so, zero elsewhere.
    pub fn corrections(&self) -> Vec<Arc<[u32]>> {
        let mut cache = HashMap::new();
        let mut sets = Vec::with_capacity(self.n_polys());
        let pairs: Vec<Vec<Pairs>> = (0..self.n_inputs()).map(|i| self.pairs_of(i)).collect();
        for group in 0..self.n_groups() {
            for (input, pairs) in pairs.iter().enumerate() {
                let key = (self.images_in(group), self.classes_of(input), pairs.clone());
                let set = cache
                    .entry(key)
                    .or_insert_with_key(|(images, classes, pairs)| {
                        self.correction_set(*images, classes, pairs)
                    });
                sets.push(Arc::clone(set));
            }
        }
        sets
    }

    /// For each response whose filters have groups, the filters of a polynomial and the slots of polynomial `input` that meet.
    fn pairs_of(&self, input: usize) -> Vec<Pairs> {
        let of_response = |(index, response): (usize, &ResponsePacking)| -> Vec<Pairs> {
            if response.is_uniform() {
                return vec![];
            }
            let polys = (0..response.n_filter_polys()).map(|j| response.meet(j, input));
            let mut met: Vec<Pairs> = polys
                .filter(|pairs| !pairs.is_empty())
                .map(|pairs| (index, pairs))
                .collect();
            met.sort_unstable();
            met.dedup();
            met
        };
        let responses = self.responses.iter().enumerate();
        responses.flat_map(of_response).collect()
    }

    /// Corrections of all polynomials.
    pub fn n_corrections(&self) -> usize {
        self.corrections().iter().map(|set| set.len()).sum()
    }

    /// Number among the phases of all parts of the phase in each slot of input polynomial `input` of a group.
    fn classes_of(&self, input: usize) -> Vec<u16> {
        let first = input * self.choice.channels;
        let last = (first + self.choice.channels).min(self.n_phase_channels());
        let parts = &self.block.parts;
        let class = |channel: usize| {
            let part = parts.iter().rfind(|p| p.first <= channel)?;
            Some((part.first_class + (channel - part.first) / part.channels) as u16)
        };
        (first..last).filter_map(class).collect()
    }

    fn correction_set(&self, images: usize, classes: &[u16], pairs: &[Pairs]) -> Arc<[u32]> {
        let mut read = Coefficients::empty(self.degree);
        for (at, response) in self.responses.iter().enumerate() {
            let mut used = Coefficients::empty(self.degree);
            for index in response.used(images) {
                used.insert(index % self.degree);
            }
            if !response.is_uniform() {
                let of_response = pairs.iter().filter(|(index, _)| *index == at);
                for &(o, slot) in of_response.flat_map(|(_, pairs)| pairs) {
                    for exponent in response.exponents(slot, classes[slot].into()) {
                        let exponent = exponent + o * response.filter_step();
                        read.add_shifted(&used, exponent % self.degree);
                    }
                }
                continue;
            }
            // The first response polynomial of a group has the most filters, so it reads all that the others read.
            let mut through_one = Coefficients::empty(self.degree);
            for (slot, &class) in classes.iter().enumerate() {
                for exponent in response.exponents(slot, class.into()) {
                    through_one.add_shifted(&used, exponent % self.degree);
                }
            }
            for o in 0..response.filters_per_poly().min(response.out_channels()) {
                read.add_shifted(&through_one, o * response.filter_step() % self.degree);
            }
        }
        let mut data = Coefficients::empty(self.degree);
        let (source, c_w) = (&self.block.parts[0], self.choice.channels);
        for block in 0..images {
            for (slot, &class) in classes.iter().enumerate() {
                let class = usize::from(class);
                if class >= source.phases.len() {
                    continue;
                }
                let start = (block * c_w + slot) * self.block.area;
                let (n_rows, n_columns) = source.n_positions(class);
                for i in 0..n_rows {
                    let row = start + (i + self.block.lead.0) * self.block.columns;
                    for j in 0..n_columns {
                        data.insert(row + self.block.lead.1 + j);
                    }
                }
            }
        }
        read.without(&data)
    }
}
