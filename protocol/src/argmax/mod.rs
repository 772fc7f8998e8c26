//! The garbled argmax: an output that opens the class and hides the logits.
//!
//! One circuit for each inference, garbled by the server whoever garbles the ReLUs. Offline: labels of the client's shares by OT
//! and tables down. Online: the server's labels and the decoding bits down; the class comes out at the client.
//!
//! Security: decoding bits come with the labels and not with the tables, so that tables fix no output before the input is chosen.

pub(crate) mod client;
pub(crate) mod server;

use std::sync::Arc;

use crate::block::ActiveLabel;
use crate::gc::{Circuit, Scheme};
use crate::relu::layer::bits_of;
use crate::transfers::ranges::{Counts, choice_bytes};
use crate::wire::ledger::Work;
use crate::wire::{Messages, Step};

/// The argmax of a plan.
#[derive(Clone)]
pub struct Argmax {
    /// The circuit.
    pub circuit: Arc<Circuit>,
    /// Index of the last layer, whose accumulators it compares.
    pub layer: usize,
    /// Classes.
    pub n_classes: usize,
    /// Bits of the logits.
    pub bits: u32,
}

impl Argmax {
    /// Labels of either party.
    #[must_use]
    pub fn n_labels(&self) -> usize {
        self.n_classes * self.bits as usize
    }

    /// OTs of one inference: a label for each bit of the client's shares.
    pub(crate) fn n_ots(&self) -> Counts {
        Counts {
            to_client: self.n_labels(),
            to_server: 0,
        }
    }

    /// Work of one inference.
    pub(crate) fn work(&self) -> Work {
        Work {
            n_and_gates: self.circuit.n_and() as u64,
            n_ots: self.n_labels() as u64,
            ..Work::default()
        }
    }

    /// What is sent for one inference.
    pub(crate) fn messages(&self, scheme: Scheme) -> Messages {
        [
            (Step::LabelBits, choice_bytes(self.n_labels())),
            (Step::Tables, scheme.instance_bytes(self.circuit.n_and())),
            (Step::Labels, self.n_labels() * ActiveLabel::BYTES),
            (Step::DecodeBits, self.circuit.n_outputs()),
        ]
        .into()
    }

    /// The low bits of shares of the logits, logit after logit, least significant first.
    fn inputs(&self, shares: &[u64]) -> Vec<u8> {
        bits_of(shares.iter().copied(), self.bits)
    }
}
