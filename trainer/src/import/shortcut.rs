//! Shortcuts without parameters (He, Zhang, Ren, Sun, CVPR 2016, option A): every second pixel of the smaller map, and
//! channels of zeros beside its own. A network here has 1x1 convolutions with BatchNorm in their place: kernels that select, and
//! a BatchNorm that changes nothing.
//!
//! It shall change nothing while training goes on either, when it takes each batch's own mean and variance; so its
//! statistics are those of the map, its scale and shift their inverse. Channels of zeros get next to no scale, for else the least of a
//! weight behind them would come out with variance 1.

use crate::data::Batches;
use crate::evaluate;
use crate::net::{Family, Layer, MaskSet, Mode, Net};
use pi_model::spec::Op;
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

/// Where the channels of the smaller map are among those of the larger. No file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// As many zeros before them as behind (most implementations for CIFAR).
    Middle,
    /// All zeros behind them.
    First,
}

/// What [`select`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selected {
    /// The place that does better.
    pub place: Place,
    /// Share of the images classified as labelled, for it and for the other.
    pub accuracies: [f64; 2],
}

/// True if `missing` are the parameters of all shortcuts, and option A can stand for them.
pub(super) fn is_option_a(net: &Net, missing: &[String]) -> bool {
    let all = net
        .params
        .iter()
        .map(|p| &p.name)
        .filter(|n| n.contains(".shortcut."));
    let all: BTreeSet<&String> = all.collect();
    let Some(arch) = &net.graph.arch else {
        return false;
    };
    arch.family == Family::Residual
        // So every shortcut reads the result of a stage.
        && arch.stem.width == arch.widths[0]
        && !all.is_empty()
        && missing.iter().collect::<BTreeSet<_>>() == all
        && shortcuts(net).iter().all(|s| s.n_out >= s.n_in && (s.n_out - s.n_in) % 2 == 0)
}

/// A 1x1 convolution that stands for a shortcut without parameters.
pub(super) struct Shortcut<'a> {
    /// Its channels.
    pub(super) n_in: i64,
    pub(super) n_out: i64,
    stride: i64,
    pub(super) layer: &'a Layer,
}

/// In order: each reads the result of the stage with its number.
pub(super) fn shortcuts(net: &Net) -> Vec<Shortcut<'_>> {
    let shortcut = |(op, layer): (&Op, &'_ Layer)| match (op, &layer.weight) {
        (Op::Conv2d { window, .. }, Some(weight)) if layer.name.ends_with(".shortcut") => {
            let size = weight.size();
            Some((size[1], size[0], window.stride[0] as i64))
        }
        _ => None,
    };
    let all = net.trained().filter_map(|(op, layer)| {
        let (n_in, n_out, stride) = shortcut((op, layer))?;
        Some(Shortcut {
            n_in,
            n_out,
            stride,
            layer,
        })
    });
    all.collect()
}

/// Makes the shortcuts of `net` those of option A, in the place that does better on labelled images it was trained on.
pub fn select(net: &Net, images: &Batches) -> Selected {
    let masks = MaskSet::all_relu(&net.graph).on(net.device());
    let accuracy = |place| {
        put(net, place);
        evaluate::accuracy(net, &masks, images)
    };
    let [middle, first] = [Place::Middle, Place::First].map(accuracy);
    let (place, accuracies) = match first > middle {
        true => (Place::First, [first, middle]),
        false => (Place::Middle, [middle, first]),
    };
    put(net, place);
    keep_in_training(net, place, images, &masks);
    Selected { place, accuracies }
}

fn offset(shortcut: &Shortcut, place: Place) -> i64 {
    match place {
        Place::Middle => (shortcut.n_out - shortcut.n_in) / 2,
        Place::First => 0,
    }
}

/// Sets kernels, and BatchNorms of mean 0 and variance 1.
pub(super) fn put(net: &Net, place: Place) {
    for shortcut in shortcuts(net) {
        let (n_in, n_out) = (shortcut.n_in, shortcut.n_out);
        let options = (Kind::Double, net.device());
        if let Some(weight) = &shortcut.layer.weight {
            let kernel = Tensor::zeros([n_out, n_in], options);
            let own = kernel.narrow(0, offset(&shortcut, place), n_in);
            own.shallow_clone().copy_(&Tensor::eye(n_in, options));
            tch::no_grad(|| {
                weight
                    .shallow_clone()
                    .copy_(&kernel.view([n_out, n_in, 1, 1]))
            });
        }
        if let Some(norm) = &shortcut.layer.norm {
            let zeros = Tensor::zeros([n_out], options);
            norm.undo(&zeros, &zeros.ones_like(), &zeros);
        }
    }
}

/// Gives the BatchNorms the statistics of what the kernels select.
fn keep_in_training(net: &Net, place: Place, images: &Batches, masks: &MaskSet) {
    let mode = Mode {
        collect: true,
        ..Mode::EVAL
    };
    let moments = |x: &Tensor| x.mean_dim([0i64, 2, 3].as_slice(), false, Kind::Double);
    tch::no_grad(|| {
        let epoch = images.epoch(0);
        let n_batches = images.n_batches();
        let mut sums: Vec<[Tensor; 2]> = Vec::new();
        for i in 0..n_batches {
            let stages = net.forward(&images.get(&epoch, i).0, masks, mode).stages;
            for (stage, shortcut) in shortcuts(net).iter().enumerate() {
                let x = stages[stage].slice(2, None, None, shortcut.stride);
                let x = x.slice(3, None, None, shortcut.stride);
                let x = x.to_kind(Kind::Double);
                let both = [moments(&x), moments(&x.square())];
                match sums.get_mut(stage) {
                    Some(sum) => *sum = [&sum[0] + &both[0], &sum[1] + &both[1]],
                    None => sums.push(both),
                }
            }
        }
        for (shortcut, [sum, squares]) in shortcuts(net).iter().zip(&sums) {
            let Some(norm) = &shortcut.layer.norm else {
                continue;
            };
            let mean = sum / n_batches as f64;
            let var = (squares / n_batches as f64 - mean.square()).clamp_min(0.0);
            let (n_in, n_out) = (shortcut.n_in, shortcut.n_out);
            let before = offset(shortcut, place);
            // Zeros have mean and variance 0.
            let pad = |t: Tensor| t.constant_pad_nd([before, n_out - n_in - before]);
            let mean = pad(mean);
            norm.undo(&mean, &pad(var), &mean.zeros_like());
        }
    });
}
