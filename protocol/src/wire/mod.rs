//! Messages on the wire: what kinds there are, how a frame is tagged, and the one place that splits and joins frames.
//!
//! A *message* is the payload of one step of one layer of one batch. Its length is never read from the wire: both
//! sides compute it from their own plan (`Messages`). A message travels as frames of at most [`MAX_FRAME_BYTES`]; every frame
//! carries the tag of its message, so that a frame of another step, layer, batch or inference is refused at once.
//! A message of zero bytes is not sent at all.

pub(crate) mod batch;
pub mod channel;
mod frame;
pub mod ledger;
pub(crate) mod messages;
pub mod record;
pub(crate) mod step;

pub(crate) use batch::{Batch, Item, Nonces};
pub(crate) use frame::malformed;
pub use frame::{Frame, Tag};
pub(crate) use messages::Messages;
pub use step::{Direction, Phase, Step};

use channel::Channel;
use ledger::Ledger;

use crate::error::{Error, Result};

/// Version of everything in this crate that two parties must agree on.
pub const PROTOCOL_VERSION: u32 = 2;

/// Most payload bytes in one frame.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// A channel with a ledger: the only way for a driver to send or receive.
pub struct Wire<C> {
    channel: C,
    /// What this side has measured.
    pub ledger: Ledger,
}

impl<C: Channel> Wire<C> {
    /// Wraps `channel`.
    pub fn new(channel: C) -> Self {
        Self {
            channel,
            ledger: Ledger::default(),
        }
    }

    /// The channel itself.
    #[cfg(test)]
    pub(crate) const fn channel(&self) -> &C {
        &self.channel
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`Error::Channel`] when the peer is gone.
    pub fn send(&mut self, tag: Tag, payload: &[u8]) -> Result<()> {
        if payload.is_empty() {
            return Ok(());
        }
        self.ledger.message(tag.step, tag.layer, payload.len());
        for piece in payload.chunks(MAX_FRAME_BYTES) {
            self.channel.send(Frame {
                tag: tag.to_u64(),
                payload: piece.to_vec(),
            })?;
        }
        Ok(())
    }

    /// Receives the message `tag`, which must have exactly `n_bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Peer`] for a frame of another message or of a wrong size, [`Error::Channel`] when the peer is gone.
    pub fn recv(&mut self, tag: Tag, n_bytes: usize) -> Result<Vec<u8>> {
        let mut message = Vec::with_capacity(n_bytes.min(MAX_FRAME_BYTES));
        while message.len() < n_bytes {
            let started = std::time::Instant::now();
            let frame = self.channel.recv()?;
            self.ledger.waited(tag.step.phase(), started.elapsed());
            if frame.tag != tag.to_u64() {
                let got = Step::from_code((frame.tag & 0xff) as u8).map_or("unknown", Step::name);
                return Err(Error::peer(
                    tag.step.name(),
                    tag.layer.into(),
                    format!("tag {:#x}", tag.to_u64()),
                    format!("tag {:#x} ({got})", frame.tag),
                ));
            }
            let due = (n_bytes - message.len()).min(MAX_FRAME_BYTES);
            if frame.payload.len() != due {
                return Err(Error::peer(
                    tag.step.name(),
                    tag.layer.into(),
                    format!("a frame of {due} bytes"),
                    format!("{} bytes", frame.payload.len()),
                ));
            }
            message.extend_from_slice(&frame.payload);
        }
        if n_bytes > 0 {
            self.ledger.message(tag.step, tag.layer, n_bytes);
        }
        Ok(message)
    }

    /// Receives the message `tag` with the length that `messages` gives it.
    ///
    /// # Errors
    /// As [`Self::recv`]; [`Error::Misuse`] for a kind that is not listed.
    pub(crate) fn receive(&mut self, tag: Tag, messages: &Messages) -> Result<Vec<u8>> {
        let n_bytes = messages.listed(tag.step);
        let unlisted = || Error::Misuse(format!("'{}' is in no list", tag.step.name()));
        self.recv(tag, n_bytes.ok_or_else(unlisted)?)
    }

    /// Whether a frame, or the news that there will be none, is there already.
    pub fn is_ready(&mut self) -> bool {
        self.channel.is_ready()
    }

    /// See [`Channel::expect`].
    pub fn expect(&mut self, n_bytes: usize) {
        self.channel.expect(n_bytes);
    }

    /// Receives any one frame, for a server that waits for the next request.
    ///
    /// # Errors
    /// [`Error::Channel`] when the peer is gone.
    pub fn recv_frame(&mut self) -> Result<Frame> {
        self.channel.recv()
    }
}

#[cfg(test)]
mod tests {
    use super::channel::pair;
    use super::*;

    const TAG: Tag = Tag {
        step: Step::Labels,
        layer: 3,
        batch: 1,
        index: 2,
    };

    #[test]
    fn a_message_longer_than_a_frame_arrives_whole() {
        let (a, b) = pair();
        let (mut a, mut b) = (Wire::new(a), Wire::new(b));
        let message: Vec<u8> = (0..MAX_FRAME_BYTES + 7).map(|i| i as u8).collect();
        a.send(TAG, &message).unwrap();
        assert_eq!(b.recv(TAG, message.len()).unwrap(), message);
        assert_eq!(a.ledger.total_bytes(Phase::Online), message.len() as u64);
    }

    #[test]
    fn a_wrong_tag_or_length_is_the_peers_fault() {
        for (tag, len) in [
            (Tag { layer: 4, ..TAG }, 8),
            (Tag { index: 3, ..TAG }, 8),
            (Tag { batch: 2, ..TAG }, 8),
            (TAG, 7),
            (TAG, 9),
        ] {
            let (a, b) = pair();
            let (mut a, mut b) = (Wire::new(a), Wire::new(b));
            a.send(tag, &vec![0; len]).unwrap();
            assert!(
                matches!(b.recv(TAG, 8), Err(Error::Peer { .. })),
                "{tag:?} {len}"
            );
        }
    }
}
