//! Stage 3: fine-tuning under frozen masks (Kundu et al., ICLR 2023, section 3.3).
//!
//! Loss 0.1 CE + 0.9 T^2 KL + PRAM against the all-ReLU teacher; the sum over the widths that train
//! together (section 3.4).

use crate::data::Batches;
use crate::evaluate;
use crate::loss::{self, Pram};
use crate::net::{MaskSet, Mode, Net, Trace, prefix_masks};
use crate::run::Stage;
use crate::{checkpoint, checkpoint::State};
use tch::Tensor;

const CE_SHARE: f64 = 0.1;
const KL_SHARE: f64 = 0.9;

/// Distillation under frozen masks.
pub struct Finetune {
    teacher: Net,
    all_relu: MaskSet,
    /// Masks of each width, the full one first.
    masks: Vec<MaskSet>,
    /// How activations are compared.
    pub pram: Pram,
}

impl Finetune {
    /// `masks` stay as they are; `net` says which widths there are.
    pub fn new(teacher: Net, masks: MaskSet, net: &Net) -> Finetune {
        let all_relu = MaskSet::all_relu(&teacher.arch);
        let device = teacher.device();
        let narrow =
            |i| MaskSet::new(prefix_masks(masks.masks(), &net.at_width(i).arch)).on(device);
        let narrow: Vec<MaskSet> = (1..net.n_widths()).map(narrow).collect();
        Finetune {
            teacher,
            all_relu,
            masks: std::iter::once(masks.on(device)).chain(narrow).collect(),
            pram: Pram::Collapsed,
        }
    }

    fn one(&self, student: &Trace, teacher: &Trace, target: &Tensor) -> Tensor {
        loss::cross_entropy(&student.logits, target, 0.0) * CE_SHARE
            + loss::distillation(&student.logits, &teacher.logits) * KL_SHARE
            + loss::pram(&student.stages, &teacher.stages, self.pram)
    }
}

impl Stage for Finetune {
    fn loss(&mut self, net: &Net, x: &Tensor, target: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let eval = Mode {
            train: false,
            ..mode
        };
        let teacher = tch::no_grad(|| self.teacher.forward(x, &self.all_relu, eval));
        let student = net.forward(x, &self.masks[0], mode);
        let mut sum = self.one(&student, &teacher, target);
        for (i, masks) in self.masks.iter().enumerate().skip(1) {
            let narrow = net.at_width(i).forward(x, masks, mode);
            sum += self.one(&narrow, &teacher, target);
        }
        (sum, student.logits.detach())
    }

    fn state(&self) -> State {
        checkpoint::mask_state(self.masks[0].masks())
    }

    fn accuracy(&self, net: &Net, batches: &Batches) -> f64 {
        evaluate::accuracy(net, &self.masks[0], batches)
    }
}
