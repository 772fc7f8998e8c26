//! Networks of random operations, for tests that hold for any network.

use super::RandomModel;
use crate::artifact::Model;
use crate::error::Result;
use crate::spec::{Op, OutputMode, Padding, Window};

/// A network of `n_ops` random operations with so many fraction bits of activations, on an image of 2 channels, 9 x 8: every kind of operation, several readers of a result,
/// windows of all forms. The same seed makes the same network.
///
/// # Errors
/// Any [`crate::ModelError`] when the operations do not fit together, which would be a fault of this function.
pub fn random_graph(
    seed: u64,
    n_ops: usize,
    activation_bits: u32,
) -> Result<(Model, Vec<Vec<i64>>)> {
    let mut graph = RandomGraph {
        net: RandomModel::new("random graph", [2, 9, 8], seed),
        results: vec!["input".into()],
        unread: vec![],
    };
    graph.net.activation_bits(activation_bits);
    graph.first();
    for index in 0..n_ops {
        graph.step(index);
    }
    graph.last();
    let model = graph.net.finish(OutputMode::Logits, 16)?;
    let inputs = (0..2).map(|_| graph.net.input()).collect();
    Ok((model, inputs))
}

struct RandomGraph {
    net: RandomModel,
    /// Results that are maps, and small enough numbers to be read.
    results: Vec<String>,
    unread: Vec<String>,
}

impl RandomGraph {
    fn below(&mut self, n: usize) -> usize {
        (self.net.next_u64() % n as u64) as usize
    }

    /// A result at random, one that nothing has read yet rather than another.
    fn pick(&mut self) -> String {
        let others = self.unread.is_empty() || self.below(4) == 0;
        let pool = if others { &self.results } else { &self.unread };
        let n = pool.len();
        let at = self.below(n);
        let pool = if others { &self.results } else { &self.unread };
        pool[at].clone()
    }

    fn add(&mut self, op: Op) {
        self.unread.retain(|name| !op.inputs().contains(name));
        let name = op.name().to_owned();
        self.net.op(op);
        self.results.push(name.clone());
        self.unread.push(name);
    }

    fn first(&mut self) {
        let conv = self.conv("first".into(), "input".into());
        self.add(conv);
    }

    /// Windows that fit the map of `input`.
    fn window(&mut self, input: &str, dilated: bool) -> Window {
        let shape = self.net.shape(input);
        let sizes = [shape.height, shape.width];
        let mut axis = |size: usize| {
            let kernel = 1 + self.below(size.min(3));
            let dilation = match dilated && self.below(3) == 0 && 2 * (kernel - 1) < size {
                true => 2,
                false => 1,
            };
            let reach = (kernel - 1) * dilation;
            let [before, after] = [0, 1].map(|_| self.below(reach.min(2) + 1));
            (kernel, dilation, before, after, 1 + self.below(3))
        };
        let [rows, columns] = sizes.map(&mut axis);
        Window {
            kernel: [rows.0, columns.0],
            dilation: [rows.1, columns.1],
            padding: [rows.2, columns.2, rows.3, columns.3].into(),
            stride: [rows.4, columns.4].map(|s| if s == 3 { 1 } else { s }),
        }
    }

    fn conv(&mut self, name: String, input: String) -> Op {
        let channels = self.net.shape(&input).channels;
        let groups = match self.below(3) {
            0 => channels,
            _ => 1,
        };
        let window = self.window(&input, true);
        let per_group = 1 + self.below(4usize.div_ceil(groups));
        Op::Conv2d {
            name,
            input,
            out_channels: groups * per_group,
            window,
            groups,
        }
    }

    /// Another result of the same shape as `like`, or a convolution that makes one.
    fn partner(&mut self, name: &str, like: &str) -> String {
        let shape = self.net.shape(like);
        let others: Vec<String> = self
            .results
            .iter()
            .filter(|r| *r != like)
            .cloned()
            .collect();
        let same = others.iter().rfind(|r| self.net.shape(r) == shape);
        if let Some(same) = same {
            return same.clone();
        }
        let made = format!("{name}.partner");
        self.add(Op::Conv2d {
            name: made.clone(),
            input: like.to_owned(),
            out_channels: shape.channels,
            window: Window::square(1, 1, 0),
            groups: 1,
        });
        made
    }

    fn step(&mut self, index: usize) {
        let (name, input) = (format!("op{index}"), self.pick());
        let shape = self.net.shape(&input);
        let kept = self.below(shape.n_values() + 1);
        let op = match self.below(13) {
            0..3 => self.conv(name, input),
            3..5 => Op::MaskedRelu {
                name,
                input,
                relus_kept: kept,
            },
            5 => Op::Bias { name, input },
            6 => {
                let other = self.partner(&name, &input);
                Op::Add {
                    name,
                    inputs: vec![input, other],
                }
            }
            7 => {
                let other = self.partner(&name, &input);
                Op::Sub {
                    name,
                    inputs: [input, other],
                }
            }
            8 => {
                let other = self.partner(&name, &input);
                Op::Concat {
                    name,
                    inputs: vec![input, other],
                }
            }
            9 => Op::MaxPool {
                window: self.window(&input, true),
                name,
                input,
            },
            10 => Op::AvgPool {
                window: self.window(&input, false),
                count_padding: self.below(2) == 0,
                name,
                input,
            },
            11 => self.small(name, input),
            _ => match self.below(2) {
                0 => Op::Clip {
                    name,
                    input,
                    max: 0.75,
                    relus_kept: kept,
                },
                _ => Op::LeakyRelu {
                    name,
                    input,
                    slope: 0.125,
                    relus_kept: kept,
                },
            },
        };
        self.add(op);
    }

    fn small(&mut self, name: String, input: String) -> Op {
        let shape = self.net.shape(&input);
        if self.below(2) == 0 {
            let padding = [0; 4].map(|_: usize| self.below(2));
            return Op::Pad {
                name,
                input,
                padding: Padding::from(padding),
            };
        }
        let n = 1 + self.below(shape.channels);
        let mut channels: Vec<usize> = (0..shape.channels).collect();
        for i in (1..shape.channels).rev() {
            channels.swap(i, self.below(i + 1));
        }
        channels.truncate(n);
        Op::Channels {
            name,
            input,
            channels,
        }
    }

    /// Everything that nothing has read, flattened or pooled, summed up by fully connected layers.
    fn last(&mut self) {
        let unread = self.unread.clone();
        let mut heads = Vec::new();
        for (at, name) in unread.into_iter().enumerate() {
            let flat = format!("head{at}.flat");
            let read = match self.below(3) {
                0 => {
                    let pooled = format!("head{at}.pool");
                    self.net.op(Op::GlobalAvgPool {
                        name: pooled.clone(),
                        input: name,
                    });
                    pooled
                }
                _ => name,
            };
            self.net.op(Op::Flatten {
                name: flat.clone(),
                input: read,
            });
            let head = format!("head{at}");
            self.net.op(Op::Linear {
                name: head.clone(),
                input: flat,
                out_features: 3,
            });
            heads.push(head);
        }
        if heads.len() > 1 {
            self.net.op(Op::Add {
                name: "logits".into(),
                inputs: heads,
            });
        }
    }
}
