//! Random weights and random ReLUs in place of a network's own: to measure what such a network costs before it is trained, or
//! without its weights.
//!
//! Weights are rescaled on a random input, layer by layer, so that what a convolution puts out has the mean square 1: values neither
//! vanish nor overflow, however deep the network is (D. Mishkin, J. Matas, "All you need is a good init", ICLR 2016).

use std::collections::BTreeMap;

use pi_model::relu_set::ReluSet;
use pi_model::spec::{InputSpec, Op};
use pi_model::{FloatModel, Result};
use rand::seq::index;
use rand::{Rng, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::float;

/// The network of `model` with random weights and at most `relus` of its ReLUs, spread evenly over layers and at random in each.
///
/// # Errors
/// [`pi_model::ModelError`] when the model does not fit together.
pub fn randomise(model: &FloatModel, relus: usize, seed: u64) -> Result<FloatModel> {
    model.check()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut model = model.clone();
    for weights in model.weights.values_mut() {
        let values = weights.weight.iter_mut();
        values.for_each(|w| *w = rng.random_range(-1.0..1.0));
        let values = weights.bias.iter_mut();
        values.for_each(|b| *b = rng.random_range(-0.1..0.1));
    }
    keep(&mut model, relus, &mut rng)?;
    let input = input(&model.spec.input, &mut rng);
    let mut scales = BTreeMap::new();
    float::alter(&model, &input, |op, values| {
        if matches!(op, Op::Conv2d { .. } | Op::Linear { .. }) {
            let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            let size = (squares / values.len().max(1) as f64).sqrt() as f32;
            if size > 0.0 {
                values.iter_mut().for_each(|v| *v /= size);
                scales.insert(op.name().to_owned(), size);
            }
        }
    })?;
    for (name, size) in scales {
        if let Some(weights) = model.weights.get_mut(&name) {
            let values = weights.weight.iter_mut().chain(&mut weights.bias);
            values.for_each(|v| *v /= size);
        }
    }
    let card = &mut model.spec.card;
    card.dataset = "random weights".into();
    (card.float_accuracy, card.teacher_accuracy) = (None, None);
    Ok(model)
}

/// Random inputs of the network.
#[must_use]
pub fn inputs(spec: &InputSpec, n: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| input(spec, &mut rng)).collect()
}

fn input(spec: &InputSpec, rng: &mut impl Rng) -> Vec<f32> {
    let area = spec.height * spec.width;
    let channel = |c: usize| -> Vec<f32> {
        let [low, high] = spec.bounds(c).unwrap_or([-1.0, 1.0]);
        let value = || (low + (high - low) * rng.random::<f64>()) as f32;
        std::iter::repeat_with(value).take(area).collect()
    };
    (0..spec.channels).flat_map(channel).collect()
}

/// Keeps at most `relus` ReLUs.
fn keep(model: &mut FloatModel, relus: usize, rng: &mut impl Rng) -> Result<()> {
    let of = |model: &FloatModel| model.masks.values().map(|m| m.kept().len()).sum::<usize>();
    let total = of(model);
    if relus >= total {
        return Ok(());
    }
    let share = |seen: usize| (seen as u128 * relus as u128 / total as u128) as usize;
    let mut seen = 0;
    for op in &mut model.spec.ops {
        let name = op.name().to_owned();
        let (Op::MaskedRelu { relus_kept, .. }
        | Op::Clip { relus_kept, .. }
        | Op::LeakyRelu { relus_kept, .. }) = op
        else {
            continue;
        };
        let Some(mask) = model.masks.get_mut(&name) else {
            continue;
        };
        let before = share(seen);
        seen += mask.kept().len();
        let n = share(seen) - before;
        let mut bits = vec![0; mask.n_positions()];
        let kept = mask.kept();
        for i in index::sample(rng, kept.len(), n) {
            bits[kept[i] as usize] = 1;
        }
        *relus_kept = n;
        *mask = ReluSet::from_mask(&name, &bits)?;
    }
    model.spec.card.relus_kept = of(model);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Net;
    use pi_model::spec::Window;

    #[test]
    fn values_keep_their_size_and_relus_their_number() {
        let mut net = Net::new([3, 8, 8], 3);
        let mut from = "input".to_owned();
        for i in 0..12 {
            let (conv, relu) = (format!("conv{i}"), format!("relu{i}"));
            net.conv(&conv, &from, 16, Window::square(3, 1, 1));
            net.relu(&relu, &conv);
            from = relu;
        }
        let all: usize = net.model.masks.values().map(|m| m.kept().len()).sum();
        let made = randomise(&net.model, 1_000, 5).unwrap();
        made.check().unwrap();
        let kept: usize = made.masks.values().map(|m| m.kept().len()).sum();
        assert_eq!((kept, made.spec.card.relus_kept), (1_000, 1_000));
        let [input] = &inputs(&made.spec.input, 1, 9)[..] else {
            panic!()
        };
        let sizes = float::run(&made, input).unwrap().sizes;
        for (name, size) in sizes.iter().filter(|(name, _)| name.starts_with("conv")) {
            assert!((0.3..2.0).contains(&size.mean), "{name}: {}", size.mean);
        }
        assert_ne!(made.weights, net.model.weights);
        assert_eq!(made, randomise(&net.model, 1_000, 5).unwrap());
        let whole = randomise(&net.model, usize::MAX, 5).unwrap();
        let kept: usize = whole.masks.values().map(|m| m.kept().len()).sum();
        assert_eq!(kept, all);
    }
}
