//! What a client chooses for a session: how OTs are made, how circuits are garbled, and by whom.
//!
//! The client says so in its first message. All choices compute the same; they differ in bytes, in compute, and in what they
//! assume (SECURITY.md).

use serde::{Deserialize, Serialize};

use crate::gc::Scheme;
use crate::ot::mode::OtMode;

/// What the client chooses for a session, in its first message. All choices compute the same; they differ in bytes, in
/// compute, and in what they assume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// How OTs are made.
    pub ot: OtMode,
    /// How circuits are garbled.
    pub garbling: GarblingMode,
}

impl SessionOptions {
    /// One byte: the OT mode's number below, the garbling mode's above.
    pub(crate) const fn code(self) -> u8 {
        self.garbling.code() << 4 | self.ot.code()
    }

    /// The options of this byte.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(Self {
            ot: OtMode::from_code(code & 15)?,
            garbling: GarblingMode::from_code(code >> 4)?,
        })
    }
}

/// Uses the default for the rest.
impl From<OtMode> for SessionOptions {
    fn from(ot: OtMode) -> Self {
        Self {
            ot,
            ..Self::default()
        }
    }
}

/// How circuits are garbled, and who garbles the ReLUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GarblingMode {
    /// Half-gates (Zahur, Rosulek, Evans, Eurocrypt 2015): 32 bytes for each AND gate.
    #[default]
    HalfGates,
    /// Three halves (Rosulek, Roy, CRYPTO 2021): 24 bytes and 5 bits for each AND gate, half as many hashes again.
    ThreeHalves,
    /// The client garbles the ReLUs, by radix-16 digits: a third of the bytes online for twice those offline. An argmax stays
    /// the server's, by half-gates.
    ClientDigits,
}

impl GarblingMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::HalfGates, Self::ThreeHalves, Self::ClientDigits];

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

    /// The scheme of the server's circuits.
    pub(crate) const fn scheme(self) -> Scheme {
        match self {
            Self::HalfGates | Self::ClientDigits => Scheme::HalfGates,
            Self::ThreeHalves => Scheme::ThreeHalves,
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
}
