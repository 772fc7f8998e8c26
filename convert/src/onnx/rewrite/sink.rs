//! A multiplication and an addition for each channel of a result, moved forward into the convolutions and matrices that read it.
//!
//! The old value of a result is `scale * new + shift`. What lies between must let that through: pools of averages do, a ReLU or a
//! maximum only a positive scale. Zeros around a map are not shifted, so a padded convolution takes a scale only.

use std::collections::{BTreeMap, HashMap};

use pi_model::graph::Shape;
use pi_model::spec::{Op, Padding};

use super::super::network::{Affine, Network};

/// A convolution or matrix, and what is to be done to its input.
pub type Landing = (usize, Affine);

/// Where `affine`, done to the result of operation `start`, lands; none if something on the way does not let it through.
pub fn landings(
    network: &Network,
    shapes: &BTreeMap<String, Shape>,
    start: usize,
    affine: &Affine,
) -> Option<Vec<Landing>> {
    let ops = &network.spec.ops;
    let mut on_the_way: HashMap<&str, Affine> =
        HashMap::from([(ops[start].name(), affine.clone())]);
    let mut landings = vec![];
    for (i, op) in ops.iter().enumerate().skip(start + 1) {
        if !op
            .inputs()
            .iter()
            .any(|input| on_the_way.contains_key(input.as_str()))
        {
            continue;
        }
        let first = on_the_way.get(op.inputs()[0].as_str());
        match op {
            Op::Conv2d { window, .. } => {
                let affine = first?;
                if window.padding != Padding::default() && !affine.only_scales() {
                    return None;
                }
                landings.push((i, affine.clone()));
            }
            Op::Linear { .. } => landings.push((i, first?.clone())),
            Op::Concat { inputs, .. } => {
                let mut all = Affine::identity(0);
                for input in inputs {
                    let part = on_the_way.get(input.as_str()).cloned();
                    let part = part.unwrap_or_else(|| Affine::identity(shapes[input].channels));
                    all.scale.extend(part.scale);
                    all.shift.extend(part.shift);
                }
                on_the_way.insert(op.name(), all);
            }
            _ => {
                let passed = pass(op, first?, shapes[&op.inputs()[0]])?;
                on_the_way.insert(op.name(), passed);
            }
        }
    }
    // The output is read by nothing, so nothing on the way to it may be left.
    let last = ops.last()?;
    (!on_the_way.contains_key(last.name())).then_some(landings)
}

/// What an operation with one input makes of `affine`.
fn pass(op: &Op, affine: &Affine, read: Shape) -> Option<Affine> {
    let unchanged = |lets_through: bool| lets_through.then(|| affine.clone());
    let positive = affine.scale.iter().all(|&s| s >= 0.0);
    match op {
        Op::GlobalAvgPool { .. } => unchanged(true),
        Op::AvgPool { count_padding, .. } => unchanged(!count_padding || affine.only_scales()),
        Op::MaxPool { .. } => unchanged(positive),
        Op::MaskedRelu { .. } | Op::LeakyRelu { .. } => unchanged(positive && affine.only_scales()),
        Op::Pad { .. } => unchanged(affine.only_scales()),
        Op::Channels { channels, .. } => Some(Affine {
            scale: channels.iter().map(|&c| affine.scale[c]).collect(),
            shift: channels.iter().map(|&c| affine.shift[c]).collect(),
        }),
        Op::Flatten { .. } => {
            let area = read.height * read.width;
            let spread = |values: &[f64]| {
                values
                    .iter()
                    .flat_map(|&v| std::iter::repeat_n(v, area))
                    .collect()
            };
            Some(Affine {
                scale: spread(&affine.scale),
                shift: spread(&affine.shift),
            })
        }
        _ => None,
    }
}

/// Changes the weights where `landings` says.
pub fn land(network: &mut Network, landings: &[Landing]) {
    for (i, affine) in landings {
        let op = &network.spec.ops[*i];
        let groups = match op {
            Op::Conv2d { groups, .. } => *groups,
            _ => 1,
        };
        let Some(w) = network.weights.get_mut(op.name()) else {
            continue;
        };
        let n_filters = w.bias.len();
        let per_group = affine.scale.len() / groups;
        let filter = w.weight.len() / n_filters;
        let area = filter / per_group;
        for o in 0..n_filters {
            let first = o / (n_filters / groups) * per_group;
            let mut constant = 0.0;
            for c in 0..per_group {
                let (s, t) = (affine.scale[first + c], affine.shift[first + c]);
                for v in &mut w.weight[o * filter + c * area..][..area] {
                    constant += f64::from(*v) * t;
                    *v = (f64::from(*v) * s) as f32;
                }
            }
            w.bias[o] = (f64::from(w.bias[o]) + constant) as f32;
        }
    }
}
