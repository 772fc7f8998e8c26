//! The exported integers against the float network, on a small random network.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pi_model::{Model, PublicPlan, executor};
use pi_trainer::data::{Batches, Images, Normaliser};
use pi_trainer::export::{self, Frame, Precision};
use pi_trainer::net::{Arch, Mask, MaskSet, Mode, Net};

fn images(n: usize, size: usize) -> Images {
    let bytes = 3 * size * size;
    Images {
        shape: [3, size, size],
        n_classes: 5,
        pixels: (0..n * bytes)
            .map(|i| (i * 2_654_435_761 / 977 % 256) as u8)
            .collect(),
        labels: (0..n).map(|i| (i % 5) as u16).collect(),
        checksum: String::new(),
    }
}

/// Largest difference of a logit, in units of the largest logit.
fn worst_difference(size: usize, weight_bits: u32) -> f64 {
    difference(Arch::custom(&[4, 8], 1, [3, size, size], 5), weight_bits)
}

/// BatchNorm's statistics come from a few training passes; without them the folding is trivial.
fn warmed(arch: &Arch, n_images: usize, n_passes: usize) -> (Net, Images, Normaliser) {
    let net = Net::new(arch, 3);
    let set = images(n_images, arch.input[1]);
    let normaliser = Normaliser::measure(&set);
    let batches = Batches::plain(&set, &normaliser, n_images);
    let (x, _) = batches.get(&batches.epoch(0), 0);
    let masks = MaskSet::new(random_masks(arch, 3));
    let train = Mode {
        train: true,
        ..Mode::EVAL
    };
    for _ in 0..n_passes {
        tch::no_grad(|| net.forward(&x, &masks, train));
    }
    (net, set, normaliser)
}

/// One position of `share` is kept in every layer.
fn random_masks(arch: &Arch, share: usize) -> Vec<Mask> {
    let keep = |(i, s): (usize, [i64; 3])| {
        Mask::random(s, s.iter().product::<i64>() as usize / share, i as u64)
    };
    arch.graph()
        .relu_shapes()
        .into_iter()
        .enumerate()
        .map(keep)
        .collect()
}

fn frame(normaliser: Normaliser, n_classes: usize) -> Frame {
    Frame {
        name: "small".into(),
        normaliser,
        labels: (0..n_classes).map(|i| format!("class {i}")).collect(),
    }
}

fn difference(arch: Arch, weight_bits: u32) -> f64 {
    tch::set_num_threads(1);
    let size = arch.input[1];
    let (net, set, normaliser) = warmed(&arch, 32, 20);
    let batches = Batches::plain(&set, &normaliser, 32);
    let (x, _) = batches.get(&batches.epoch(0), 0);
    let masks = random_masks(&arch, 3);
    let set_masks = MaskSet::new(masks.clone());
    let frame = frame(normaliser, 5);
    let precision = Precision {
        activation_bits: 8,
        weight_bits,
        output_bits: 24,
    };
    let done = export::export(&net, &masks, &frame, precision, &set).unwrap();
    assert_eq!(done.calibration.n_range_violations, 0);

    let dir = tempfile::tempdir().unwrap();
    done.model.save(dir.path()).unwrap();
    let model = Model::load(dir.path()).unwrap();
    let kept: usize = masks.iter().map(Mask::n_kept).sum();
    assert_eq!(model.public().graph().n_relus(), kept);

    let layer = model.public().graph().layers.last().unwrap();
    assert!(layer.accumulator_bits <= 24);
    let logits = tch::no_grad(|| net.forward(&x, &set_masks, Mode::EVAL).logits);
    let (mut worst, mut largest) = (0f64, 0f64);
    for i in 0..set.len() {
        let pixels = export::interleave(&set, i);
        let input = model
            .public()
            .spec()
            .input
            .quantise(&pixels, size, size, 8)
            .unwrap();
        let run = executor::run(&model, &input).unwrap();
        for (k, &v) in run.logits.iter().enumerate() {
            let float = logits.double_value(&[i as i64, k as i64]);
            let fixed = v as f64 / f64::from(1u32 << layer.fraction_bits);
            worst = worst.max((float - fixed).abs());
            largest = largest.max(float.abs());
        }
    }
    worst / largest
}

#[test]
fn eight_bit_weights_stay_within_five_percent_of_the_float_network() {
    for size in [8, 12] {
        let worst = worst_difference(size, 8);
        assert!(worst < 0.05, "size {size}: {worst}");
    }
}

#[test]
fn wider_weights_come_closer() {
    let worst = worst_difference(8, 14);
    assert!(worst < 0.02, "{worst}");
}

#[test]
fn every_family_can_be_exported() {
    for name in ["wrn22-8", "vgg16", "resnet34-imagenet", "lean"] {
        let mut arch = Arch::parse(name, [3, 32, 32], 5).unwrap();
        arch.widths.iter_mut().for_each(|w| *w = (*w / 32).max(4));
        arch.stem.width = arch.widths[0].min(arch.stem.width);
        arch.blocks.iter_mut().for_each(|b| *b = (*b).min(2));
        let worst = difference(arch, 12);
        assert!(worst < 0.08, "{name}: {worst}");
    }
}

/// A network with the statistics of a few images, exported from random masks; how it is planned.
fn plan_of(arch: &Arch, share: usize) -> PublicPlan {
    let (net, set, normaliser) = warmed(arch, 4, 6);
    let masks = random_masks(arch, share);
    let precision = Precision {
        activation_bits: 8,
        weight_bits: 8,
        output_bits: 32,
    };
    let done = export::export(&net, &masks, &frame(normaliser, 5), precision, &set).unwrap();
    let dir = tempfile::tempdir().unwrap();
    done.model.save(dir.path()).unwrap();
    let model = Model::load(dir.path()).unwrap();
    PublicPlan::new(model.public(), 1).unwrap()
}

const SERVED: [(&str, usize); 7] = [
    ("resnet18", 32),
    ("wrn22-8", 32),
    ("vgg16", 32),
    ("resnet34", 32),
    ("resnet18-imagenet", 64),
    ("lean", 32),
    ("lean-wide", 32),
];

#[test]
fn every_network_can_be_served() {
    tch::set_num_threads(1);
    for (name, side) in SERVED {
        let arch = Arch::parse(name, [3, side, side], 5).unwrap();
        let plan = plan_of(&arch, 20);
        let n_relus = plan
            .graph()
            .layers
            .iter()
            .filter(|l| l.n_relus() > 0)
            .count();
        assert_eq!(n_relus, arch.graph().relu_counts().len(), "{name}");
        assert!(plan.expected_failures() <= 1e-3, "{name}");
    }
}

#[test]
fn every_architecture_can_be_planned_at_any_size() {
    tch::set_num_threads(1);
    let at_32 = Arch::NAMES.iter().map(|name| (*name, 32));
    for (name, side) in at_32.chain([("resnet8", 70), ("resnet18-imagenet", 224)]) {
        let mut arch = Arch::parse(name, [3, side, side], 5).unwrap();
        arch.widths.iter_mut().for_each(|w| *w = 4);
        arch.stem.width = 4;
        let set = images(1, side);
        let frame = Frame {
            name: name.into(),
            normaliser: Normaliser::measure(&set),
            labels: (0..5).map(|i| i.to_string()).collect(),
        };
        let net = Net::new(&arch, 0);
        let masks = MaskSet::all_relu(&arch.graph());
        let done = export::export(&net, masks.masks(), &frame, Precision::DEFAULT, &set);
        let model = done.unwrap().model;
        PublicPlan::new(model.public(), 1).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
