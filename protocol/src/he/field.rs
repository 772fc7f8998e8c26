//! The two primes of the transforms, and their tables.
//!
//! X^4096 + 1 splits in a binary tree: X^2m - t^2 into X^m - t and X^m + t. With psi of order 8192, node `path` at depth d
//! stands for X^(4096 / 2^d) - psi^e, where e is 4096 at the root and e / 2 or e / 2 + 4096 at its two children. The first
//! three levels number the lanes of a vector, so the nine others never cross lanes: vector r at depth 3 + k holds node
//! (lane, r).

use super::lanes::Lanes;
use super::params::DEGREE;
use std::sync::LazyLock;

/// Vectors of a transform modulo one prime.
pub(super) const VECTORS: usize = DEGREE / 8;
/// Levels of the tree below the lanes.
pub(super) const LEVELS: u32 = VECTORS.trailing_zeros();
/// The two largest primes below 2^50 that are 1 modulo 2 N.
pub(super) const PRIMES: [u64; 2] = [(1 << 50) - 16_383, (1 << 50) - 212_991];

/// A prime and its tables.
pub(super) struct Field {
    /// The prime p.
    pub(super) p: u64,
    /// 2^50 - p, at most 18 bits.
    pub(super) fold: u64,
    /// Root t of node (k, r) at `2^k + r`, and floor(2^52 t / p).
    pub(super) roots: Vec<[Lanes; 2]>,
    /// Their inverses.
    pub(super) inverse_roots: Vec<[Lanes; 2]>,
    /// Row a takes coefficient `512 a + b` to its part in vector b of depth 3.
    pub(super) to_lanes: [Lanes; 8],
    /// Row `lane` takes that back, and divides by 4096.
    pub(super) from_lanes: [Lanes; 8],
    /// Powers of psi.
    powers: Vec<u64>,
}

/// Both fields.
pub(super) static FIELDS: LazyLock<[Field; 2]> = LazyLock::new(|| PRIMES.map(Field::new));

/// `a^exponent` modulo `p`.
pub(super) const fn power(a: u64, mut exponent: u64, p: u64) -> u64 {
    let (mut power, mut result) = (a as u128 % p as u128, 1u128);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * power % p as u128;
        }
        power = power * power % p as u128;
        exponent >>= 1;
    }
    result as u64
}

/// floor(2^52 a / p), by which products with the constant `a` are reduced (Shoup).
pub(super) const fn quotient(a: u64, p: u64) -> u64 {
    (((a as u128) << 52) / p as u128) as u64
}

/// The exponent e of node (`lane`, `r`), `k` levels below the lanes.
fn node(lane: usize, k: u32, r: usize) -> usize {
    let path = lane << k | r;
    (0..k + 3).rev().fold(DEGREE, |e, level| {
        e / 2 + if path >> level & 1 == 1 { DEGREE } else { 0 }
    })
}

impl Field {
    fn new(p: u64) -> Self {
        let order = 2 * DEGREE as u64;
        let psi = (2..)
            .map(|x| power(x, (p - 1) / order, p))
            .find(|&x| power(x, order / 2, p) == p - 1)
            .unwrap_or(1);
        let powers: Vec<u64> = (0..order)
            .scan(1, |next, _| {
                let this = *next;
                *next = (u128::from(this) * u128::from(psi) % u128::from(p)) as u64;
                Some(this)
            })
            .collect();
        let of = |e: usize| powers[e % powers.len()];
        let with_quotients = |lanes: Lanes| [lanes, Lanes(lanes.0.map(|a| quotient(a, p)))];
        let half = |i: usize, lane: usize| {
            let k = (i.max(1)).ilog2();
            node(lane, k, i.max(1) - (1 << k)) / 2
        };
        let table = |f: &dyn Fn(usize, usize) -> usize| -> Vec<[Lanes; 2]> {
            (0..VECTORS)
                .map(|i| with_quotients(Lanes(std::array::from_fn(|lane| of(f(i, lane))))))
                .collect()
        };
        let scale = power(DEGREE as u64, p - 2, p);
        let scaled = |a: u64| (u128::from(a) * u128::from(scale) % u128::from(p)) as u64;
        Self {
            p,
            fold: (1 << 50) - p,
            roots: table(&|i, lane| half(i, lane)),
            inverse_roots: table(&|i, lane| 2 * DEGREE - half(i, lane)),
            to_lanes: std::array::from_fn(|a| {
                Lanes(std::array::from_fn(|lane| of(node(lane, 0, 0) * a)))
            }),
            from_lanes: std::array::from_fn(|lane| {
                let e = 2 * DEGREE - node(lane, 0, 0);
                Lanes(std::array::from_fn(|a| scaled(of(e * a))))
            }),
            powers,
        }
    }

    /// The point of node (k, r) in each lane, as a power of psi. For k = 9 it is what X is there; above, what X^(512 / 2^k) is.
    pub(super) fn point(k: u32, r: usize) -> [usize; 8] {
        std::array::from_fn(|lane| node(lane, k, r))
    }

    /// Powers of the given points.
    pub(super) fn powers_of(&self, point: &[usize; 8], exponent: usize) -> Lanes {
        Lanes(point.map(|e| self.powers[e * exponent % self.powers.len()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primes_suit_the_degree() {
        for field in FIELDS.iter() {
            let p = field.p;
            assert!(p % (2 * DEGREE as u64) == 1 && p < 1 << 50 && field.fold < 1 << 18);
            // Lucas: an element of order p - 1 proves that p is prime.
            let mut factors = vec![2u64];
            let mut rest = (p - 1) >> (p - 1).trailing_zeros();
            for f in (3..1 << 26).step_by(2) {
                while rest % f == 0 {
                    rest /= f;
                    factors.push(f);
                }
            }
            if rest > 1 {
                factors.push(rest);
            }
            let generates = |x: &u64| factors.iter().all(|f| power(*x, (p - 1) / f, p) != 1);
            assert!((2..100).any(|x| generates(&x)) && power(3, p - 1, p) == 1);
            let psi = field.powers[1];
            assert_eq!(power(psi, DEGREE as u64, p), p - 1);
        }
    }
}
