//! All three stages on a tiny network and synthetic images, and resume at any step.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use pi_trainer::budget;
use pi_trainer::checkpoint::{self, Size};
use pi_trainer::data::Batches;
use pi_trainer::finetune::{Finetune, Losses};
use pi_trainer::net::{MaskSet, Mode, Net};
use pi_trainer::optim::Shape;
use pi_trainer::run::{Progress, Recipe, Run, Stage};
use pi_trainer::search::{Options, Search};
use pi_trainer::selection::Selection;
use pi_trainer::sensitivity::Sensitivity;
use pi_trainer::teacher::Teacher;
use std::path::Path;
use tch::{Kind, Tensor};

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
    let sizes = arch().graph().relu_counts();
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
    assert_eq!(record(&at("whole")), record(&at("parts")));

    let masks =
        MaskSet::new(checkpoint::load_masks(&arch().graph(), &whole, &at("whole")).unwrap());
    assert_eq!(
        masks.masks().iter().map(|m| m.n_kept()).collect::<Vec<_>>(),
        kept
    );
    let student = load(&at("whole"));
    // The last epoch trained under these masks, so that what it measured is theirs.
    let (searched, _) = checkpoint::load::<Progress>(&at("whole")).unwrap();
    let measured = on_all(&student, &masks, &set, &searched);
    assert_eq!(searched.holdout_accuracy, Some(measured));
    let mut stage = Finetune::new(load(&at("t")), masks, &student, Losses::PUBLISHED);
    let done = train(&mut stage, &student, &set, &at("s"), "finetune", None).unwrap();
    assert!(
        done.holdout_accuracy.unwrap() > 0.9,
        "{:?}",
        done.holdout_accuracy
    );
    let last = checkpoint::load_masks(&arch().graph(), &tensors(&at("s")), &at("s")).unwrap();
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
        masks: MaskSet::all_relu(&arch().graph()),
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
            masks: MaskSet::all_relu(&arch().graph()),
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
    let kept = budget::allocate(
        &arch().graph().relu_counts(),
        &[0.8, 0.6, 0.5, 0.2, 0.1],
        301,
    )
    .unwrap();
    let mut options = Options::new(Selection::AnnealTaylor);
    (options.budgets_from_scores, options.empty_layers) = (true, 1);
    for (name, stops) in [
        ("whole", &[None][..]),
        ("parts", &[Some(2 * n_batches), None][..]),
    ] {
        for &max_steps in stops {
            let mut search =
                Search::new(Net::new(&arch(), 1), &kept, 7, 4, 2, options.clone()).unwrap();
            let path = at(&format!("search-{name}"));
            train_with(&mut search, &net(), &set, &path, max_steps, &change);
        }
        let path = at(&format!("search-{name}"));
        for &max_steps in stops {
            let masks = checkpoint::load_masks(&arch().graph(), &tensors(&path), &path).unwrap();
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
        let (whole, parts) = (format!("{stage}-whole"), format!("{stage}-parts"));
        assert_eq!(tensors(&at(&whole)), tensors(&at(&parts)), "{stage}");
        assert_eq!(record(&at(&whole)), record(&at(&parts)), "{stage}");
    }
    // The result is the best epoch's weights, and its accuracy theirs.
    let (done, state) = checkpoint::load::<Progress>(&at("teacher-whole")).unwrap();
    let best = Net::new(&arch(), 0);
    best.load_state(&state).unwrap();
    let measured = on_all(&best, &MaskSet::all_relu(&arch().graph()), &set, &done);
    assert_eq!(done.holdout_accuracy, Some(measured));
    assert_eq!(done.best.map(|b| b.1), done.holdout_accuracy);
    let curve: Vec<f64> = done.curve.iter().filter_map(|e| e.holdout).collect();
    assert_eq!(curve.len(), 4);
    assert!(curve.iter().all(|&a| a <= 100.0 * measured), "{curve:?}");
    let path = at("search-whole");
    let masks = checkpoint::load_masks(&arch().graph(), &tensors(&path), &path).unwrap();
    let kept: Vec<usize> = masks.iter().map(|m| m.n_kept()).collect();
    assert_eq!(kept.iter().sum::<usize>(), 301, "{kept:?}");
    assert!(kept.contains(&0), "a layer was to be emptied: {kept:?}");
}

/// A teacher that breaks after its second step: in the loss, or in the gradients alone.
struct Breaking {
    teacher: Teacher,
    n_steps: usize,
    in_loss: bool,
}

impl Stage for Breaking {
    fn loss(&mut self, net: &Net, x: &Tensor, y: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let (loss, logits) = self.teacher.loss(net, x, y, mode);
        self.n_steps += 1;
        let fc = net.params.iter().find(|p| p.name == "fc.weight").unwrap();
        let nothing = &fc.tensor * 0.0;
        let extra = match (self.n_steps > 2, self.in_loss) {
            (false, _) => return (loss, logits),
            (true, true) => nothing.sum(Kind::Float).log(),
            // The root of zero is zero; its slope is not finite.
            (true, false) => nothing.square().sum(Kind::Float).sqrt(),
        };
        (loss + extra, logits)
    }

    fn accuracy(&self, net: &Net, batches: &Batches) -> f64 {
        self.teacher.accuracy(net, batches)
    }
}

#[test]
fn what_is_no_number_stops_with_the_checkpoint_intact() {
    for in_loss in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let set = images(24);
        let net = Net::new(&arch(), 5);
        let mut stage = Breaking {
            teacher: Teacher {
                masks: MaskSet::all_relu(&arch().graph()),
                label_smoothing: 0.0,
            },
            n_steps: 0,
            in_loss,
        };
        let mut run = Run {
            net: &net,
            train: &set,
            holdout: None,
            path: path.clone(),
            resume: true,
            max_steps: Some(2),
            size: Size::default(),
        };
        run.train(&mut stage, progress("teacher", &set, 3)).unwrap();
        let before = std::fs::read(&path).unwrap();
        // Saved right after the step that breaks: no later loss gives it away.
        run.max_steps = Some(1);
        let e = run.train(&mut stage, progress("teacher", &set, 3));
        let e = e.unwrap_err().to_string();
        assert!(e.contains("epoch 1") && e.contains("--lr"), "{e}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{in_loss}");
        let (old, state) = checkpoint::load::<Progress>(&path).unwrap();
        assert_eq!(old.step, 2);
        Net::new(&arch(), 0).load_state(&state).unwrap();
    }
}

#[test]
fn the_proxy_resumes_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let set = images(60);
    let at = |name: &str| dir.path().join(name);
    let mut densities = Vec::new();
    for (name, stops) in [("whole", &[None][..]), ("parts", &[Some(20), None][..])] {
        for &max_steps in stops {
            let net = Net::new(&arch(), 5);
            let mut stage = Sensitivity::new(&net, 4, 2);
            train_with(&mut stage, &net, &set, &at(name), max_steps, &|_| {});
            densities.push(stage.densities(&net));
        }
    }
    assert_eq!(tensors(&at("whole")), tensors(&at("parts")));
    assert_eq!(densities[0], densities[2]);
}

#[test]
fn a_run_goes_on_from_sixteen_bits() {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    let set = images(120);
    let path = dir.path().join("t");
    let mut kinds = Vec::new();
    for max_steps in [Some(20), None] {
        let net = Net::new(&arch(), 5);
        let mut stage = Teacher {
            masks: MaskSet::all_relu(&arch().graph()),
            label_smoothing: 0.0,
        };
        let run = Run {
            net: &net,
            train: &set,
            holdout: Some(&set),
            path: path.clone(),
            resume: true,
            max_steps,
            size: Size {
                half: true,
                part_bytes: None,
            },
        };
        let done = run.train(&mut stage, progress("teacher", &set, 3)).unwrap();
        assert_eq!(done.finished(), max_steps.is_none());
        let stored = Tensor::read_safetensors(&path).unwrap();
        kinds.push(stored.iter().any(|(_, t)| t.kind() == Kind::BFloat16));
        if max_steps.is_none() {
            assert!(
                done.holdout_accuracy.unwrap() > 0.9,
                "{:?}",
                done.holdout_accuracy
            );
        }
    }
    // Momentum while it runs, none in the result.
    assert_eq!(kinds, [true, false]);
}
