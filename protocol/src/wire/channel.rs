//! A blocking, framed, ordered connection between the two parties, and one that lives in memory.
//!
//! The protocol's drivers block on purpose: garbling and transforms keep a core busy for seconds. A network adapter
//! implements [`Channel`] on the far side of a bounded queue.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use super::frame::Frame;
use crate::error::{Error, Result};

/// One end of a connection. Frames arrive in order, or the channel fails.
pub trait Channel: Send {
    /// Hands a frame over; may block while the queue to the peer is full.
    ///
    /// # Errors
    /// [`Error::Channel`] when the peer is gone.
    fn send(&mut self, frame: Frame) -> Result<()>;

    /// Waits for the next frame.
    ///
    /// # Errors
    /// [`Error::Channel`] when the peer is gone or silent for too long.
    fn recv(&mut self) -> Result<Frame>;

    /// Whether [`Self::recv`] would return at once, with a frame or with an error.
    fn is_ready(&mut self) -> bool;

    /// Both parties are about to send at the same time, and up to `n_bytes` of the peer's may arrive before this side reads
    /// them. A channel with bounded queues takes in that much while it waits to send; otherwise both could wait forever.
    fn expect(&mut self, n_bytes: usize);
}

impl<C: Channel + ?Sized> Channel for Box<C> {
    fn send(&mut self, frame: Frame) -> Result<()> {
        (**self).send(frame)
    }
    fn recv(&mut self) -> Result<Frame> {
        (**self).recv()
    }
    fn is_ready(&mut self) -> bool {
        (**self).is_ready()
    }
    fn expect(&mut self, n_bytes: usize) {
        (**self).expect(n_bytes);
    }
}

/// One end of a connection inside this process.
pub struct MemoryChannel {
    to_peer: SyncSender<Frame>,
    from_peer: Receiver<Frame>,
    first: Option<Frame>,
    /// How long [`Channel::recv`] waits.
    pub timeout: Duration,
}

/// Two connected ends, for tests and for benchmarks without a network.
#[must_use]
pub fn pair() -> (MemoryChannel, MemoryChannel) {
    let (a, from_a) = sync_channel(4096);
    let (b, from_b) = sync_channel(4096);
    let end = |to_peer, from_peer| MemoryChannel {
        to_peer,
        from_peer,
        first: None,
        timeout: Duration::from_secs(120),
    };
    (end(a, from_b), end(b, from_a))
}

impl Channel for MemoryChannel {
    fn send(&mut self, frame: Frame) -> Result<()> {
        self.to_peer
            .send(frame)
            .map_err(|_| Error::Channel("the peer closed the connection".into()))
    }

    fn recv(&mut self) -> Result<Frame> {
        if let Some(frame) = self.first.take() {
            return Ok(frame);
        }
        self.from_peer.recv_timeout(self.timeout).map_err(|e| {
            Error::Channel(match e {
                RecvTimeoutError::Timeout => format!("the peer was silent for {:?}", self.timeout),
                RecvTimeoutError::Disconnected => "the peer closed the connection".into(),
            })
        })
    }

    fn is_ready(&mut self) -> bool {
        if self.first.is_none() {
            match self.from_peer.try_recv() {
                Ok(frame) => self.first = Some(frame),
                Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => {}
            }
        }
        self.first.is_some()
    }

    /// The queues are longer than any flight of the tests.
    fn expect(&mut self, _n_bytes: usize) {}
}
