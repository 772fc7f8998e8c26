//! Every operation against its definition.

use super::*;
use crate::testing::{Net, every_operation};
use pi_model::spec::Window;
use rand::Rng;

/// A result and its shape.
type Result3<'a> = (&'a [f32], Shape);

fn value((values, shape): Result3<'_>, c: usize, y: isize, x: isize) -> Option<f64> {
    let inside = |at: isize, size: usize| (0..size as isize).contains(&at);
    let at = (c * shape.height + y as usize % shape.height) * shape.width;
    (inside(y, shape.height) && inside(x, shape.width)).then(|| f64::from(values[at + x as usize]))
}

/// The values under a window at (y, x), and their taps.
fn under(window: &Window, read: Result3<'_>, [c, y, x]: [usize; 3]) -> Vec<(usize, Option<f64>)> {
    let mut found = vec![];
    for ky in 0..window.kernel[0] {
        for kx in 0..window.kernel[1] {
            let row = (y * window.stride[0] + ky * window.dilation[0]) as isize;
            let column = (x * window.stride[1] + kx * window.dilation[1]) as isize;
            let (top, left) = (window.padding.top as isize, window.padding.left as isize);
            let tap = ky * window.kernel[1] + kx;
            found.push((tap, value(read, c, row - top, column - left)));
        }
    }
    found
}

/// Value (c, y, x) of the result of `op`, by its definition.
fn defined(model: &FloatModel, op: &Op, reads: &[Result3<'_>], at: [usize; 3], i: usize) -> f64 {
    let [c, y, x] = at;
    let same = |k: usize| value(reads[k], c, y as isize, x as isize).unwrap();
    let weights = |i: usize| f64::from(model.weights[op.name()].weight[i]);
    let bias = || f64::from(model.weights[op.name()].bias[c]);
    let is_kept = || model.masks[op.name()].to_mask()[i] == 1;
    match op {
        Op::Conv2d {
            window,
            groups,
            out_channels,
            ..
        } => {
            let own = reads[0].1.channels / groups;
            let group = c / (out_channels / groups);
            let taps = window.kernel[0] * window.kernel[1];
            let products = (0..own).flat_map(|k| {
                let under = under(window, reads[0], [group * own + k, y, x]);
                under
                    .into_iter()
                    .map(move |(tap, v)| weights((c * own + k) * taps + tap) * v.unwrap_or(0.0))
            });
            bias() + products.sum::<f64>()
        }
        Op::Linear { .. } => {
            let n = reads[0].0.len();
            let products = (0..n).map(|k| weights(c * n + k) * f64::from(reads[0].0[k]));
            bias() + products.sum::<f64>()
        }
        Op::Bias { .. } => same(0) + bias(),
        Op::Add { .. } => (0..reads.len()).map(same).sum(),
        Op::Sub { .. } => same(0) - same(1),
        Op::Concat { .. } => {
            let mut c = c;
            for &(values, shape) in reads {
                if c < shape.channels {
                    return value((values, shape), c, y as isize, x as isize).unwrap();
                }
                c -= shape.channels;
            }
            unreachable!()
        }
        Op::Channels { channels, .. } => {
            value(reads[0], channels[c], y as isize, x as isize).unwrap()
        }
        Op::Pad { padding, .. } => {
            let (top, left) = (padding.top as isize, padding.left as isize);
            value(reads[0], c, y as isize - top, x as isize - left).unwrap_or(0.0)
        }
        Op::AvgPool {
            window,
            count_padding,
            ..
        } => {
            let under = under(window, reads[0], at);
            let inside: Vec<f64> = under.iter().filter_map(|(_, v)| *v).collect();
            let n = if *count_padding {
                under.len()
            } else {
                inside.len()
            };
            inside.iter().sum::<f64>() / n as f64
        }
        Op::GlobalAvgPool { .. } => {
            let n = reads[0].1.height * reads[0].1.width;
            let plane = &reads[0].0[c * n..][..n];
            plane.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64
        }
        Op::MaxPool { window, .. } => {
            let under = under(window, reads[0], at);
            let inside = under.iter().filter_map(|(_, v)| *v);
            inside.fold(f64::NEG_INFINITY, f64::max)
        }
        Op::Flatten { .. } => f64::from(reads[0].0[i]),
        Op::MaskedRelu { .. } if is_kept() => same(0).max(0.0),
        Op::Clip { max, .. } if is_kept() => same(0).clamp(0.0, *max),
        Op::LeakyRelu { slope, .. } if is_kept() && same(0) < 0.0 => slope * same(0),
        Op::MaskedRelu { .. } | Op::Clip { .. } | Op::LeakyRelu { .. } => same(0),
    }
}

/// Runs `model` and compares every result with its definition.
fn check(model: &FloatModel, input: &[f32]) {
    let shapes = model.check().unwrap();
    let mut known = HashMap::from([("input".to_owned(), input.to_vec())]);
    let output = visit(model, input, |op, values| {
        let reads = op.inputs().iter();
        let reads: Vec<Result3<'_>> = reads.map(|n| (&known[n][..], shapes[n])).collect();
        let shape = shapes[op.name()];
        assert_eq!(values.len(), shape.n_values());
        for (i, &v) in values.iter().enumerate() {
            let x = i % shape.width;
            let y = i / shape.width % shape.height;
            let c = i / shape.width / shape.height;
            let due = defined(model, op, &reads, [c, y, x], i);
            assert!(
                (f64::from(v) - due).abs() < 1e-4 * due.abs().max(1.0),
                "{op:?} at {:?}: {v} is not {due}",
                [c, y, x]
            );
        }
        known.insert(op.name().to_owned(), values.to_vec());
    });
    let last = model.spec.ops.last().unwrap().name();
    assert_eq!(output.unwrap(), known[last]);
}

#[test]
fn every_operation_is_what_it_is_defined_to_be() {
    for seed in 0..4 {
        let mut net = every_operation(seed);
        let input = net.images(1).remove(0);
        check(&net.model, &input);
    }
}

#[test]
fn windows_of_every_kind() {
    let mut n_run = 0;
    for seed in 0..300 {
        let mut net = Net::new([6, 9, 17], seed);
        let rng = &mut net.rng;
        let mut pair = |from, to| [rng.random_range(from..to), rng.random_range(from..to)];
        let ([top, left], [bottom, right]) = (pair(0, 3), pair(0, 3));
        let window = Window {
            kernel: pair(1, 5),
            stride: pair(1, 4),
            padding: [top, left, bottom, right].into(),
            dilation: pair(1, 3),
        };
        let plain = Window {
            dilation: [1, 1],
            ..window
        };
        let (name, input) = ("op".to_owned(), "input".to_owned());
        n_run += usize::from(match seed % 4 {
            0 => net.push(Op::MaxPool {
                name,
                input,
                window: plain,
            }),
            1 => net.push(Op::AvgPool {
                name,
                input,
                window: plain,
                count_padding: seed % 8 == 1,
            }),
            kind => net.push(Op::Conv2d {
                name,
                input,
                out_channels: 12,
                window,
                groups: [1, 2, 3, 6][seed as usize / 4 % 4] * usize::from(kind == 2)
                    + usize::from(kind == 3),
            }),
        });
        if !net.model.spec.ops.is_empty() {
            let input = net.images(1).remove(0);
            check(&net.model, &input);
        }
    }
    assert!(n_run > 100, "{n_run}");
}

#[test]
fn sizes_are_told_and_wrong_inputs_refused() {
    let mut net = Net::new([1, 1, 2], 0);
    net.relu("relu", "input");
    net.model.masks.insert(
        "relu".into(),
        pi_model::relu_set::ReluSet::from_mask("relu", &[1, 0]).unwrap(),
    );
    if let Op::MaskedRelu { relus_kept, .. } = &mut net.model.spec.ops[0] {
        *relus_kept = 1;
    }
    let run = run(&net.model, &[-1.0, -0.5]).unwrap();
    assert_eq!(run.output, [0.0, -0.5]);
    let due = Size {
        largest: 0.5,
        mean: 0.25,
    };
    assert_eq!(run.sizes["relu"], due);
    for (input, what) in [
        (vec![0.0; 3], "this input has 3"),
        (vec![0.0, f32::NAN], "value number 1"),
    ] {
        let said = super::run(&net.model, &input).unwrap_err().to_string();
        assert!(said.contains(what), "{said}");
    }
    let mut net = Net::new([1, 1, 1], 0);
    net.conv("a", "input", 1, Window::square(1, 1, 0))
        .conv("b", "a", 1, Window::square(1, 1, 0));
    for weights in net.model.weights.values_mut() {
        weights.weight = vec![1e30];
    }
    let said = super::run(&net.model, &[1.0]).unwrap_err().to_string();
    assert!(said.contains("operation 'b'"), "{said}");
}
