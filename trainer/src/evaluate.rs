//! Accuracy of a network in 32-bit floats.

use crate::data::Batches;
use crate::net::{MaskSet, Mode, Net};
use tch::Kind;

/// Share of the images whose highest class score is the label.
pub fn accuracy(net: &Net, masks: &MaskSet, batches: &Batches) -> f64 {
    tch::no_grad(|| {
        let order = batches.order(0);
        let (mut hits, mut n) = (0, 0);
        for i in 0..batches.n_batches() {
            let (x, labels) = batches.get(&order, 0, i);
            let logits = net.forward(&x, masks, Mode::EVAL).logits;
            hits += logits
                .argmax(1, false)
                .eq_tensor(&labels)
                .sum(Kind::Int64)
                .int64_value(&[]);
            n += labels.size()[0];
        }
        hits as f64 / n.max(1) as f64
    })
}
