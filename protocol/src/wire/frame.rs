//! Tags and frames: which message a piece belongs to, and the piece itself.

use super::step::Step;
use crate::error::Error;

/// Which message a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The kind of message.
    pub step: Step,
    /// The layer, source or term it belongs to; zero where there is none.
    pub layer: u16,
    /// The batch, counted from 1 in a session; zero before the first.
    pub batch: u32,
    /// The inference in the batch; zero where the message belongs to the whole batch.
    pub index: u16,
}

impl Tag {
    /// Of a message of the set-up.
    pub(crate) const fn setup(step: Step) -> Self {
        Self {
            step,
            layer: 0,
            batch: 0,
            index: 0,
        }
    }

    /// The eight bytes on the wire, as an integer.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        (self.step as u8 as u64)
            | (self.layer as u64) << 8
            | (self.batch as u64) << 24
            | ((self.index & 0xff) as u64) << 56
    }
}

/// One piece of a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// [`Tag::to_u64`] of the message.
    pub tag: u64,
    /// At most [`super::MAX_FRAME_BYTES`] bytes.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({:#x}, {} bytes)", self.tag, self.payload.len())
    }
}

/// The peer's message does not hold what it should.
pub(crate) fn malformed(tag: Tag, why: &dyn std::fmt::Display) -> Error {
    Error::peer(
        tag.step.name(),
        tag.layer.into(),
        "a well-formed message",
        why,
    )
}
