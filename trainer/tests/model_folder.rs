//! A network that comes as the folder of a float model: linearized with images, by every command.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use pi_model::spec::Op;
use pi_model::{FloatModel, FloatWeights, Model};
use program::*;
use std::path::Path;

/// Percent behind `before` in what a command said.
fn percent(said: &str, before: &str) -> f64 {
    let at = said.find(before).unwrap() + before.len();
    let number = said[at..].split_whitespace().next().unwrap();
    number.parse().unwrap()
}

#[test]
fn a_float_model_is_linearized_and_exported() {
    let dir = tempfile::tempdir().unwrap();
    let path = |p: &str| dir.path().join(p).to_string_lossy().into_owned();
    images(&dir.path().join("data"));
    let (data, first, models) = (path("data"), path("first"), path("first-models"));
    let set = ["--data", &data, "--dataset", "folder"];
    let train = ["--batch", "6", "--compute", "f32", "--crop-pad", "1"];
    let named = ["--arch", "resnet8", "--image-size", "8"];
    let epochs = ["--epochs", "3", "--lr", "0.05"];
    let all = |parts: &[&[&str]]| ok(&parts.concat());
    all(&[&["teacher", "--out", &first], &set, &named, &train, &epochs]);
    let checkpoint = path("first/teacher.safetensors");
    let export = ["export", "--checkpoint", &checkpoint, "--models", &models];
    let said = all(&[&export, &["--float"], &set, &named]);
    let float = percent(&said, "float ");
    let folder = path("first-models/resnet8-folder-all-float");

    // Its size, normalisation and weights come from the folder, whatever the images say.
    let (out, arch) = (path("run"), ["--arch", &folder]);
    let student = [
        "--relus",
        "600",
        "--search-epochs",
        "2",
        "--finetune-epochs",
        "2",
        "--calibrate",
        "20",
    ];
    let run = [&["all", "--out", &out], &set[..], &arch, &train, &student].concat();
    let said = ok(&run);
    let teacher = percent(&said, "teacher.safetensors: ");
    assert!(
        (teacher - float).abs() < 1e-9,
        "{teacher} and {float}: {said}"
    );
    for what in [
        "resnet8-folder-all-float-folder-relu600: 600 of 4608 ReLUs",
        "0 values out of range",
        "interpolated over the depth",
    ] {
        assert!(said.contains(what), "{what}: {said}");
    }
    // Again: everything is there.
    let said = ok(&run);
    assert!(
        said.contains("taken from the model folder already"),
        "{said}"
    );
    let checkpoint = path("run/student.safetensors");
    let said = all(&[&["evaluate", "--checkpoint", &checkpoint], &set, &arch]);
    assert!(said.contains("600 ReLUs"), "{said}");
    let said = all(&[&["sensitivity"], &arch]);
    assert!(
        said.contains("4608 ReLUs, densities interpolated"),
        "{said}"
    );
    let report = path("report");
    std::fs::remove_file(path("run/student.result.json")).unwrap();
    let said = all(&[&["report", &out, "--to", &report], &set, &arch]);
    assert!(said.contains("2 results"), "{said}");

    // What comes out has no BatchNorm and the masks of the student, and is a model like any other.
    let (checkpoint, models) = (path("run/student.safetensors"), path("linear"));
    let export = [
        "export",
        "--float",
        "--checkpoint",
        &checkpoint,
        "--models",
        &models,
    ];
    all(&[&export, &["--name", "linear"], &set, &arch]);
    let linear = path("linear/linear");
    let model = FloatModel::load(Path::new(&linear)).unwrap();
    let kept = model
        .spec
        .ops
        .iter()
        .filter_map(Op::relus_kept)
        .sum::<usize>();
    assert_eq!(kept, 600);
    let integers = path("run/models/resnet8-folder-all-float-folder-relu600");
    let integer_model = Model::load(Path::new(&integers)).unwrap();
    assert_eq!(integer_model.public().graph().n_relus(), 600);

    refusals(dir.path(), &folder, [&linear, &integers]);
}

/// What cannot be linearized is refused with the reason and the way out.
fn refusals(dir: &Path, folder: &str, [linear, integers]: [&str; 2]) {
    let path = |p: &str| dir.join(p).to_string_lossy().into_owned();
    let (data, out) = (path("data"), path("refused"));
    let teacher = ["teacher", "--dataset", "folder", "--out", &out];
    let refuse = |data: &str, arch: &str, more: &[&str], with: &str| {
        let given = ["--data", data, "--arch", arch];
        fails(&[&teacher[..], &given, more].concat(), with);
    };
    refuse(&data, linear, &[], "is linearized already");
    refuse(&data, integers, &[], "a float model is needed");
    refuse(
        &data,
        folder,
        &["--image-size", "16"],
        "takes images of 8 x 8",
    );
    refuse(&data, &path("nowhere/at-all"), &[], "model.json");
    refuse(&data, folder, &["--widths", "0.5"], "unexpected");
    let search = [
        "search",
        "--dataset",
        "folder",
        "--out",
        &out,
        "--relus",
        "600",
    ];
    let given = ["--data", &data, "--arch", folder, "--widths", "0.5"];
    let run = path("run/teacher.safetensors");
    let search = [&search[..], &given, &["--teacher", &run]].concat();
    fails(&search, "leave --widths out");
    for part in ["train", "val"] {
        let from = dir.join("data").join(part);
        let to = dir.join("two").join(part);
        for class in ["class0", "class1"] {
            std::fs::create_dir_all(to.join(class)).unwrap();
            for file in std::fs::read_dir(from.join(class)).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(class).join(file.file_name())).unwrap();
            }
        }
    }
    refuse(
        &path("two"),
        folder,
        &[],
        "has 3 outputs, and these images have 2 classes",
    );
    let mut model = FloatModel::load(Path::new(folder)).unwrap();
    model.spec.labels.reverse();
    model.save(&dir.join("reversed")).unwrap();
    refuse(&data, &path("reversed"), &[], "another order");
    // Without ReLUs.
    model.masks.clear();
    model.spec.ops = vec![
        Op::GlobalAvgPool {
            name: "pool".into(),
            input: "input".into(),
        },
        Op::Linear {
            name: "fc".into(),
            input: "pool".into(),
            out_features: 3,
        },
    ];
    let fc = FloatWeights {
        weight: vec![0.5; 9],
        bias: vec![0.0; 3],
    };
    model.weights = [("fc".to_owned(), fc)].into();
    model.save(&dir.join("linear-network")).unwrap();
    refuse(&data, &path("linear-network"), &[], "nothing to choose");
}
