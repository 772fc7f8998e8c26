//! `pi-trainer all` on a folder of a few small images.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use program::*;
use std::path::Path;

#[test]
fn all_sweeps_budgets_and_reports() {
    let dir = tempfile::tempdir().unwrap();
    let path = |p: &str| dir.path().join(p).to_string_lossy().into_owned();
    images(&dir.path().join("data"));
    let (data, out, models) = (path("data"), path("run"), path("models"));
    let args = [
        "all",
        "--data",
        &data,
        "--dataset",
        "folder",
        "--image-size",
        "8",
        "--arch",
        "resnet8",
        "--out",
        &out,
        "--models",
        &models,
        "--batch",
        "6",
        "--epochs",
        "1",
        "--search-epochs",
        "1",
        "--finetune-epochs",
        "1",
        "--relus",
        "300,700",
        "--train-proxy",
        "--proxy-epochs",
        "1",
        "--pram-weight",
        "50",
        "--finetune-ce-share",
        "0.3",
        "--limit",
        "30",
        "--calibrate",
        "10",
        "--compute",
        "f32",
        "--threads",
        "1",
    ];
    assert!(ok(&args).contains("report.html: 3 results"));
    // In another folder the models would be others.
    let mut other = args;
    let at = other.iter().position(|a| *a == out).unwrap();
    let elsewhere = path("elsewhere");
    other[at] = &elsewhere;
    fails(&other, "another --models folder");
    assert!(!Path::new(&elsewhere).exists(), "nothing was trained");
    // Everything is there now: a second call trains nothing.
    let again = trainer(&args);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(
        again.status.success() && !said.contains("epoch 1/1"),
        "{said}"
    );
    let said = String::from_utf8_lossy(&again.stdout);
    assert_eq!(
        said.matches("exported and measured already").count(),
        3,
        "{said}"
    );
    assert!(said.contains("report.html: 3 results"), "{said}");
    // Other numbers are another export.
    let mut other = args;
    let at = args.iter().position(|a| *a == "--calibrate").unwrap();
    other[at + 1] = "11";
    assert!(!ok(&other).contains("already"));
    assert_eq!(std::fs::read_dir(&models).unwrap().count(), 3);
    let list = ["--relu-list", "1,2,3,4,5,6,7"];
    fails(&[&args[..], &list].concat(), "--relu-list");
    // A mistake in the last budget, or in the last stage, is found before the first step.
    let nowhere = path("nowhere");
    let place = |of: &str| args.iter().position(|a| *a == of).unwrap();
    for (of, wrong, said) in [
        ("300,700", "300,99999", "the network has"),
        ("300,700", "300,300", "each once"),
        ("300,700", "300,4608", "two of the networks"),
        ("0.3", "2", "--ce-share"),
    ] {
        let mut other = args;
        other[place(&out)] = &nowhere;
        other[place(&models)] = &nowhere;
        other[place(of)] = wrong;
        fails(&other, said);
        assert!(
            !Path::new(&nowhere).exists(),
            "{wrong}: nothing was trained"
        );
    }
}
