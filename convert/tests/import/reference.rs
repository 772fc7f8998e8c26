//! A plain evaluation of ONNX graphs, by the definitions of the operators, with no thought of speed.

use std::collections::HashMap;

use pi_convert::onnx::proto::{GraphProto, NodeProto};

#[derive(Clone, Debug)]
struct Tensor {
    dims: Vec<usize>,
    v: Vec<f32>,
}

struct At<'a> {
    node: &'a NodeProto,
}

impl At<'_> {
    fn ints(&self, name: &str, default: &[i64]) -> Vec<i64> {
        let found = self.node.attribute.iter().find(|a| a.name == name);
        found.map_or(default.to_vec(), |a| a.ints.clone())
    }
    fn int(&self, name: &str, default: i64) -> i64 {
        let found = self.node.attribute.iter().find(|a| a.name == name);
        found.map_or(default, |a| a.i)
    }
    fn float(&self, name: &str, default: f32) -> f32 {
        let found = self.node.attribute.iter().find(|a| a.name == name);
        found.map_or(default, |a| a.f)
    }
}

/// The result `y` for the image `x`.
pub fn run(graph: &GraphProto, x: &[f32]) -> Vec<f32> {
    let mut values: HashMap<String, Tensor> = HashMap::new();
    for t in &graph.initializer {
        let dims = t.dims.iter().map(|&d| d as usize).collect();
        let v = if t.int64_data.is_empty() {
            t.raw_data
                .chunks(4)
                .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
                .collect()
        } else {
            t.int64_data.iter().map(|&v| v as f32).collect()
        };
        values.insert(t.name.clone(), Tensor { dims, v });
    }
    let shape = graph.input[0]
        .r#type
        .as_ref()
        .unwrap()
        .tensor_type
        .as_ref()
        .unwrap();
    let dims = shape.shape.as_ref().unwrap().dim.iter();
    let dims = dims.map(|d| d.dim_value.unwrap_or(1) as usize).collect();
    values.insert(
        "x".into(),
        Tensor {
            dims,
            v: x.to_vec(),
        },
    );
    for node in &graph.node {
        let inputs: Vec<Option<Tensor>> =
            node.input.iter().map(|n| values.get(n).cloned()).collect();
        for (name, t) in node.output.iter().zip(eval(node, &inputs)) {
            values.insert(name.clone(), t);
        }
    }
    values["y"].v.clone()
}

fn eval(node: &NodeProto, inputs: &[Option<Tensor>]) -> Vec<Tensor> {
    let at = At { node };
    let get = |i: usize| inputs.get(i).cloned().flatten();
    let x = get(0).unwrap();
    let same = |v: Vec<f32>| Tensor {
        dims: x.dims.clone(),
        v,
    };
    let each = |f: &dyn Fn(f32) -> f32| same(x.v.iter().map(|&v| f(v)).collect());
    let one = |i: usize, default: f32| get(i).map_or(default, |t| t.v[0]);
    vec![match node.op_type.as_str() {
        "Conv" => windows(&at, &x, Some((&get(1).unwrap(), get(2)))),
        "MaxPool" | "AveragePool" => windows(&at, &x, None),
        "GlobalAveragePool" | "ReduceMean" => {
            let area: usize = x.dims[2..].iter().product();
            let v =
                x.v.chunks(area)
                    .map(|c| c.iter().sum::<f32>() / area as f32)
                    .collect();
            Tensor {
                dims: vec![1, x.dims[1], 1, 1],
                v,
            }
        }
        "Relu" => each(&|v| v.max(0.0)),
        "LeakyRelu" => each(&|v| {
            if v < 0.0 {
                v * at.float("alpha", 0.01)
            } else {
                v
            }
        }),
        "Clip" => each(&|v| v.max(one(1, f32::MIN)).min(one(2, f32::MAX))),
        "PRelu" => binary(&x, &get(1).unwrap(), |v, s| if v < 0.0 { v * s } else { v }),
        "Neg" => each(&|v| -v),
        "Identity" | "Dropout" | "LSTM" => x,
        "Add" | "Sum" => inputs[1..]
            .iter()
            .flatten()
            .fold(x, |a, b| binary(&a, b, |a, b| a + b)),
        "Sub" => binary(&x, &get(1).unwrap(), |a, b| a - b),
        "Mul" => binary(&x, &get(1).unwrap(), |a, b| a * b),
        "Div" => binary(&x, &get(1).unwrap(), |a, b| a / b),
        "BatchNormalization" => {
            let p: Vec<Vec<f32>> = (1..5).map(|i| get(i).unwrap().v).collect();
            let area: usize = x.dims[2..].iter().product();
            same(
                (0..x.v.len())
                    .map(|i| {
                        let c = i / area;
                        (x.v[i] - p[2][c]) / (p[3][c] + 1e-5).sqrt() * p[0][c] + p[1][c]
                    })
                    .collect(),
            )
        }
        "Gemm" | "MatMul" => matrix(&at, &x, &get(1).unwrap(), get(2)),
        "Flatten" => Tensor {
            dims: vec![1, x.v.len()],
            v: x.v,
        },
        "Reshape" => {
            let to = get(1).unwrap().v;
            let known: f32 = to.iter().filter(|&&d| d > 0.0).product();
            let dims = to.iter().map(|&d| {
                if d < 0.0 {
                    x.v.len() / known as usize
                } else {
                    d as usize
                }
            });
            Tensor {
                dims: dims.collect(),
                v: x.v,
            }
        }
        "Transpose" => {
            let order: Vec<usize> = at.ints("perm", &[]).iter().map(|&a| a as usize).collect();
            let dims = order.iter().map(|&a| x.dims[a]).collect();
            build(dims, |i| {
                let mut from = vec![0; i.len()];
                for (n, &a) in order.iter().enumerate() {
                    from[a] = i[n];
                }
                read(&x, &from)
            })
        }
        "Concat" => {
            let parts: Vec<&Tensor> = inputs.iter().flatten().collect();
            let mut dims = x.dims.clone();
            dims[1] = parts.iter().map(|p| p.dims[1]).sum();
            Tensor {
                dims,
                v: parts.iter().flat_map(|p| p.v.clone()).collect(),
            }
        }
        "Slice" => {
            let lists: Vec<Vec<f32>> = (1..5).map(|i| get(i).unwrap().v).collect();
            let mut steps = vec![(0, 1); x.dims.len()];
            let mut dims = x.dims.clone();
            for (n, &a) in lists[2].iter().enumerate() {
                let (start, step) = (lists[0][n] as usize, lists[3][n] as usize);
                let end = (lists[1][n] as usize).min(dims[a as usize]);
                steps[a as usize] = (start, step);
                dims[a as usize] = (end - start).div_ceil(step);
            }
            build(dims, |i| {
                let from: Vec<usize> = i.iter().zip(&steps).map(|(i, (s, t))| s + i * t).collect();
                read(&x, &from)
            })
        }
        "Split" => return split(&x, node.output.len()),
        "Gather" => {
            let list = get(1).unwrap().v;
            let mut dims = x.dims.clone();
            dims[1] = list.len();
            build(dims, |i| {
                let mut from = i.to_vec();
                from[1] = list[i[1]] as usize;
                read(&x, &from)
            })
        }
        "Pad" => {
            let pads = get(1).unwrap().v;
            let rank = x.dims.len();
            let dims = (0..rank)
                .map(|a| x.dims[a] + (pads[a] + pads[a + rank]) as usize)
                .collect();
            build(dims, |i| {
                let from: Vec<_> = (0..rank)
                    .map(|a| i[a].wrapping_sub(pads[a] as usize))
                    .collect();
                if from.iter().zip(&x.dims).all(|(f, d)| f < d) {
                    read(&x, &from)
                } else {
                    0.0
                }
            })
        }
        other => panic!("the reference does not know {other}"),
    }]
}

fn split(x: &Tensor, n: usize) -> Vec<Tensor> {
    let mut dims = x.dims.clone();
    dims[1] /= n;
    x.v.chunks(x.v.len() / n)
        .map(|v| Tensor {
            dims: dims.clone(),
            v: v.to_vec(),
        })
        .collect()
}

fn read(t: &Tensor, index: &[usize]) -> f32 {
    t.v[index.iter().zip(&t.dims).fold(0, |p, (i, d)| p * d + i)]
}

fn build(dims: Vec<usize>, f: impl Fn(&[usize]) -> f32) -> Tensor {
    let n: usize = dims.iter().product();
    let v = (0..n).map(|mut p| {
        let mut index = vec![0; dims.len()];
        for a in (0..dims.len()).rev() {
            index[a] = p % dims[a];
            p /= dims[a];
        }
        f(&index)
    });
    Tensor {
        v: v.collect(),
        dims,
    }
}

fn binary(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32) -> Tensor {
    let rank = a.dims.len().max(b.dims.len());
    let wide = |t: &Tensor| [vec![1; rank - t.dims.len()], t.dims.clone()].concat();
    let (da, db) = (wide(a), wide(b));
    let dims: Vec<usize> = da.iter().zip(&db).map(|(x, y)| *x.max(y)).collect();
    let (a, b) = (
        Tensor {
            dims: da,
            v: a.v.clone(),
        },
        Tensor {
            dims: db,
            v: b.v.clone(),
        },
    );
    let pick = |t: &Tensor, i: &[usize]| {
        let index: Vec<usize> = i.iter().zip(&t.dims).map(|(i, d)| i % d).collect();
        read(t, &index)
    };
    build(dims, |i| f(pick(&a, i), pick(&b, i)))
}

fn matrix(at: &At, x: &Tensor, w: &Tensor, c: Option<Tensor>) -> Tensor {
    let transposed = at.int("transB", 0) == 1;
    let (n, out) = if transposed {
        (w.dims[1], w.dims[0])
    } else {
        (w.dims[0], w.dims[1])
    };
    let v = (0..out).map(|o| {
        let product: f32 = (0..n)
            .map(|i| {
                x.v[i]
                    * if transposed {
                        w.v[o * n + i]
                    } else {
                        w.v[i * out + o]
                    }
            })
            .sum();
        let add = c.as_ref().map_or(0.0, |c| c.v[o % c.v.len()]);
        product * at.float("alpha", 1.0) + add * at.float("beta", 1.0)
    });
    Tensor {
        v: v.collect(),
        dims: vec![1, out],
    }
}

/// Convolutions, and pools where there are no weights, over maps and sequences.
fn windows(at: &At, x: &Tensor, weights: Option<(&Tensor, Option<Tensor>)>) -> Tensor {
    let axes = x.dims.len() - 2;
    let kernel = weights
        .as_ref()
        .map_or(at.ints("kernel_shape", &[]), |(w, _)| {
            w.dims[2..].iter().map(|&d| d as i64).collect()
        });
    let strides = at.ints("strides", &vec![1; axes]);
    let dilations = at.ints("dilations", &vec![1; axes]);
    let pads = at.ints("pads", &vec![0; 2 * axes]);
    let groups = at.int("group", 1) as usize;
    let mut dims = vec![1, weights.as_ref().map_or(x.dims[1], |(w, _)| w.dims[0])];
    for a in 0..axes {
        let left =
            x.dims[2 + a] as i64 + pads[a] + pads[axes + a] - (kernel[a] - 1) * dilations[a] - 1;
        let up = if at.int("ceil_mode", 0) == 1 {
            strides[a] - 1
        } else {
            0
        };
        let mut out = (left + up) / strides[a] + 1;
        if up > 0 && (out - 1) * strides[a] >= x.dims[2 + a] as i64 + pads[a] {
            out -= 1;
        }
        dims.push(out as usize);
    }
    let per_group = x.dims[1] / groups;
    let filters = dims[1] / groups;
    let all = at.int("count_include_pad", 0) == 1;
    build(dims, |i| {
        let (mut sum, mut largest, mut n) = (0.0, f32::MIN, 0.0);
        let channels = if weights.is_some() {
            i[1] / filters * per_group..(i[1] / filters + 1) * per_group
        } else {
            i[1]..i[1] + 1
        };
        for (k, c) in channels.enumerate() {
            let taps = build(kernel.iter().map(|&k| k as usize).collect(), |_| 0.0);
            for p in 0..taps.v.len() {
                let tap = [p / kernel[axes - 1] as usize, p % kernel[axes - 1] as usize];
                let tap = &tap[2 - axes..];
                let place: Vec<i64> = (0..axes)
                    .map(|a| i[2 + a] as i64 * strides[a] + tap[a] as i64 * dilations[a] - pads[a])
                    .collect();
                let inside = (0..axes).all(|a| place[a] >= 0 && place[a] < x.dims[2 + a] as i64);
                n += if inside || all { 1.0 } else { 0.0 };
                if inside {
                    let index = [vec![0, c], place.iter().map(|&p| p as usize).collect()].concat();
                    let v = read(x, &index);
                    largest = largest.max(v);
                    sum += v * weights
                        .as_ref()
                        .map_or(1.0, |(w, _)| w.v[(i[1] * per_group + k) * taps.v.len() + p]);
                }
            }
        }
        match &weights {
            Some((_, bias)) => sum + bias.as_ref().map_or(0.0, |b| b.v[i[1]]),
            None if at.node.op_type == "MaxPool" => largest,
            None => sum / n,
        }
    })
}
