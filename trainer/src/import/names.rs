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
        let theirs = ["fc", "linear", "classifier", "classifier.0"]
            .map(of)
            .to_vec();
        names.insert(of("fc"), theirs);
    }
}

/// Names of residual networks.
pub(super) fn names(arch: &Arch) -> Names {
    let mut names = Names::new();
    classifier(&mut names);
    let pre = arch.family == Family::PreActivation;
    let first_norm = if pre {
        strings(["block1.layer.0.bn1", "layer1.0.bn1"])
    } else {
        strings(["bn1", "norm1"])
    };
    add(&mut names, "stem", &strings(["conv1", "conv"]), &first_norm);
    add(&mut names, "norm", &[], &strings(["bn1", "bn"]));
    for (s, &n_blocks) in arch.blocks.iter().enumerate() {
        for b in 0..n_blocks {
            let ours = format!("stage{s}.block{b}");
            let homes = [
                format!("layer{}.{b}", s + 1),
                format!("block{}.layer.{b}", s + 1),
                format!("layer{}.layer.{b}", s + 1),
            ];
            let at = |parts: &[&str]| -> Vec<String> {
                let of = |h: &String| parts.iter().map(|p| format!("{h}.{p}")).collect::<Vec<_>>();
                homes.iter().flat_map(of).collect()
            };
            // A pre-activation block keeps its second BatchNorm with its first convolution here.
            let norm = if pre { "bn2" } else { "bn1" };
            add(
                &mut names,
                &format!("{ours}.conv1"),
                &at(&["conv1"]),
                &at(&[norm]),
            );
            add(
                &mut names,
                &format!("{ours}.conv2"),
                &at(&["conv2"]),
                &at(&["bn2"]),
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

/// VGG numbers convolutions, BatchNorms, ReLUs and pools alike, so the order decides.
pub(super) fn plain_names(arch: &Arch, tensors: &[(String, Tensor)]) -> Names {
    let mut names = Names::new();
    classifier(&mut names);
    let mut numbered: Vec<(usize, i64, String)> = Vec::new();
    for (name, t) in tensors {
        let mut parts = name.rsplit('.');
        let last = [parts.next(), parts.next(), parts.next()];
        if let [Some("weight"), Some(number), Some("features")] = last
            && let Ok(n) = number.parse()
        {
            numbered.push((n, t.dim() as i64, format!("features.{number}")));
        }
    }
    numbered.sort();
    numbered.dedup();
    let of = |dim: i64| {
        numbered
            .iter()
            .filter(move |(_, d, _)| *d == dim)
            .map(|(_, _, h)| h.clone())
    };
    let ours = arch.producers();
    for ((ours, conv), norm) in ours.iter().zip(of(4)).zip(of(1)) {
        add(&mut names, ours, &[conv], &[norm]);
    }
    names
}
