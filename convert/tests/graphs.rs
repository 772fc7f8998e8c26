//! Networks of random operations: what their compiled integers compute, against each operation as it is defined, in floating point.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};

use pi_convert::float;
use pi_model::graph::pool_remainders;
use pi_model::random::{RandomModel, random_graph};
use pi_model::relu_set::ReluSet;
use pi_model::spec::{Op, OutputMode, Padding, Window};
use pi_model::{FloatModel, FloatWeights, Model, executor};

/// The real numbers that the integers of `model` stand for.
fn float_of(model: &Model) -> FloatModel {
    let (public, graph) = (model.public(), model.public().graph());
    let mut spec = public.spec().clone();
    let numbers = spec.fixed_point.take().unwrap();
    let remainders = pool_remainders(&spec);
    // What a reader of each result makes up for.
    let mut owed: HashMap<String, f64> = HashMap::new();
    for op in &spec.ops {
        let read = owed.get(&op.inputs()[0]).copied();
        let own = remainders.get(op.name()).copied();
        if let Some(r) = own.or(read.filter(|_| matches!(op, Op::Flatten { .. }))) {
            owed.insert(op.name().to_owned(), r);
        }
    }
    let mut weights = BTreeMap::new();
    for conv in graph.layers.iter().flat_map(|l| &l.convs) {
        let op = spec.ops.iter().find(|op| op.name() == conv.op).unwrap();
        let remainder = owed.get(&op.inputs()[0]).copied().unwrap_or(1.0);
        let unit = f64::from(numbers.weight_fraction_bits[&conv.op]).exp2() * remainder;
        let own = model.weights(conv);
        let weight = own.weight.iter().map(|&w| (f64::from(w) / unit) as f32);
        let unit = f64::from(conv.fraction_bits).exp2();
        let bias = own.bias.iter().map(|&b| (b as f64 / unit) as f32);
        let float = FloatWeights {
            weight: weight.collect(),
            bias: bias.collect(),
        };
        weights.insert(conv.op.clone(), float);
    }
    for bias in graph.layers.iter().flat_map(|l| &l.biases) {
        let unit = f64::from(bias.fraction_bits).exp2();
        let constants = model.biases(bias).iter();
        let float = FloatWeights {
            weight: vec![],
            bias: constants.map(|&b| (b as f64 / unit) as f32).collect(),
        };
        weights.insert(bias.op.clone(), float);
    }
    let masks = public.masks().iter();
    let masks: HashMap<String, ReluSet> = masks.map(|(n, m)| (n.clone(), m.clone())).collect();
    FloatModel {
        spec,
        masks,
        weights,
    }
}

/// Largest difference of an output, and the largest output.
fn difference(model: &Model, input: &[i64]) -> (f64, f64) {
    let unit = f64::from(model.public().activation_fraction_bits()).exp2();
    let real: Vec<f32> = input.iter().map(|&v| (v as f64 / unit) as f32).collect();
    let expected = float::run(&float_of(model), &real).unwrap().output;
    let got = executor::run(model, input).unwrap().logits;
    let last = model.public().graph().layers.last().unwrap();
    let unit = f64::from(last.fraction_bits).exp2();
    assert_eq!(got.len(), expected.len());
    let pairs = got.iter().zip(&expected);
    pairs.fold((0.0, 0.0), |(worst, most), (&g, &e)| {
        let (g, e) = (g as f64 / unit, f64::from(e));
        (f64::max(worst, (g - e).abs()), f64::max(most, e.abs()))
    })
}

#[test]
fn random_graphs_compute_what_their_operations_say() {
    for seed in 0..300 {
        let (model, inputs) = random_graph(seed, 9, 12).unwrap();
        let (worst, most) = difference(&model, &inputs[0]);
        // Activations have 12 fraction bits, and some layers amplify.
        assert!(
            worst <= 0.01 + 0.005 * most,
            "seed {seed}: off by {worst} of {most}"
        );
    }
}

/// A network on a map of one channel.
fn on_map(size: [usize; 2], build: impl Fn(&mut RandomModel)) -> Model {
    let mut net = RandomModel::new("map", [1, size[0], size[1]], 3);
    build(&mut net);
    net.finish(OutputMode::Logits, 4).unwrap()
}

fn relu(name: &str, input: &str, relus_kept: usize) -> Op {
    Op::MaskedRelu {
        name: name.into(),
        input: input.into(),
        relus_kept,
    }
}

#[test]
fn forms_that_were_computed_wrongly_once() {
    let pool = |kernel| Window {
        kernel,
        ..Window::square(1, 1, 0)
    };
    let add = |inputs: &[&str]| Op::Add {
        name: "sum".into(),
        inputs: inputs.iter().map(|s| (*s).to_owned()).collect(),
    };
    let models = [
        // Zeros behind what a max pool left of a map.
        on_map([4, 1], |net| {
            net.op(Op::MaxPool {
                name: "max".into(),
                input: "input".into(),
                window: pool([2, 1]),
            });
            net.op(Op::Pad {
                name: "pad".into(),
                input: "max".into(),
                padding: Padding::from([0, 0, 1, 0]),
            });
        }),
        // Averages over many values, as output and before a ReLU.
        on_map([100, 100], |net| {
            net.pool("mean", "input", None);
        }),
        on_map([56, 56], |net| {
            net.pool("mean", "input", None).op(relu("end", "mean", 1));
        }),
        // One tensor with two strides and flattened; three readers in the last layer.
        on_map([4, 4], |net| {
            net.conv("c", "input", 2, 1, 1, 0).op(relu("r", "c", 9));
            net.conv("a", "r", 3, 4, 2, 0).conv("b", "r", 3, 4, 1, 0);
            net.classifier("l", "r", 3);
            net.op(add(&["a", "b", "l"]));
            net.op(relu("end", "sum", 3));
        }),
        on_map([2, 2], |net| {
            net.conv("c", "input", 2, 1, 1, 0).op(relu("r1", "c", 3));
            net.conv("h", "r1", 2, 1, 1, 0).op(relu("r2", "h", 3));
            net.conv("a", "r1", 2, 1, 1, 0).conv("b", "r1", 2, 1, 1, 0);
            net.conv("d", "r2", 2, 1, 1, 0);
            net.op(add(&["a", "b", "d"]));
        }),
        // A tensor that the last layer convolves twice, and another adds.
        on_map([2, 2], |net| {
            net.conv("c", "input", 2, 1, 1, 0).op(relu("r1", "c", 3));
            net.op(relu("r2", "r1", 3));
            net.conv("a", "r1", 2, 1, 1, 0).conv("b", "r1", 2, 1, 1, 0);
            net.conv("d", "r2", 2, 1, 1, 0);
            net.op(add(&["a", "b", "d"]));
        }),
        on_map([2, 2], |net| {
            net.conv("c", "input", 2, 1, 1, 0).op(relu("r1", "c", 3));
            net.op(relu("r2", "r1", 3));
            net.op(Op::Concat {
                name: "both".into(),
                inputs: vec!["r1".into(), "r2".into()],
            });
            net.conv("e", "both", 2, 1, 1, 0);
            net.op(add(&["e", "r2"]));
        }),
        // A network that ends in its ReLU; a sum of sums of sums.
        on_map([3, 3], |net| {
            net.conv("c", "input", 2, 3, 1, 1).op(relu("end", "c", 7));
        }),
        on_map([2, 2], |net| {
            let mut from = "input".to_owned();
            for n in 0..16 {
                let name = format!("s{n}");
                net.add(&name, &from, &from);
                from = name;
            }
        }),
        // A dilation that jumps over bands.
        on_map([300, 16], |net| {
            net.op(Op::Conv2d {
                name: "c".into(),
                input: "input".into(),
                out_channels: 1,
                window: Window {
                    dilation: [200, 1],
                    ..pool([2, 1])
                },
                groups: 1,
            });
            net.op(relu("r", "c", 5)).pool("mean", "r", None);
        }),
    ];
    for (index, model) in models.iter().enumerate() {
        let shape = &model.public().spec().input;
        let input: Vec<i64> = (0..shape.n_values() as i64).map(|i| i * 37 % 256).collect();
        let (worst, most) = difference(model, &input);
        assert!(
            worst <= 0.02 + 0.01 * most,
            "network {index}: off by {worst} of {most}"
        );
        pi_model::PublicPlan::new(model.public(), 1).unwrap();
        let mut layers = model.public().graph().layers.iter();
        assert!(layers.all(|l| l.terms.len() <= 16), "network {index}");
    }
}

#[test]
fn windows_without_bound_are_refused() {
    for kernel in [1 << 40, usize::MAX] {
        let mut net = RandomModel::new("window", [1, 1, 1], 1);
        net.op(Op::MaxPool {
            name: "max".into(),
            input: "input".into(),
            window: Window {
                kernel: [kernel, 1],
                padding: Padding::from([kernel - 1, 0, 0, 0]),
                ..Window::square(1, 1, 0)
            },
        });
        let error = net.finish(OutputMode::Logits, 1).unwrap_err().to_string();
        assert!(
            error.contains("'max'") && error.contains("at most 4096"),
            "{error}"
        );
    }
}
