//! Every way in which a file is refused says what to do.

use pi_convert::onnx::proto::{OperatorSetIdProto, StringStringEntryProto};
use pi_convert::onnx::{ImportError, NEWEST_OPSET, Options, import};
use prost::Message as _;

use super::net::{Net, int, ints, text, value};

fn net() -> Net {
    Net::new(&[1, 2, 4, 4])
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.onnx");
    let error = || import(&path, &Options::default()).unwrap_err().to_string();
    assert!(error().contains("a.onnx: No such file"), "{}", error());
    std::fs::write(&path, b"PK\x03\x04 a zip file").unwrap();
    assert!(
        error().contains("a.onnx is not an ONNX file"),
        "{}",
        error()
    );
    std::fs::write(&path, b"").unwrap();
    assert!(error().contains("holds no network"), "{}", error());
    let file = std::fs::File::create(&path).unwrap();
    file.set_len((2 << 30) + 1).unwrap();
    assert!(error().contains("2147483649 bytes"), "{}", error());
}

#[test]
fn versions() {
    for version in [6, NEWEST_OPSET + 1] {
        let mut net = net().node("Relu", "x", "y", &[]);
        net.proto.opset_import = vec![OperatorSetIdProto {
            domain: String::new(),
            version,
        }];
        let error = net.refused();
        assert!(
            error.contains(&format!("version {version}")) && error.contains("opset_version"),
            "{error}"
        );
    }
}

#[test]
fn inputs_and_outputs() {
    let mut two = net()
        .node("Relu", "x", "y", &[])
        .node("Relu", "x", "z", &[]);
    two.graph().output.push(value("z", &[]));
    assert!(
        two.refused().contains("2 outputs ('y', 'z')"),
        "{}",
        two.refused()
    );
    let mut two = net().node("Add", "x z", "y", &[]);
    two.graph().input.push(value("z", &[1, 2, 4, 4]));
    assert!(
        two.refused().contains("2 inputs ('x', 'z')"),
        "{}",
        two.refused()
    );
    let batch = Net::new(&[8, 2, 4, 4]).node("Relu", "x", "y", &[]);
    assert!(
        batch.refused().contains("a fixed batch of 8"),
        "{}",
        batch.refused()
    );
    let lost = net().node("Add", "x w", "y", &[]);
    assert!(
        lost.refused().contains("reads 'w', which nothing makes"),
        "{}",
        lost.refused()
    );
    let circle = net()
        .node("Add", "x b", "a", &[])
        .node("Add", "x a", "b", &[])
        .node("Relu", "b", "y", &[]);
    assert!(circle.refused().contains("loops"), "{}", circle.refused());
    let constant = net().random("w", &[4]).node("Neg", "w", "y", &[]);
    assert!(
        constant
            .refused()
            .contains("is not computed from the input"),
        "{}",
        constant.refused()
    );
}

#[test]
fn open_sizes() {
    let net = Net::new(&[0, 3, 0, 0]).conv("x", "y", &[2, 3, 3, 3], &[]);
    let error = net.refused();
    assert!(
        error.contains("'x' has the shape (?, 3, ?, ?)") && error.contains("--input-shape C,H,W"),
        "{error}"
    );
    let shaped = |shape| {
        let options = Options {
            input_shape: Some(shape),
            ..Options::default()
        };
        net.import(&options)
    };
    let (model, _) = shaped([3, 5, 6]).unwrap();
    assert_eq!((model.spec.input.height, model.spec.input.width), (5, 6));
    let error = shaped([4, 5, 6]).unwrap_err().to_string();
    assert!(error.contains("--input-shape does not fit"), "{error}");
}

#[test]
fn options() {
    let net = net().conv("x", "y", &[2, 2, 4, 4], &[]);
    let with = |options: Options| net.import(&options).unwrap_err().to_string();
    let error = with(Options {
        mean: Some(vec![0.1; 3]),
        ..Options::default()
    });
    assert!(
        error.contains("--mean has 3 numbers, the image has 2 channels"),
        "{error}"
    );
    let error = with(Options {
        std: Some(vec![0.0]),
        ..Options::default()
    });
    assert!(error.contains("--std numbers above 0"), "{error}");
    let error = with(Options {
        labels: Some(vec!["a".into()]),
        ..Options::default()
    });
    assert!(error.contains("1 lines, the network 2 classes"), "{error}");
}

#[test]
fn weights() {
    let net = net()
        .floats("w", &[1, 2, 1, 1], &[1.0, f32::NAN])
        .node("Conv", "x w", "y", &[]);
    assert!(
        net.refused()
            .contains("'w' cannot be read: a value is not a number"),
        "{}",
        net.refused()
    );
}

#[test]
fn weights_beside_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("net.onnx");
    let with = |location: &str, offset: &str| {
        let mut net = net()
            .random("w", &[3, 2, 1, 1])
            .node("Conv", "x w", "y", &[]);
        let tensor = &mut net.graph().initializer[0];
        tensor.raw_data = vec![];
        tensor.data_location = 1;
        let entry = |key: &str, value: &str| StringStringEntryProto {
            key: key.into(),
            value: value.into(),
        };
        tensor.external_data = vec![
            entry("location", location),
            entry("offset", offset),
            entry("length", "24"),
        ];
        std::fs::write(&path, net.proto.encode_to_vec()).unwrap();
        import(&path, &Options::default()).map(|(model, _)| model)
    };
    let error = |location: &str| with(location, "4").unwrap_err().to_string();
    assert!(
        error("net.data").contains("'w' should be in") && error("net.data").contains("beside it")
    );
    let values: Vec<f32> = (0..7u8).map(f32::from).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.join("net.data"), &bytes).unwrap();
    let model = with("net.data", "4").unwrap();
    assert_eq!(model.weights["conv0"].weight, values[1..]);
    assert!(
        with("net.data", "x")
            .unwrap_err()
            .to_string()
            .contains("its offset 'x' is no number")
    );
    assert!(
        with("net.data", "8")
            .unwrap_err()
            .to_string()
            .contains("5 values")
    );
    // Nothing outside the folder is opened.
    std::fs::write(dir.path().join("secret"), &bytes).unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret"), folder.join("link")).unwrap();
    let absolute = dir.path().join("secret");
    for location in ["../secret", "link", absolute.to_str().unwrap(), ""] {
        assert!(
            error(location).contains("outside the folder"),
            "{location}: {}",
            error(location)
        );
    }
}

#[test]
fn operators_are_listed_together() {
    let net = net()
        .node("LRN", "x", "a", &[int("size", 3)])
        .node("Sigmoid", "a", "b", &[])
        .node("LRN", "b", "c", &[int("size", 3)])
        .node("Relu", "c", "d", &[])
        .node("Mul", "d d", "e", &[])
        .node("LSTM", "e", "f", &[])
        .node("Tanh", "f", "g", &[])
        .node("Relu", "g", "y", &[]);
    let ImportError::Unsupported(refusals) = net.import(&Options::default()).unwrap_err() else {
        panic!("{}", net.refused())
    };
    let names: Vec<_> = refusals.iter().map(|r| r.node.as_str()).collect();
    assert_eq!(
        names,
        ["lrn0", "sigmoid1", "lrn2", "mul4", "lstm5", "tanh6"]
    );
    let text = net.refused();
    assert!(
        text.starts_with("6 operators cannot be run privately:\n  LRN: "),
        "{text}"
    );
    assert!(text.contains("\n    lrn0, lrn2\n"), "{text}");
}

#[test]
fn what_follows_a_product_of_results_is_judged_too() {
    let net = net()
        .node("GlobalAveragePool", "x", "gate", &[])
        .node("Mul", "gate x", "m", &[])
        .node("Cast", "m", "c", &[int("to", 6)])
        .node("Pad", "c", "p", &[text("mode", "reflect")])
        .node("Sigmoid", "p", "y", &[]);
    let ImportError::Unsupported(refusals) = net.import(&Options::default()).unwrap_err() else {
        panic!("{}", net.refused())
    };
    let names: Vec<_> = refusals.iter().map(|r| r.node.as_str()).collect();
    assert_eq!(names, ["mul1", "cast2", "pad3", "sigmoid4"]);
}

#[test]
fn what_the_output_does_not_need_is_not_judged() {
    let net = net()
        .node("LSTM", "x", "other", &[])
        .node("Relu", "x", "y", &[]);
    assert_eq!(net.check().0, "1 masked_relu");
}

#[test]
fn names_are_shown_without_effect() {
    let mut net = net().node("LSTM", "x", "y", &[]);
    net.graph().node[0].name = "\u{1b}[2Jevil\nline".into();
    let text = net.refused();
    assert!(text.ends_with("    \\u{1b}[2Jevil\\nline"), "{text:?}");
}

#[test]
fn operators_that_fit_only_sometimes() {
    let pool = |attributes: &[_]| net().node("AveragePool", "x", "y", attributes);
    let kernel = || ints("kernel_shape", &[3, 3]);
    let constant = net()
        .floats("w", &[], &[-1.0])
        .floats("one", &[], &[1.0])
        .random("map", &[1, 2, 4, 4]);
    let cases = [
        (
            net()
                .node("Softmax", "x", "s", &[])
                .node("Relu", "s", "y", &[]),
            "over a map",
        ),
        (
            Net::new(&[1, 4])
                .node("Softmax", "x", "s", &[])
                .node("Relu", "s", "y", &[]),
            "not at the end",
        ),
        (
            constant.clone().node("Clip", "x w one", "y", &[]),
            "clips from -1 to 1",
        ),
        (
            constant.clone().node("Add", "x map", "y", &[]),
            "one value for each channel",
        ),
        (
            constant.clone().node("Div", "one x", "y", &[]),
            "multiplies or divides",
        ),
        (net().node("MatMul", "x x", "y", &[]), "attention"),
        (net().node("Conv", "x x", "y", &[]), "constant parameters"),
        (
            net()
                .node("MaxPool", "x", "p i", &[kernel()])
                .node("Relu", "i", "y", &[]),
            "second result",
        ),
        (
            pool(&[
                kernel(),
                ints("pads", &[1, 1, 1, 1]),
                int("ceil_mode", 1),
                int("count_include_pad", 1),
                ints("strides", &[2, 2]),
            ]),
            "counts its padding",
        ),
        (
            net().node("ReduceMean", "x", "y", &[ints("axes", &[1])]),
            "only that over all rows",
        ),
        (
            net().node("Concat", "x x", "y", &[int("axis", 2)]),
            "only channels",
        ),
        (
            net().node("Split", "x", "y z", &[int("axis", 2)]),
            "only channels",
        ),
        (
            net()
                .sizes("s", &[1])
                .sizes("e", &[3])
                .sizes("a", &[2])
                .node("Slice", "x s e a", "y", &[]),
            "crops the map",
        ),
        (
            net().random("w", &[4, 3]).node("MatMul", "x w", "y", &[]),
            "a flattened map",
        ),
        (net().norm("x", "y", &[1.0; 3]), "3 values for 2 channels"),
        (
            constant
                .clone()
                .sizes("yes", &[1])
                .node("Dropout", "x one yes", "y", &[]),
            "in training mode, where it drops",
        ),
        (
            net()
                .node("Cast", "x", "i", &[int("to", 6)])
                .node("Cast", "i", "y", &[int("to", 1)]),
            "makes integers",
        ),
    ];
    for (net, expected) in cases {
        let text = net.refused();
        assert!(
            text.contains("1 operator cannot be run privately") && text.contains(expected),
            "{expected}: {text}"
        );
    }
}
