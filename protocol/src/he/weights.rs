//! The weight polynomials of a convolution, ready to be evaluated tile by tile.
//!
//! A weight polynomial has few terms: a kernel for each pair of filter and channel that share it. So the upper levels of
//! its transform are left out: a term w X^(m a + b) falls on vector b of each node of m vectors, as w times a constant of
//! the node and a, and only the levels below the node are computed. The depth k of the nodes is chosen by cost. Where there
//! are very few terms, they are evaluated at the points themselves.
//!
//! All polynomials of one input have their terms at the same places, whatever the weights: time does not depend on them.

use super::field::{Field, LEVELS, VECTORS};
use super::kernel::{self, MAX_WEIGHTS, TILE, Terms};
use super::lanes::Lanes;
use super::params::DEGREE;
use pi_model::packing::ResponsePacking;
use std::collections::HashMap;
use zeroize::Zeroizing;

/// Bytes of ciphertexts that may be walked through for each filter: about half of a second-level cache.
const CACHED_BYTES: usize = 600 << 10;

/// Weights in the order of evaluation.
pub(super) struct Weights {
    /// Depth of the nodes.
    pub(super) k: u32,
    is_direct: bool,
    /// Terms whose weights add up to at most [`MAX_WEIGHTS`]; 0 if the weights are too large.
    at_once: usize,
    shapes: Vec<Shape>,
    /// For each filter polynomial the inputs that any of its weights meets; one list for all where they are alike.
    inputs: Vec<Vec<Input>>,
    values: Zeroizing<Vec<i64>>,
    /// Weights of a filter polynomial, where all have one list of inputs.
    n_terms: usize,
}

/// An input polynomial that filters read.
#[derive(Clone)]
pub(super) struct Input {
    /// Its number within the group.
    pub(super) index: usize,
    shape: usize,
    /// Where the weights begin among those of the list.
    start: usize,
}

/// Where the terms of a weight polynomial are.
struct Shape {
    positions: Vec<u32>,
    terms: Terms,
    /// The a of each row of a table.
    exponents: Vec<usize>,
}

/// Tables of one node, for each shape.
pub(super) struct Tables(Vec<Vec<Lanes>>);

impl Weights {
    /// Prepares `weights`, in (O, C / groups, kh, kw) order.
    pub(super) fn new(packing: &ResponsePacking, weights: &[i32]) -> Self {
        let places = places(packing);
        let terms = places.iter().flatten().map(|(_, terms)| terms.len());
        let most_terms = terms.max().unwrap_or(1);
        let n_inputs = places.iter().map(Vec::len).max().unwrap_or(1);
        let bytes_of_vector = 128 * packing.n_groups() * n_inputs;
        let fits = most_terms as u64 * largest(weights) <= MAX_WEIGHTS;
        let (k, is_direct) = cheapest(most_terms, bytes_of_vector, packing.n_groups(), fits);
        Self::arrange(packing, weights, places, k, is_direct)
    }

    fn arrange(
        packing: &ResponsePacking,
        weights: &[i32],
        places: Vec<Vec<Places>>,
        k: u32,
        is_direct: bool,
    ) -> Self {
        let m = (VECTORS >> k) as u32;
        let mut shapes = Shapes::default();
        let (mut inputs, mut order) = (Vec::with_capacity(places.len()), Vec::new());
        for of_list in places {
            let mut list = Vec::with_capacity(of_list.len());
            for (index, mut terms) in of_list {
                terms.sort_unstable_by_key(|(at, _)| (at % m, at / m));
                let positions: Vec<u32> = terms.iter().map(|(at, _)| *at).collect();
                list.push(Input {
                    index,
                    shape: shapes.number(positions, m as usize),
                    start: order.len(),
                });
                order.extend(terms.into_iter().map(|(_, number)| number));
            }
            inputs.push(list);
        }
        let n_terms = order.len();
        Self {
            k,
            is_direct,
            at_once: (MAX_WEIGHTS / largest(weights)) as usize,
            shapes: shapes.all,
            values: values(packing, weights, &order),
            inputs,
            n_terms,
        }
    }

    /// The inputs that filter polynomial `filters` reads, in order.
    pub(super) fn inputs(&self, filters: usize) -> &[Input] {
        match &self.inputs[..] {
            [all] => all,
            lists => &lists[filters],
        }
    }

    /// The tables that [`Weights::evaluate`] needs for node `r`.
    pub(super) fn tables(&self, field: &Field, r: usize) -> Tables {
        let of_shape = |shape: &Shape| -> Vec<Lanes> {
            if self.is_direct {
                let points: [_; TILE] = std::array::from_fn(|v| Field::point(LEVELS, r * TILE + v));
                let exponents = shape.positions.iter().map(|&at| at as usize);
                exponents
                    .flat_map(|e| points.map(|point| field.powers_of(&point, e)))
                    .collect()
            } else {
                let point = Field::point(self.k, r);
                let exponents = shape.exponents.iter();
                exponents.map(|&a| field.powers_of(&point, a)).collect()
            }
        };
        Tables(self.shapes.iter().map(of_shape).collect())
    }

    /// Transform of weight polynomial (`filters`, `input`) in node `r`, below 4 p.
    pub(super) fn evaluate(
        &self,
        field: &Field,
        tables: &Tables,
        r: usize,
        filters: usize,
        input: &Input,
        out: &mut [Lanes],
    ) {
        let shape = &self.shapes[input.shape];
        let table = &tables.0[input.shape];
        let list = if self.inputs.len() == 1 { filters } else { 0 };
        let start = list * self.n_terms + input.start;
        let weights = &self.values[start..start + shape.positions.len()];
        if self.is_direct {
            kernel::evaluate_direct(field, table, weights, out);
            return;
        }
        if self.at_once == 0 {
            kernel::evaluate_wide(field, &shape.terms, table, weights, out);
        } else {
            kernel::evaluate(field, &shape.terms, self.at_once, table, weights, out);
        }
        kernel::forward(field, self.k, r, out);
    }
}

/// The number of an input, and for each coefficient that holds a weight in its first polynomial the number of that weight,
/// counted from 1 and negated if the coefficient is.
type Places = (usize, Vec<(u32, i32)>);

/// Where weights stand, for each filter polynomial j, which holds filters j O_w ..; without groups the first tells it all.
fn places(packing: &ResponsePacking) -> Vec<Vec<Places>> {
    let numbers: Vec<i32> = (1..=packing.n_weights() as i32).collect();
    let mut dense = vec![0; DEGREE];
    let n_lists = match packing.is_uniform() {
        true => 1,
        false => packing.n_filter_polys(),
    };
    let lists = (0..n_lists).map(|j| {
        let of_input = |input: usize| {
            packing.kernel(j, input, &numbers, &mut dense);
            let terms = dense.iter().enumerate().filter(|(_, number)| **number != 0);
            let terms = terms.map(|(at, &number)| (at as u32, number)).collect();
            (input, terms)
        };
        packing.inputs_of(j).into_iter().map(of_input).collect()
    });
    lists.collect()
}

/// The weights whose numbers are `order`, and those at the same places of all other polynomials if there is one list for all.
fn values(packing: &ResponsePacking, weights: &[i32], order: &[i32]) -> Zeroizing<Vec<i64>> {
    // A guest's weights follow all of the host's, and have a stride of their own.
    let order = order.iter().map(|number| {
        let at = number.unsigned_abs() as usize - 1;
        (at, packing.stride(at), *number < 0)
    });
    let order: Vec<_> = order.collect();
    let n_copies = match packing.is_uniform() {
        true => packing.n_filter_polys(),
        false => 1,
    };
    let mut values = Zeroizing::new(Vec::with_capacity(order.len() * n_copies));
    for j in 0..n_copies {
        values.extend(order.iter().map(|(first, stride, is_negated)| {
            let at = first + j * stride.step;
            let weight = weights.get(at).filter(|_| at < stride.end);
            let weight = weight.map_or(0, |&w| i64::from(w));
            if *is_negated { -weight } else { weight }
        }));
    }
    values
}

/// The shapes so far, by their positions.
#[derive(Default)]
struct Shapes {
    all: Vec<Shape>,
    known: HashMap<Vec<u32>, usize>,
}

impl Shapes {
    fn number(&mut self, positions: Vec<u32>, m: usize) -> usize {
        let all = &mut self.all;
        *self.known.entry(positions).or_insert_with_key(|positions| {
            all.push(Shape::new(positions.clone(), m));
            all.len() - 1
        })
    }
}

/// A bound on the weights' absolute values: only their width shows.
fn largest(weights: &[i32]) -> u64 {
    let largest = weights.iter().map(|w| w.unsigned_abs()).max().unwrap_or(0);
    u64::from(largest).next_power_of_two()
}

impl Shape {
    /// Terms at `positions`, sorted by vector, in nodes of `m` vectors.
    fn new(positions: Vec<u32>, m: usize) -> Self {
        let mut exponents: Vec<usize> = positions.iter().map(|&at| at as usize / m).collect();
        exponents.sort_unstable();
        exponents.dedup();
        let mut terms = Terms::default();
        for (i, &at) in positions.iter().enumerate() {
            let row = exponents.partition_point(|&a| a < at as usize / m);
            terms.rows.push(row as u16);
            match terms.runs.last_mut() {
                Some((vector, end)) if *vector == at as usize % m => *end = i + 1,
                _ => terms.runs.push((at as usize % m, i + 1)),
            }
        }
        Self {
            positions,
            terms,
            exponents,
        }
    }
}

/// Depth of the nodes, and whether terms are evaluated at the points themselves. Costs are cycles for eight vectors, as
/// measured on a processor that starts one 512-bit multiplication a cycle.
fn cheapest(n_terms: usize, bytes_of_vector: usize, n_groups: usize, fits: bool) -> (u32, bool) {
    let n_terms = n_terms as f64;
    let cost = |k: u32| {
        let m = VECTORS >> k;
        let spread = n_terms * 17.0 / m as f64;
        let levels = f64::from(LEVELS - k) * 18.0;
        let from_memory = if bytes_of_vector * m > CACHED_BYTES {
            100.0 * n_groups as f64
        } else {
            0.0
        };
        spread + levels + from_memory + 12.0
    };
    let deepest = LEVELS - TILE.trailing_zeros();
    let costs = (0..=deepest).map(|k| (cost(k), k));
    let (least, k) = costs.fold((f64::INFINITY, 0), |a, b| if b.0 < a.0 { b } else { a });
    if fits && n_terms * 10.0 + 12.0 < least {
        (deepest, true)
    } else {
        (k, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::he::field::FIELDS;
    use crate::he::ntt::Poly;
    use pi_model::packing::{ConvGeometry, GuestSpec, PackingChoice, SourcePacking, SourceSpec};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn nodes_of_any_depth_equal_the_whole_transform() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for (channels, size, stride, choice) in [
            (3, 9, 1, (2, 2, [2, 3])),
            (5, 10, 2, (1, 3, [2, 1])),
            (2, 15, 1, (1, 2, [4, 8])),
        ] {
            // A shortcut of stride 2 on twice the map joins the first consumer where the strides allow it.
            let guest = GuestSpec {
                channels: 2,
                height: 2 * size,
                width: 2 * size,
                stride: [2; 2],
                conv: ConvGeometry::square(5, 1, 0, 2, 2 * size),
                consumer: 0,
            };
            let convs = [(5, 3, 1), (4, 1, 0)];
            let spec = SourceSpec {
                guests: if stride == 1 { vec![guest] } else { vec![] },
                ..SourceSpec::square(channels, size, 2, stride, &convs)
            };
            let choice = PackingChoice {
                images: choice.0,
                channels: choice.1,
                filters: choice.2.to_vec(),
            };
            let packing = SourcePacking::new(&spec, DEGREE, &choice).unwrap();
            for response in packing.responses() {
                for largest in [1, 127, 40_000] {
                    let weights: Vec<i32> = (0..response.n_weights())
                        .map(|_| rng.random_range(-largest..=largest))
                        .collect();
                    check(response, &weights);
                }
            }
        }
    }

    fn check(packing: &ResponsePacking, weights: &[i32]) {
        let places = places(packing);
        let most_terms = places.iter().flatten().map(|(_, terms)| terms.len());
        let most_terms = most_terms.max().unwrap();
        let fits = most_terms as u64 * largest(weights) <= MAX_WEIGHTS;
        for (k, is_direct) in (0..=6).map(|k| (k, false)).chain([(6, true)]) {
            if is_direct && !fits {
                continue;
            }
            let arranged = Weights::arrange(packing, weights, places.clone(), k, is_direct);
            let (m, mut dense) = (VECTORS >> k, vec![0; DEGREE]);
            for (prime, field) in FIELDS.iter().enumerate() {
                for r in [0, (1 << k) / 3, (1 << k) - 1] {
                    let tables = arranged.tables(field, r);
                    for j in 0..packing.n_filter_polys() {
                        for input in arranged.inputs(j) {
                            packing.kernel(j, input.index, weights, &mut dense);
                            let whole = Poly::from_small(&dense);
                            let due = &whole.transforms()[prime * VECTORS + r * m..][..m];
                            let mut out = vec![Lanes::ZERO; m];
                            arranged.evaluate(field, &tables, r, j, input, &mut out);
                            let reduced = |v: &Lanes| v.0.map(|a| a % field.p);
                            assert!(
                                out.iter().map(reduced).eq(due.iter().map(reduced)),
                                "depth {k}, node {r}, filters {j}, input {}",
                                input.index
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn few_terms_are_evaluated_directly_and_many_high_up() {
        assert_eq!(cheapest(2, 128, 1, true), (6, true));
        assert!(!cheapest(2, 128, 1, false).1 && !cheapest(27, 128, 1, true).1);
        assert!(cheapest(1440, 128, 1, true).0 <= 2);
    }
}
