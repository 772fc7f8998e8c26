//! The first messages of a session: versions, nonces, the plan's hash, and what the client chooses.

use super::options::SessionOptions;
use crate::error::{Error, Result};
use crate::wire::batch::Nonce;
use crate::wire::{Messages, PROTOCOL_VERSION, Step};

/// Bytes of [`Step::Hello`]: version, nonce, plan hash, options.
const HELLO_BYTES: usize = 4 + 32 + 32 + 1;
/// Bytes of [`Step::HelloReply`]: version, nonce, first message of the base OTs behind the extension in which the server receives.
const HELLO_REPLY_BYTES: usize = 4 + 32 + 32;

/// What every session begins with.
pub(crate) fn hello_messages() -> Messages {
    [
        (Step::Hello, HELLO_BYTES),
        (Step::HelloReply, HELLO_REPLY_BYTES),
    ]
    .into()
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
    use crate::session::{GarblingMode, OtMode};

    #[test]
    fn hellos_survive_the_wire_and_others_are_refused() {
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
