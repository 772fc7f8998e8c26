//! `pi-trainer import`, and what becomes of the imported.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use pi_trainer::net::{Arch, Net};
use program::*;
use std::path::Path;
use tch::Tensor;

/// A fresh ResNet-8 of three classes under torchvision's names, each changed by `rename`.
fn foreign(path: &Path, rename: impl Fn(&str) -> String) {
    let net = Net::new(&Arch::parse("resnet8", [3, 8, 8], 3).unwrap(), 7);
    let theirs = |ours: &str| {
        let mut name = ours.to_owned();
        for (from, to) in [
            (".bn.gamma", ".bn.weight"),
            (".bn.beta", ".bn.bias"),
            (".bn.mean", ".bn.running_mean"),
            (".bn.var", ".bn.running_var"),
            ("stem.bn", "bn1"),
            ("stem", "conv1"),
            (".block0.conv1.bn", ".0.bn1"),
            (".block0.conv2.bn", ".0.bn2"),
            (".block0.shortcut.bn", ".0.downsample.1"),
            (".block0.shortcut", ".0.downsample.0"),
            (".block0", ".0"),
            ("stage2", "layer3"),
            ("stage1", "layer2"),
            ("stage0", "layer1"),
        ] {
            name = name.replace(from, to);
        }
        rename(&name)
    };
    let state: Vec<(String, Tensor)> = net.state();
    let state: Vec<_> = state.into_iter().map(|(n, t)| (theirs(&n), t)).collect();
    Tensor::write_safetensors(&state, path).unwrap();
}

#[test]
fn an_import_says_what_it_took_and_its_card_tells_no_training() {
    let dir = tempfile::tempdir().unwrap();
    let path = |p: &str| dir.path().join(p).to_string_lossy().into_owned();
    images(&dir.path().join("data"));
    let (data, file) = (path("data"), path("weights.safetensors"));
    let model = [
        "--data",
        &data,
        "--dataset",
        "folder",
        "--image-size",
        "8",
        "--arch",
        "resnet8",
    ];
    let (out, models) = (path("run"), path("models"));
    let import = [
        &["import", "--checkpoint", &file, "--out", &out],
        &model[..],
    ]
    .concat();

    // Other names: random weights are no teacher.
    foreign(Path::new(&file), |n| {
        format!("trunk.{}", n.replace(['.', '_'], "-"))
    });
    fails(&import, "which all begin with \"trunk.\"");
    fails(&import, "conv1.weight");
    foreign(Path::new(&file), |n| {
        n.replace("layer2.0.conv1", "layer2.0.other")
    });
    let e = "layer2.0.other.weight has no place in resnet8";
    fails(&import, e);
    assert!(!Path::new(&out).exists(), "nothing was written");

    foreign(Path::new(&file), |n| format!("_orig_mod.module.{n}"));
    let said = ok(&import);
    assert!(said.contains("47 of 47 tensors set"), "{said}");
    assert!(said.contains("imported"), "{said}");
    let teacher = path("run/teacher.safetensors");
    let export = |checkpoint: &str| {
        let args = ["export", "--checkpoint", checkpoint, "--models", &models];
        ok(&[&args[..], &["--calibrate", "20"], &model].concat())
    };
    let said = export(&teacher);
    assert!(
        said.contains("on 20 training images (those that calibrate"),
        "{said}"
    );
    let card = |name: &str| {
        let path = dir.path().join("models").join(name).join("model.json");
        let text = std::fs::read_to_string(path).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["card"].clone()
    };
    let imported = card("resnet8-folder-all");
    let notes = imported["notes"].as_str().unwrap();
    for said in [
        "as they were imported",
        "how it was trained is not known",
        "20 training images",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    for made_up in ["momentum", "epochs", "peak", "last epoch"] {
        assert!(!notes.contains(made_up), "{made_up}: {notes}");
    }
    assert_eq!(imported["trained_on"], "imported");
    assert_eq!(imported["seed"], 0);
    assert_eq!(imported["data_checksum"], "");

    // What ran afterwards is told.
    let train = [
        "--out",
        &out,
        "--batch",
        "6",
        "--epochs",
        "1",
        "--compute",
        "f32",
    ];
    ok(&[&["search", "--relus", "600"], &train[..], &model].concat());
    export(&path("run/search.safetensors"));
    let searched = card("resnet8-folder-relu600");
    let notes = searched["notes"].as_str().unwrap();
    assert!(
        notes.contains("\"stage\":\"search\"") && !notes.contains("\"stage\":\"teacher\""),
        "{notes}"
    );
    assert!(
        searched["trained_on"]
            .as_str()
            .unwrap()
            .ends_with("after an imported teacher")
    );
}

#[test]
fn without_an_arch_the_file_says_which_and_shortcuts_without_parameters_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = |p: &str| dir.path().join(p).to_string_lossy().into_owned();
    images(&dir.path().join("data"));
    let (data, file, out, models) = (path("data"), path("w"), path("run"), path("models"));
    let images = ["--data", &data, "--dataset", "folder", "--image-size", "8"];
    let import = [
        &["import", "--checkpoint", &file, "--out", &out],
        &images[..],
    ]
    .concat();
    // No name of a network, and none here.
    foreign(Path::new(&file), |n| n.replace("layer", "part"));
    fails(&import, "resnetN with N = 6n + 2");
    fails(
        &[&import[..], &["--arch", "resnet9"]].concat(),
        "resnetN with N = 6n + 2",
    );
    // Shortcuts under names that tell nothing are left out of the file.
    foreign(Path::new(&file), |n| format!("module.{n}"));
    let state = Tensor::read_safetensors(&file).unwrap();
    let state: Vec<_> = state
        .into_iter()
        .filter(|(n, _)| !n.contains("downsample"))
        .collect();
    Tensor::write_safetensors(&state, &file).unwrap();
    let said = ok(&import);
    for what in [
        "--arch resnet8, by the names and shapes",
        "37 of 47 tensors set",
        "shortcuts have no parameters (option A)",
        "warning: that is less than half",
    ] {
        assert!(said.contains(what), "{what}: {said}");
    }
    let teacher = path("run/teacher.safetensors");
    let export = [
        "export",
        "--arch",
        "resnet8",
        "--checkpoint",
        &teacher,
        "--models",
        &models,
    ];
    ok(&[&export[..], &["--calibrate", "20"], &images].concat());
    let card = dir.path().join("models/resnet8-folder-all/model.json");
    let card = std::fs::read_to_string(card).unwrap();
    assert!(
        card.contains("as they were imported, with 1x1 convolutions"),
        "{card}"
    );
}
