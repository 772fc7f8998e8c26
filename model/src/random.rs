//! Models with random weights, for tests and for timing networks that nobody has trained.

mod graph;

use std::collections::HashMap;

use crate::artifact::{ConvWeights, Model};
use crate::error::Result;
use crate::executor;
use crate::graph::{Shape, shapes};
use crate::relu_set::ReluSet;
use crate::spec::{
    Accumulator, Card, FORMAT_VERSION, FixedPoint, InputSpec, ModelSpec, Op, OutputMode, Window,
};

pub use graph::random_graph;

/// Builds a network operation by operation with random weights and masks, then calibrates its ranges.
pub struct RandomModel {
    spec: ModelSpec,
    numbers: FixedPoint,
    state: u64,
    shapes: HashMap<String, Shape>,
    masks: HashMap<String, ReluSet>,
    weights: HashMap<String, ConvWeights>,
}

impl RandomModel {
    /// An empty network on an input of `shape` (C, H, W).
    #[must_use]
    pub fn new(name: &str, shape: [usize; 3], seed: u64) -> Self {
        let spec = ModelSpec {
            format_version: FORMAT_VERSION,
            name: name.to_owned(),
            input: InputSpec {
                channels: shape[0],
                height: shape[1],
                width: shape[2],
                mean: vec![0.5; shape[0]],
                std: vec![0.25; shape[0]],
                range: None,
            },
            labels: vec![],
            output: OutputMode::Logits,
            ops: vec![],
            fixed_point: None,
            card: Card {
                architecture: name.to_owned(),
                dataset: "random weights".into(),
                ..Card::default()
            },
        };
        Self {
            spec,
            numbers: FixedPoint {
                activation_fraction_bits: 8,
                ..FixedPoint::default()
            },
            state: seed ^ 0x9e37_79b9_7f4a_7c15,
            shapes: HashMap::from([("input".into(), Shape::new(shape[0], shape[1], shape[2]))]),
            masks: HashMap::new(),
            weights: HashMap::new(),
        }
    }

    /// The next pseudorandom integer (SplitMix64; these weights are no secret).
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn make_weights(&mut self, name: &str, out: usize, fan_in: usize) {
        // Uniform 8-bit weights with standard deviation 73; the scale makes the layer keep the size of its input.
        let weight = (0..out * fan_in)
            .map(|_| (self.next_u64() % 255) as i32 - 127)
            .collect();
        let bias = (0..out)
            .map(|_| (self.next_u64() % 4096) as i64 - 2048)
            .collect();
        self.weights
            .insert(name.to_owned(), ConvWeights { weight, bias });
    }

    /// Fraction bits that keep the standard deviation of the input, or half of it with `extra` = 1.
    fn weight_bits(fan_in: usize, extra: u32) -> u32 {
        (73.0 * (fan_in as f64).sqrt()).log2().round() as u32 + extra
    }

    /// Shape of the result of `name`.
    ///
    /// # Panics
    /// If there is none yet.
    #[must_use]
    pub fn shape(&self, name: &str) -> Shape {
        self.shapes[name]
    }

    /// Adds any operation, with random weights; of one that has a mask, `relus_kept` random positions keep their ReLU.
    pub fn op(&mut self, op: Op) -> &mut Self {
        let name = op.name().to_owned();
        let read = self.shapes[&op.inputs()[0]];
        let weights = match &op {
            Op::Conv2d {
                out_channels,
                window,
                groups,
                ..
            } => {
                let fan_in = read.channels / groups * window.kernel[0] * window.kernel[1];
                let bits = Self::weight_bits(fan_in, u32::from(name.ends_with("conv2")));
                Some((*out_channels, fan_in, bits))
            }
            Op::Linear { out_features, .. } => {
                let bits = Self::weight_bits(read.channels, 0).saturating_sub(4);
                Some((*out_features, read.channels, bits))
            }
            Op::Bias { .. } => {
                self.make_weights(&name, read.channels, 0);
                None
            }
            _ => None,
        };
        if let Some((out, fan_in, bits)) = weights {
            self.make_weights(&name, out, fan_in);
            self.numbers.weight_fraction_bits.insert(name.clone(), bits);
        }
        self.spec.ops.push(op);
        // The operations so far fit together, or the model is refused when it is finished.
        self.shapes.extend(shapes(&self.spec).unwrap_or_default());
        let kept = self.spec.ops.last().and_then(Op::relus_kept);
        if let Some(kept) = kept {
            let n = self.shapes.get(&name).map_or(0, |s| s.n_values());
            let mask = self.random_mask(n, kept);
            if let Ok(set) = ReluSet::from_mask(&name, &mask) {
                self.masks.insert(name, set);
            }
        }
        self
    }

    fn random_mask(&mut self, n: usize, kept: usize) -> Vec<u8> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, (self.next_u64() % (i as u64 + 1)) as usize);
        }
        let mut mask = vec![0u8; n];
        order.iter().take(kept).for_each(|&i| mask[i] = 1);
        mask
    }

    /// Adds a convolution with a square kernel.
    pub fn conv(
        &mut self,
        name: &str,
        input: &str,
        out_channels: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> &mut Self {
        self.op(Op::Conv2d {
            name: name.into(),
            input: input.into(),
            out_channels,
            window: Window::square(kernel, stride, padding),
            groups: 1,
        })
    }

    /// Adds a masked ReLU that keeps `kept` random positions, or all if there are fewer.
    pub fn relu(&mut self, name: &str, input: &str, kept: usize) -> &mut Self {
        self.op(Op::MaskedRelu {
            name: name.into(),
            input: input.into(),
            relus_kept: kept.min(self.shapes[input].n_values()),
        })
    }

    /// Adds a sum.
    pub fn add(&mut self, name: &str, a: &str, b: &str) -> &mut Self {
        self.op(Op::Add {
            name: name.into(),
            inputs: vec![a.into(), b.into()],
        })
    }

    /// Adds a pool over windows of `window`, or over the whole map.
    pub fn pool(&mut self, name: &str, input: &str, window: Option<usize>) -> &mut Self {
        self.op(window.map_or_else(
            || Op::GlobalAvgPool {
                name: name.into(),
                input: input.into(),
            },
            |window| Op::AvgPool {
                name: name.into(),
                input: input.into(),
                window: Window::square(window, window, 0),
                count_padding: false,
            },
        ))
    }

    /// Adds a flatten.
    pub fn flatten(&mut self, name: &str, input: &str) -> &mut Self {
        self.op(Op::Flatten {
            name: name.into(),
            input: input.into(),
        })
    }

    /// Flattens, then adds a fully connected layer, which makes the logits.
    pub fn classifier(&mut self, name: &str, input: &str, n_classes: usize) -> &mut Self {
        let flat = format!("{name}.flat");
        self.flatten(&flat, input);
        self.op(Op::Linear {
            name: name.into(),
            input: flat,
            out_features: n_classes,
        });
        self.spec.labels = (0..n_classes).map(|i| format!("class {i}")).collect();
        self
    }

    /// Another number of fraction bits of every activation than 8, and at least as many.
    pub fn activation_bits(&mut self, bits: u32) -> &mut Self {
        self.numbers.activation_fraction_bits = bits.max(8);
        self
    }

    /// The input is no image but any tensor with values from `low` to `high`.
    pub fn tensors(&mut self, low: f64, high: f64) -> &mut Self {
        let input = &mut self.spec.input;
        (input.mean, input.std) = (vec![], vec![]);
        input.range = Some([low, high]);
        self
    }

    /// A random image that fits the network, with values from -1 to 1.
    pub fn input(&mut self) -> Vec<i64> {
        let shift = self.numbers.activation_fraction_bits - 8;
        (0..self.spec.input.n_values())
            .map(|_| ((self.next_u64() % 512) as i64 - 256) << shift)
            .collect()
    }

    /// Calibrates accumulator ranges on `n_images` random inputs and finishes the model.
    ///
    /// # Errors
    /// Any [`crate::ModelError`] when the operations do not fit together.
    pub fn finish(&mut self, mode: OutputMode, n_images: usize) -> Result<Model> {
        self.spec.output = mode;
        self.spec.fixed_point = Some(self.numbers.clone());
        let relus_total = self.masks.values().map(ReluSet::n_positions).sum();
        self.spec.card.relus_total = relus_total;
        self.spec.card.relus_kept = self.masks.values().map(|m| m.kept().len()).sum();
        let draft = Model::new(self.spec.clone(), self.masks.clone(), self.weights.clone())?;
        let layers = &draft.public().graph().layers;
        let mut seen = vec![(0u64, 0u128); layers.len()];
        for _ in 0..n_images {
            let input = self.input();
            let run = executor::run(&draft, &input)?;
            let one = run.max_accumulators.iter().zip(&run.sum_accumulators);
            for ((most, sum), (&m, &s)) in seen.iter_mut().zip(one) {
                (*most, *sum) = ((*most).max(m), *sum + s);
            }
        }
        let ranges = layers.iter().zip(&seen).map(|(layer, &(most, sum))| {
            let mean = sum as f64 / (n_images * layer.shape.n_values()) as f64;
            (
                layer.name.clone(),
                Accumulator::calibrated(layer.truncated_bits, most, mean),
            )
        });
        self.numbers.accumulators = ranges.collect();
        self.spec.fixed_point = Some(self.numbers.clone());
        Model::new(self.spec.clone(), self.masks.clone(), self.weights.clone())
    }
}

/// Five features from -2 to 2, eight ReLUs, three outputs that are no classes.
///
/// # Errors
/// As [`RandomModel::finish`].
pub fn features_network(name: &str) -> Result<Model> {
    let linear = |name: &str, input: &str, out_features| Op::Linear {
        name: name.into(),
        input: input.into(),
        out_features,
    };
    let mut model = RandomModel::new(name, [5, 1, 1], 4);
    model.tensors(-2.0, 2.0);
    model.op(linear("hidden", "input", 8));
    model.relu("relu", "hidden", 8);
    model.op(linear("out", "relu", 3));
    model.finish(OutputMode::Logits, 8)
}

/// A CIFAR-form residual network with random weights, and `relus` of its ReLUs spread evenly over its layers.
///
/// `blocks` residual blocks in each of the stages whose widths are `widths`; option-B shortcuts (1x1 convolutions).
///
/// # Errors
/// Any [`crate::ModelError`] when the operations do not fit together.
// house: a network in one line, which tests and benchmarks of every crate write with other numbers
pub fn residual_network(
    name: &str,
    input: [usize; 3],
    widths: &[usize],
    blocks: usize,
    n_classes: usize,
    relus: usize,
    mode: OutputMode,
) -> Result<Model> {
    let mut layers = vec![widths[0] * input[1] * input[2]];
    for (stage, width) in widths.iter().enumerate() {
        layers.extend(std::iter::repeat_n(
            width * (input[1] >> stage) * (input[2] >> stage),
            2 * blocks,
        ));
    }
    let total: usize = layers.iter().sum();
    let mut kept = layers
        .iter()
        .map(|n| (n * relus.min(total)).div_ceil(total))
        .collect::<Vec<_>>()
        .into_iter();
    let mut left = relus.min(total);
    let mut keep = move || {
        let now = kept.next().unwrap_or(0).min(left);
        left -= now;
        now
    };
    let mut net = RandomModel::new(name, input, 7);
    net.conv("stem", "input", widths[0], 3, 1, 1)
        .relu("stem.relu", "stem", keep());
    let mut from = "stem.relu".to_owned();
    for (stage, &width) in widths.iter().enumerate() {
        for block in 0..blocks {
            let p = format!("stage{stage}.block{block}");
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            net.conv(&format!("{p}.conv1"), &from, width, 3, stride, 1)
                .relu(&format!("{p}.relu1"), &format!("{p}.conv1"), keep());
            net.conv(&format!("{p}.conv2"), &format!("{p}.relu1"), width, 3, 1, 1);
            let skip = if stride == 2 {
                net.conv(&format!("{p}.shortcut"), &from, width, 1, 2, 0);
                format!("{p}.shortcut")
            } else {
                from
            };
            net.add(&format!("{p}.add"), &format!("{p}.conv2"), &skip)
                .relu(&format!("{p}.relu2"), &format!("{p}.add"), keep());
            from = format!("{p}.relu2");
        }
    }
    net.pool("pool", &from, None)
        .classifier("fc", "pool", n_classes)
        .finish(mode, 2)
}
