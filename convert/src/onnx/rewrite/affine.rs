//! Normalisations: a multiplication and an addition for each channel, of which no more is left than the network needs.
//!
//! In this order: into the convolution before, if nothing else reads that; into those behind; through a ReLU, where
//! ReLU(s (x + b)) = |s| ReLU(x + b) for a positive s and |s| (ReLU(x + b) - (x + b)) for a negative one; the multiplication into the
//! convolutions behind. The last two leave the addition as a `bias`, which costs nothing. As the last resort it stays a convolution
//! with a filter for each channel.

use std::collections::BTreeMap;

use pi_model::ModelError;
use pi_model::graph::Shape;
use pi_model::spec::Op;

use super::super::network::{Affine, Network};
use super::sink::{Landing, land, landings};

/// Most that an addition may grow to when the multiplication is taken from it: more would cost the range of the layer.
const MAX_SHIFT: f64 = 256.0;

/// So many standard deviations from their mean results of a trained network never are. A channel whose ReLU would change further
/// away is always off or always on.
const MAX_DEVIATIONS: f64 = 32.0;

/// How many went which way.
#[derive(Default)]
struct Ways {
    before: usize,
    behind: usize,
    biases: usize,
    through_relus: usize,
}

/// Folds all multiplications and additions.
///
/// # Errors
/// [`ModelError::Op`] naming an operation that does not fit.
pub fn fold(network: &mut Network, notes: &mut Vec<String>) -> Result<(), ModelError> {
    let mut ways = Ways::default();
    let mut i = 0;
    while i < network.spec.ops.len() {
        let Some(affine) = network.affine(i) else {
            i += 1;
            continue;
        };
        if let Some(producer) = fold_up(network, i, &affine) {
            ways.before += 1;
            i = producer;
            continue;
        }
        let shapes = network.shapes()?;
        if let Some(found) = landings(network, &shapes, i, &affine) {
            land(network, &found);
            hand_on_statistics(network, i, &found);
            network.remove(i);
            ways.behind += 1;
            continue;
        }
        if !affine.only_shifts() {
            if through_relu(network, &shapes, i, &affine).is_some() {
                ways.through_relus += 1;
            } else if leave_bias(network, &shapes, i, &affine).is_some() {
                ways.biases += 1;
            }
        }
        i += 1;
    }
    let kept = (0..network.spec.ops.len())
        .filter(|&i| network.affine(i).is_some_and(|a| !a.only_shifts()));
    let kept: Vec<_> = kept.map(|i| network.spec.ops[i].name()).collect();
    for (n, text) in [
        (ways.before, "folded into the convolutions before them"),
        (ways.behind, "folded into the convolutions behind them"),
        (
            ways.biases,
            "moved into the convolutions behind them but for a bias",
        ),
        (
            ways.through_relus,
            "moved through the ReLUs behind them but for a bias",
        ),
    ] {
        if n > 0 {
            notes.push(format!("{n} normalisations or constants {text}"));
        }
    }
    if !kept.is_empty() {
        notes.push(format!(
            "left as convolutions with a filter for each channel, each of which costs a layer: {}",
            kept.join(", ")
        ));
    }
    Ok(())
}

/// Folds `affine`, operation `i`, into the one before it; returns the number of that one.
fn fold_up(network: &mut Network, i: usize, affine: &Affine) -> Option<usize> {
    let input = network.spec.ops[i].inputs().first()?.clone();
    if network.readers().get(&input)?.len() != 1 {
        return None;
    }
    let before = network.position(&input)?;
    match &network.spec.ops[before] {
        Op::Conv2d { .. } | Op::Linear { .. } => {
            let w = network.weights.get_mut(&input)?;
            let filter = w.weight.len() / w.bias.len();
            for (o, (&s, &t)) in affine.scale.iter().zip(&affine.shift).enumerate() {
                for v in &mut w.weight[o * filter..][..filter] {
                    *v = (f64::from(*v) * s) as f32;
                }
                w.bias[o] = (f64::from(w.bias[o]) * s + t) as f32;
            }
        }
        Op::Bias { .. } => {
            let mut merged = network.affine(before)?;
            for c in 0..merged.scale.len() {
                merged.scale[c] = affine.scale[c];
                merged.shift[c] = merged.shift[c] * affine.scale[c] + affine.shift[c];
            }
            network.set_affine(before, &merged);
        }
        _ => return None,
    }
    network.remove(i);
    Some(before)
}

/// An operation that takes another one in and its place reads the same values.
fn hand_on_statistics(network: &mut Network, i: usize, found: &[Landing]) {
    let ops = &network.spec.ops;
    let Some(statistics) = network.statistics.remove(ops[i].name()) else {
        return;
    };
    for (reader, _) in found {
        if ops[*reader].inputs() == [ops[i].name()] {
            let name = ops[*reader].name().to_owned();
            network.statistics.insert(name, statistics.clone());
        }
    }
}

/// The addition that is left when the multiplication is done later; none where it would be out of proportion.
fn bias(affine: &Affine) -> Option<Affine> {
    let shift = affine.scale.iter().zip(&affine.shift).map(|(&s, &t)| t / s);
    let shift: Vec<f64> = shift.collect();
    let fits = shift.iter().all(|b| b.abs() <= MAX_SHIFT) && affine.scale.iter().all(|&s| s != 0.0);
    let scale = vec![1.0; shift.len()];
    fits.then_some(Affine { scale, shift })
}

fn only_scale(scale: impl Iterator<Item = f64>) -> Affine {
    let scale: Vec<f64> = scale.collect();
    Affine {
        shift: vec![0.0; scale.len()],
        scale,
    }
}

/// Moves the multiplication of operation `i` forward and leaves the addition.
fn leave_bias(
    network: &mut Network,
    shapes: &BTreeMap<String, Shape>,
    i: usize,
    affine: &Affine,
) -> Option<()> {
    let bias = bias(affine)?;
    let found = landings(
        network,
        shapes,
        i,
        &only_scale(affine.scale.iter().copied()),
    )?;
    land(network, &found);
    network.set_affine(i, &bias);
    Some(())
}

/// Moves the absolute value of the multiplication of operation `i` through the ReLU that alone reads it; mends negative channels.
fn through_relu(
    network: &mut Network,
    shapes: &BTreeMap<String, Shape>,
    i: usize,
    affine: &Affine,
) -> Option<()> {
    let name = network.spec.ops[i].name().to_owned();
    let &[relu] = network.readers().get(&name)?.as_slice() else {
        return None;
    };
    if !matches!(network.spec.ops[relu], Op::MaskedRelu { .. }) {
        return None;
    }
    let mut bias = only_scale(affine.scale.iter().map(|_| 1.0));
    let mut behind = only_scale(affine.scale.iter().map(|s| s.abs()));
    let statistics = network.statistics.get(&name);
    for (c, (&s, &t)) in affine.scale.iter().zip(&affine.shift).enumerate() {
        let [mean, deviation] = statistics.map_or([0.0, MAX_SHIFT / MAX_DEVIATIONS], |all| all[c]);
        let sign = if s < 0.0 { -1.0 } else { 1.0 };
        let whole = if t == 0.0 { 0.0 } else { sign * t / s.abs() };
        let most = MAX_DEVIATIONS * deviation;
        let centred = (whole + mean).clamp(-most, most);
        bias.shift[c] = if centred == whole + mean {
            whole
        } else {
            centred - mean
        };
        if bias.shift[c] != whole && sign * centred > 0.0 {
            // Always on: what the addition lacks is added behind the ReLU.
            behind.shift[c] = t - s * bias.shift[c];
        }
    }
    let found = landings(network, shapes, relu, &behind)?;
    land(network, &found);
    network.set_affine(i, &bias);
    mend(network, relu, &name, &affine.scale);
    Some(())
}

/// Puts behind operation `relu`, which reads `before`, ReLU(-z) = ReLU(z) - z for the channels z whose scale is negative.
fn mend(network: &mut Network, relu: usize, before: &str, scale: &[f64]) {
    let name = network.spec.ops[relu].name().to_owned();
    let (negative, positive): (Vec<usize>, Vec<usize>) =
        (0..scale.len()).partition(|&c| scale[c] < 0.0);
    let part = |kind: &str| format!("{name}.{kind}");
    let take = |kind: &str, input: &str, channels: &[usize]| Op::Channels {
        name: part(kind),
        input: input.to_owned(),
        channels: channels.to_vec(),
    };
    let order = [positive.as_slice(), &negative].concat();
    let mut back = vec![0; order.len()];
    for (at, &c) in order.iter().enumerate() {
        back[c] = at;
    }
    let mut ops = vec![];
    if negative.is_empty() {
        return;
    }
    if positive.is_empty() {
        ops.push(Op::Sub {
            name: part("negative"),
            inputs: [name.clone(), before.to_owned()],
        });
    } else {
        ops.push(take("relu_of_negative", &name, &negative));
        ops.push(take("of_negative", before, &negative));
        ops.push(Op::Sub {
            name: part("negative"),
            inputs: [part("relu_of_negative"), part("of_negative")],
        });
        ops.push(take("positive", &name, &positive));
        ops.push(Op::Concat {
            name: part("both"),
            inputs: vec![part("positive"), part("negative")],
        });
        ops.push(take("in_order", &part("both"), &back));
    }
    let last = ops
        .last()
        .map(|op| op.name().to_owned())
        .unwrap_or_default();
    network.redirect(&name, &last, relu + 1);
    network.spec.ops.splice(relu + 1..=relu, ops);
}
