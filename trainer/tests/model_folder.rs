//! A network that comes as the folder of a float model: linearized with images, by every command.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use pi_model::graph::shapes;
use pi_model::relu_set::ReluSet;
use pi_model::spec::{Card, FORMAT_VERSION, InputSpec, ModelSpec, Op, OutputMode, Window};
use pi_model::{FloatModel, FloatWeights, Model};
use program::*;
use std::collections::{BTreeMap, HashMap};
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

/// A network such as others are trained with: clips, leaky ReLUs, a max pool, a depthwise convolution, a concatenation, and a
/// fully connected layer before the last.
fn of_other_operations() -> FloatModel {
    let s = |name: &str| name.to_owned();
    let conv = |name: &str, input: &str, out_channels, window, groups| Op::Conv2d {
        name: s(name),
        input: s(input),
        out_channels,
        window,
        groups,
    };
    let linear = |name: &str, input: &str, out_features| Op::Linear {
        name: s(name),
        input: s(input),
        out_features,
    };
    let relu = |name: &str, input: &str, relus_kept| Op::MaskedRelu {
        name: s(name),
        input: s(input),
        relus_kept,
    };
    let square = Window::square;
    let ops = vec![
        conv("first", "input", 8, square(3, 1, 1), 1),
        Op::Clip {
            name: s("clip"),
            input: s("first"),
            max: 6.0,
            relus_kept: 512,
        },
        conv("depthwise", "clip", 8, square(3, 1, 1), 8),
        Op::LeakyRelu {
            name: s("leaky"),
            input: s("depthwise"),
            slope: 0.1,
            relus_kept: 512,
        },
        Op::MaxPool {
            name: s("largest"),
            input: s("leaky"),
            window: square(2, 2, 0),
        },
        conv("wide", "largest", 8, square(1, 1, 0), 1),
        Op::Concat {
            name: s("both"),
            inputs: vec![s("wide"), s("largest")],
        },
        relu("relu", "both", 256),
        Op::Flatten {
            name: s("flat"),
            input: s("relu"),
        },
        linear("hidden", "flat", 16),
        relu("last", "hidden", 16),
        linear("classes", "last", 3),
    ];
    let spec = ModelSpec {
        format_version: FORMAT_VERSION,
        name: s("others"),
        input: InputSpec {
            channels: 3,
            height: 8,
            width: 8,
            mean: vec![0.4; 3],
            std: vec![0.3; 3],
            range: None,
        },
        labels: vec![],
        output: OutputMode::Logits,
        ops,
        fixed_point: None,
        card: Card::default(),
    };
    let known = shapes(&spec).unwrap();
    let (mut masks, mut weights) = (HashMap::new(), BTreeMap::new());
    let mut state = 1u32;
    let mut values = |n: usize, most: f32| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / 8_388_608.0 - 1.0) * most
        };
        (0..n).map(|_| next()).collect()
    };
    for op in &spec.ops {
        let name = op.name().to_owned();
        if op.relus_kept().is_some() {
            let mask = vec![1; known[&name].n_values()];
            masks.insert(name.clone(), ReluSet::from_mask(&name, &mask).unwrap());
        }
        let read = known[&op.inputs()[0]].channels;
        let fan_in = match op {
            Op::Conv2d { window, groups, .. } => {
                read / groups * window.kernel[0] * window.kernel[1]
            }
            Op::Linear { .. } => read,
            _ => continue,
        };
        let n_out = known[&name].channels;
        let own = FloatWeights {
            weight: values(n_out * fan_in, (3.0 / fan_in as f32).sqrt()),
            bias: values(n_out, 0.1),
        };
        weights.insert(name, own);
    }
    FloatModel {
        spec,
        masks,
        weights,
    }
}

#[test]
fn a_network_of_other_operations_is_linearized() {
    let dir = tempfile::tempdir().unwrap();
    let path = |p: &str| dir.path().join(p).to_string_lossy().into_owned();
    images(&dir.path().join("data"));
    let (data, folder, out) = (path("data"), path("others"), path("run"));
    of_other_operations().save(Path::new(&folder)).unwrap();
    let set = ["--data", &data, "--dataset", "folder", "--arch", &folder];
    let train = ["--batch", "6", "--compute", "f32", "--crop-pad", "1"];
    let student = [
        "--relus",
        "400",
        "--search-epochs",
        "3",
        "--finetune-epochs",
        "6",
        "--calibrate",
        "20",
        "--train-proxy",
        "--proxy-epochs",
        "2",
        "--student-lr",
        "0.05",
        "--weight-bits",
        "12",
    ];
    let said = ok(&[&["all", "--out", &out], &set[..], &train, &student].concat());
    for what in [
        "note: 1 max pools",
        "400 of 1296 ReLUs",
        "0 values out of range",
    ] {
        assert!(said.contains(what), "{what}: {said}");
    }
    // It learns, and its integers say the same.
    let model = "run/models/others-folder-relu400";
    let card = Model::load(&dir.path().join(model)).unwrap();
    let card = card.public().spec().card.clone();
    let (float, fixed) = (card.float_accuracy.unwrap(), card.fixed_accuracy.unwrap());
    assert!(
        float >= 75.0 && (float - fixed).abs() <= 10.0,
        "{float} and {fixed}"
    );
}
