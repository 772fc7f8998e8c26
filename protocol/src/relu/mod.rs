//! The ReLUs that training kept: from shares of an accumulator to shares of the next tensor, by one of several methods.
//!
//! Every layer but the last ends here, in both parties alike. Each truncates its share on its own. Where a ReLU was *removed*,
//! that is all: the client has sent y'_c - r_next ahead, and the server adds it to y'_s ([`server`]). Where a ReLU was *kept*, a
//! [`Method`] opens its sign under a mask and multiplies, in one round trip for each layer:
//!
//! | method | folder | garbler | online for each ReLU of l bits |
//! |---|---|---|---|
//! | circuits and multiplexer | [`multiplexer`] | the server | 16 l bytes down, k bits down, k bits up |
//! | digits | [`digits`] | the client | l + k bits down, 16 bytes a digit and k bits up |
//!
//! A method is a folder with the algebra, the client's half, the server's half and the list of its messages, and an arm in
//! [`Method`] and in the enums of [`client`] and [`server`]. The drivers know none of them.

pub(crate) mod client;
pub(crate) mod digits;
pub(crate) mod layer;
pub(crate) mod multiplexer;
pub(crate) mod server;
mod shares;

use layer::ReluLayer;

use crate::gc::Scheme;
use crate::session::options::GarblingMode;
use crate::transfers::ranges::{Counts, Purpose};
use crate::wire::ledger::Work;
use crate::wire::{Messages, Step};

/// How the kept ReLUs of a session are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Garbled circuits for signs, and a one-round multiplexer.
    Multiplexer(Scheme),
    /// Signs by digits that the client garbles, and the multiplexer with the roles exchanged.
    Digits,
}

impl Method {
    /// What a session with this option uses for networks with `n_relus`. Without any, nothing distinguishes the methods, and the
    /// first is used.
    pub fn new(mode: GarblingMode, n_relus: usize) -> Self {
        match mode {
            GarblingMode::ClientDigits if n_relus > 0 => Self::Digits,
            _ => Self::Multiplexer(mode.scheme()),
        }
    }

    /// OTs of a layer in one inference.
    pub fn n_ots(self, relu: &ReluLayer) -> Counts {
        match self {
            Self::Multiplexer(_) => multiplexer::n_ots(relu),
            Self::Digits => digits::n_ots(relu),
        }
    }

    /// What its OTs in which the server receives are for.
    pub const fn purpose(self) -> Purpose {
        match self {
            Self::Multiplexer(_) => Purpose::Pads,
            Self::Digits => Purpose::Labels,
        }
    }

    /// Whether the server garbles circuits for it.
    pub const fn has_circuits(self) -> bool {
        matches!(self, Self::Multiplexer(_))
    }

    /// Work of a layer in one inference.
    pub fn work(self, relu: &ReluLayer) -> Work {
        match self {
            Self::Multiplexer(_) => multiplexer::work(relu),
            Self::Digits => digits::work(relu),
        }
    }

    /// What is sent for a layer in one inference, removed positions included.
    pub fn messages(self, relu: &ReluLayer) -> Messages {
        let mut messages = match self {
            Self::Multiplexer(scheme) => multiplexer::messages(relu, scheme),
            Self::Digits => digits::messages(relu),
        };
        messages.extend(identity_messages(relu).iter());
        messages
    }
}

/// What is sent for the removed positions of a layer in one inference.
fn identity_messages(relu: &ReluLayer) -> Messages {
    [(Step::Identity, relu.identity_bytes())].into()
}
