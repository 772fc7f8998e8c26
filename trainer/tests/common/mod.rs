//! A tiny network, images for it, and runs of a stage.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test program uses some of it")]

use pi_trainer::checkpoint::{self, Size, State};
use pi_trainer::data::{Augment, Batches, Images, Mix, Normaliser};
use pi_trainer::evaluate;
use pi_trainer::net::{Arch, Compute, MaskSet, Net};
use pi_trainer::optim::{Schedule, Shape};
use pi_trainer::run::{Progress, Recipe, Run, Stage};
use pi_trainer::teacher::Teacher;
use std::path::Path;

pub fn arch() -> Arch {
    Arch::custom(&[4, 8], 1, [3, 8, 8], 3)
}

/// Three classes told apart by the colour that is bright.
pub fn images(n: usize) -> Images {
    let pixel = |i: usize| {
        let (image, channel) = (i / 192, i / 64 % 3);
        let noise = (i * 2_654_435_761 % 97) as u8;
        if image % 3 == channel {
            150 + noise
        } else {
            noise
        }
    };
    Images {
        shape: [3, 8, 8],
        n_classes: 3,
        pixels: (0..n * 192).map(pixel).collect(),
        labels: (0..n).map(|i| (i % 3) as u16).collect(),
        checksum: "synthetic".into(),
    }
}

pub fn progress(stage: &str, set: &Images, epochs: usize) -> Progress {
    let recipe = Recipe {
        stage: stage.into(),
        dataset: "synthetic".into(),
        arch: "custom".into(),
        epochs,
        batch: 4,
        lr: Schedule {
            shape: Shape::OneCycle,
            peak: 0.05,
            warmup: 0.2,
        },
        momentum: 0.9,
        nesterov: true,
        weight_decay: 5e-4,
        shift_rate: 1.0,
        label_smoothing: 0.0,
        augment: Augment {
            crop_pad: 1,
            flip: true,
            alternate: false,
        },
        mix: Mix::default(),
        ema: None,
        compute: Compute::F32,
        seed: 5,
        holdout: 0,
        limit: None,
        select_best: false,
        widths: vec![],
        relu_budget: None,
        choices: vec![],
    };
    Progress::new(recipe, Normaliser::measure(set), set.checksum.clone())
}

pub fn train(
    stage: &mut dyn Stage,
    net: &Net,
    set: &Images,
    path: &Path,
    name: &str,
    max_steps: Option<usize>,
) -> pi_trainer::Result<Progress> {
    tch::set_num_threads(1);
    let run = Run {
        net,
        train: set,
        holdout: Some(set),
        path: path.into(),
        resume: true,
        max_steps,
        size: Size::default(),
    };
    run.train(stage, progress(name, set, 3))
}

pub fn tensors(path: &Path) -> State {
    let mut state = checkpoint::load::<Progress>(path).unwrap().1;
    state.sort_by(|a, b| a.0.cmp(&b.0));
    state
}

/// What a checkpoint says besides its tensors, without the times.
pub fn record(path: &Path) -> serde_json::Value {
    let (mut p, _) = checkpoint::load::<Progress>(path).unwrap();
    (p.seconds, p.earlier_seconds) = (0.0, 0.0);
    p.curve.iter_mut().for_each(|e| e.rate = 0.0);
    serde_json::to_value(p).unwrap()
}

pub fn on_all(net: &Net, masks: &MaskSet, set: &Images, progress: &Progress) -> f64 {
    evaluate::accuracy(net, masks, &Batches::plain(set, &progress.normaliser, 250))
}

pub fn teacher(set: &Images, path: &Path, max_steps: Option<usize>) -> (Net, Progress) {
    let net = Net::new(&arch(), 5);
    let mut stage = Teacher {
        masks: MaskSet::all_relu(&arch().graph()),
        label_smoothing: 0.0,
    };
    let p = train(&mut stage, &net, set, path, "teacher", max_steps).unwrap();
    (net, p)
}

/// Trains `stage` on a fresh copy of the teacher, with `change` applied to the recipe.
pub fn train_with(
    stage: &mut dyn Stage,
    net: &Net,
    set: &Images,
    path: &Path,
    max_steps: Option<usize>,
    change: &dyn Fn(&mut Recipe),
) -> Progress {
    tch::set_num_threads(1);
    let mut progress = progress("any", set, 4);
    change(&mut progress.recipe);
    let run = Run {
        net,
        train: set,
        holdout: Some(set),
        path: path.into(),
        resume: true,
        max_steps,
        size: Size::default(),
    };
    run.train(stage, progress).unwrap()
}
