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

pub(crate) mod options;
mod request;

pub use crate::ot::mode::{OtMode, UnknownOtMode};
pub use options::{GarblingMode, SessionOptions, UnknownGarblingMode};
pub use request::Request;

use pi_model::plan::PublicPlan;

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::linear;
use crate::transfers;
use crate::wire::batch::Nonce;
use crate::wire::{Messages, PROTOCOL_VERSION, Step};

/// Bytes of [`Step::Hello`]: version, nonce, plan hash, options.
const HELLO_BYTES: usize = 4 + 32 + 32 + 1;
/// Bytes of [`Step::HelloReply`]: version, nonce, first message of the base OTs in which the server receives.
const HELLO_REPLY_BYTES: usize = 4 + 32 + 32;

/// What every session begins with.
pub(crate) fn hello_messages() -> Messages {
    [
        (Step::Hello, HELLO_BYTES),
        (Step::HelloReply, HELLO_REPLY_BYTES),
    ]
    .into()
}

/// What is sent in a whole set-up.
pub(crate) fn setup_messages(plan: &PublicPlan, layout: &Layout) -> Messages {
    let mut messages = hello_messages();
    messages.extend(linear::key_messages(plan).iter());
    messages.extend(transfers::setup_messages(layout).iter());
    messages
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::{Handle, ItemId};
    use crate::wire::Frame;

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
