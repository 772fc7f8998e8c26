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

pub(crate) mod hello;
pub(crate) mod options;
mod request;

pub use crate::ot::mode::{OtMode, UnknownOtMode};
pub use options::{GarblingMode, SessionOptions, UnknownGarblingMode};
pub use request::Request;

use pi_model::plan::PublicPlan;

use crate::layout::Layout;
use crate::linear;
use crate::transfers;
use crate::wire::Messages;

/// What is sent in a whole set-up.
pub(crate) fn setup_messages(plan: &PublicPlan, layout: &Layout) -> Messages {
    let mut messages = hello::hello_messages();
    messages.extend(linear::key_messages(plan).iter());
    messages.extend(transfers::setup_messages(layout).iter());
    messages
}
