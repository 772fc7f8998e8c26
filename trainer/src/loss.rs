//! Losses: cross-entropy, distillation at temperature T, and the post-ReLU activation mismatch (PRAM).
//!
//! Hinton, Vinyals, Dean 2015 for distillation; Zagoruyko, Komodakis, ICLR 2017 for attention maps;
//! their sum is the fine-tuning loss of Kundu et al., ICLR 2023, section 3.

use crate::error::{Error, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

/// Weight of the activation mismatch, as published.
pub const PRAM_WEIGHT: f64 = 1000.0;

/// Mean cross-entropy with label smoothing; `target` holds class indices or probabilities.
pub fn cross_entropy(logits: &Tensor, target: &Tensor, smoothing: f64) -> Tensor {
    logits.cross_entropy_loss(target, None::<&Tensor>, Reduction::Mean, -100, smoothing)
}

/// T^2 KL(teacher || student) of the class scores softened at temperature T, mean over the batch.
pub fn distillation(student: &Tensor, teacher: &Tensor, temperature: f64) -> Tensor {
    let student = (student / temperature).log_softmax(1, Kind::Float);
    let teacher = (teacher / temperature).log_softmax(1, Kind::Float);
    let sum = student.kl_div(&teacher, Reduction::Sum, true);
    sum * (temperature * temperature / student.size()[0] as f64)
}

/// What a student learns from: labels and the teacher's class scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// Share of the cross-entropy; the rest is the distillation's.
    pub ce_share: f64,
    /// Temperature of the distillation.
    pub temperature: f64,
    /// Label smoothing of the cross-entropy.
    pub label_smoothing: f64,
}

impl Targets {
    /// As published for the mask search.
    pub const SEARCH: Targets = Targets {
        ce_share: 0.5,
        temperature: 4.0,
        label_smoothing: 0.0,
    };
    /// As published for fine-tuning.
    pub const FINETUNE: Targets = Targets {
        ce_share: 0.1,
        temperature: 4.0,
        label_smoothing: 0.0,
    };

    /// share CE + (1 - share) T^2 KL.
    pub fn loss(self, student: &Tensor, teacher: &Tensor, target: &Tensor) -> Tensor {
        let ce = cross_entropy(student, target, self.label_smoothing) * self.ce_share;
        ce + distillation(student, teacher, self.temperature) * (1.0 - self.ce_share)
    }

    /// Refuses numbers that make no loss.
    pub fn check(self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.ce_share) {
            let what = "the share of cross-entropy (--ce-share; of `all`, --search-ce-share and --finetune-ce-share) goes from 0 to 1";
            return Err(Error::Usage(what.into()));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(Error::Usage("--temperature: above 0, such as 4".into()));
        }
        Ok(())
    }

    /// For a checkpoint's record.
    pub fn choices(self) -> [String; 2] {
        [
            format!("ce_share={}", self.ce_share),
            format!("temperature={}", self.temperature),
        ]
    }
}

/// Channel mean of the squared map, flattened and scaled to unit length for each sample.
fn attention(map: &Tensor) -> Tensor {
    let squared = map.to_kind(Kind::Float).square();
    let flat = squared
        .mean_dim([1i64].as_slice(), false, Kind::Float)
        .flatten(1, -1);
    let norm = length(&flat);
    flat / norm.clamp_min(1e-6)
}

/// How the activations of two networks are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pram {
    /// Attention maps: channels collapsed, mean squared difference.
    Collapsed,
    /// Whole maps, as the paper writes it: length of the difference of the normalised maps, mean over
    /// the images, half the weight.
    Full,
}

/// The whole map, flattened and scaled to unit length for each sample.
fn unit(map: &Tensor) -> Tensor {
    let flat = map.to_kind(Kind::Float).flatten(1, -1);
    let norm = length(&flat);
    flat / norm.clamp_min(1e-6)
}

/// Length of each row; the small term keeps the gradient finite at zero.
fn length(rows: &Tensor) -> Tensor {
    let squares = rows
        .square()
        .sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    (squares + 1e-12).sqrt()
}

/// Mismatch of the maps of each stage, summed over the stages and times `weight`.
pub fn pram(student: &[Tensor], teacher: &[Tensor], form: Pram, weight: f64) -> Tensor {
    let one = |(s, t): (&Tensor, &Tensor)| match form {
        Pram::Collapsed => (attention(s) - attention(t)).square().mean(Kind::Float) * weight,
        Pram::Full => length(&(unit(s) - unit(t))).mean(Kind::Float) * (weight / 2.0),
    };
    let stages = student.iter().zip(teacher).map(one);
    let none = || Tensor::zeros([], (Kind::Float, tch::Device::Cpu));
    stages.reduce(|a, b| a + b).unwrap_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: &Tensor, want: f64) {
        let got = got.double_value(&[]);
        assert!((got - want).abs() < 1e-4, "{got}, not {want}");
    }

    #[test]
    fn known_answers_of_the_class_scores() {
        let rows = |v: &[f32]| Tensor::from_slice(v).view([-1, 2]);
        let ln3 = 3f32.ln();
        // The student says 1/2, 1/2; at temperature 2 the teacher says 1/4, 3/4.
        let (student, teacher) = (rows(&[0.0, 0.0]), rows(&[0.0, 2.0 * ln3]));
        let label = Tensor::from_slice(&[1i64]);
        close(&cross_entropy(&rows(&[0.0, ln3]), &label, 0.0), 0.287_682);
        let forward = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        close(&distillation(&student, &teacher, 2.0), 4.0 * forward);
        let backward = 0.5 * 2f64.ln() + 0.5 * (2.0 / 3.0f64).ln();
        close(&distillation(&teacher, &student, 2.0), 4.0 * backward);
        // The mean over the batch, here of the same image and one without a loss.
        let two = |t: &Tensor, last: &Tensor| Tensor::cat(&[t, last], 0);
        let (s, t) = (two(&student, &student), two(&teacher, &student));
        close(&distillation(&s, &t, 2.0), 2.0 * forward);
        let targets = Targets {
            ce_share: 0.25,
            temperature: 2.0,
            label_smoothing: 0.0,
        };
        let want = 0.25 * 2f64.ln() + 0.75 * 4.0 * forward;
        close(&targets.loss(&student, &teacher, &label), want);
        // With a fifth of the label spread over both classes: ln 4 - 0.9 ln 3 for scores of 0 and ln 3.
        let smooth = Targets {
            ce_share: 1.0,
            label_smoothing: 0.2,
            ..targets
        };
        let want = 4f64.ln() - 0.9 * 3f64.ln();
        close(&smooth.loss(&rows(&[0.0, ln3]), &teacher, &label), want);
        let shares = [Targets::SEARCH, Targets::FINETUNE].map(|t| (t.ce_share, t.temperature));
        assert_eq!(shares, [(0.5, 4.0), (0.1, 4.0)]);
        assert!(
            Targets {
                ce_share: 1.1,
                ..targets
            }
            .check()
            .is_err()
        );
        assert!(
            Targets {
                temperature: 0.0,
                ..targets
            }
            .check()
            .is_err()
        );
    }

    #[test]
    fn known_answers_of_the_mismatch() {
        // Two images, two channels, two positions. Channel means of the squares: (3, 4) and (1, 0).
        let maps = |v: &[f32]| Tensor::from_slice(v).view([2, 2, 1, 2]);
        let first = [6f32.sqrt(), 0.0, 0.0, 8f32.sqrt()];
        let other = [0.0, 0.0, 2.0, 0.0];
        let student = maps(&[first, other].concat());
        let teacher = maps(&[other, other].concat());
        let of = |form, stages: usize| {
            let stack = |t: &Tensor| (0..stages).map(|_| t.shallow_clone()).collect::<Vec<_>>();
            pram(&stack(&student), &stack(&teacher), form, 10.0)
        };
        // Unit length: (0.6, 0.8) against (1, 0); the other image agrees.
        let collapsed = 10.0 * (0.16 + 0.64) / 4.0;
        close(&of(Pram::Collapsed, 1), collapsed);
        close(&of(Pram::Collapsed, 2), 2.0 * collapsed);
        // The maps are orthogonal: a difference of length sqrt 2.
        close(&of(Pram::Full, 1), 5.0 * 2f64.sqrt() / 2.0);
    }

    #[test]
    fn a_map_of_zeros_has_a_gradient() {
        let options = (Kind::Float, tch::Device::Cpu);
        let other = Tensor::ones([1, 2, 2, 2], options);
        for form in [Pram::Collapsed, Pram::Full] {
            let map = Tensor::zeros([1, 2, 2, 2], options).set_requires_grad(true);
            pram(&[map.shallow_clone()], &[other.shallow_clone()], form, 1.0).backward();
            assert!(
                map.grad().sum(Kind::Float).double_value(&[]).is_finite(),
                "{form:?}"
            );
        }
    }

    #[test]
    fn equal_networks_have_no_distillation_loss_and_no_mismatch() {
        let options = (Kind::Float, tch::Device::Cpu);
        let (logits, map) = (
            Tensor::randn([4, 10], options),
            Tensor::randn([4, 3, 5, 5], options),
        );
        assert!(distillation(&logits, &logits, 4.0).abs().double_value(&[]) < 1e-5);
        let other = Tensor::randn([4, 3, 5, 5], options);
        for form in [Pram::Collapsed, Pram::Full] {
            let mismatch = |a: &Tensor, b: &Tensor| {
                pram(
                    &[a.shallow_clone()],
                    &[b.shallow_clone()],
                    form,
                    PRAM_WEIGHT,
                )
                .double_value(&[])
            };
            assert!(mismatch(&map, &map) < 1e-2, "{form:?}");
            assert!(mismatch(&map, &other) > 1.0, "{form:?}");
            assert!(
                mismatch(&(&map * 7.0), &map) < 1e-2,
                "scale does not matter"
            );
        }
    }
}
