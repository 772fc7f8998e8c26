//! The commands `quantise` and `check` on a small network and images in folders.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Command, Output};

use pi_model::relu_set::ReluSet;
use pi_model::spec::{Card, FORMAT_VERSION, InputSpec, ModelSpec, Op, OutputMode, Window};
use pi_model::{FloatModel, FloatWeights, Model};

/// Says whether an image is more red or more blue: two classes.
fn network() -> FloatModel {
    let ops = vec![
        Op::Conv2d {
            name: "conv".into(),
            input: "input".into(),
            out_channels: 2,
            window: Window::square(1, 1, 0),
            groups: 1,
        },
        Op::MaskedRelu {
            name: "relu".into(),
            input: "conv".into(),
            relus_kept: 72,
        },
        Op::GlobalAvgPool {
            name: "pool".into(),
            input: "relu".into(),
        },
        Op::Linear {
            name: "fc".into(),
            input: "pool".into(),
            out_features: 2,
        },
    ];
    let spec = ModelSpec {
        format_version: FORMAT_VERSION,
        name: "colours".into(),
        input: InputSpec {
            channels: 3,
            height: 6,
            width: 6,
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
            range: None,
        },
        labels: vec!["red".into(), "blue".into()],
        output: OutputMode::Logits,
        ops,
        fixed_point: None,
        card: Card::default(),
    };
    let weights = |weight: &[f32]| FloatWeights {
        weight: weight.to_vec(),
        bias: vec![0.1, 0.1],
    };
    FloatModel {
        spec,
        masks: HashMap::from([(
            "relu".to_owned(),
            ReluSet::from_mask("relu", &[1; 72]).unwrap(),
        )]),
        weights: BTreeMap::from([
            (
                "conv".to_owned(),
                weights(&[1.0, 0.1, -1.0, -1.0, 0.2, 1.0]),
            ),
            ("fc".to_owned(), weights(&[0.7, -0.3, -0.4, 0.6])),
        ]),
    }
}

fn png(path: &Path, colour: [u8; 3]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_fn(9, 6, |x, y| {
        image::Rgb(colour.map(|c| c.saturating_sub((x * y) as u8)))
    })
    .save(path)
    .unwrap();
}

fn convert(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi-convert"));
    command.args(args).output().unwrap()
}

#[test]
fn a_float_model_becomes_an_integer_model_and_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (float, integer, images) = (at("float"), at("integer"), at("images"));
    network().save(Path::new(&float)).unwrap();
    let quantise = [
        "quantise",
        &float,
        "--out",
        &integer,
        "--calibrate",
        &images,
    ];
    let failed = convert(&quantise);
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(
        !failed.status.success() && said.contains("images"),
        "{said}"
    );
    for i in 0..6 {
        let i = i * 20;
        png(
            &dir.path().join(format!("images/red/{i}.png")),
            [200, i, 90],
        );
        png(
            &dir.path().join(format!("images/blue/{i}.png")),
            [90, i, 200],
        );
    }
    // One that both networks get wrong.
    png(&dir.path().join("images/red/wrong.png"), [90, 0, 200]);
    let done = convert(&quantise);
    let said = String::from_utf8(done.stdout).unwrap();
    let errors = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{errors}");
    for what in [
        "colours: 4 operations, 72 of 72 ReLUs",
        "Calibrated on 13 images; on 13 of these the top class is that of the float model",
        "Predicted cost of one inference",
    ] {
        assert!(said.contains(what), "{said}");
    }
    let model = Model::load(Path::new(&integer)).unwrap();
    let card = &model.public().spec().card;
    assert!(card.recipe[0].starts_with("pi-convert quantise"));
    let told = String::from_utf8(model.public().to_json()).unwrap();
    assert!(!told.contains(&at("")), "{told}");

    let done = convert(&["check", &float, &integer, &images, "--layers"]);
    let said = String::from_utf8(done.stdout).unwrap();
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for what in [
        "images 13",
        "same top class 100.00 %",
        "accuracy of the float model 92.31 %",
        "accuracy of the integers 92.31 %",
        "accumulators out of range 0",
        "relu 0.",
    ] {
        assert!(words.contains(what), "{said}");
    }
    let failed = convert(&["check", &float, &float, &images]);
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(said.contains("pi-convert quantise"), "{said}");
}
