//! Messages on the wire: what kinds there are, how a frame is tagged, and the one place that splits and joins frames.
//!
//! A *message* is the payload of one step of one layer of one batch. Its length is never read from the wire: both
//! sides compute it from their own plan. A message travels as frames of at most [`MAX_FRAME_BYTES`]; every frame carries
//! the tag of its message, so that a frame of another step, layer, batch or inference is refused at once.
//! A message of zero bytes is not sent at all.

use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::ledger::{Direction, Ledger, Phase};

/// Version of everything in this crate that two parties must agree on.
pub const PROTOCOL_VERSION: u32 = 1;

/// Most payload bytes in one frame.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $phase:ident, $direction:ident, $text:literal;)*) => {
        /// One kind of message. The code is its number on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Step { $($(#[$doc])* $name = $code),* }

        impl Step {
            /// All kinds, in the order of the protocol.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name used in the ledger, in errors and in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The phase the step belongs to.
            #[must_use]
            pub const fn phase(self) -> Phase {
                match self { $(Self::$name => Phase::$phase),* }
            }

            /// Who sends it.
            #[must_use]
            pub const fn direction(self) -> Direction {
                match self { $(Self::$name => Direction::$direction),* }
            }

            /// The kind with this number.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

steps! {
    /// Client: protocol version, nonce, plan hash.
    Hello = 1, Setup, Up, "hello";
    /// Server: protocol version, nonce, first message of the base OTs in which the client receives.
    HelloReply = 2, Setup, Down, "hello reply";
    /// Client: one RLWE public key for each source.
    PublicKeys = 3, Setup, Up, "public keys";
    /// Client: its base-OT answer for the multiplexer's extension.
    MuxBase = 4, Setup, Up, "multiplexer base OT";
    /// Server: corrections of the punctured trees for the multiplexer's extension.
    MuxTrees = 5, Setup, Down, "multiplexer OT trees";
    /// Client: which operation follows: prepare a batch, run one inference, or end.
    Request = 10, Setup, Up, "request";
    /// Client: noise bits of one source.
    HeNoise = 20, Offline, Up, "HE noise bits";
    /// Client: masks at the positions that must encrypt zero, of one source.
    HeCorrections = 21, Offline, Up, "HE corrections";
    /// Client: first message of the base OTs for the labels.
    LabelBase = 22, Offline, Up, "label base OT";
    /// Server: one linear term's response.
    HeResponse = 23, Offline, Down, "HE response";
    /// Server: its base-OT answer for the labels.
    LabelBaseReply = 24, Offline, Down, "label base OT reply";
    /// Server: extension and check for the multiplexer.
    MuxExtension = 25, Offline, Down, "multiplexer OT extension";
    /// Client: punctured-tree corrections for the labels.
    LabelTrees = 26, Offline, Up, "label OT trees";
    /// Client: extension and check for the labels.
    LabelExtension = 27, Offline, Up, "label OT extension";
    /// Client: derandomisation bits of its labels, of one layer.
    LabelBits = 28, Offline, Up, "label derandomisation";
    /// Client: corrections of the k-bit OTs, of one layer.
    MuxCorrections = 29, Offline, Up, "multiplexer corrections";
    /// Client: shares at the positions without a ReLU, of one layer.
    Identity = 30, Offline, Up, "identity positions";
    /// Server: public start key of the garbling hash.
    HashKey = 31, Offline, Down, "garbling hash key";
    /// Server: garbled tables of one layer.
    Tables = 32, Offline, Down, "garbled tables";
    /// Client: with silent OT, the trees of the multiplexer's extension.
    MuxReply = 33, Offline, Up, "multiplexer silent OT";
    /// Server: with silent OT, the trees of the labels' extension.
    LabelReply = 34, Offline, Down, "label silent OT";
    /// Server: whether it keeps the batch beyond the session; only when asked to.
    Kept = 35, Offline, Down, "kept";
    /// Client: the masked input.
    Input = 40, Online, Up, "masked input";
    /// Server: active labels of its own shares, of one layer.
    Labels = 41, Online, Down, "labels";
    /// Server: the multiplexer's ciphertexts, of one layer.
    MuxCiphertexts = 42, Online, Down, "multiplexer ciphertexts";
    /// Client: masked ReLU results, of one layer.
    ReluResults = 43, Online, Up, "ReLU results";
    /// Server: decoding bits of the garbled argmax. They come with the labels and not with the tables, so that the tables fix
    /// no output before the input is chosen.
    DecodeBits = 45, Online, Down, "argmax decoding";
    /// Server: whether a kept inference is there; only for those.
    Found = 46, Online, Down, "kept inference";
    /// Server: its share of the logits.
    Logits = 44, Online, Down, "logits";
}

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
    /// At most [`MAX_FRAME_BYTES`] bytes.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({:#x}, {} bytes)", self.tag, self.payload.len())
    }
}

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
    use super::*;
    use crate::channel::pair;

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

    #[test]
    fn step_codes_are_distinct() {
        for step in Step::ALL {
            assert_eq!(Step::from_code(*step as u8), Some(*step));
        }
    }
}
