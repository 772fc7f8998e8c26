//! What both drivers share: requests, nonces, the setup messages, and the order of a session.
//!
//! Setup: client `Hello`, which also chooses how OTs are made; server `HelloReply`; client `PublicKeys`, `MuxBase`; server `MuxTrees`.
//! Then any number of requests. *Prepare* (a batch): client noise bits, corrections and `LabelBase`; server responses,
//! `LabelBaseReply` and `MuxExtension`; client `MuxReply` if OTs are silent, the label extension, derandomisation bits, corrections
//! and identity shares; server hash key, `LabelReply` if OTs are silent, and tables: two round trips for any depth and any batch.
//! *Infer* (one prepared inference): the masked input up, then one round trip for each layer that keeps a ReLU.

use crate::error::{Error, Result};
use crate::ot::mode::OtMode;
use crate::wire::{Frame, PROTOCOL_VERSION, Step, Tag};

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Prepare batch number `batch`.
    Prepare {
        /// One more than the last.
        batch: u32,
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
    pub const fn encode(self) -> (Tag, [u8; 1]) {
        let (code, batch, index) = match self {
            Self::Prepare { batch } => (1, batch, 0),
            Self::Infer { batch, index } => (2, batch, index),
            Self::End => (3, 0, 0),
        };
        (
            Tag {
                step: Step::Request,
                layer: 0,
                batch,
                index,
            },
            [code],
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

/// 32 bytes that are used once.
pub type Nonce = [u8; 32];

/// Bytes of [`Step::Hello`]: version, nonce, plan hash, mode of the OT extension.
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

/// The client's first message: [`encode_hello`] and how OTs are to be made.
#[must_use]
pub fn encode_client_hello(nonce: &Nonce, plan_hash: &[u8; 32], ot: OtMode) -> Vec<u8> {
    let mut message = encode_hello(nonce, plan_hash);
    message.push(ot.code());
    message
}

/// Reads what [`encode_client_hello`] made.
///
/// # Errors
/// [`Error::Peer`] for another version of the protocol or an unknown mode.
pub fn decode_client_hello(bytes: &[u8]) -> Result<(Nonce, [u8; 32], OtMode)> {
    let fail = |got: String| Error::peer(Step::Hello.name(), 0, "a known OT mode", got);
    let (code, hello) = bytes
        .split_last()
        .ok_or_else(|| fail("an empty message".into()))?;
    let (nonce, plan_hash) = decode_hello(Step::Hello, hello)?;
    let ot = OtMode::from_code(*code).ok_or_else(|| fail(format!("mode {code}")))?;
    Ok((nonce, plan_hash, ot))
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
            let mut hello = encode_client_hello(&[1; 32], &[2; 32], ot);
            assert_eq!(hello.len(), HELLO_BYTES);
            let decoded = decode_client_hello(&hello).unwrap();
            assert_eq!(decoded, ([1; 32], [2; 32], ot));
            hello[HELLO_BYTES - 1] = 2;
            assert!(decode_client_hello(&hello).is_err());
        }
        assert!(decode_client_hello(&[]).is_err());
    }
}
