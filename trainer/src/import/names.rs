//! What parameters are called by torchvision and in CIFAR repositories.

use crate::net::{Arch, Family};
use std::collections::BTreeMap;
use tch::Tensor;

/// The foreign names of each of our parameters.
pub(super) type Names = BTreeMap<String, Vec<String>>;

/// Records the foreign names of a convolution (`conv`, in any of the forms) and of its BatchNorm.
pub(super) fn add(names: &mut Names, ours: &str, conv: &[String], norm: &[String]) {
    let with = |list: &[String], part: &str| list.iter().map(|n| format!("{n}.{part}")).collect();
    names.insert(format!("{ours}.weight"), with(conv, "weight"));
    for (part, theirs) in [
        ("gamma", "weight"),
        ("beta", "bias"),
        ("mean", "running_mean"),
        ("var", "running_var"),
    ] {
        names.insert(format!("{ours}.bn.{part}"), with(norm, theirs));
    }
}

fn strings<const N: usize>(list: [&str; N]) -> Vec<String> {
    list.map(str::to_owned).to_vec()
}

fn classifier(names: &mut Names) {
    for part in ["weight", "bias"] {
        let of = |n: &str| format!("{n}.{part}");
        let theirs = ["fc", "linear", "classifier", "classifier.0", "head.fc"]
            .map(of)
            .to_vec();
        names.insert(of("fc"), theirs);
    }
}

/// What the first convolution is called, and the BatchNorm behind it or at the end of a pre-activation network.
pub(super) const STEM: [&str; 3] = ["conv1", "conv", "conv1.0"];
pub(super) const NORM: [&str; 4] = ["bn1", "bn", "norm1", "conv1.1"];
/// What the first convolution of a block is called there.
pub(super) const FIRST: [&str; 2] = ["conv1", "residual_function.0"];

/// Where block `b` of stage `s` can be.
pub(super) fn homes(s: usize, b: usize) -> [String; 4] {
    [
        format!("layer{}.{b}", s + 1),
        format!("block{}.layer.{b}", s + 1),
        format!("layer{}.layer.{b}", s + 1),
        format!("conv{}_x.{b}", s + 2),
    ]
}

/// Names of residual networks.
pub(super) fn names(arch: &Arch) -> Names {
    let mut names = Names::new();
    classifier(&mut names);
    let pre = arch.family == Family::PreActivation;
    let first_norm = if pre {
        strings(["block1.layer.0.bn1", "layer1.0.bn1"])
    } else {
        strings(NORM)
    };
    add(&mut names, "stem", &strings(STEM), &first_norm);
    add(&mut names, "norm", &[], &strings(NORM));
    for (s, &n_blocks) in arch.blocks.iter().enumerate() {
        for b in 0..n_blocks {
            let ours = format!("stage{s}.block{b}");
            let homes = homes(s, b);
            let at = |parts: &[&str]| -> Vec<String> {
                let of = |h: &String| parts.iter().map(|p| format!("{h}.{p}")).collect::<Vec<_>>();
                homes.iter().flat_map(of).collect()
            };
            // A pre-activation block keeps its second BatchNorm with its first convolution here.
            let norms = if pre {
                &["bn2"][..]
            } else {
                &["bn1", "residual_function.1"]
            };
            add(
                &mut names,
                &format!("{ours}.conv1"),
                &at(&FIRST),
                &at(norms),
            );
            add(
                &mut names,
                &format!("{ours}.conv2"),
                &at(&["conv2", "residual_function.3"]),
                &at(&["bn2", "residual_function.4"]),
            );
            add(&mut names, &format!("{ours}.norm1"), &[], &at(&["bn1"]));
            add(
                &mut names,
                &format!("{ours}.shortcut"),
                &at(&["downsample.0", "shortcut.0", "convShortcut", "shortcut"]),
                &at(&["downsample.1", "shortcut.1"]),
            );
        }
    }
    names
}

/// Number, shape and name of what lies in a VGG's `features`, in order.
pub(super) fn features(tensors: &[(String, Tensor)]) -> Vec<(usize, Vec<i64>, String)> {
    let mut numbered = Vec::new();
    for (name, t) in tensors {
        let mut parts = name.rsplit('.');
        let last = [parts.next(), parts.next(), parts.next()];
        if let [Some("weight"), Some(number), Some("features")] = last
            && let Ok(n) = number.parse()
        {
            numbered.push((n, t.size(), format!("features.{number}")));
        }
    }
    numbered.sort();
    numbered.dedup();
    numbered
}

/// VGG numbers convolutions, BatchNorms, ReLUs and pools alike, so the order decides.
pub(super) fn plain_names(arch: &Arch, tensors: &[(String, Tensor)]) -> Names {
    let mut names = Names::new();
    classifier(&mut names);
    let numbered = features(tensors);
    let of = |dim: usize| {
        numbered
            .iter()
            .filter(move |(_, size, _)| size.len() == dim)
            .map(|(_, _, h)| h.clone())
    };
    let ours = arch.graph().producers();
    for ((ours, conv), norm) in ours.iter().zip(of(4)).zip(of(1)) {
        add(&mut names, ours, &[conv], &[norm]);
    }
    names
}
