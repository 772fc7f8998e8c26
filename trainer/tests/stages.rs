//! All three stages on a tiny network and synthetic images, and resume at any step.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pi_trainer::budget;
use pi_trainer::checkpoint::{self, Size, State};
use pi_trainer::data::{Augment, Images, Mix, Normaliser};
use pi_trainer::finetune::{Finetune, Losses};
use pi_trainer::net::{Arch, Compute, MaskSet, Net};
use pi_trainer::optim::{Schedule, Shape};
use pi_trainer::run::{Progress, Recipe, Run, Stage};
use pi_trainer::search::{Options, Search};
use pi_trainer::selection::Selection;
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
        lr: Schedule {
            shape: Shape::OneCycle,
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
        size: Size::default(),
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
            let options = Options::new(Selection::Removal);
            let mut stage = Search::new(load(&at("t")), &kept, 7, 3, 1, options).unwrap();
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
    let mut stage = Finetune::new(load(&at("t")), masks, &student, Losses::PUBLISHED);
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
        size: Size::default(),
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

/// Trains `stage` on a fresh copy of the teacher, with `change` applied to the recipe.
fn train_with(
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

#[test]
fn two_and_two_epochs_are_four() {
    let dir = tempfile::tempdir().unwrap();
    let set = images(60);
    let at = |name: &str| dir.path().join(name);
    let n_batches = 15;
    let change = |r: &mut Recipe| {
        (r.ema, r.select_best, r.widths) = (Some(0.9), true, vec![0.5]);
        (r.mix.mixup, r.mix.cutmix) = (0.4, 1.0);
        r.lr.shape = Shape::Cosine;
    };
    let teacher = |name: &str, max_steps| {
        let mut stage = Teacher {
            masks: MaskSet::all_relu(&arch()),
            label_smoothing: 0.1,
        };
        let net = Net::new(&arch(), 5);
        let widths_apart = |r: &mut Recipe| {
            change(r);
            r.widths.clear();
        };
        let path = at(&format!("teacher-{name}"));
        train_with(&mut stage, &net, &set, &path, max_steps, &widths_apart);
    };
    teacher("whole", None);
    teacher("parts", Some(2 * n_batches));
    teacher("parts", None);
    let net = || Net::new(&arch(), 5).with_widths(&[0.5]).unwrap();
    let kept = budget::allocate(&arch().relu_counts(), &[0.8, 0.6, 0.5, 0.2, 0.1], 301).unwrap();
    let mut options = Options::new(Selection::AnnealTaylor);
    (options.budgets_from_scores, options.empty_layers) = (true, 1);
    for (name, stops) in [
        ("whole", &[None][..]),
        ("parts", &[Some(2 * n_batches), None][..]),
    ] {
        for &max_steps in stops {
            let mut search = Search::new(Net::new(&arch(), 1), &kept, 7, 4, 2, options.clone()).unwrap();
            let path = at(&format!("search-{name}"));
            train_with(&mut search, &net(), &set, &path, max_steps, &change);
        }
        let path = at(&format!("search-{name}"));
        for &max_steps in stops {
            let masks = checkpoint::load_masks(&arch(), &tensors(&path), &path).unwrap();
            let student = net();
            let losses = Losses {
                pram_decay: true,
                ..Losses::PUBLISHED
            };
            let (teacher, masks) = (Net::new(&arch(), 1), MaskSet::new(masks));
            let mut finetune = Finetune::new(teacher, masks, &student, losses);
            let path = at(&format!("student-{name}"));
            let done = train_with(&mut finetune, &student, &set, &path, max_steps, &change);
            assert_eq!(done.finished(), max_steps.is_none());
        }
    }
    for stage in ["teacher", "search", "student"] {
        let of = |name: &str| tensors(&at(&format!("{stage}-{name}")));
        assert_eq!(of("whole"), of("parts"), "{stage}");
    }
    let path = at("search-whole");
    let masks = checkpoint::load_masks(&arch(), &tensors(&path), &path).unwrap();
    let kept: Vec<usize> = masks.iter().map(|m| m.n_kept()).collect();
    assert_eq!(kept.iter().sum::<usize>(), 301, "{kept:?}");
    assert!(kept.contains(&0), "a layer was to be emptied: {kept:?}");
}

#[test]
fn every_selection_keeps_the_budget_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let set = images(24);
    let kept = budget::allocate(&arch().relu_counts(), &[0.8, 0.6, 0.5, 0.2, 0.1], 200).unwrap();
    for selection in [
        Selection::Senet,
        Selection::Removal,
        Selection::Taylor,
        Selection::Kink,
        Selection::Anneal,
        Selection::AnnealTaylor,
        Selection::AnnealKink,
    ] {
        let options = Options::new(selection);
        let mut search = Search::new(Net::new(&arch(), 1), &kept, 7, 4, 1, options).unwrap();
        let path = dir.path().join(format!("{selection:?}"));
        train_with(
            &mut search,
            &Net::new(&arch(), 1),
            &set,
            &path,
            None,
            &|_| {},
        );
        let masks = checkpoint::load_masks(&arch(), &tensors(&path), &path).unwrap();
        let by_layer: Vec<usize> = masks.iter().map(|m| m.n_kept()).collect();
        assert_eq!(by_layer, kept, "{selection:?}");
    }
}

#[test]
fn a_loss_that_is_no_number_stops_with_the_checkpoint_intact() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let set = images(24);
    teacher(&set, &path, Some(2));
    let before = std::fs::read(&path).unwrap();
    let net = Net::new(&arch(), 5);
    let mut broken = progress("teacher", &set, 3);
    broken.normaliser.std = vec![0.0; 3];
    let mut stage = Teacher {
        masks: MaskSet::all_relu(&arch()),
        label_smoothing: 0.0,
    };
    let run = Run {
        net: &net,
        train: &set,
        holdout: None,
        path: dir.path().join("other"),
        resume: true,
        max_steps: None,
        size: Size::default(),
    };
    let e = run.train(&mut stage, broken).unwrap_err().to_string();
    assert!(e.contains("epoch 1") && e.contains("--lr"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
