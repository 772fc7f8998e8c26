//! The inner loops of the transforms and products, modulo one prime p just below 2^50.
//!
//! Written once over [`Vector`], compiled for AVX-512 IFMA, AVX2 and portable words; all give equal bits. Butterflies are
//! lazy (Harvey, "Faster arithmetic for number-theoretic transforms", 2014, with words of 52 bits): 4 p < 2^52. Products
//! add up as two sums of 52-bit halves and are reduced once; up to 2048 of them fit.

#![allow(unsafe_code)]

use super::field::{Field, LEVELS, VECTORS, power, quotient};
#[cfg(target_arch = "x86_64")]
use super::lanes::{Ifma, avx2};
use super::lanes::{Lanes, MASK_52, Portable, Vector, available};

/// Products that [`accumulate`] may add up before [`settle`].
pub(super) const MAX_PRODUCTS: usize = 2048;
/// Vectors of the smallest tile of a product.
pub(super) const TILE: usize = 8;
/// Largest sum of absolute values of weights that [`evaluate`] and [`evaluate_direct`] take for one vector.
pub(super) const MAX_WEIGHTS: u64 = 2047;

const MASK_50: u64 = (1 << 50) - 1;

/// The terms of a weight polynomial, sorted by the vector that they fall on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// Vectors and the ends of their terms.
    pub(super) runs: Vec<(usize, usize)>,
    /// Row of the table that each term takes.
    pub(super) rows: Vec<u16>,
}

macro_rules! kernels {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),*);)*) => {$(
        $(#[$doc])*
        pub(super) fn $name($($arg: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
                fn compiled($($arg: $kind),*) {
                    generic::$name::<Ifma>($($arg),*);
                }
                if available() {
                    // SAFETY: the processor has the instructions that the function is compiled for.
                    return unsafe { compiled($($arg),*) };
                }
                #[target_feature(enable = "avx2,fma")]
                fn compiled_avx2($($arg: $kind),*) {
                    generic::$name::<avx2::Avx2>($($arg),*);
                }
                if avx2::available() {
                    // SAFETY: the processor has the instructions that the function is compiled for.
                    return unsafe { compiled_avx2($($arg),*) };
                }
            }
            generic::$name::<Portable>($($arg),*);
        }
    )*};
}

kernels! {
    /// Transforms node `r`, `k` levels below the lanes: values below 4 p, before and after.
    fn forward(field: &Field, k: u32, r: usize, node: &mut [Lanes]);
    /// Undoes [`forward`] for k = 0, times 512: values below 2 p, before and after.
    fn backward(field: &Field, data: &mut [Lanes]);
    /// Multiplies each vector (below 2^52) by a matrix of reduced entries; below 2 p.
    fn matrix(field: &Field, rows: &[Lanes; 8], data: &mut [Lanes]);
    /// `sum = sum + a * b`, all below 2^52; below 2 p.
    fn multiply_add(field: &Field, sum: &mut [Lanes], a: &[Lanes], b: &[Lanes]);
    /// Sums of `weights[t] * table[rows[t]]` for each run of terms; below 2 p. The other vectors are 0.
    /// No `at_once` weights of a run may add up to more than [`MAX_WEIGHTS`] in absolute value.
    fn evaluate(field: &Field, terms: &Terms, at_once: usize, table: &[Lanes], weights: &[i64], out: &mut [Lanes]);
    /// The same for weights of any size.
    fn evaluate_wide(field: &Field, terms: &Terms, table: &[Lanes], weights: &[i64], out: &mut [Lanes]);
    /// Sums of `weights[t]` times the eight vectors `table[8 t ..]`; below 2 p. The weights may add up to [`MAX_WEIGHTS`] in
    /// absolute value.
    fn evaluate_direct(field: &Field, table: &[Lanes], weights: &[i64], out: &mut [Lanes]);
    /// Adds for both halves h the products of `w[i * stride + v]` and `c[16 i + 8 h + v]` over all i to the two sums
    /// `sums[16 h + v]` and `sums[16 h + 8 + v]`, v = 0 .. 8. Factors are below 2^52.
    fn accumulate(sums: &mut [Lanes], w: &[Lanes], stride: usize, c: &[Lanes]);
    /// Reduces the sums of [`accumulate`] to `out[8 h + v]`, below 2 p.
    fn settle(field: &Field, sums: &[Lanes], out: &mut [Lanes]);
    /// Joins residues `x` and `y` modulo both primes, below 2 p: the integer between -p1 p2 / 2 and p1 p2 / 2 modulo 2^72.
    /// Its low 52 bits replace `x`, its upper 20 bits `y`.
    fn join(fields: &[Field; 2], x: &mut [Lanes], y: &mut [Lanes]);
    /// The low 64 bits of `(low + 2^52 high + noise + offset mod 2^72) / 2^bits`, for words as [`join`] leaves them, noise
    /// below 2^50 in absolute value, and bits from 1 to 71. The result replaces the noise.
    fn shift(low: &[Lanes], high: &[Lanes], offset: u128, bits: u32, noise: &mut [Lanes]);
    /// Turns uniform words into samples of a symmetric distribution, two's complement: `cumulative[i]` is 2^63 times the
    /// probability of an absolute value up to i.
    fn sample(cumulative: &[u64], words: &mut [Lanes]);
}

#[inline(always)]
fn check_tile(node: &[Lanes], k: u32) {
    assert!(k < LEVELS && node.len() == VECTORS >> k);
}

mod generic {
    use super::*;

    /// Constants of a field, in registers.
    #[derive(Clone, Copy)]
    struct Constants<V> {
        p2: V,
        /// 2^52 - p.
        minus_p: V,
        mask: V,
    }

    impl<V: Vector> Constants<V> {
        #[inline(always)]
        fn new(field: &Field) -> Self {
            Self {
                p2: V::splat(2 * field.p),
                minus_p: V::splat((1 << 52) - field.p),
                mask: V::splat(MASK_52),
            }
        }

        /// `a` (below 2^52) times a constant with its quotient; below 2 p.
        #[inline(always)]
        fn times(&self, a: V, [constant, quotient]: [V; 2]) -> V {
            let zero = V::splat(0);
            let q = zero.hi(a, quotient);
            zero.lo(a, constant).lo(q, self.minus_p).and(self.mask)
        }
    }

    /// `lo + 2^52 hi` modulo p, below 2^50 + 2^21.
    #[inline(always)]
    fn reduce<V: Vector>(field: &Field, lo: V, hi: V) -> V {
        let (zero, fold) = (V::splat(0), V::splat(field.fold));
        // 2^52 = 4 (2^50 - p) modulo p.
        let fold_52 = V::splat(4 * field.fold);
        let hi = fold_50(field, hi);
        let lo = fold_50(field, lo);
        let sum = lo.lo(hi, fold_52).lo(zero.hi(hi, fold_52), fold_52);
        sum.and(V::splat(MASK_50)).lo(sum.shr(50), fold)
    }

    /// Any value modulo p, below 2^50 + 2^32.
    #[inline(always)]
    fn fold_50<V: Vector>(field: &Field, a: V) -> V {
        a.and(V::splat(MASK_50)).lo(a.shr(50), V::splat(field.fold))
    }

    #[inline(always)]
    pub(super) fn forward<V: Vector>(field: &Field, k: u32, r: usize, node: &mut [Lanes]) {
        check_tile(node, k);
        let mut level = k;
        match (LEVELS - k) % 3 {
            1 => {
                split::<V, 1>(field, level, r, node);
                level += 1;
            }
            2 => {
                split::<V, 2>(field, level, r, node);
                level += 2;
            }
            _ => {}
        }
        while level < LEVELS {
            let first = r << (level - k);
            for (i, node) in node.chunks_exact_mut(VECTORS >> level).enumerate() {
                split::<V, 3>(field, level, first + i, node);
            }
            level += 3;
        }
    }

    /// `L` levels below node (k, r).
    #[inline(always)]
    fn split<V: Vector, const L: usize>(field: &Field, k: u32, r: usize, node: &mut [Lanes]) {
        let c = Constants::<V>::new(field);
        let roots = load_roots::<V, L>(&field.roots, k, r);
        let stride = node.len() >> L;
        for i in 0..stride {
            let mut v = [V::splat(0); 8];
            for q in 0..1 << L {
                v[q] = V::load(&node[i + q * stride]);
            }
            for l in 0..L {
                let half = (1 << L) >> (l + 1);
                for t in 0..1 << l {
                    for q in 2 * t * half..(2 * t + 1) * half {
                        let x = v[q].min(v[q].sub(c.p2));
                        let y = c.times(v[q + half], roots[(1 << l) - 1 + t]);
                        v[q] = x.add(y);
                        v[q + half] = x.add(c.p2).sub(y);
                    }
                }
            }
            for q in 0..1 << L {
                v[q].store(&mut node[i + q * stride]);
            }
        }
    }

    #[inline(always)]
    fn load_roots<V: Vector, const L: usize>(
        table: &[[Lanes; 2]],
        k: u32,
        r: usize,
    ) -> [[V; 2]; 7] {
        let mut roots = [[V::splat(0); 2]; 7];
        for l in 0..L {
            for t in 0..1 << l {
                let [root, quotient] = &table[(1 << (k as usize + l)) + (r << l) + t];
                roots[(1 << l) - 1 + t] = [V::load(root), V::load(quotient)];
            }
        }
        roots
    }

    #[inline(always)]
    pub(super) fn backward<V: Vector>(field: &Field, data: &mut [Lanes]) {
        check_tile(data, 0);
        for k in [6, 3, 0] {
            for (r, node) in data.chunks_exact_mut(VECTORS >> k).enumerate() {
                merge::<V>(field, k, r, node);
            }
        }
    }

    /// Three levels below node (k, r), from the bottom.
    #[inline(always)]
    fn merge<V: Vector>(field: &Field, k: u32, r: usize, node: &mut [Lanes]) {
        let c = Constants::<V>::new(field);
        let roots = load_roots::<V, 3>(&field.inverse_roots, k, r);
        let stride = node.len() / 8;
        for i in 0..stride {
            let mut v = [V::splat(0); 8];
            for q in 0..8 {
                v[q] = V::load(&node[i + q * stride]);
            }
            for l in [2, 1, 0] {
                let half = 4 >> l;
                for t in 0..1 << l {
                    for q in 2 * t * half..(2 * t + 1) * half {
                        let (x, y) = (v[q], v[q + half]);
                        let sum = x.add(y);
                        v[q] = sum.min(sum.sub(c.p2));
                        v[q + half] = c.times(x.add(c.p2).sub(y), roots[(1 << l) - 1 + t]);
                    }
                }
            }
            for q in 0..8 {
                v[q].store(&mut node[i + q * stride]);
            }
        }
    }

    #[inline(always)]
    pub(super) fn matrix<V: Vector>(field: &Field, rows: &[Lanes; 8], data: &mut [Lanes]) {
        for vector in data {
            let (mut lo, mut hi) = (V::splat(0), V::splat(0));
            for (row, &x) in rows.iter().zip(&vector.0) {
                let (row, x) = (V::load(row), V::splat(x));
                lo = lo.lo(row, x);
                hi = hi.hi(row, x);
            }
            reduce(field, lo, hi).store(vector);
        }
    }

    #[inline(always)]
    pub(super) fn multiply_add<V: Vector>(
        field: &Field,
        sum: &mut [Lanes],
        a: &[Lanes],
        b: &[Lanes],
    ) {
        for (sum, (a, b)) in sum.iter_mut().zip(a.iter().zip(b)) {
            let (a, b) = (V::load(a), V::load(b));
            let lo = V::load(sum).lo(a, b);
            reduce(field, lo, V::splat(0).hi(a, b)).store(sum);
        }
    }

    #[inline(always)]
    pub(super) fn evaluate<V: Vector>(
        field: &Field,
        terms: &Terms,
        at_once: usize,
        table: &[Lanes],
        weights: &[i64],
        out: &mut [Lanes],
    ) {
        out.fill(Lanes::ZERO);
        // A multiple of p above all sums of absolute values.
        let start = V::splat(field.p * (MAX_WEIGHTS + 1));
        let mut first = 0;
        for &(vector, end) in &terms.runs {
            let mut sum = V::splat(0);
            while first < end {
                let next = end.min(first + at_once);
                sum = sum.add(start);
                for (&row, &weight) in terms.rows[first..next].iter().zip(&weights[first..next]) {
                    sum = sum.add(V::load(&table[row as usize]).mul(V::splat(weight as u64)));
                }
                sum = fold_50(field, sum);
                first = next;
            }
            sum.store(&mut out[vector]);
        }
    }

    #[inline(always)]
    pub(super) fn evaluate_wide<V: Vector>(
        field: &Field,
        terms: &Terms,
        table: &[Lanes],
        weights: &[i64],
        out: &mut [Lanes],
    ) {
        out.fill(Lanes::ZERO);
        let mut first = 0;
        for &(vector, end) in &terms.runs {
            let (mut lo, mut hi) = (V::splat(0), V::splat(0));
            for (&row, &weight) in terms.rows[first..end].iter().zip(&weights[first..end]) {
                let residue = (weight + ((weight >> 63) & field.p as i64)) as u64;
                let (row, weight) = (V::load(&table[row as usize]), V::splat(residue));
                lo = lo.lo(row, weight);
                hi = hi.hi(row, weight);
            }
            reduce(field, lo, hi).store(&mut out[vector]);
            first = end;
        }
    }

    #[inline(always)]
    pub(super) fn evaluate_direct<V: Vector>(
        field: &Field,
        table: &[Lanes],
        weights: &[i64],
        out: &mut [Lanes],
    ) {
        let mut sums = [V::splat(field.p * (MAX_WEIGHTS + 1)); TILE];
        for (vectors, &weight) in table.as_chunks::<TILE>().0.iter().zip(weights) {
            let weight = V::splat(weight as u64);
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = sum.add(V::load(vector).mul(weight));
            }
        }
        for (sum, out) in sums.into_iter().zip(out) {
            fold_50(field, sum).store(out);
        }
    }

    #[inline(always)]
    pub(super) fn accumulate<V: Vector>(
        sums: &mut [Lanes],
        w: &[Lanes],
        stride: usize,
        c: &[Lanes],
    ) {
        let (c, _) = c.as_chunks::<{ 2 * TILE }>();
        assert!(sums.len() == 4 * TILE && w.len() + stride >= c.len() * stride + TILE);
        for v in (0..TILE).step_by(2) {
            // In order: lo and hi of half 0, lo and hi of half 1, for both vectors.
            let mut sum: [[V; 2]; 4] =
                std::array::from_fn(|i| std::array::from_fn(|x| V::load(&sums[TILE * i + v + x])));
            for (i, c) in c.iter().enumerate() {
                for x in 0..2 {
                    let w = V::load(&w[i * stride + v + x]);
                    for half in 0..2 {
                        let c = V::load(&c[half * TILE + v + x]);
                        sum[2 * half][x] = sum[2 * half][x].lo(w, c);
                        sum[2 * half + 1][x] = sum[2 * half + 1][x].hi(w, c);
                    }
                }
            }
            for (i, pair) in sum.into_iter().enumerate() {
                for (x, sum) in pair.into_iter().enumerate() {
                    sum.store(&mut sums[TILE * i + v + x]);
                }
            }
        }
    }

    #[inline(always)]
    pub(super) fn join<V: Vector>(fields: &[Field; 2], x: &mut [Lanes], y: &mut [Lanes]) {
        let [p1, p2] = [fields[0].p, fields[1].p];
        // Adding (p1 p2 - 1) / 2 before and subtracting it after centres the result.
        let half = (u128::from(p1) * u128::from(p2) - 1) / 2;
        let half_of = |p: u64| V::splat((half % u128::from(p)) as u64);
        let (half_1, half_2) = (half_of(p1), half_of(p2));
        let half_low = V::splat(half as u64 & MASK_52);
        let half_high = V::splat((half >> 52) as u64);
        let inverse = power(p1, p2 - 2, p2);
        let inverse = [inverse, quotient(inverse, p2)].map(V::splat);
        let (one, two) = (V::splat(p1), V::splat(p2));
        let c = Constants::<V>::new(&fields[1]);
        for (x, y) in x.iter_mut().zip(y) {
            let a = V::load(x).add(half_1);
            let a = a.min(a.sub(one.add(one)));
            let a = a.min(a.sub(one));
            let b = V::load(y).add(half_2);
            // a < p1 < 2 p2 and b < 3 p2, so the difference is below 2^52 once reduced.
            let b = b.min(b.sub(c.p2));
            let t = c.times(b.add(c.p2).sub(a), inverse);
            let t = t.min(t.sub(two));
            let low = a.lo(t, one).sub(half_low);
            let high = V::splat(0).hi(t, one).sub(half_high).add(low.sar(52));
            low.and(c.mask).store(x);
            high.and(V::splat((1 << 20) - 1)).store(y);
        }
    }

    #[inline(always)]
    pub(super) fn shift<V: Vector>(
        low: &[Lanes],
        high: &[Lanes],
        offset: u128,
        bits: u32,
        noise: &mut [Lanes],
    ) {
        let (mask, mask_high) = (V::splat(MASK_52), V::splat((1 << 20) - 1));
        let offset_low = V::splat(offset as u64 & MASK_52);
        let offset_high = V::splat((offset >> 52) as u64);
        for (noise, (low, high)) in noise.iter_mut().zip(low.iter().zip(high)) {
            let low = V::load(low).add(V::load(noise)).add(offset_low);
            let high = V::load(high)
                .add(offset_high)
                .add(low.sar(52))
                .and(mask_high);
            let low = low.and(mask);
            let out = if bits <= 52 {
                // The two parts share no bits.
                low.shr(bits).add(high.shl(52 - bits))
            } else {
                high.shr(bits - 52)
            };
            out.store(noise);
        }
    }

    #[inline(always)]
    pub(super) fn sample<V: Vector>(cumulative: &[u64], words: &mut [Lanes]) {
        let (zero, one) = (V::splat(0), V::splat(1));
        for vector in words {
            let word = V::load(vector);
            let uniform = word.shr(1);
            let mut magnitude = V::splat(cumulative.len() as u64);
            for &entry in cumulative {
                // The difference of two numbers below 2^63 has its top bit set if the first is the smaller.
                magnitude = magnitude.sub(uniform.sub(V::splat(entry)).shr(63));
            }
            let sign = zero.sub(word.and(one));
            magnitude
                .sub(magnitude.add(magnitude).and(sign))
                .store(vector);
        }
    }

    #[inline(always)]
    pub(super) fn settle<V: Vector>(field: &Field, sums: &[Lanes], out: &mut [Lanes]) {
        let (sums, _) = sums.as_chunks::<{ 2 * TILE }>();
        for (sums, out) in sums.iter().zip(out.chunks_exact_mut(TILE)) {
            for (v, out) in out.iter_mut().enumerate() {
                reduce(field, V::load(&sums[v]), V::load(&sums[TILE + v])).store(out);
            }
        }
    }
}

#[cfg(test)]
mod tests;
