//! Kept ReLUs by garbled circuits, the server garbling, and a one-round multiplexer.
//!
//! | message, for each ReLU of l bits | phase | from | bytes |
//! |---|---|---|---|
//! | derandomisation bits of the client's labels | offline | client | l / 8 |
//! | corrections of the products m y'_c | offline | client | k / 8 |
//! | tables of the sign test | offline | server | 32 (l - 1), by three halves 24.625 (l - 1) |
//! | labels of the server's bits | online | server | 16 l |
//! | ciphertexts of colour 1 | online | server | k / 8 |
//! | ReLU(y') + q - r_next | online | client | k / 8 |
//!
//! Security: the client sees the sign xor m, with m uniform and known to the server alone; the server sees a ring element under
//! a fresh mask (SECURITY.md 3 and 5).

pub(crate) mod algebra;
pub(crate) mod client;
pub(crate) mod server;

use super::layer::ReluLayer;
use crate::block::ActiveLabel;
use crate::gc::Scheme;
use crate::transfers::ranges::{Counts, choice_bytes};
use crate::wire::ledger::Work;
use crate::wire::{Messages, Step};

/// A label for each bit of the client's shares; a product for each ReLU.
pub(super) fn n_ots(relu: &ReluLayer) -> Counts {
    Counts {
        to_client: relu.n_sign_bits(),
        to_server: relu.n_relus(),
    }
}

/// Work of a layer in one inference.
pub(super) fn work(relu: &ReluLayer) -> Work {
    Work {
        n_and_gates: (relu.n_relus() * relu.circuit.n_and()) as u64,
        n_ots: (relu.n_sign_bits() + relu.n_relus()) as u64,
        ..Work::default()
    }
}

/// What is sent for the kept ReLUs of a layer in one inference.
pub(super) fn messages(relu: &ReluLayer, scheme: Scheme) -> Messages {
    let mut messages = offline_messages(relu, scheme);
    messages.extend(online_messages(relu).iter());
    messages
}

fn offline_messages(relu: &ReluLayer, scheme: Scheme) -> Messages {
    let tables = relu.n_relus() * scheme.instance_bytes(relu.circuit.n_and());
    [
        (Step::LabelBits, choice_bytes(relu.n_sign_bits())),
        (Step::MuxCorrections, relu.result_bytes()),
        (Step::Tables, tables),
    ]
    .into()
}

fn online_messages(relu: &ReluLayer) -> Messages {
    [
        (Step::Labels, relu.n_sign_bits() * ActiveLabel::BYTES),
        (Step::MuxCiphertexts, relu.result_bytes()),
        (Step::ReluResults, relu.result_bytes()),
    ]
    .into()
}
