//! Accuracy of a network in 32-bit floats.

use crate::data::Batches;
use crate::net::{MaskSet, Mode, Net};
use tch::{Kind, Tensor};

/// Share of the images whose highest class score is the label.
pub fn accuracy(net: &Net, masks: &MaskSet, batches: &Batches) -> f64 {
    tch::no_grad(|| {
        let epoch = batches.epoch(0);
        let mut n = 0;
        // Counted on the device and read once.
        let mut hits = Tensor::zeros([], (Kind::Int64, net.device()));
        for i in 0..batches.n_batches() {
            let (x, labels) = batches.get(&epoch, i);
            let logits = net.forward(&x, masks, Mode::EVAL).logits;
            hits += logits.argmax(1, false).eq_tensor(&labels).sum(Kind::Int64);
            n += labels.size()[0];
        }
        hits.int64_value(&[]) as f64 / n.max(1) as f64
    })
}
