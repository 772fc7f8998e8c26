//! Which extension a session uses, and its two ends behind one type each.
//!
//! The client chooses, in its first message. Both modes start with the same set-up (base OTs and trees of SoftSpokenOT), and both are
//! checked; they differ in bytes, in compute and in that the silent one also assumes the hardness of LPN.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{CotReceiver, CotSender, Extended, silent, softspoken};
use crate::block::{Block, Delta};
use crate::error::Result;
use crate::prg::Seed;

/// How correlated OTs are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtMode {
    /// SoftSpokenOT: 31 bits for each OT.
    #[default]
    SoftSpoken,
    /// Silent OT on top of it: 2 bits for each OT at 350,000 of them, 0.6 at a million, under 1 from two million on.
    Silent,
}

impl OtMode {
    /// The name on command lines and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SoftSpoken => "softspoken",
            Self::Silent => "silent",
        }
    }

    /// The mode's number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::SoftSpoken => 0,
            Self::Silent => 1,
        }
    }

    /// The mode with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::SoftSpoken),
            1 => Some(Self::Silent),
            _ => None,
        }
    }

    /// Bytes from receiver to sender for `n` OTs.
    #[must_use]
    pub fn message_bytes(self, n: usize) -> usize {
        match self {
            Self::SoftSpoken => softspoken::message_bytes(n),
            Self::Silent => silent::message_bytes(n),
        }
    }

    /// Bytes from sender to receiver for `n` OTs.
    #[must_use]
    pub fn reply_bytes(self, n: usize) -> usize {
        match self {
            Self::SoftSpoken => 0,
            Self::Silent => silent::reply_bytes(n),
        }
    }

    /// The sender in this mode; `session` and `roots` serve once.
    #[must_use]
    pub fn sender(self, base: softspoken::Sender, session: [u8; 32], roots: Seed) -> Sender {
        match self {
            Self::SoftSpoken => Sender::SoftSpoken(Box::new(base)),
            Self::Silent => Sender::Silent(Box::new(silent::Sender::new(base, session, roots))),
        }
    }

    /// The receiver in this mode, under the sender's `session`.
    #[must_use]
    pub fn receiver(self, base: softspoken::Receiver, session: [u8; 32]) -> Receiver {
        match self {
            Self::SoftSpoken => Receiver::SoftSpoken(Box::new(base)),
            Self::Silent => Receiver::Silent(Box::new(silent::Receiver::new(base, session))),
        }
    }
}

impl std::fmt::Display for OtMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of a mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a way to make OTs; write softspoken or silent")]
pub struct UnknownOtMode(String);

impl std::str::FromStr for OtMode {
    type Err = UnknownOtMode;

    fn from_str(name: &str) -> std::result::Result<Self, UnknownOtMode> {
        let all = [Self::SoftSpoken, Self::Silent];
        let found = all.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| UnknownOtMode(name.to_owned()))
    }
}

/// A sender of either mode.
pub enum Sender {
    /// Of [`OtMode::SoftSpoken`].
    SoftSpoken(Box<softspoken::Sender>),
    /// Of [`OtMode::Silent`].
    Silent(Box<silent::Sender>),
}

/// A receiver of either mode.
pub enum Receiver {
    /// Of [`OtMode::SoftSpoken`].
    SoftSpoken(Box<softspoken::Receiver>),
    /// Of [`OtMode::Silent`].
    Silent(Box<silent::Receiver>),
}

impl Sender {
    /// Ends the extension and keeps its correlation.
    #[must_use]
    pub fn into_delta(self) -> Delta {
        match self {
            Self::SoftSpoken(sender) => sender.into_delta(),
            Self::Silent(sender) => sender.into_delta(),
        }
    }

    fn inner(&self) -> &dyn CotSender {
        match self {
            Self::SoftSpoken(sender) => &**sender,
            Self::Silent(sender) => &**sender,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn CotSender {
        match self {
            Self::SoftSpoken(sender) => &mut **sender,
            Self::Silent(sender) => &mut **sender,
        }
    }
}

impl Receiver {
    fn inner(&self) -> &dyn CotReceiver {
        match self {
            Self::SoftSpoken(receiver) => &**receiver,
            Self::Silent(receiver) => &**receiver,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn CotReceiver {
        match self {
            Self::SoftSpoken(receiver) => &mut **receiver,
            Self::Silent(receiver) => &mut **receiver,
        }
    }
}

impl CotSender for Sender {
    fn delta(&self) -> &Delta {
        self.inner().delta()
    }

    fn message_bytes(&self, n: usize) -> usize {
        self.inner().message_bytes(n)
    }

    fn extend(&mut self, n: usize, message: &[u8]) -> Result<Zeroizing<Vec<Block>>> {
        self.inner_mut().extend(n, message)
    }

    fn reply_bytes(&self, n: usize) -> usize {
        self.inner().reply_bytes(n)
    }

    fn reply(&mut self) -> Vec<u8> {
        self.inner_mut().reply()
    }
}

impl CotReceiver for Receiver {
    fn message_bytes(&self, n: usize) -> usize {
        self.inner().message_bytes(n)
    }

    fn extend(&mut self, n: usize) -> Result<Extended> {
        self.inner_mut().extend(n)
    }

    fn reply_bytes(&self, n: usize) -> usize {
        self.inner().reply_bytes(n)
    }

    fn finish(&mut self, n: usize, extended: &mut Extended, reply: &[u8]) -> Result<()> {
        self.inner_mut().finish(n, extended, reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for mode in [OtMode::SoftSpoken, OtMode::Silent] {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(OtMode::from_code(mode.code()), Some(mode));
        }
        let refused = "ferret".parse::<OtMode>().unwrap_err().to_string();
        assert!(refused.contains("softspoken or silent"), "{refused}");
    }
}
