//! The teacher: the network with every ReLU, trained with cross-entropy.

use crate::data::Batches;
use crate::evaluate;
use crate::loss;
use crate::net::{MaskSet, Mode, Net};
use crate::run::Stage;
use tch::Tensor;

/// Cross-entropy training under fixed masks.
pub struct Teacher {
    /// All-ReLU masks.
    pub masks: MaskSet,
    /// Label smoothing.
    pub label_smoothing: f64,
}

impl Stage for Teacher {
    fn loss(&mut self, net: &Net, x: &Tensor, target: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let logits = net.forward(x, &self.masks, mode).logits;
        (
            loss::cross_entropy(&logits, target, self.label_smoothing),
            logits.detach(),
        )
    }

    fn accuracy(&self, net: &Net, batches: &Batches) -> f64 {
        evaluate::accuracy(net, &self.masks, batches)
    }
}
