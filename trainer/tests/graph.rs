//! Networks as graphs: what libtorch computes of each operation, against the plain executor of float models.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pi_convert::float;
use pi_model::graph::shapes;
use pi_model::random::random_graph;
use pi_model::spec::Op;
use pi_model::{FloatModel, FloatWeights, ModelError};
use pi_trainer::data::{Batches, Images, Normaliser};
use pi_trainer::export::{Frame, float_model};
use pi_trainer::net::{Arch, Graph, MaskSet, Mode, Net, model_masks};
use tch::{Device, Kind, Tensor};

/// The graph of a random integer model with real weights that keep the size of values.
fn random_model(seed: u64) -> FloatModel {
    let (integers, _) = random_graph(seed, 12, 12).unwrap();
    let mut spec = integers.public().spec().clone();
    spec.fixed_point = None;
    let known = shapes(&spec).unwrap();
    let mut state = seed;
    let mut values = |n: usize, most: f32| -> Vec<f32> {
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * most
        };
        (0..n).map(|_| next()).collect()
    };
    let mut weights = std::collections::BTreeMap::new();
    for op in &spec.ops {
        let (read, n_out) = (known[&op.inputs()[0]], known[op.name()].channels);
        let fan_in = match op {
            Op::Conv2d { window, groups, .. } => {
                read.channels / groups * window.kernel.iter().product::<usize>()
            }
            Op::Linear { .. } => read.channels,
            Op::Bias { .. } => 0,
            _ => continue,
        };
        let own = FloatWeights {
            weight: values(n_out * fan_in, (3.0 / fan_in.max(1) as f32).sqrt()),
            bias: values(n_out, 0.3),
        };
        weights.insert(op.name().to_owned(), own);
    }
    let masks = integers.public().masks().iter();
    FloatModel {
        spec,
        masks: masks.map(|(n, m)| (n.clone(), m.clone())).collect(),
        weights,
    }
}

fn largest(t: &Tensor) -> f64 {
    t.abs().max().double_value(&[])
}

/// Largest difference between the plain executor and `net`, and the largest result.
fn difference(model: &FloatModel, net: &Net, x: &Tensor, mode: Mode) -> (f64, f64) {
    let masks = MaskSet::new(model_masks(model, &net.graph));
    let got = tch::no_grad(|| net.forward(x, &masks, mode).logits);
    let (mut worst, mut most) = (0f64, 0f64);
    for i in 0..x.size()[0] {
        let image = Vec::<f32>::try_from(x.get(i).contiguous().flatten(0, -1)).unwrap();
        let want = Tensor::from_slice(&float::run(model, &image).unwrap().output);
        let off = largest(&(got.get(i) - &want));
        assert!(off.is_finite(), "a result is no number");
        worst = worst.max(off);
        most = most.max(largest(&want));
    }
    (worst, most)
}

#[test]
fn random_graphs_compute_what_the_plain_executor_says() {
    tch::set_num_threads(1);
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..150 {
        let model = random_model(seed);
        let input = &model.spec.input;
        let [c, h, w] = [input.channels, input.height, input.width].map(|n| n as i64);
        let x = Tensor::randn([2, c, h, w], (Kind::Float, Device::Cpu));
        for norms in [false, true] {
            let graph = Graph::of_model(&model, norms).unwrap();
            let net = Net::on(&graph, 1, Device::Cpu);
            net.take_weights(&model).unwrap();
            let (worst, most) = difference(&model, &net, &x, Mode::EVAL);
            assert!(
                worst <= 1e-4 * (1.0 + most),
                "seed {seed}, norms {norms}: off by {worst} of {most}"
            );
        }
        kinds.extend(
            model
                .spec
                .ops
                .iter()
                .map(std::mem::discriminant)
                .map(|d| format!("{d:?}")),
        );
    }
    assert_eq!(kinds.len(), 15, "every operation: {kinds:?}");
}

/// Also where ReLUs pass a gradient: it takes another way to the same values.
#[test]
fn a_forward_pass_for_training_has_the_same_values() {
    for seed in 0..20 {
        let model = random_model(seed);
        let net = Net::on(&Graph::of_model(&model, false).unwrap(), 1, Device::Cpu);
        net.take_weights(&model).unwrap();
        let masks = MaskSet::new(model_masks(&model, &net.graph));
        let x = Tensor::randn([2, 2, 9, 8], (Kind::Float, Device::Cpu));
        let with = net.forward(&x, &masks, Mode::EVAL).logits;
        let without = tch::no_grad(|| net.forward(&x, &masks, Mode::EVAL).logits);
        assert!(largest(&(&with - &without)) <= 1e-5 * (1.0 + largest(&without)));
        with.sum(Kind::Float).backward();
        for p in net.params.iter().filter(|p| p.trainable) {
            let gradient = p.tensor.grad();
            assert!(
                !gradient.defined() || largest(&gradient).is_finite(),
                "{}",
                p.name
            );
        }
    }
}

fn images(n: usize, shape: [usize; 3]) -> Images {
    let n_bytes: usize = n * shape.iter().product::<usize>();
    let pixel = |i: usize| (i * 2_654_435_761 / 977 % 256) as u8;
    Images {
        shape,
        n_classes: 5,
        pixels: (0..n_bytes).map(pixel).collect(),
        labels: vec![0; n],
        checksum: String::new(),
    }
}

#[test]
fn every_family_is_a_float_model_and_comes_back_as_one() {
    tch::set_num_threads(1);
    for name in Arch::NAMES {
        let mut arch = Arch::parse(name, [3, 32, 32], 5).unwrap();
        arch.widths.iter_mut().for_each(|w| *w = 4);
        arch.stem.width = 4;
        let net = Net::new(&arch, 3);
        for (i, p) in net
            .params
            .iter()
            .enumerate()
            .filter(|(_, p)| p.name.contains(".bn."))
        {
            let _ = tch::no_grad(|| p.tensor.shallow_clone().fill_(0.5 + 0.1 * (i % 7) as f64));
        }
        let set = images(32, arch.input);
        let normaliser = Normaliser::measure(&set);
        let masks = MaskSet::all_relu(&net.graph);
        let frame = Frame {
            name: (*name).into(),
            normaliser: normaliser.clone(),
            labels: vec![],
        };
        let model = float_model(&net, masks.masks(), &frame).unwrap();
        let known = model.check().unwrap();
        for (i, op) in net.graph.ops.iter().enumerate() {
            assert_eq!(
                net.graph.shape(i + 1),
                known[op.name()],
                "{name}: {}",
                op.name()
            );
        }
        let batches = Batches::plain(&set, &normaliser, 32);
        let x = batches.get(&batches.epoch(0), 0).0;
        let (worst, most) = difference(&model, &net, &x, Mode::EVAL);
        assert!(worst <= 1e-4 * most, "{name}: off by {worst} of {most}");
        // BatchNorms that are put in again change nothing, in training neither.
        let again = Net::on(&Graph::of_model(&model, true).unwrap(), 1, Device::Cpu);
        again.take_weights(&model).unwrap();
        again.measure_norms(&batches, &masks);
        let train = Mode {
            train: true,
            ..Mode::EVAL
        };
        for mode in [Mode::EVAL, train] {
            let (worst, most) = difference(&model, &again, &x, mode);
            assert!(
                worst <= 1e-3 * most,
                "{name}, {mode:?}: off by {worst} of {most}"
            );
        }
    }
}

#[test]
fn models_that_are_not_float_models_are_refused() {
    let mut model = random_model(1);
    let name = model.weights.keys().next().unwrap().clone();
    model.weights.remove(&name);
    let e = Graph::of_model(&model, true).unwrap_err().to_string();
    assert!(e.contains(&name), "{e}");
    let _: ModelError = model.check().unwrap_err();
}
