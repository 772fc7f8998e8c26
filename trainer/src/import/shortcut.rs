//! Shortcuts without parameters (He, Zhang, Ren, Sun, CVPR 2016, option A): every second pixel of the smaller map, and
//! channels of zeros beside its own. A network here has 1x1 convolutions with BatchNorm in their place: kernels that select, and
//! a BatchNorm that changes nothing.
//!
//! It shall change nothing while training goes on either, when it takes each batch's own mean and variance; so its
//! statistics are those of the map, its scale and shift their inverse. Channels of zeros get next to no scale, for else the least of a
//! weight behind them would come out with variance 1.

use crate::data::Batches;
use crate::evaluate;
use crate::net::{BN_EPSILON, Conv, Family, MaskSet, Mode, Net, Norm, Term};
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
    let grows = |t: &Term| {
        let [n_in, n_out] = t.channels;
        n_out >= n_in && (n_out - n_in) % 2 == 0
    };
    net.arch.family == Family::Residual
        // So every shortcut reads the result of a stage.
        && net.arch.stem.width == net.arch.widths[0]
        && !all.is_empty()
        && missing.iter().collect::<BTreeSet<_>>() == all
        && shortcuts(net).all(|(_, t, _)| grows(t))
}

/// The stage whose result it reads, and the shortcut.
fn shortcuts(net: &Net) -> impl Iterator<Item = (usize, &Term, &Conv)> {
    let layers = net.plan.iter().zip(&net.convs);
    let all = layers.flat_map(|(layer, convs)| layer.terms.iter().zip(convs));
    let all = all.filter(|(t, _)| t.name.ends_with(".shortcut"));
    all.enumerate().map(|(stage, (t, conv))| (stage, t, conv))
}

/// Makes the shortcuts of `net` those of option A, in the place that does better on labelled images it was trained on.
pub fn select(net: &Net, images: &Batches) -> Selected {
    let masks = MaskSet::all_relu(&net.arch).on(net.device());
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

fn offset(term: &Term, place: Place) -> i64 {
    match place {
        Place::Middle => (term.channels[1] - term.channels[0]) / 2,
        Place::First => 0,
    }
}

/// Sets kernels, and BatchNorms of mean 0 and variance 1.
pub(super) fn put(net: &Net, place: Place) {
    for (_, term, conv) in shortcuts(net) {
        let [n_in, n_out] = term.channels;
        let options = (Kind::Double, net.device());
        if let Some(weight) = &conv.weight {
            let kernel = Tensor::zeros([n_out, n_in], options);
            let own = kernel.narrow(0, offset(term, place), n_in);
            own.shallow_clone().copy_(&Tensor::eye(n_in, options));
            tch::no_grad(|| {
                weight
                    .shallow_clone()
                    .copy_(&kernel.view([n_out, n_in, 1, 1]))
            });
        }
        if let Some(norm) = &conv.norm {
            set(
                norm,
                &Tensor::zeros([n_out], options),
                &Tensor::ones([n_out], options),
            );
        }
    }
}

/// A BatchNorm that undoes its own statistics: its factor is 1 within the rounding of a 32-bit float.
fn set(norm: &Norm, mean: &Tensor, var: &Tensor) {
    let scale = (var + BN_EPSILON).sqrt();
    let parts = [
        (&norm.mean, mean),
        (&norm.var, var),
        (&norm.gamma, &scale),
        (&norm.beta, mean),
    ];
    tch::no_grad(|| parts.map(|(to, from)| to.shallow_clone().copy_(from)));
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
            for (stage, term, _) in shortcuts(net) {
                let x = stages[stage].slice(2, None, None, term.stride);
                let x = x.slice(3, None, None, term.stride).to_kind(Kind::Double);
                let both = [moments(&x), moments(&x.square())];
                match sums.get_mut(stage) {
                    Some(sum) => *sum = [&sum[0] + &both[0], &sum[1] + &both[1]],
                    None => sums.push(both),
                }
            }
        }
        for ((_, term, conv), [sum, squares]) in shortcuts(net).zip(&sums) {
            let Some(norm) = &conv.norm else { continue };
            let mean = sum / n_batches as f64;
            let var = (squares / n_batches as f64 - mean.square()).clamp_min(0.0);
            let [n_in, n_out] = term.channels;
            let before = offset(term, place);
            // Zeros have mean and variance 0.
            let pad = |t: Tensor| t.constant_pad_nd([before, n_out - n_in - before]);
            set(norm, &pad(mean), &pad(var));
        }
    });
}
