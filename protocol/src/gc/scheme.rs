//! The two schemes in which circuits are garbled, behind one choice.
//!
//! Both have free XOR, the same labels and the same hash; they differ in bytes and hashes for each AND gate: half-gates 32 bytes,
//! four hashes to garble and two to evaluate; three halves 24 bytes and 5 bits, six and three. Half-gates are the better choice
//! unless the network is the bottleneck.

use crate::hash::Domain;

/// Bytes of an AND gate in half-gates: two ciphertexts.
pub(super) const HALF_GATES_BYTES: usize = 32;

/// Bytes of the three ciphertexts of half a label each that three halves has for an AND gate.
pub(super) const THREE_HALVES_BYTES: usize = 24;

/// Control bits that it has for each AND gate besides, packed over the gates of an instance.
pub(super) const THREE_HALVES_CONTROL_BITS: usize = 5;

/// How a circuit is garbled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Half-gates (Zahur, Rosulek, Evans, Eurocrypt 2015): 32 bytes for each AND gate.
    #[default]
    HalfGates,
    /// Three halves (Rosulek, Roy, CRYPTO 2021): 24 bytes and 5 bits for each AND gate, half as many hashes again.
    ThreeHalves,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 2] = [Self::HalfGates, Self::ThreeHalves];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfGates => "half-gates",
            Self::ThreeHalves => "three-halves",
        }
    }

    /// Bytes of the tables of one instance of a circuit with `n_and` AND gates.
    #[must_use]
    pub const fn instance_bytes(self, n_and: usize) -> usize {
        match self {
            Self::HalfGates => n_and * HALF_GATES_BYTES,
            Self::ThreeHalves => {
                n_and * THREE_HALVES_BYTES + (n_and * THREE_HALVES_CONTROL_BITS).div_ceil(8)
            }
        }
    }

    /// The hash domain of its gates: the two schemes never hash under the same key.
    pub(super) const fn domain(self) -> Domain {
        match self {
            Self::HalfGates => Domain::Gate,
            Self::ThreeHalves => Domain::SlicedGate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_an_instance() {
        assert_eq!(Scheme::HalfGates.instance_bytes(13), 416);
        assert_eq!(Scheme::ThreeHalves.instance_bytes(13), 321);
        for scheme in Scheme::ALL {
            assert_eq!(scheme.instance_bytes(0), 0);
        }
    }
}
