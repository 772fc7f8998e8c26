//! Stage 3: fine-tuning under frozen masks (Kundu et al., ICLR 2023, section 3.3).
//!
//! Loss 0.1 CE + 0.9 T^2 KL + 1000 PRAM against the all-ReLU teacher as published; shares, temperature and
//! weight are options. The sum over the widths that train together (section 3.4).

use crate::data::Batches;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::loss::{self, PRAM_WEIGHT, Pram, Targets};
use crate::net::{MaskSet, Mode, Net, Trace, prefix_masks};
use crate::run::Stage;
use crate::{checkpoint, checkpoint::State};
use tch::Tensor;

/// What the loss is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Losses {
    /// Labels and the teacher's class scores.
    pub targets: Targets,
    /// How activations are compared.
    pub pram: Pram,
    /// Weight of that comparison.
    pub pram_weight: f64,
    /// The weight falls linearly to 0 over the run.
    pub pram_decay: bool,
}

impl Losses {
    /// As published.
    pub const PUBLISHED: Losses = Losses {
        targets: Targets::FINETUNE,
        pram: Pram::Collapsed,
        pram_weight: PRAM_WEIGHT,
        pram_decay: false,
    };

    /// Refuses numbers that make no loss.
    pub fn check(self) -> Result<()> {
        self.targets.check()?;
        if !(self.pram_weight.is_finite() && self.pram_weight >= 0.0) {
            return Err(Error::Usage("--pram-weight: 0 or more".into()));
        }
        Ok(())
    }

    /// Weight of the comparison when the share `done` of the steps is done.
    fn weight(self, done: f64) -> f64 {
        match self.pram_decay {
            true => self.pram_weight * (1.0 - done),
            false => self.pram_weight,
        }
    }

    /// For a checkpoint's record.
    pub fn choices(self) -> Vec<String> {
        let mut choices = vec![
            format!("pram={:?}", self.pram).to_lowercase(),
            format!("pram_weight={}", self.pram_weight),
            format!("pram_decay={}", self.pram_decay),
        ];
        choices.extend(self.targets.choices());
        choices
    }
}

/// Distillation under frozen masks.
pub struct Finetune {
    teacher: Net,
    all_relu: MaskSet,
    /// Masks of each width, the full one first.
    masks: Vec<MaskSet>,
    losses: Losses,
    /// Share of the steps that are done.
    done: f64,
}

impl Finetune {
    /// `masks` stay as they are; `net` says which widths there are.
    pub fn new(teacher: Net, masks: MaskSet, net: &Net, losses: Losses) -> Finetune {
        let all_relu = MaskSet::all_relu(&teacher.graph);
        let device = teacher.device();
        let narrow =
            |i| MaskSet::new(prefix_masks(masks.masks(), &net.at_width(i).graph)).on(device);
        let narrow: Vec<MaskSet> = (1..net.n_widths()).map(narrow).collect();
        Finetune {
            teacher,
            all_relu,
            masks: std::iter::once(masks.on(device)).chain(narrow).collect(),
            losses,
            done: 0.0,
        }
    }

    fn one(&self, student: &Trace, teacher: &Trace, target: &Tensor) -> Tensor {
        let targets = self.losses.targets;
        let sum = targets.loss(&student.logits, &teacher.logits, target);
        match self.losses.weight(self.done) {
            0.0 => sum,
            weight => sum + loss::pram(&student.stages, &teacher.stages, self.losses.pram, weight),
        }
    }
}

impl Stage for Finetune {
    fn start_step(&mut self, done: f64) {
        self.done = done;
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Arch;
    use tch::{Device, Kind};

    #[test]
    fn the_weight_scales_the_comparison_and_can_fall() {
        let arch = Arch::custom(&[4], 1, [3, 8, 8], 3);
        let net = Net::new(&arch, 1);
        let x = Tensor::randn([4, 3, 8, 8], (Kind::Float, Device::Cpu));
        let labels = Tensor::from_slice(&[0i64, 1, 2, 0]);
        // The same each time: other tests draw from the same generator meanwhile.
        let taught = Net::new(&arch, 2).state();
        let loss = |pram_weight, pram_decay, done| {
            let losses = Losses {
                pram_weight,
                pram_decay,
                ..Losses::PUBLISHED
            };
            let masks = MaskSet::all_relu(&net.graph);
            let teacher = Net::new(&arch, 2);
            teacher.load_state(&taught).unwrap();
            let mut stage = Finetune::new(teacher, masks, &net, losses);
            stage.start_step(done);
            let (loss, _) = stage.loss(&net, &x, &labels, Mode::EVAL);
            loss.double_value(&[])
        };
        let without = loss(0.0, false, 0.0);
        let part = loss(1000.0, false, 0.75) - without;
        assert!(part > 0.1, "{part}");
        for (weight, decay, done, share) in [
            (100.0, false, 0.5, 0.1),
            (1000.0, true, 0.0, 1.0),
            (1000.0, true, 0.75, 0.25),
        ] {
            let got = loss(weight, decay, done) - without;
            assert!((got / part - share).abs() < 1e-3, "{got} of {part}");
        }
        assert_eq!(Losses::PUBLISHED.pram_weight, 1000.0);
    }
}
