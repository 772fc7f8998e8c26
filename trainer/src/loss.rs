//! Losses: cross-entropy, distillation at temperature T, and the post-ReLU activation mismatch (PRAM).
//!
//! Hinton, Vinyals, Dean 2015 for distillation; Zagoruyko, Komodakis, ICLR 2017 for attention maps;
//! their sum is the fine-tuning loss of Kundu et al., ICLR 2023, section 3.

use tch::{Kind, Reduction, Tensor};

/// Distillation temperature.
pub const TEMPERATURE: f64 = 4.0;

/// Mean cross-entropy with label smoothing.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Tensor {
    logits.cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, -100, smoothing)
}

/// T^2 KL(teacher || student) of the softened class scores, mean over the batch.
pub fn distillation(student: &Tensor, teacher: &Tensor) -> Tensor {
    let student = (student / TEMPERATURE).log_softmax(1, Kind::Float);
    let teacher = (teacher / TEMPERATURE).log_softmax(1, Kind::Float);
    let sum = student.kl_div(&teacher, Reduction::Sum, true);
    sum * (TEMPERATURE * TEMPERATURE / student.size()[0] as f64)
}

/// Channel mean of the squared map, flattened and scaled to unit length for each sample.
fn attention(map: &Tensor) -> Tensor {
    let squared = map.to_kind(Kind::Float).square();
    let flat = squared
        .mean_dim([1i64].as_slice(), false, Kind::Float)
        .flatten(1, -1);
    let norm = flat
        .square()
        .sum_dim_intlist([1i64].as_slice(), true, Kind::Float)
        .sqrt();
    &flat / norm.clamp_min(1e-6)
}

/// Mean squared difference of the attention maps of each stage, summed over the stages.
pub fn pram(student: &[Tensor], teacher: &[Tensor]) -> Tensor {
    let zero = Tensor::zeros([], (Kind::Float, tch::Device::Cpu));
    student.iter().zip(teacher).fold(zero, |sum, (s, t)| {
        sum + (attention(s) - attention(t)).square().mean(Kind::Float)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_networks_have_no_distillation_loss_and_no_mismatch() {
        let options = (Kind::Float, tch::Device::Cpu);
        let (logits, map) = (
            Tensor::randn([4, 10], options),
            Tensor::randn([4, 3, 5, 5], options),
        );
        assert!(distillation(&logits, &logits).abs().double_value(&[]) < 1e-5);
        let other = Tensor::randn([4, 3, 5, 5], options);
        assert_eq!(
            pram(&[map.shallow_clone()], &[map.shallow_clone()]).double_value(&[]),
            0.0
        );
        assert!(pram(&[map.shallow_clone()], &[other]).double_value(&[]) > 0.0);
        assert!(
            pram(&[&map * 7.0], &[map]).double_value(&[]) < 1e-9,
            "scale does not matter"
        );
    }
}
