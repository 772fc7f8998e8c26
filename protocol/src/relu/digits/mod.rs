//! Kept ReLUs with the client as garbler: signs by radix-16 digits, and the multiplexer with the roles exchanged.
//!
//! | message, for each ReLU of l bits | phase | from | bytes |
//! |---|---|---|---|
//! | orders of the rows, and a bit | offline | client | l / 8 |
//! | tables of digits | offline | client | 16 a row: 960 for l = 14 |
//! | S + h_0 + h_1 | offline | client | k / 8 |
//! | masked bits of y_s | online | server | l / 8 |
//! | y'_s - a | online | server | k / 8 |
//! | labels of the masked digits | online | client | 16 a digit: 64 for l = 14 |
//! | the answer for colour 0 | online | client | k / 8 |
//!
//! Security: SECURITY.md 5.1. The correlation behind the digits belongs to one batch ([`crate::transfers`]).

pub(crate) mod algebra;
pub(crate) mod client;
pub(crate) mod server;

use pi_model::bits::packed_bytes;

use super::layer::ReluLayer;
use crate::block::Block;
use crate::error::Result;
use crate::gc::digits::{DigitTests, n_digits, n_rows};
use crate::transfers::ranges::Counts;
use crate::wire::ledger::Work;
use crate::wire::{Item, Messages, Step};

/// A product for each ReLU; a label for each bit of the server's shares.
pub(super) fn n_ots(relu: &ReluLayer) -> Counts {
    Counts {
        to_client: relu.n_relus(),
        to_server: relu.n_sign_bits(),
    }
}

/// Work of a layer in one inference. A digit counts as one gate.
pub(super) fn work(relu: &ReluLayer) -> Work {
    Work {
        n_and_gates: (relu.n_relus() * n_digits(relu.sign_bits)) as u64,
        n_ots: (relu.n_sign_bits() + relu.n_relus()) as u64,
        ..Work::default()
    }
}

/// What is sent for the kept ReLUs of a layer in one inference.
pub(super) fn messages(relu: &ReluLayer) -> Messages {
    let (n, l) = (relu.n_relus(), relu.sign_bits);
    [
        (Step::DigitOrders, bits_bytes(relu)),
        (Step::DigitTables, n * n_rows(l) * Block::BYTES),
        (Step::AnswerSums, relu.result_bytes()),
        (Step::MaskedDigits, bits_bytes(relu)),
        (Step::MaskedShares, relu.result_bytes()),
        (Step::DigitLabels, n * n_digits(l) * Block::BYTES),
        (Step::Answers, relu.result_bytes()),
    ]
    .into()
}

/// The sign tests of a layer of one inference; `start_key` is where the hash of its batch starts.
fn sign_tests(relu: &ReluLayer, item: Item, start_key: Block) -> Result<DigitTests> {
    Ok(DigitTests {
        sign_bits: relu.sign_bits,
        n_instances: relu.n_relus(),
        start_key,
        tweak: item.tweak(relu.layer)?,
    })
}

/// Bytes of l bits for each ReLU.
fn bits_bytes(relu: &ReluLayer) -> usize {
    packed_bytes(relu.n_relus(), relu.sign_bits)
}

/// The top one of l bits of each value.
fn tops(relu: &ReluLayer, values: &[u64]) -> Vec<u8> {
    let top = relu.sign_bits - 1;
    values.iter().map(|v| (v >> top) as u8 & 1).collect()
}
