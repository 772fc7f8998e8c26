//! Which garbling scheme a session uses, and who garbles the ReLUs.
//!
//! The client chooses, in its first message. Two schemes for circuits have free XOR, the same labels, the same hash and the server as
//! garbler; they differ in bytes and hashes for each AND gate: half-gates 32 bytes, four hashes to garble and two to evaluate;
//! three halves 24 bytes and 5 bits, six and three. Half-gates are the better choice unless the network is the bottleneck.

use serde::{Deserialize, Serialize};

use super::{half_gates, three_halves};
use crate::hash::Domain;

/// How circuits are garbled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GarblingMode {
    /// Half-gates (Zahur, Rosulek, Evans, Eurocrypt 2015): 32 bytes for each AND gate.
    #[default]
    HalfGates,
    /// Three halves (Rosulek, Roy, CRYPTO 2021): 24 bytes and 5 bits for each AND gate, half as many hashes again.
    ThreeHalves,
    /// The client garbles the ReLUs, by radix-16 digits ([`super::digits`]): a third of the bytes online for twice those offline. An argmax stays
    /// the server's, by half-gates.
    ClientDigits,
}

impl GarblingMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::HalfGates, Self::ThreeHalves, Self::ClientDigits];

    /// The schemes for circuits.
    pub const CIRCUITS: [Self; 2] = [Self::HalfGates, Self::ThreeHalves];

    /// The name on command lines and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfGates => "half-gates",
            Self::ThreeHalves => "three-halves",
            Self::ClientDigits => "client-digits",
        }
    }

    /// The mode's number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::HalfGates => 0,
            Self::ThreeHalves => 1,
            Self::ClientDigits => 2,
        }
    }

    /// The mode with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::HalfGates),
            1 => Some(Self::ThreeHalves),
            2 => Some(Self::ClientDigits),
            _ => None,
        }
    }

    /// Bytes of the tables of one instance of a circuit with `n_and` AND gates.
    #[must_use]
    pub const fn instance_bytes(self, n_and: usize) -> usize {
        match self {
            Self::HalfGates | Self::ClientDigits => n_and * half_gates::GATE_BYTES,
            Self::ThreeHalves => three_halves::instance_bytes(n_and),
        }
    }

    /// The hash domain of its gates.
    pub(super) const fn domain(self) -> Domain {
        match self {
            Self::HalfGates | Self::ClientDigits => Domain::Gate,
            Self::ThreeHalves => Domain::SlicedGate,
        }
    }
}

impl std::fmt::Display for GarblingMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is none of a mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a way to garble; write half-gates, three-halves or client-digits")]
pub struct UnknownGarblingMode(String);

impl std::str::FromStr for GarblingMode {
    type Err = UnknownGarblingMode;

    fn from_str(name: &str) -> Result<Self, UnknownGarblingMode> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| UnknownGarblingMode(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for mode in GarblingMode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(GarblingMode::from_code(mode.code()), Some(mode));
        }
        assert_eq!(GarblingMode::from_code(3), None);
        let refused = "yao".parse::<GarblingMode>().unwrap_err().to_string();
        assert!(
            refused.contains("three-halves or client-digits"),
            "{refused}"
        );
    }

    #[test]
    fn bytes_of_an_instance() {
        assert_eq!(GarblingMode::HalfGates.instance_bytes(13), 416);
        assert_eq!(GarblingMode::ThreeHalves.instance_bytes(13), 321);
        for mode in GarblingMode::ALL {
            assert_eq!(mode.instance_bytes(0), 0);
        }
    }
}
