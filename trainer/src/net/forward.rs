//! The closed list of operations in libtorch. Values are [N, C, H, W], as those of a batch of images.

use super::{Graph, Layer, MaskSet, Mode, Net, Trace};
use pi_model::spec::{Op, Padding, Window};
use tch::{Kind, Tensor};

impl Net {
    /// Runs the network on normalised images [N, C, H, W], which are on its device.
    pub fn forward(&self, x: &Tensor, masks: &MaskSet, mode: Mode) -> Trace {
        self.visit(x, masks, mode, &mut |_, _| {})
    }

    /// The same, showing `seen` the result of each operation.
    pub(super) fn visit(
        &self,
        x: &Tensor,
        masks: &MaskSet,
        mode: Mode,
        seen: &mut dyn FnMut(usize, &Tensor),
    ) -> Trace {
        let mut trace = Trace {
            logits: Tensor::new(),
            preactivations: vec![],
            activations: vec![],
            stages: vec![],
        };
        let mut next_mask = 0;
        let graph = &self.graph;
        let mut values = vec![x.to_kind(mode.compute.kind())];
        for (i, (op, layer)) in graph.ops.iter().zip(&self.layers).enumerate() {
            let y = match op.relus_kept() {
                Some(_) => {
                    let x = &values[graph.reads(i)[0]];
                    let y = masks.activate(next_mask, op, x);
                    next_mask += 1;
                    if mode.collect {
                        trace.activations.push(y.shallow_clone());
                        trace.preactivations.push(x.shallow_clone());
                    }
                    y
                }
                None => apply(graph, i, layer.as_ref(), &values, mode),
            };
            seen(i, &y);
            if graph.ends_stage(op) {
                trace.stages.push(y.shallow_clone());
            }
            values.push(y);
            graph.let_go(i, &mut values);
        }
        let last = values.pop().unwrap_or_default().to_kind(Kind::Float);
        trace.logits = last.flatten(1, -1);
        trace
    }
}

/// The result of operation `i`, which has no mask.
fn apply(graph: &Graph, i: usize, layer: Option<&Layer>, values: &[Tensor], mode: Mode) -> Tensor {
    let reads = graph.reads(i);
    let mut inputs = reads.iter().map(|&v| &values[v]);
    let Some(x) = inputs.next() else {
        return Tensor::new();
    };
    match &graph.ops[i] {
        Op::Conv2d { window, groups, .. } => match layer {
            Some(layer) => convolve(x, layer, window, *groups as i64, mode),
            None => x.shallow_clone(),
        },
        Op::Linear { .. } => match layer.and_then(|l| Some((l.weight.as_ref()?, &l.bias))) {
            Some((weight, bias)) => x
                .to_kind(Kind::Float)
                .flatten(1, -1)
                .linear(weight, bias.as_ref())
                .unsqueeze(-1)
                .unsqueeze(-1),
            None => x.shallow_clone(),
        },
        Op::Bias { .. } => match layer.and_then(|l| l.bias.as_ref()) {
            Some(bias) => x + bias.to_kind(x.kind()).view([1, -1, 1, 1]),
            None => x.shallow_clone(),
        },
        Op::Add { .. } => match inputs.next() {
            Some(second) => inputs.fold(x + second, |sum, y| sum + y),
            None => x.shallow_clone(),
        },
        Op::Sub { .. } => match inputs.next() {
            Some(second) => x - second,
            None => x.shallow_clone(),
        },
        Op::Concat { .. } => {
            let all: Vec<&Tensor> = std::iter::once(x).chain(inputs).collect();
            Tensor::cat(&all, 1)
        }
        Op::Channels { channels, .. } => {
            let numbers: Vec<i64> = channels.iter().map(|&c| c as i64).collect();
            x.index_select(1, &Tensor::from_slice(&numbers).to_device(x.device()))
        }
        Op::Pad { padding, .. } => pad(x, *padding, 0.0),
        Op::AvgPool {
            window,
            count_padding,
            ..
        } => average(x, window, *count_padding),
        Op::GlobalAvgPool { .. } => x.mean_dim([2i64, 3].as_slice(), true, Kind::Float),
        Op::MaxPool { window, .. } => {
            let padded = pad(x, window.padding, f64::NEG_INFINITY);
            let [kernel, stride, dilation] =
                [window.kernel, window.stride, window.dilation].map(|n| n.map(|n| n as i64));
            padded.max_pool2d(kernel, stride, [0, 0], dilation, false)
        }
        Op::Flatten { .. } => x.flatten(1, -1).unsqueeze(-1).unsqueeze(-1),
        // Those with masks.
        Op::MaskedRelu { .. } | Op::Clip { .. } | Op::LeakyRelu { .. } => x.shallow_clone(),
    }
}

fn convolve(x: &Tensor, layer: &Layer, window: &Window, groups: i64, mode: Mode) -> Tensor {
    let kind = mode.compute.kind();
    let y = match &layer.weight {
        Some(weight) => {
            let p = window.padding;
            let even = (p.top, p.left) == (p.bottom, p.right);
            let (x, inside) = match even {
                true => (x.to_kind(kind), [p.top as i64, p.left as i64]),
                false => (pad(&x.to_kind(kind), p, 0.0), [0, 0]),
            };
            let [stride, dilation] = [window.stride, window.dilation].map(|n| n.map(|n| n as i64));
            let bias = layer.bias.as_ref().map(|b| b.to_kind(kind));
            x.conv2d(
                &weight.to_kind(kind),
                bias.as_ref(),
                stride,
                inside,
                dilation,
                groups,
            )
        }
        None => x.shallow_clone(),
    };
    layer.normalise(y, mode)
}

fn pad(x: &Tensor, p: Padding, value: f64) -> Tensor {
    match p == Padding::default() {
        true => x.shallow_clone(),
        false => {
            let sides = [p.left, p.right, p.top, p.bottom].map(|n| n as i64);
            x.pad(sides, "constant", value)
        }
    }
}

/// Mean of each window, of its values or of the padding's zeros too.
fn average(x: &Tensor, window: &Window, count_padding: bool) -> Tensor {
    let [kernel, stride] = [window.kernel, window.stride].map(|n| n.map(|n| n as i64));
    let mean = |x: &Tensor| {
        pad(x, window.padding, 0.0).avg_pool2d(kernel, stride, [0, 0], false, true, None)
    };
    if count_padding || window.padding == Padding::default() {
        return mean(x);
    }
    let size = x.size();
    // The share of each window that is no padding.
    let ones = Tensor::ones([1, 1, size[2], size[3]], (x.kind(), x.device()));
    mean(x) / mean(&ones)
}
