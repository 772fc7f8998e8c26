//! The ring Z_2^k in `u64`, and the local truncation of additive shares.
//!
//! Truncation (Mohassel and Zhang, "SecureML", IEEE S&P 2017, section 4.1): with y = y_c + y_s mod 2^k, the client takes
//! floor(y_c / 2^f) and the server -floor(-y_s / 2^f). Their sum is y / 2^f rounded down or up, except with probability
//! about |y| / 2^k, when it is off by 2^(k-f). The plan keeps the sum of these probabilities below its bound.

mod share;

pub use share::{ClientShare, ServerShare, Share};

/// Z_2^k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    bits: u32,
}

impl Ring {
    /// Z_2^`bits`, with 1 to 63 bits.
    #[must_use]
    pub const fn new(bits: u32) -> Self {
        debug_assert!(bits >= 1 && bits <= 63);
        Self { bits }
    }

    /// k.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// The representative in 0..2^k.
    #[must_use]
    pub const fn reduce(self, value: u64) -> u64 {
        value & ((1 << self.bits) - 1)
    }

    /// A signed integer as a ring element.
    #[must_use]
    pub const fn encode(self, value: i64) -> u64 {
        self.reduce(value as u64)
    }

    /// The representative in -2^(k-1)..2^(k-1).
    #[must_use]
    pub const fn decode(self, value: u64) -> i64 {
        let unused = 64 - self.bits;
        ((value << unused) as i64) >> unused
    }

    /// a + b.
    #[must_use]
    pub const fn add(self, a: u64, b: u64) -> u64 {
        self.reduce(a.wrapping_add(b))
    }

    /// a - b.
    #[must_use]
    pub const fn sub(self, a: u64, b: u64) -> u64 {
        self.reduce(a.wrapping_sub(b))
    }

    /// The client's truncated share of a share `y` in 0..2^k.
    #[must_use]
    pub const fn truncate_client(self, y: u64, dropped_bits: u32) -> u64 {
        y >> dropped_bits
    }

    /// The server's truncated share of a share `y` in 0..2^k.
    #[must_use]
    pub const fn truncate_server(self, y: u64, dropped_bits: u32) -> u64 {
        self.sub(0, self.sub(0, y) >> dropped_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn truncation_wraps_as_often_as_stated() {
        // Every client share of a small ring: the wraps of y are those shares that lie within |y| of the end.
        let ring = Ring::new(16);
        for y in [0i64, 1, -1, 37, -200, 1000] {
            let wraps = (0..1u64 << 16).filter(|&share| {
                let server = ring.sub(ring.encode(y), share);
                let sum = ring.decode(ring.add(
                    ring.truncate_client(share, 4),
                    ring.truncate_server(server, 4),
                ));
                (sum - (y >> 4)).abs() > 1
            });
            let n = wraps.count() as u64;
            assert!(
                n <= y.unsigned_abs(),
                "{n} wraps for {y}, the bound is |y| of 2^16 shares"
            );
            assert!(
                y.abs() < 100 || n > 0,
                "no wrap at all for {y}: the test would not see one"
            );
        }
    }

    proptest! {
        #[test]
        fn signed_values_survive(value in -(1i64 << 51)..(1 << 51)) {
            let ring = Ring::new(52);
            prop_assert_eq!(ring.decode(ring.encode(value)), value);
        }

        #[test]
        fn truncated_shares_add_up_to_a_rounding(y in -(1i64 << 22)..(1 << 22), share in 0u64..1 << 52, f in 0u32..12) {
            let ring = Ring::new(52);
            // Shares within |y| of the wrap are the stated failure; they are too rare to be drawn but not impossible.
            prop_assume!(share > 1 << 23 && share < (1 << 52) - (1 << 23));
            let server = ring.sub(ring.encode(y), share);
            let sum = ring.decode(ring.add(ring.truncate_client(share, f), ring.truncate_server(server, f)));
            let floor = y >> f;
            let ceil = -((-y) >> f);
            prop_assert!(sum == floor || sum == ceil, "y {} f {} gave {}", y, f, sum);
        }
    }
}
