//! What a client asks for between the phases of a session, and its form on the wire.

use crate::error::{Error, Result};
use crate::kept::{Handle, ItemId};
use crate::wire::{Frame, Step, Tag};

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
    /// To prepare batch number `batch`, and to keep it under `handle` if there is one.
    #[must_use]
    pub fn prepare(batch: u32, handle: Option<&Handle>) -> Self {
        match handle.cloned() {
            None => Self::Prepare { batch },
            Some(handle) => Self::PrepareKept { batch, handle },
        }
    }

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
    }
}
