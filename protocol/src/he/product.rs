//! Sums of products of transformed ciphertexts and weight polynomials.
//!
//! Transforms multiply point by point, so a convolution is a matrix product at each point: filters x inputs times inputs x
//! (groups, halves). It is computed node by node of the transform (see [`super::weights`]), for all filters at once: the
//! ciphertexts of a node stay in the second-level cache, a few weight polynomials and the sums in the first. Ciphertexts lie
//! in the order in which they are read. Sums are 52-bit halves of products that are reduced once.

use super::field::{FIELDS, VECTORS};
use super::kernel::{self, MAX_PRODUCTS, TILE};
use super::lanes::Lanes;
use super::ntt::{Ntt, Poly};
use super::weights::Weights;
use pi_model::packing::ResponsePacking;
use rayon::prelude::*;
use std::ops::Range;

/// Tiles of a transform modulo one prime.
const TILES: usize = VECTORS / TILE;
/// Vectors of weight polynomials that are evaluated before they are multiplied.
const EVALUATED: usize = 512;

/// Ciphertexts, for each tile modulo each prime: (polynomial, half, vector). They are no secrets, and are not wiped.
pub(super) struct Ciphertexts {
    n_polys: usize,
    tiles: Vec<Vec<Lanes>>,
}

impl Ciphertexts {
    pub(super) fn new(polys: &[[Poly<Ntt>; 2]]) -> Self {
        let of_tile = |tile: usize| {
            let mut data = Vec::with_capacity(polys.len() * 2 * TILE);
            for half in polys.iter().flatten() {
                data.extend_from_slice(&half.transforms()[tile * TILE..][..TILE]);
            }
            data
        };
        Self {
            n_polys: polys.len(),
            tiles: (0..2 * TILES).into_par_iter().map(of_tile).collect(),
        }
    }

    pub(super) fn n_polys(&self) -> usize {
        self.n_polys
    }

    /// Polynomials `polys` in tile `tile` of prime `prime`.
    fn tile(&self, prime: usize, tile: usize, polys: Range<usize>) -> &[Lanes] {
        let data = &self.tiles[prime * TILES + tile];
        &data[polys.start * 2 * TILE..polys.end * 2 * TILE]
    }

    /// For each response polynomial `g * J + j` both halves of the sum over all inputs i of group g of ciphertext times
    /// weight polynomial (j, i), below 2 p.
    pub(super) fn convolve(
        &self,
        packing: &ResponsePacking,
        weights: &Weights,
    ) -> Vec<[Poly<Ntt>; 2]> {
        let n_nodes = 1 << weights.k;
        let (n_filters, n_groups) = (packing.n_filter_polys(), packing.n_groups());
        let n_parts = (4 * rayon::current_num_threads()).div_ceil(2 * n_nodes);
        let part = n_filters.div_ceil(n_parts.min(n_filters));
        let n_parts = n_filters.div_ceil(part);
        let parts: Vec<Vec<Lanes>> = (0..2 * n_nodes * n_parts)
            .into_par_iter()
            .map(|index| {
                let (node, first) = (index / n_parts, index % n_parts * part);
                let filters = first..(first + part).min(n_filters);
                self.convolve_node(packing, weights, node / n_nodes, node % n_nodes, filters)
            })
            .collect();
        let n_tiles = TILES >> weights.k;
        (0..n_groups * n_filters)
            .into_par_iter()
            .map(|poly| {
                let (group, j) = (poly / n_filters, poly % n_filters);
                [0, 1].map(|half| {
                    let mut data = Vec::with_capacity(2 * VECTORS);
                    for node in 0..2 * n_nodes {
                        let of_part = &parts[node * n_parts + j / part];
                        let first = ((j % part) * n_groups + group) * n_tiles;
                        for tile in first..first + n_tiles {
                            data.extend_from_slice(&of_part[(2 * tile + half) * TILE..][..TILE]);
                        }
                    }
                    Poly::from_transforms(data)
                })
            })
            .collect()
    }

    /// Node `r` modulo prime `prime` of the sums for `filters`: (filter, group, tile, half, vector).
    fn convolve_node(
        &self,
        packing: &ResponsePacking,
        weights: &Weights,
        prime: usize,
        r: usize,
        filters: Range<usize>,
    ) -> Vec<Lanes> {
        let field = &FIELDS[prime];
        let tables = weights.tables(field, r);
        let m = VECTORS >> weights.k;
        let (n_tiles, n_groups) = (m / TILE, packing.n_groups());
        let at_once = (EVALUATED / m).max(4);
        let mut evaluated = vec![Lanes::ZERO; at_once * m];
        let mut sums = vec![Lanes::ZERO; n_groups * n_tiles * 4 * TILE];
        let mut out = vec![Lanes::ZERO; filters.len() * n_groups * n_tiles * 2 * TILE];
        let out_of_filter = out.chunks_exact_mut(n_groups * n_tiles * 2 * TILE);
        for (j, out) in filters.zip(out_of_filter) {
            sums.fill(Lanes::ZERO);
            let mut n_added = 0;
            let mut rest = weights.inputs(j);
            while let Some(first) = rest.first().map(|input| input.index) {
                let follow = rest.iter().zip(first..).take(at_once);
                let n = follow.take_while(|(input, i)| input.index == *i).count();
                let (chunk, others) = rest.split_at(n);
                rest = others;
                for (input, out) in chunk.iter().zip(evaluated.chunks_exact_mut(m)) {
                    weights.evaluate(field, &tables, r, j, input, out);
                }
                if n_added + n > MAX_PRODUCTS {
                    for sums in sums.chunks_exact_mut(4 * TILE) {
                        let mut settled = [Lanes::ZERO; 2 * TILE];
                        kernel::settle(field, sums, &mut settled);
                        sums.fill(Lanes::ZERO);
                        sums[..TILE].copy_from_slice(&settled[..TILE]);
                        sums[2 * TILE..3 * TILE].copy_from_slice(&settled[TILE..]);
                    }
                    n_added = 1;
                }
                n_added += n;
                for tile in 0..n_tiles {
                    for group in 0..n_groups {
                        let start = group * packing.n_inputs() + first;
                        kernel::accumulate(
                            &mut sums[(group * n_tiles + tile) * 4 * TILE..][..4 * TILE],
                            &evaluated[tile * TILE..],
                            m,
                            self.tile(prime, r * n_tiles + tile, start..start + n),
                        );
                    }
                }
            }
            for (sums, out) in sums
                .chunks_exact(4 * TILE)
                .zip(out.chunks_exact_mut(2 * TILE))
            {
                kernel::settle(field, sums, out);
            }
        }
        out
    }
}
