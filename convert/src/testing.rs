//! Small float networks with random weights, for tests.

use std::collections::{BTreeMap, HashMap};

use pi_model::graph::shapes;
use pi_model::relu_set::ReluSet;
use pi_model::spec::{Card, FORMAT_VERSION, InputSpec, ModelSpec, Op, OutputMode, Window};
use pi_model::{FloatModel, FloatWeights};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A network that grows by operations; each gets weights that keep the size of values, and a mask that keeps two thirds.
pub(crate) struct Net {
    pub(crate) model: FloatModel,
    pub(crate) rng: ChaCha8Rng,
}

impl Net {
    pub(crate) fn new([channels, height, width]: [usize; 3], seed: u64) -> Self {
        let spec = ModelSpec {
            format_version: FORMAT_VERSION,
            name: "net".into(),
            input: InputSpec {
                channels,
                height,
                width,
                mean: vec![0.5; channels],
                std: vec![0.25; channels],
                range: None,
            },
            labels: vec![],
            output: OutputMode::Logits,
            ops: vec![],
            fixed_point: None,
            card: Card::default(),
        };
        Self {
            model: FloatModel {
                spec,
                masks: HashMap::new().into_iter().collect(),
                weights: BTreeMap::new(),
            },
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Adds `op` if it fits its inputs; its own count of ReLUs is replaced.
    pub(crate) fn push(&mut self, mut op: Op) -> bool {
        self.model.spec.ops.push(op.clone());
        let known = shapes(&self.model.spec);
        self.model.spec.ops.pop();
        let Ok(shapes) = known else { return false };
        let name = op.name().to_owned();
        let read = shapes[&op.inputs()[0]];
        let sizes = match &op {
            Op::Conv2d {
                out_channels,
                window,
                groups,
                ..
            } => {
                let fan_in = read.channels / groups * window.kernel.iter().product::<usize>();
                Some((out_channels * fan_in, *out_channels, fan_in))
            }
            Op::Linear { out_features, .. } => {
                Some((out_features * read.channels, *out_features, read.channels))
            }
            Op::Bias { .. } => Some((0, read.channels, 1)),
            _ => None,
        };
        if let Some((n_weights, n_biases, fan_in)) = sizes {
            let scale = (3.0 / fan_in as f32).sqrt();
            let weight = self.values(n_weights, scale);
            let bias = self.values(n_biases, 0.3);
            self.model
                .weights
                .insert(name.clone(), FloatWeights { weight, bias });
        }
        if let Op::MaskedRelu { relus_kept, .. }
        | Op::Clip { relus_kept, .. }
        | Op::LeakyRelu { relus_kept, .. } = &mut op
        {
            let n = shapes[&name].n_values();
            let mask: Vec<u8> = (0..n)
                .map(|_| u8::from(self.rng.random_range(0..3) > 0))
                .collect();
            let set = ReluSet::from_mask(&name, &mask).unwrap();
            *relus_kept = set.kept().len();
            self.model.masks.insert(name, set);
        }
        self.model.spec.ops.push(op);
        true
    }

    /// Adds an operation that has to fit.
    pub(crate) fn add(&mut self, op: Op) -> &mut Self {
        assert!(self.push(op.clone()), "{op:?}");
        self
    }

    pub(crate) fn conv(
        &mut self,
        name: &str,
        input: &str,
        out: usize,
        window: Window,
    ) -> &mut Self {
        self.add(Op::Conv2d {
            name: name.into(),
            input: input.into(),
            out_channels: out,
            window,
            groups: 1,
        })
    }

    pub(crate) fn relu(&mut self, name: &str, input: &str) -> &mut Self {
        self.add(Op::MaskedRelu {
            name: name.into(),
            input: input.into(),
            relus_kept: 0,
        })
    }

    /// Global average, flatten, fully connected layer.
    pub(crate) fn classifier(&mut self, input: &str, n_classes: usize) -> &mut Self {
        self.add(Op::GlobalAvgPool {
            name: "pool".into(),
            input: input.into(),
        });
        self.add(Op::Flatten {
            name: "flat".into(),
            input: "pool".into(),
        });
        self.add(Op::Linear {
            name: "fc".into(),
            input: "flat".into(),
            out_features: n_classes,
        });
        self.model.spec.labels = (0..n_classes).map(|i| format!("class {i}")).collect();
        self
    }

    /// Random normalised images.
    pub(crate) fn images(&mut self, n: usize) -> Vec<Vec<f32>> {
        let n_values = self.model.spec.input.n_values();
        (0..n).map(|_| self.values(n_values, 2.0)).collect()
    }

    fn values(&mut self, n: usize, most: f32) -> Vec<f32> {
        let rng = &mut self.rng;
        (0..n).map(|_| rng.random_range(-most..most)).collect()
    }
}

/// Two residual blocks, one of them with a shortcut, on images of 3 x 8 x 8; ten classes.
pub(crate) fn residual(seed: u64) -> Net {
    let mut net = Net::new([3, 8, 8], seed);
    let add = |name: &str, a: &str, b: &str| Op::Add {
        name: name.into(),
        inputs: vec![a.into(), b.into()],
    };
    net.conv("stem", "input", 8, Window::square(3, 1, 1))
        .relu("stem.relu", "stem")
        .conv("a.conv1", "stem.relu", 8, Window::square(3, 1, 1))
        .relu("a.relu1", "a.conv1")
        .conv("a.conv2", "a.relu1", 8, Window::square(3, 1, 1))
        .add(add("a.add", "a.conv2", "stem.relu"))
        .relu("a.relu2", "a.add")
        .conv("b.conv1", "a.relu2", 16, Window::square(3, 2, 1))
        .relu("b.relu1", "b.conv1")
        .conv("b.conv2", "b.relu1", 16, Window::square(3, 1, 1))
        .conv("b.shortcut", "a.relu2", 16, Window::square(1, 2, 0))
        .add(add("b.add", "b.conv2", "b.shortcut"))
        .relu("b.relu2", "b.add")
        .classifier("b.relu2", 10);
    net
}

/// Every operation of the format once or more, on images of 4 x 12 x 10; five classes.
pub(crate) fn every_operation(seed: u64) -> Net {
    let mut net = Net::new([4, 12, 10], seed);
    let s = |name: &str| name.to_owned();
    let window = |kernel, stride, padding: [usize; 4], dilation| Window {
        kernel,
        stride,
        padding: padding.into(),
        dilation,
    };
    net.add(Op::Pad {
        name: s("pad"),
        input: s("input"),
        padding: [1, 0, 0, 2].into(),
    })
    .conv(
        "conv",
        "pad",
        6,
        window([3, 2], [1, 1], [1, 0, 1, 1], [1, 2]),
    )
    .add(Op::Bias {
        name: s("bias"),
        input: s("conv"),
    })
    .relu("relu", "bias")
    .add(Op::Conv2d {
        name: s("depthwise"),
        input: s("relu"),
        out_channels: 6,
        window: Window::square(3, 1, 1),
        groups: 6,
    })
    .add(Op::Clip {
        name: s("clip"),
        input: s("depthwise"),
        max: 1.5,
        relus_kept: 0,
    })
    .add(Op::MaxPool {
        name: s("max"),
        input: s("clip"),
        window: window([3, 2], [2, 2], [1, 0, 1, 0], [1, 1]),
    })
    .add(Op::Channels {
        name: s("left"),
        input: s("max"),
        channels: vec![4, 0, 2],
    })
    .add(Op::Channels {
        name: s("right"),
        input: s("max"),
        channels: vec![1, 3, 5],
    })
    .add(Op::Concat {
        name: s("concat"),
        inputs: vec![s("right"), s("left")],
    })
    .add(Op::AvgPool {
        name: s("smooth"),
        input: s("concat"),
        window: Window::square(3, 1, 1),
        count_padding: false,
    })
    .add(Op::Sub {
        name: s("sub"),
        inputs: [s("concat"), s("smooth")],
    })
    .add(Op::Conv2d {
        name: s("grouped"),
        input: s("sub"),
        out_channels: 8,
        window: Window::square(1, 1, 0),
        groups: 2,
    })
    .add(Op::LeakyRelu {
        name: s("leaky"),
        input: s("grouped"),
        slope: 0.1,
        relus_kept: 0,
    })
    .conv("wide", "leaky", 8, Window::square(3, 1, 1))
    .add(Op::AvgPool {
        name: s("counted"),
        input: s("leaky"),
        window: window([2, 3], [1, 1], [1, 1, 0, 1], [1, 1]),
        count_padding: true,
    })
    .add(Op::Add {
        name: s("add"),
        inputs: vec![s("wide"), s("leaky"), s("counted")],
    })
    .relu("last", "add")
    .classifier("last", 5);
    net
}
