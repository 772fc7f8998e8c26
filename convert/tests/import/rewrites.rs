//! What is folded, swapped and guessed, always with the function kept.

use pi_convert::onnx::Options;
use pi_model::spec::Op;

use super::net::{Net, int, ints};

const MIXED: [f32; 4] = [0.5, -0.75, 1.5, -0.1];
const POSITIVE: [f32; 4] = [0.5, 0.75, 1.5, 0.1];

fn start() -> Net {
    Net::new(&[1, 2, 6, 6]).conv("x", "s", &[4, 2, 3, 3], &[ints("pads", &[1, 1, 1, 1])])
}

#[test]
fn a_normalisation_folds_into_the_convolution_before() {
    assert_eq!(start().norm("s", "y", &MIXED).check().0, "1 conv2d");
}

#[test]
fn a_normalisation_folds_into_the_convolutions_behind() {
    // The convolution before is read by others too.
    let net = start()
        .node("Relu", "s", "r", &[])
        .norm("r", "n", &MIXED)
        .conv("n", "a", &[4, 4, 3, 3], &[])
        .conv("n", "b", &[4, 2, 3, 3], &[int("group", 2)])
        .node("Add", "a b", "y", &[]);
    assert_eq!(net.check().0, "1 add, 3 conv2d, 1 masked_relu");
    // Zeros around the map are not shifted, so a bias stays.
    let padded = start()
        .node("Relu", "s", "r", &[])
        .norm("r", "n", &MIXED)
        .conv("n", "y", &[4, 4, 3, 3], &[ints("pads", &[1, 1, 1, 1])]);
    assert_eq!(padded.check().0, "1 bias, 2 conv2d, 1 masked_relu");
}

/// A normalisation between a sum and a ReLU, whose result is put beside another, averaged, flattened and multiplied.
fn before_relu(gamma: &[f32]) -> Net {
    start()
        .conv("x", "other", &[4, 2, 3, 3], &[ints("pads", &[1, 1, 1, 1])])
        .node("Add", "s other", "sum", &[])
        .norm("sum", "n", gamma)
        .node("Relu", "n", "r", &[])
        .node("Concat", "other r sum", "c", &[int("axis", 1)])
        .node(
            "AveragePool",
            "c",
            "p",
            &[ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])],
        )
        .node("Flatten", "p", "f", &[])
        .random("w", &[108, 5])
        .node("MatMul", "f w", "y", &[])
}

#[test]
fn a_normalisation_moves_through_its_relu() {
    let (ops, _) = before_relu(&POSITIVE).check();
    assert_eq!(
        ops,
        "1 add, 1 avg_pool, 1 bias, 1 concat, 2 conv2d, 1 flatten, 1 linear, 1 masked_relu"
    );
    let (ops, _) = before_relu(&MIXED).check();
    assert_eq!(
        ops,
        "1 add, 1 avg_pool, 1 bias, 4 channels, 2 concat, 2 conv2d, 1 flatten, 1 linear, 1 masked_relu, 1 sub"
    );
    let (ops, _) = before_relu(&[-1.0, -2.0, -0.5, -0.25]).check();
    assert!(ops.contains("1 sub") && !ops.contains("channels"), "{ops}");
    // Channels without weight are constant.
    let (ops, model) = before_relu(&[0.0, 1e-9, -1e-9, 0.5]).check();
    assert!(
        ops.contains("1 bias, ") && ops.contains("2 conv2d"),
        "{ops}"
    );
    let largest = model
        .weights
        .iter()
        .filter(|(name, _)| name.starts_with("batch"));
    let largest = largest
        .flat_map(|(_, w)| &w.bias)
        .fold(0f32, |m, b| m.max(b.abs()));
    // 32 deviations of at most the square root of 2 from a mean of at most 1.
    assert!((32.0..47.0).contains(&largest), "{largest}");
}

#[test]
fn a_scale_behind_a_normalisation_keeps_its_bounds() {
    // Written as a normalisation without weights and a scale, as Caffe does.
    let net = start()
        .conv("x", "other", &[4, 2, 3, 3], &[ints("pads", &[1, 1, 1, 1])])
        .node("Add", "s other", "sum", &[])
        .norm("sum", "n", &[1.0; 4])
        .floats("k", &[4, 1, 1], &[0.5, -1e-9, 1e-9, 0.25])
        .node("Mul", "n k", "m", &[])
        .random("t", &[4, 1, 1])
        .node("Add", "m t", "a", &[])
        .node("Relu", "a", "r", &[])
        .conv("r", "c", &[2, 4, 1, 1], &[])
        .conv("sum", "d", &[2, 4, 1, 1], &[])
        .node("Add", "c d", "y", &[]);
    let (ops, model) = net.check();
    assert!(ops.contains("1 bias") && ops.contains("4 conv2d"), "{ops}");
    let biases = model
        .spec
        .ops
        .iter()
        .filter(|op| matches!(op, Op::Bias { .. }));
    let biases = biases.flat_map(|op| &model.weights[op.name()].bias);
    assert!(biases.fold(0f32, |m, b| m.max(b.abs())) < 47.0);
}

#[test]
fn a_normalisation_that_cannot_move_stays() {
    // A sum behind the ReLU lets no scale of one summand through.
    let net = start()
        .node("Relu", "s", "q", &[])
        .norm("q", "n", &POSITIVE)
        .node("Relu", "n", "r", &[])
        .node("Add", "r q", "y", &[]);
    let (ops, _) = net.check();
    assert_eq!(ops, "1 add, 2 conv2d, 2 masked_relu");
    let (_, summary) = net.import(&Options::default()).unwrap();
    assert!(
        summary
            .notes
            .iter()
            .any(|n| n.contains("left as convolutions"))
    );
}

#[test]
fn a_max_pool_is_swapped_with_the_relu_before_it() {
    let pool = [
        ints("kernel_shape", &[3, 3]),
        ints("strides", &[2, 2]),
        ints("pads", &[1, 1, 1, 1]),
    ];
    let net = start()
        .node("Relu", "s", "r", &[])
        .node("MaxPool", "r", "y", &pool);
    let (_, model) = net.check();
    let names: Vec<_> = model.spec.ops.iter().map(Op::name).collect();
    assert_eq!(names, ["conv0", "maxpool2", "relu1"]);
    // 4 x 3 x 3 ReLUs; a window of 3 x 3 loses a row or column at the edges: 6 (1 + 2 + 2) comparisons of columns, 3 (1 + 2 + 2) of rows.
    let (_, summary) = net.import(&Options::default()).unwrap();
    assert_eq!(summary.n_relus, 36 + 4 * (30 + 15));
    // Not where something else reads the ReLU.
    let read = start()
        .node("Relu", "s", "r", &[])
        .node(
            "MaxPool",
            "r",
            "p",
            &[ints("kernel_shape", &[1, 1]), ints("strides", &[2, 2])],
        )
        .conv("r", "c", &[4, 4, 1, 1], &[ints("strides", &[2, 2])])
        .node("Add", "p c", "y", &[]);
    let (_, model) = read.check();
    assert!(matches!(model.spec.ops[1], Op::MaskedRelu { .. }));
    // Through a concatenation of ReLUs.
    let net = start()
        .conv("x", "t", &[3, 2, 1, 1], &[])
        .node("Relu", "s", "a", &[])
        .node("Relu", "t", "b", &[])
        .node("Concat", "a b", "c", &[int("axis", 1)])
        .node("MaxPool", "c", "p", &pool)
        .conv("p", "y", &[2, 7, 1, 1], &[]);
    assert_eq!(
        net.check().0,
        "1 concat, 3 conv2d, 1 masked_relu, 1 max_pool"
    );
}

#[test]
fn max_pools_become_averages() {
    let pool = [ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
    let net = start()
        .node("Relu", "s", "r", &[])
        .node("MaxPool", "r", "y", &pool);
    let options = Options {
        average_pools: true,
        ..Options::default()
    };
    let (model, summary) = net.import(&options).unwrap();
    assert!(matches!(model.spec.ops[2], Op::AvgPool { .. }));
    let note = "ReLUs: 144; with max pools 144";
    assert!(
        summary.notes.iter().any(|n| n.contains(note)),
        "{:?}",
        summary.notes
    );
}

#[test]
fn zeros_move_into_the_convolution() {
    let net = Net::new(&[1, 2, 5, 5])
        .sizes("p", &[0, 0, 1, 0, 0, 0, 2, 1])
        .node("Pad", "x p", "q", &[])
        .conv("q", "y", &[3, 2, 3, 3], &[]);
    assert_eq!(net.check().0, "1 conv2d");
}

#[test]
fn the_networks_own_normalisation_becomes_that_of_the_input() {
    let net = |mean: &[f32], std: &[f32]| {
        Net::new(&[1, 3, 4, 4])
            .floats("m", &[3, 1, 1], mean)
            .floats("d", &[3, 1, 1], std)
            .node("Sub", "x m", "a", &[])
            .node("Div", "a d", "b", &[])
            .conv("b", "y", &[3, 3, 3, 3], &[ints("pads", &[1, 1, 1, 1])])
    };
    let close = |got: &[f64], expected: &[f64]| {
        assert!(
            got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{got:?} {expected:?}"
        );
    };
    assert_eq!(
        net(&[0.25, 0.5, 0.5], &[0.5, 2.0, 2.0]).check().0,
        "1 conv2d"
    );
    let (model, _) = net(&[0.25, 0.5, 0.5], &[0.5, 2.0, 2.0])
        .import(&Options::default())
        .unwrap();
    close(&model.spec.input.mean, &[0.25, 0.5, 0.5]);
    close(&model.spec.input.std, &[0.5, 2.0, 2.0]);
    // Numbers for pixels from 0 to 255.
    let (model, _) = net(&[102.0, 51.0, 51.0], &[51.0, 25.5, 25.5])
        .import(&Options::default())
        .unwrap();
    close(&model.spec.input.mean, &[0.4, 0.2, 0.2]);
    close(&model.spec.input.std, &[0.2, 0.1, 0.1]);
    // Behind the user's own normalisation.
    let options = Options {
        mean: Some(vec![0.5]),
        std: Some(vec![0.25, 0.5, 0.5]),
        ..Options::default()
    };
    let (model, _) = net(&[1.0; 3], &[2.0; 3]).import(&options).unwrap();
    close(&model.spec.input.mean, &[0.75, 1.0, 1.0]);
    close(&model.spec.input.std, &[0.5, 1.0, 1.0]);
}

#[test]
fn what_the_file_does_not_say_is_guessed() {
    let net =
        |channels: i64| Net::new(&[0, channels, 4, 4]).conv("x", "y", &[2, channels, 4, 4], &[]);
    let (model, summary) = net(3).import(&Options::default()).unwrap();
    assert_eq!(model.spec.input.mean, [0.485, 0.456, 0.406]);
    assert!(summary.notes[0].contains("guess"));
    assert_eq!(
        (model.spec.name.as_str(), model.spec.labels.as_slice()),
        ("net", &["class 0".to_owned(), "class 1".into()][..])
    );
    let (model, _) = net(1).import(&Options::default()).unwrap();
    assert_eq!(
        (model.spec.input.mean, model.spec.input.std),
        (vec![0.0], vec![1.0])
    );
    let options = Options {
        name: Some("zebra".into()),
        labels: Some(vec!["horse".into(), "zebra".into()]),
        ..Options::default()
    };
    let (model, _) = net(1).import(&options).unwrap();
    assert_eq!(
        (model.spec.name.as_str(), model.spec.labels[1].as_str()),
        ("zebra", "zebra")
    );
}

#[test]
fn what_is_no_image_is_a_tensor() {
    let options = Options::default;
    let net = |dims: &[i64]| {
        let net = Net::new(dims);
        match *dims {
            [_, c] => net
                .random("w", &[4, c])
                .node("Gemm", "x w", "y", &[int("transB", 1)]),
            _ => net.conv("x", "y", &[4, dims[1], 1, 1], &[]),
        }
    };
    for dims in [&[1, 5][..], &[1, 7, 4, 4], &[1, 3, 1, 9]] {
        let (model, summary) = net(dims).import(&options()).unwrap();
        let input = &model.spec.input;
        assert!(!input.takes_images() && input.range.is_none(), "{dims:?}");
        assert!(summary.notes[0].contains("--range"), "{:?}", summary.notes);
    }
    let ranged = Options {
        range: Some([-1.0, 4.0]),
        labels: Some(vec![]),
        ..options()
    };
    let (model, _) = net(&[1, 3, 4, 4]).import(&ranged).unwrap();
    assert_eq!(model.spec.input.range, Some([-1.0, 4.0]));
    assert!(model.spec.labels.is_empty());
    let stated = Options {
        mean: Some(vec![0.5]),
        ..options()
    };
    let (model, _) = net(&[1, 7, 4, 4]).import(&stated).unwrap();
    assert!(model.spec.input.takes_images());
    for (range, mean) in [([0.0, 1.0], Some(vec![0.5])), ([1.0, 0.0], None)] {
        let wrong = Options {
            range: Some(range),
            mean,
            ..options()
        };
        let said = net(&[1, 5]).import(&wrong).unwrap_err().to_string();
        assert!(said.contains("--range"), "{said}");
    }
}
