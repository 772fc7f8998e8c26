//! All three stages on a tiny network and synthetic images, and resume at any step.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pi_trainer::budget;
use pi_trainer::checkpoint::{self, State};
use pi_trainer::data::{Augment, Images, Normaliser};
use pi_trainer::finetune::Finetune;
use pi_trainer::net::{Arch, Compute, MaskSet, Net};
use pi_trainer::optim::OneCycle;
use pi_trainer::run::{Progress, Recipe, Run, Stage};
use pi_trainer::search::Search;
use pi_trainer::teacher::Teacher;
use std::path::Path;

fn arch() -> Arch {
    Arch::custom(&[4, 8], 1, [3, 8, 8], 3)
}

/// Three classes told apart by the colour that is bright.
fn images(n: usize) -> Images {
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

fn progress(stage: &str, set: &Images, epochs: usize) -> Progress {
    let recipe = Recipe {
        stage: stage.into(),
        dataset: "synthetic".into(),
        arch: "custom".into(),
        epochs,
        batch: 4,
        lr: OneCycle {
            peak: 0.05,
            warmup: 0.2,
        },
        momentum: 0.9,
        weight_decay: 5e-4,
        label_smoothing: 0.0,
        augment: Augment {
            crop_pad: 1,
            flip: true,
        },
        compute: Compute::F32,
        seed: 5,
        holdout: 0,
        relu_budget: None,
        choices: vec![],
    };
    Progress {
        recipe,
        epoch: 0,
        step: 0,
        seconds: 0.0,
        earlier_seconds: 0.0,
        normaliser: Normaliser::measure(set),
        data_checksum: set.checksum.clone(),
        history: vec![],
        commands: vec![],
        holdout_accuracy: None,
        sums: [0.0; 2],
    }
}

fn train(
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
    };
    run.train(stage, progress(name, set, 3))
}

fn tensors(path: &Path) -> State {
    let mut state = checkpoint::load::<Progress>(path).unwrap().1;
    state.sort_by(|a, b| a.0.cmp(&b.0));
    state
}

fn teacher(set: &Images, path: &Path, max_steps: Option<usize>) -> (Net, Progress) {
    let net = Net::new(&arch(), 5);
    let mut stage = Teacher {
        masks: MaskSet::all_relu(&arch()),
        label_smoothing: 0.0,
    };
    let p = train(&mut stage, &net, set, path, "teacher", max_steps).unwrap();
    (net, p)
}

#[test]
fn a_stopped_search_resumes_to_the_same_bits_and_the_stages_learn() {
    let dir = tempfile::tempdir().unwrap();
    let set = images(120);
    let at = |name: &str| dir.path().join(name);
    let (_, done) = teacher(&set, &at("t"), None);
    assert!(done.finished());
    assert!(
        done.holdout_accuracy.unwrap() > 0.9,
        "{:?}",
        done.holdout_accuracy
    );

    let load = |path: &Path| {
        let net = Net::new(&arch(), 0);
        net.load_state(&checkpoint::load::<Progress>(path).unwrap().1)
            .unwrap();
        net
    };
    let sizes = arch().relu_counts();
    let kept = budget::allocate(&sizes, &[0.8, 0.6, 0.5, 0.2, 0.1], 301).unwrap();
    for (name, stops) in [
        ("whole", &[None][..]),
        ("parts", &[Some(4), Some(45), None][..]),
    ] {
        for &max_steps in stops {
            let net = load(&at("t"));
            let mut stage = Search::new(load(&at("t")), &kept, 7);
            train(&mut stage, &net, &set, &at(name), "search", max_steps).unwrap();
        }
    }
    let (whole, parts) = (tensors(&at("whole")), tensors(&at("parts")));
    assert_eq!(whole, parts);

    let masks = MaskSet::new(checkpoint::load_masks(&arch(), &whole, &at("whole")).unwrap());
    assert_eq!(
        masks.masks().iter().map(|m| m.n_kept()).collect::<Vec<_>>(),
        kept
    );
    let student = load(&at("whole"));
    let mut stage = Finetune::new(load(&at("t")), masks);
    let done = train(&mut stage, &student, &set, &at("s"), "finetune", None).unwrap();
    assert!(
        done.holdout_accuracy.unwrap() > 0.9,
        "{:?}",
        done.holdout_accuracy
    );
    let last = checkpoint::load_masks(&arch(), &tensors(&at("s")), &at("s")).unwrap();
    assert_eq!(last.iter().map(|m| m.n_kept()).sum::<usize>(), 301);
}

#[test]
fn other_settings_or_a_forgotten_resume_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let set = images(24);
    teacher(&set, &path, Some(2));
    let net = Net::new(&arch(), 5);
    let mut stage = Teacher {
        masks: MaskSet::all_relu(&arch()),
        label_smoothing: 0.0,
    };
    let mut run = Run {
        net: &net,
        train: &set,
        holdout: None,
        path,
        resume: true,
        max_steps: None,
    };
    let other = run
        .train(&mut stage, progress("teacher", &set, 4))
        .unwrap_err()
        .to_string();
    assert!(other.contains("other settings"), "{other}");
    run.resume = false;
    let forgot = run
        .train(&mut stage, progress("teacher", &set, 3))
        .unwrap_err()
        .to_string();
    assert!(forgot.contains("--resume"), "{forgot}");
}
