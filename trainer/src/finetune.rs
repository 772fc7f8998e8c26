//! Stage 3: fine-tuning under frozen masks (Kundu et al., ICLR 2023, section 3.3).
//!
//! Loss 0.1 CE + 0.9 T^2 KL + 1000 PRAM against the all-ReLU teacher.

use crate::data::Batches;
use crate::evaluate;
use crate::loss;
use crate::net::{MaskSet, Mode, Net};
use crate::run::Stage;
use crate::{checkpoint, checkpoint::State};
use tch::Tensor;

const CE_SHARE: f64 = 0.1;
const KL_SHARE: f64 = 0.9;

/// Distillation under frozen masks.
pub struct Finetune {
    teacher: Net,
    all_relu: MaskSet,
    masks: MaskSet,
    /// Weight of the post-ReLU activation mismatch.
    pub pram_weight: f64,
}

impl Finetune {
    /// `masks` stay as they are.
    pub fn new(teacher: Net, masks: MaskSet) -> Finetune {
        let all_relu = MaskSet::all_relu(&teacher.arch);
        Finetune {
            teacher,
            all_relu,
            masks,
            pram_weight: 1000.0,
        }
    }
}

impl Stage for Finetune {
    fn loss(&mut self, net: &Net, x: &Tensor, labels: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let student = net.forward(x, &self.masks, mode);
        let teacher = tch::no_grad(|| {
            self.teacher.forward(
                x,
                &self.all_relu,
                Mode {
                    train: false,
                    ..mode
                },
            )
        });
        let loss = loss::cross_entropy(&student.logits, labels, 0.0) * CE_SHARE
            + loss::distillation(&student.logits, &teacher.logits) * KL_SHARE
            + loss::pram(&student.stages, &teacher.stages) * self.pram_weight;
        (loss, student.logits.detach())
    }

    fn state(&self) -> State {
        checkpoint::mask_state(self.masks.masks())
    }

    fn accuracy(&self, net: &Net, batches: &Batches) -> f64 {
        evaluate::accuracy(net, &self.masks, batches)
    }
}
