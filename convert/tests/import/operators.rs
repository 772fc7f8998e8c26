//! Each operator against a plain evaluation.

use super::net::{Net, float, int, ints, text};

#[test]
fn convolutions() {
    let map = |dims: &[i64]| Net::new(dims);
    let cases = [
        map(&[1, 3, 7, 6]).conv("x", "y", &[4, 3, 3, 3], &[ints("pads", &[1, 1, 1, 1])]),
        map(&[1, 4, 7, 6]).conv(
            "x",
            "y",
            &[4, 2, 3, 1],
            &[int("group", 2), ints("strides", &[2, 1])],
        ),
        map(&[1, 4, 9, 9]).conv(
            "x",
            "y",
            &[8, 1, 3, 3],
            &[int("group", 4), ints("dilations", &[2, 3])],
        ),
        map(&[1, 2, 7, 6]).conv(
            "x",
            "y",
            &[2, 2, 4, 3],
            &[ints("pads", &[0, 2, 1, 1]), ints("strides", &[3, 2])],
        ),
        // Padding as large as the kernel.
        map(&[1, 2, 5, 5]).conv("x", "y", &[3, 2, 1, 1], &[ints("pads", &[1, 0, 2, 1])]),
        // A sequence.
        map(&[1, 2, 9]).conv(
            "x",
            "y",
            &[3, 2, 3],
            &[ints("pads", &[1, 0]), ints("strides", &[2])],
        ),
    ];
    for (i, net) in cases.iter().enumerate() {
        let (ops, _) = net.check();
        assert_eq!(
            ops,
            if i == 4 {
                "1 conv2d, 1 pad"
            } else {
                "1 conv2d"
            }
        );
    }
    // 7 columns in steps of 2 need one zero on each side; the 8 rows one below.
    let same = |auto: &str| {
        map(&[1, 1, 8, 7]).conv(
            "x",
            "y",
            &[1, 1, 3, 3],
            &[text("auto_pad", auto), ints("strides", &[2, 2])],
        )
    };
    let paddings = [
        ("SAME_UPPER", [0, 1, 1, 1]),
        ("SAME_LOWER", [1, 1, 0, 1]),
        ("VALID", [0; 4]),
    ];
    for (auto, padding) in paddings {
        let (model, _) = same(auto).import(&Default::default()).unwrap();
        let pi_model::spec::Op::Conv2d { window, .. } = &model.spec.ops[0] else {
            panic!("{:?}", model.spec.ops)
        };
        assert_eq!(<[usize; 4]>::from(window.padding), padding, "{auto}");
    }
}

#[test]
fn matrices() {
    let net = || Net::new(&[1, 2, 3, 2]).node("Flatten", "x", "f", &[]);
    let weight = |dims: &[i64]| net().random("w", dims).random("c", &[5]);
    let gemm = weight(&[12, 5]).node(
        "Gemm",
        "f w c",
        "y",
        &[float("alpha", 0.5), float("beta", 2.0)],
    );
    let transposed = weight(&[5, 12]).node("Gemm", "f w", "y", &[int("transB", 1)]);
    let product = weight(&[12, 5])
        .node("MatMul", "f w", "m", &[])
        .node("Add", "m c", "y", &[]);
    for net in [gemm, transposed, product] {
        assert_eq!(net.check().0, "1 flatten, 1 linear");
    }
    // Without a map there is nothing to flatten.
    let vector = Net::new(&[0, 12])
        .random("w", &[12, 5])
        .node("MatMul", "x w", "y", &[]);
    assert_eq!(vector.check().0, "1 linear");
}

#[test]
fn pools() {
    let pool = |op: &str, more: &[_]| {
        let attributes = [
            &[ints("kernel_shape", &[3, 2]), ints("strides", &[2, 2])],
            more,
        ]
        .concat();
        Net::new(&[1, 2, 8, 7])
            .node(op, "x", "y", &attributes)
            .check()
    };
    let padded = || ints("pads", &[1, 0, 1, 1]);
    for op in ["MaxPool", "AveragePool"] {
        pool(op, &[]);
        pool(op, &[padded()]);
        pool(op, &[int("ceil_mode", 1)]);
        pool(op, &[padded(), int("ceil_mode", 1)]);
    }
    pool("AveragePool", &[padded(), int("count_include_pad", 1)]);
    let whole = Net::new(&[1, 3, 4, 5]);
    assert_eq!(
        whole
            .clone()
            .node("GlobalAveragePool", "x", "y", &[])
            .check()
            .0,
        "1 global_avg_pool"
    );
    let mean = whole
        .clone()
        .node("ReduceMean", "x", "y", &[ints("axes", &[-1, 2])]);
    assert_eq!(mean.check().0, "1 global_avg_pool");
    let all = whole.node("AveragePool", "x", "y", &[ints("kernel_shape", &[4, 5])]);
    assert_eq!(all.check().0, "1 global_avg_pool");
    // A pool of single values is left out.
    let one =
        Net::new(&[1, 3, 4, 5]).node("AveragePool", "x", "p", &[ints("kernel_shape", &[1, 1])]);
    assert_eq!(one.node("Relu", "p", "y", &[]).check().0, "1 masked_relu");
}

#[test]
fn constants_for_each_channel() {
    let net = || {
        Net::new(&[1, 3, 4, 4])
            .conv("x", "c", &[3, 3, 1, 1], &[])
            .random("k", &[3, 1, 1])
            .floats("s", &[], &[0.25])
    };
    for op in ["Add", "Sub", "Mul", "Div"] {
        for constant in ["k", "s"] {
            let (ops, _) = net().node(op, &format!("c {constant}"), "y", &[]).check();
            assert_eq!(ops, "1 conv2d", "{op} {constant}");
        }
    }
    assert_eq!(net().node("Sub", "k c", "y", &[]).check().0, "1 conv2d");
    assert_eq!(net().node("Mul", "k c", "y", &[]).check().0, "1 conv2d");
    assert_eq!(net().node("Neg", "c", "y", &[]).check().0, "1 conv2d");
    // Constants that are computed from others, as exporters write scales.
    let net = net().random("v", &[3]).sizes("axes", &[1, 2]);
    let net = net
        .node("Unsqueeze", "v axes", "u", &[])
        .node("Mul", "u s", "w", &[]);
    let (model, _) = net
        .node("Add", "c w", "y", &[])
        .import(&Default::default())
        .unwrap();
    assert_eq!(model.spec.ops.len(), 1);
}

#[test]
fn sums() {
    let net = || {
        Net::new(&[1, 2, 4, 4])
            .conv("x", "a", &[2, 2, 1, 1], &[])
            .conv("x", "b", &[2, 2, 1, 1], &[])
    };
    assert_eq!(
        net().node("Sub", "a b", "y", &[]).check().0,
        "2 conv2d, 1 sub"
    );
    assert_eq!(
        net().node("Sum", "a b x", "y", &[]).check().0,
        "1 add, 2 conv2d"
    );
    let constant = net()
        .random("k", &[1, 2, 1, 1])
        .node("Sum", "a k b", "y", &[]);
    assert_eq!(constant.check().0, "1 add, 1 bias, 2 conv2d");
}

#[test]
fn activations() {
    let net = || Net::new(&[1, 3, 4, 4]).conv("x", "c", &[3, 3, 1, 1], &[]);
    assert_eq!(
        net().node("Relu", "c", "y", &[]).check().0,
        "1 conv2d, 1 masked_relu"
    );
    assert_eq!(
        net()
            .node("LeakyRelu", "c", "y", &[float("alpha", 0.2)])
            .check()
            .0,
        "1 conv2d, 1 leaky_relu"
    );
    let bounds = |max: f32| net().floats("min", &[], &[0.0]).floats("max", &[], &[max]);
    assert_eq!(
        bounds(0.5).node("Clip", "c min max", "y", &[]).check().0,
        "1 clip, 1 conv2d"
    );
    assert_eq!(
        bounds(0.5).node("Clip", "c min", "y", &[]).check().0,
        "1 conv2d, 1 masked_relu"
    );
    let one = net()
        .floats("s", &[1], &[0.25])
        .node("PRelu", "c s", "y", &[]);
    assert_eq!(one.check().0, "1 conv2d, 1 leaky_relu");
    let each = net()
        .floats("s", &[3, 1, 1], &[0.25, -0.5, 2.0])
        .node("PRelu", "c s", "y", &[]);
    let (ops, model) = each.check();
    assert_eq!(ops, "1 add, 3 conv2d, 1 masked_relu");
    assert_eq!(model.spec.card.relus_kept, 48);
}

#[test]
fn channels() {
    let net = || Net::new(&[1, 6, 4, 5]);
    let shuffle = net()
        .sizes("to", &[1, 2, 3, 4, 5])
        .sizes("back", &[1, -1, 4, 5])
        .node("Reshape", "x to", "r", &[])
        .node("Transpose", "r", "t", &[ints("perm", &[0, 2, 1, 3, 4])])
        .node("Reshape", "t back", "y", &[]);
    assert_eq!(shuffle.check().0, "1 channels");
    let split = net().node("Split", "x", "a b", &[int("axis", 1)]).node(
        "Concat",
        "b a",
        "y",
        &[int("axis", 1)],
    );
    assert_eq!(split.check().0, "2 channels, 1 concat");
    let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
        let net = net()
            .sizes("s", starts)
            .sizes("e", ends)
            .sizes("a", axes)
            .sizes("t", steps);
        net.node("Slice", "x s e a t", "y", &[]).check().0
    };
    assert_eq!(slice(&[1], &[6], &[1], &[2]), "1 channels");
    assert_eq!(
        slice(&[0, 0], &[i64::MAX, i64::MAX], &[2, 3], &[2, 2]),
        "1 avg_pool"
    );
    let gather = net()
        .sizes("i", &[5, 0, 0])
        .node("Gather", "x i", "y", &[int("axis", 1)]);
    assert_eq!(gather.check().0, "1 channels");
    // A shortcut without weights: every second position, and channels of zeros.
    let pads = net()
        .sizes("p", &[0, 1, 0, 0, 0, 2, 0, 0])
        .node("Pad", "x p", "y", &[]);
    assert_eq!(pads.check().0, "2 channels, 1 concat, 2 sub");
    let pads = net()
        .sizes("p", &[0, 0, 1, 2, 0, 0, 0, 1])
        .node("Pad", "x p", "y", &[]);
    assert_eq!(pads.check().0, "1 pad");
}

#[test]
fn channels_last() {
    // Flattened with the channels last, as TensorFlow does: the order goes into the matrix.
    let net = Net::new(&[1, 3, 2, 2])
        .node("Transpose", "x", "t", &[ints("perm", &[0, 2, 3, 1])])
        .node("Flatten", "t", "f", &[])
        .random("w", &[12, 4])
        .node("MatMul", "f w", "y", &[]);
    assert_eq!(net.check().0, "1 flatten, 1 linear");
    // There and back.
    let net = Net::new(&[1, 3, 2, 2])
        .node("Transpose", "x", "t", &[ints("perm", &[0, 2, 3, 1])])
        .node("Transpose", "t", "b", &[ints("perm", &[0, 3, 1, 2])])
        .conv("b", "y", &[2, 3, 2, 2], &[]);
    assert_eq!(net.check().0, "1 conv2d");
}

#[test]
fn shapes_are_computed() {
    // What PyTorch writes for `x.view(x.size(0), -1)` with an open batch.
    let net = Net::new(&[0, 3, 4, 4])
        .node("GlobalAveragePool", "x", "g", &[])
        .node("Shape", "g", "s", &[])
        .sizes("zero", &[0])
        .node("Gather", "s zero", "n", &[int("axis", 0)])
        .sizes("rest", &[-1])
        .node("Concat", "n rest", "to", &[int("axis", 0)])
        .node("Reshape", "g to", "f", &[])
        .node("Dropout", "f", "d", &[])
        .random("w", &[3, 2])
        .node("MatMul", "d w", "y", &[]);
    let (model, _) = net.import(&Default::default()).unwrap();
    let kinds: Vec<_> = model
        .spec
        .ops
        .iter()
        .map(pi_model::spec::Op::name)
        .collect();
    assert_eq!(kinds, ["globalaveragepool0", "matmul6"]);
}

#[test]
fn ends() {
    let net = || {
        Net::new(&[1, 4])
            .random("w", &[4, 3])
            .node("MatMul", "x w", "l", &[])
    };
    for op in ["Softmax", "LogSoftmax", "ArgMax"] {
        let (model, summary) = net()
            .node(op, "l", "y", &[int("axis", 1)])
            .import(&Default::default())
            .unwrap();
        let argmax = model.spec.output == pi_model::spec::OutputMode::Argmax;
        assert_eq!(argmax, op == "ArgMax");
        assert!(summary.notes[0].contains("dropped"), "{:?}", summary.notes);
        assert_eq!(model.spec.ops.len(), 1);
    }
}
