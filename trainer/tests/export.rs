//! The exported integers against the float network, on a small random network.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pi_model::{Model, executor};
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

fn difference(arch: Arch, weight_bits: u32) -> f64 {
    tch::set_num_threads(1);
    let size = arch.input[1];
    let net = Net::new(&arch, 3);
    // BatchNorm's statistics come from a few training passes; without them the folding is trivial.
    let set = images(32, size);
    let normaliser = Normaliser::measure(&set);
    let batches = Batches::plain(&set, &normaliser, 32);
    let (x, _) = batches.get(&batches.order(0), 0, 0);
    let keep = |(i, s): (usize, [i64; 3])| {
        Mask::random(s, s.iter().product::<i64>() as usize / 3, i as u64)
    };
    let masks: Vec<Mask> = arch
        .relu_shapes()
        .into_iter()
        .enumerate()
        .map(keep)
        .collect();
    let set_masks = MaskSet::new(masks.clone());
    for _ in 0..20 {
        tch::no_grad(|| {
            net.forward(
                &x,
                &set_masks,
                Mode {
                    train: true,
                    ..Mode::EVAL
                },
            )
        });
    }
    let frame = Frame {
        name: "small".into(),
        normaliser,
        labels: (0..5).map(|i| format!("class {i}")).collect(),
    };
    let precision = Precision {
        activation_bits: 8,
        weight_bits,
        classifier_drop: 0,
    };
    let done = export::export(&net, &masks, &frame, precision, &set).unwrap();
    assert_eq!(done.calibration.n_range_violations, 0);

    let dir = tempfile::tempdir().unwrap();
    done.parts.model().unwrap().save(dir.path()).unwrap();
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
    for name in ["wrn22-8", "vgg16", "resnet34-imagenet"] {
        let mut arch = Arch::parse(name, [3, 32, 32], 5).unwrap();
        arch.widths.iter_mut().for_each(|w| *w = (*w / 32).max(4));
        arch.stem.width = arch.widths[0].min(arch.stem.width);
        arch.blocks.iter_mut().for_each(|b| *b = (*b).min(2));
        let worst = difference(arch, 12);
        assert!(worst < 0.08, "{name}: {worst}");
    }
}
