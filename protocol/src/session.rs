//! What both drivers share: requests, nonces, the setup messages, and the order of a session.
//!
//! Setup: client `Hello`, which also chooses how OTs are made and circuits garbled; server `HelloReply`; client `PublicKeys`, `MuxBase`; server `MuxTrees`.
//! Then any number of requests. *Prepare* (a batch): client noise bits, corrections and `LabelBase`; server responses,
//! `LabelBaseReply` and `MuxExtension`; client `MuxReply` if OTs are silent, the label extension, derandomisation bits, corrections
//! and identity shares; server hash key, `LabelReply` if OTs are silent, and tables: two round trips for any depth and any batch.
//! Where the client garbles, base OTs are made for each batch (`DigitBase`, `DigitTrees`, `DigitPoint`) and tables go up (ARCHITECTURE.md).
//! *Infer* (one prepared inference): the masked input up, then one round trip for each layer that keeps a ReLU.
//! *Prepare and keep*: the same, and `Kept` at its end. *Infer kept*: the same, and `Found` before the first answer. A session
//! for these alone consists of `Hello` and `HelloReply` before its requests.

use crate::error::{Error, Result};
use crate::gc::GarblingMode;
use crate::kept::{Handle, ItemId};
use crate::ot::mode::OtMode;
use crate::wire::{Frame, PROTOCOL_VERSION, Step, Tag};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Prepare batch number `batch`.
    Prepare {
        /// One more than the last.
        batch: u32,
    },
    /// Prepare batch number `batch` and keep it beyond this session.
    PrepareKept {
        /// One more than the last.
        batch: u32,
        /// What the names of its inferences are made of.
        handle: Handle,
    },
    /// Run a kept inference, of this session or an earlier one.
    InferKept {
        /// Its name.
        id: ItemId,
        /// The batch with which it was prepared.
        batch: u32,
        /// The inference in that batch.
        index: u16,
    },
    /// Run inference `index` of batch `batch`.
    Infer {
        /// The batch.
        batch: u32,
        /// The inference in it.
        index: u16,
    },
    /// End the session.
    End,
}

impl Request {
    /// The tag and the payload that carry it.
    #[must_use]
    pub fn encode(&self) -> (Tag, Vec<u8>) {
        let (code, batch, index, name) = match self {
            Self::Prepare { batch } => (1, *batch, 0, None),
            Self::Infer { batch, index } => (2, *batch, *index, None),
            Self::End => (3, 0, 0, None),
            Self::PrepareKept { batch, handle } => (4, *batch, 0, Some(handle.as_bytes())),
            Self::InferKept { id, batch, index } => (5, *batch, *index, Some(id.as_bytes())),
        };
        let mut payload = vec![code];
        payload.extend(name.into_iter().flatten());
        (
            Tag {
                step: Step::Request,
                layer: 0,
                batch,
                index,
            },
            payload,
        )
    }

    /// Reads what [`Self::encode`] made.
    ///
    /// # Errors
    /// [`Error::Peer`] for anything else.
    pub fn decode(frame: &Frame) -> Result<Self> {
        let batch = (frame.tag >> 24) as u32;
        let index = (frame.tag >> 56) as u16;
        let request = match frame.payload.as_slice() {
            [1] => Self::Prepare { batch },
            [2] => Self::Infer { batch, index },
            [3] => Self::End,
            [code, name @ ..] => match (code, <[u8; 32]>::try_from(name)) {
                (4, Ok(handle)) => Self::PrepareKept {
                    batch,
                    handle: Handle::from_bytes(handle),
                },
                (5, Ok(id)) => Self::InferKept {
                    id: ItemId::from_bytes(id),
                    batch,
                    index,
                },
                _ => return Err(unexpected(frame)),
            },
            _ => return Err(unexpected(frame)),
        };
        if request.encode().0.to_u64() == frame.tag {
            Ok(request)
        } else {
            Err(unexpected(frame))
        }
    }
}

fn unexpected(frame: &Frame) -> Error {
    Error::peer(
        Step::Request.name(),
        0,
        "a request to prepare, to infer or to end",
        format!("{frame:?}"),
    )
}

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

/// 32 bytes that are used once.
pub type Nonce = [u8; 32];

/// Bytes of [`Step::Hello`]: version, nonce, plan hash, options.
pub const HELLO_BYTES: usize = 4 + 32 + 32 + 1;
/// Bytes of [`Step::HelloReply`]: version, nonce, first message of the multiplexer's base OTs.
pub const HELLO_REPLY_BYTES: usize = 4 + 32 + 32;

/// Three parts of a setup message: the protocol version, a nonce and 32 bytes more.
#[must_use]
pub fn encode_hello(nonce: &Nonce, rest: &[u8; 32]) -> Vec<u8> {
    [&PROTOCOL_VERSION.to_le_bytes()[..], nonce, rest].concat()
}

/// Reads what [`encode_hello`] made, and checks the version.
///
/// # Errors
/// [`Error::Peer`] for another version of the protocol.
pub fn decode_hello(step: Step, bytes: &[u8]) -> Result<(Nonce, [u8; 32])> {
    let fail = |got: String| {
        Error::peer(
            step.name(),
            0,
            format!("protocol version {PROTOCOL_VERSION}"),
            got,
        )
    };
    let (version, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(|| fail("a short message".into()))?;
    let version = u32::from_le_bytes(*version);
    if version != PROTOCOL_VERSION {
        return Err(fail(format!(
            "version {version}; install the same release on both sides"
        )));
    }
    match rest.split_first_chunk::<32>() {
        Some((nonce, rest)) => Ok((
            *nonce,
            rest.try_into()
                .map_err(|_| fail("a message of another size".into()))?,
        )),
        None => Err(fail("a short message".into())),
    }
}

/// The client's first message: [`encode_hello`] and what it chooses.
#[must_use]
pub fn encode_client_hello(
    nonce: &Nonce,
    plan_hash: &[u8; 32],
    options: SessionOptions,
) -> Vec<u8> {
    let mut message = encode_hello(nonce, plan_hash);
    message.push(options.code());
    message
}

/// In the place of the options: the session runs kept inferences only, and needs no set-up.
const KEPT_ONLY: u8 = 0x80;

/// The first message of a client that wants to run kept inferences only.
#[must_use]
pub fn encode_kept_hello(nonce: &Nonce, plan_hash: &[u8; 32]) -> Vec<u8> {
    let mut message = encode_hello(nonce, plan_hash);
    message.push(KEPT_ONLY);
    message
}

/// What a client begins a session for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Anything, with these options.
    Full(SessionOptions),
    /// Kept inferences alone: no keys, no base OTs.
    KeptOnly,
}

/// Reads what [`encode_client_hello`] or [`encode_kept_hello`] made.
///
/// # Errors
/// [`Error::Peer`] for another version of the protocol or unknown options.
pub fn decode_client_hello(bytes: &[u8]) -> Result<(Nonce, [u8; 32], Opening)> {
    let fail = |got: String| Error::peer(Step::Hello.name(), 0, "known options of a session", got);
    let (code, hello) = bytes
        .split_last()
        .ok_or_else(|| fail("an empty message".into()))?;
    let (nonce, plan_hash) = decode_hello(Step::Hello, hello)?;
    if *code == KEPT_ONLY {
        return Ok((nonce, plan_hash, Opening::KeptOnly));
    }
    let options = SessionOptions::from_code(*code);
    let options = options.ok_or_else(|| fail(format!("options {code:#04x}")))?;
    Ok((nonce, plan_hash, Opening::Full(options)))
}

/// The peer's message at `step` does not hold what it should.
pub fn malformed(step: Step, layer: usize, why: &dyn std::fmt::Display) -> Error {
    Error::peer(step.name(), layer, "a well-formed message", why)
}

/// A tag of a message of the set-up.
#[must_use]
pub const fn setup_tag(step: Step) -> Tag {
    tag(step, 0, 0, 0)
}

/// A tag of a message that belongs to a whole batch.
#[must_use]
pub const fn batch_tag(step: Step, layer: usize, batch: u32) -> Tag {
    Tag {
        step,
        layer: layer as u16,
        batch,
        index: 0,
    }
}

/// A tag of a message that belongs to one inference.
#[must_use]
pub const fn tag(step: Step, layer: usize, batch: u32, index: usize) -> Tag {
    Tag {
        step,
        layer: layer as u16,
        batch,
        index: index as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire_and_others_are_refused() {
        for request in [
            Request::Prepare { batch: 7 },
            Request::Infer {
                batch: u32::MAX,
                index: 63,
            },
            Request::End,
            Request::PrepareKept {
                batch: 3,
                handle: Handle::from_bytes([5; 32]),
            },
            Request::InferKept {
                id: ItemId::from_bytes([6; 32]),
                batch: 9,
                index: 2,
            },
        ] {
            let (tag, payload) = request.encode();
            let frame = Frame {
                tag: tag.to_u64(),
                payload: payload.to_vec(),
            };
            assert_eq!(Request::decode(&frame).unwrap(), request);
            for bad in [
                Frame {
                    tag: frame.tag ^ 1,
                    ..frame.clone()
                },
                Frame {
                    tag: frame.tag ^ 256,
                    ..frame.clone()
                },
                Frame {
                    payload: vec![],
                    ..frame.clone()
                },
                Frame {
                    payload: vec![9],
                    ..frame.clone()
                },
            ] {
                assert!(matches!(Request::decode(&bad), Err(Error::Peer { .. })));
            }
        }
        let hello = encode_hello(&[1; 32], &[2; 32]);
        assert_eq!(
            decode_hello(Step::Hello, &hello).unwrap(),
            ([1; 32], [2; 32])
        );
        assert!(decode_hello(Step::Hello, &hello[1..]).is_err());
        for ot in [OtMode::SoftSpoken, OtMode::Silent] {
            for garbling in GarblingMode::ALL {
                let options = SessionOptions { ot, garbling };
                let mut hello = encode_client_hello(&[1; 32], &[2; 32], options);
                assert_eq!(hello.len(), HELLO_BYTES);
                let decoded = decode_client_hello(&hello).unwrap();
                assert_eq!(decoded, ([1; 32], [2; 32], Opening::Full(options)));
                for unknown in [2, 0x30, 0x81, 0xff] {
                    hello[HELLO_BYTES - 1] = unknown;
                    assert!(decode_client_hello(&hello).is_err());
                }
            }
        }
        assert!(decode_client_hello(&[]).is_err());
        let hello = encode_kept_hello(&[1; 32], &[2; 32]);
        assert_eq!(hello.len(), HELLO_BYTES);
        let decoded = decode_client_hello(&hello).unwrap();
        assert_eq!(decoded, ([1; 32], [2; 32], Opening::KeptOnly));
    }
}
