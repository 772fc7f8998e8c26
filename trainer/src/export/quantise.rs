//! From a trained network to integers: BatchNorm folded, weights of few bits, biases at the accumulator's scale.
//!
//! A layer's weights have f_w = floor(log2(q / max |w|)) fraction bits, q = 127 for 8-bit weights, and
//! are rounded half up. Convolutions that are summed, such as conv2 and the shortcut's, share the
//! smaller f_w. An accumulator has f_a + f_w fraction bits; pools are sums, so the classifier's
//! has floor(log2 window) more, and what remains of the division is in its weights.

use crate::error::{Error, Result};
use crate::net::{Conv, LayerPlan, Mask, Net, Term};
use pi_model::ConvWeights;
use pi_model::relu_set::ReluSet;
use pi_model::spec::{Accumulator, FixedPoint, Op, Window};
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// Numbers of the fixed-point network.
#[derive(Debug, Clone, Copy)]
pub struct Precision {
    /// Fraction bits f_a of every activation.
    pub activation_bits: u32,
    /// Bits of a weight with its sign, 8 or 16.
    pub weight_bits: u32,
    /// The classifier's weights give up this many of their fraction bits, so that its accumulator
    /// fits the narrow ring in which the output is opened.
    pub classifier_drop: u32,
    /// Most bits of the classifier's accumulator, 24 to 32.
    pub output_bits: u32,
}

impl Precision {
    /// What an export begins with unless told otherwise.
    pub const DEFAULT: Precision = Precision {
        activation_bits: 8,
        weight_bits: 8,
        classifier_drop: 0,
        output_bits: 32,
    };
}

/// Operations, masks and weights as pi-model takes them.
pub struct Quantised {
    /// The operations.
    pub ops: Vec<Op>,
    /// Fraction bits, and accumulator bits as given to [`quantise`].
    pub numbers: FixedPoint,
    /// Mask of each masked ReLU.
    pub masks: HashMap<String, ReluSet>,
    /// Weights of each convolution and of the classifier.
    pub weights: HashMap<String, ConvWeights>,
}

/// A layer in 64-bit floats.
struct Folded {
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl Folded {
    fn new((weight, bias): (Tensor, Tensor)) -> Result<Folded> {
        let flat = |t: Tensor| Vec::<f64>::try_from(t.contiguous().flatten(0, -1));
        Ok(Folded {
            weight: flat(weight)?,
            bias: flat(bias)?,
        })
    }

    /// f_w = floor(log2(q / max |w|)), at most 20.
    fn fraction_bits(&self, weight_bits: u32) -> Result<u32> {
        let max = self.weight.iter().fold(0f64, |m, w| m.max(w.abs()));
        let q = f64::from((1u32 << (weight_bits - 1)) - 1);
        let bits = (q / max.max(1e-9)).log2().floor();
        if !bits.is_finite() || bits < 0.0 {
            return Err(Error::WeightBits {
                max,
                bits: weight_bits,
            });
        }
        Ok((bits as u32).min(20))
    }

    fn round(&self, fraction_bits: u32, accumulator_bits: u32) -> ConvWeights {
        let half_up = |v: f64, bits: u32| (v * f64::from(bits).exp2() + 0.5).floor();
        ConvWeights {
            weight: self
                .weight
                .iter()
                .map(|&w| half_up(w, fraction_bits) as i32)
                .collect(),
            bias: self
                .bias
                .iter()
                .map(|&b| half_up(b, accumulator_bits) as i64)
                .collect(),
        }
    }
}

struct Builder<'a> {
    precision: Precision,
    masks: &'a [Mask],
    accumulator_bits: &'a [u32],
    drops: &'a [u32],
    out: Quantised,
    n_layers: usize,
    n_relus: usize,
    /// Fraction bits that each pool adds.
    pool_bits: HashMap<String, u32>,
}

/// Name of the last layer.
pub(super) const CLASSIFIER: &str = "fc";

/// Bits of the weights that act on one channel alone.
const CHANNELWISE_BITS: u32 = 12;

/// Quantises `net` with `masks`; `accumulator_bits` holds l_b of each layer of its plan, `drops` how many
/// fraction bits its weights give up.
pub fn quantise(
    net: &Net,
    masks: &[Mask],
    precision: Precision,
    accumulator_bits: &[u32],
    drops: &[u32],
) -> Result<Quantised> {
    let out = Quantised {
        ops: vec![],
        numbers: FixedPoint {
            activation_fraction_bits: precision.activation_bits,
            ..FixedPoint::default()
        },
        masks: HashMap::new(),
        weights: HashMap::new(),
    };
    let mut b = Builder {
        precision,
        masks,
        accumulator_bits,
        drops,
        out,
        n_layers: 0,
        n_relus: 0,
        pool_bits: HashMap::new(),
    };
    // Names of the values: the input, each layer's result, and that behind its pool.
    let mut values = vec!["input".to_owned()];
    for (layer, convs) in net.plan.iter().zip(&net.convs) {
        values.push(b.layer(layer, convs, &values)?);
    }
    let x = values.pop().unwrap_or_default();
    b.classifier(net, &x)?;
    Ok(b.out)
}

impl Builder<'_> {
    /// One layer: its convolutions, their sum, the masked ReLU (an empty one where the value is only
    /// carried on) and the pool. Convolutions that are summed share the smaller f_w.
    fn layer(&mut self, plan: &LayerPlan, convs: &[Conv], values: &[String]) -> Result<String> {
        let folded = convs.iter().map(|c| Folded::new(c.folded()));
        let folded = folded.collect::<Result<Vec<_>>>()?;
        let mut shared = u32::MAX;
        for (term, f) in plan.terms.iter().zip(&folded) {
            // One weight a channel: wider numbers cost nothing.
            let bits = self.precision.weight_bits;
            let bits = if term.weight {
                bits
            } else {
                bits.max(CHANNELWISE_BITS)
            };
            shared = shared.min(f.fraction_bits(bits)?);
        }
        let drop = self.drops.get(self.n_layers).copied().unwrap_or(0);
        let Some(shared) = shared.checked_sub(drop) else {
            return Err(Error::Export(format!(
                "{} truncates so many large values that {shared} fraction bits less of its weights do not suffice; use fewer --fraction-bits",
                plan.name
            )));
        };
        for (term, f) in plan.terms.iter().zip(&folded) {
            let input = &values[term.from];
            self.conv(term, input, f, shared);
        }
        let mut summands: Vec<String> = plan.terms.iter().map(|t| t.op.clone()).collect();
        summands.extend(plan.skip.map(|v| values[v].clone()));
        let mut summands = summands.into_iter();
        let mut sum = summands.next().unwrap_or_default();
        for (k, summand) in summands.enumerate() {
            let name = match plan.name.rsplit_once('.') {
                Some((block, _)) if k == 0 => format!("{block}.add"),
                _ => format!("{}.add{k}", plan.name),
            };
            self.out.ops.push(Op::Add {
                name: name.clone(),
                inputs: vec![sum, summand],
            });
            sum = name;
        }
        let name = self.relu(plan, &sum)?;
        if plan.pool == 1 {
            return Ok(name);
        }
        let pooled = format!("{name}.pool");
        self.out.ops.push(Op::AvgPool {
            name: pooled.clone(),
            input: name,
            window: Window::square(plan.pool as usize, plan.pool as usize, 0),
            count_padding: false,
        });
        self.pool_bits.insert(pooled.clone(), 2 * plan.pool.ilog2());
        Ok(pooled)
    }

    fn conv(&mut self, term: &Term, input: &str, folded: &Folded, f_w: u32) {
        let pool_bits = self.pool_bits.get(input).copied().unwrap_or(0);
        let accumulator = f_w + self.precision.activation_bits + pool_bits;
        let weights = folded.round(f_w, accumulator);
        self.out.weights.insert(term.op.clone(), weights);
        self.out.ops.push(Op::Conv2d {
            name: term.op.clone(),
            input: input.into(),
            out_channels: term.channels[1] as usize,
            window: Window::square(
                term.kernel as usize,
                term.stride as usize,
                (term.kernel as usize - 1) / 2,
            ),
            groups: 1,
        });
        let bits = &mut self.out.numbers.weight_fraction_bits;
        bits.insert(term.op.clone(), f_w);
    }

    fn relu(&mut self, plan: &LayerPlan, input: &str) -> Result<String> {
        let name = plan.name.as_str();
        let i = self.n_layers;
        self.n_layers += 1;
        let empty = Mask::zeros(plan.shape);
        let mask = if plan.relu {
            self.n_relus += 1;
            self.masks.get(self.n_relus - 1)
        } else {
            Some(&empty)
        };
        let (Some(mask), Some(&accumulator_bits)) = (mask, self.accumulator_bits.get(i)) else {
            return Err(Error::Export(format!(
                "there is no mask or range for {name}"
            )));
        };
        let bytes: Vec<u8> = mask.keep.iter().map(|&k| k.into()).collect();
        let set = ReluSet::from_mask(name, &bytes).map_err(|e| Error::Export(e.to_string()))?;
        self.out.masks.insert(name.into(), set);
        self.out.ops.push(Op::MaskedRelu {
            name: name.into(),
            input: input.into(),
            relus_kept: mask.n_kept(),
        });
        let range = Accumulator {
            bits: accumulator_bits,
            mean_bits: None,
        };
        self.out.numbers.accumulators.insert(name.into(), range);
        Ok(name.into())
    }

    fn classifier(&mut self, net: &Net, input: &str) -> Result<()> {
        let last = net.arch.relu_shapes().last().copied().unwrap_or([1, 1, 1]);
        let window = (last[1] * last[2]) as u32;
        let pool_bits = window.ilog2();
        let remains = f64::from(1u32 << pool_bits) / f64::from(window);
        let weight = net.fc_weight.detach().to_kind(Kind::Double) * remains;
        let folded = Folded::new((weight, net.fc_bias.detach().to_kind(Kind::Double)))?;
        let bits = folded.fraction_bits(self.precision.weight_bits)?;
        let drop = self.precision.classifier_drop;
        let Some(f_w) = bits.checked_sub(drop) else {
            return Err(Error::Export(format!(
                "the class scores are too large for {} bits: even {bits} fraction bits less of the classifier's weights do not suffice. Fewer --fraction-bits make them smaller",
                self.precision.output_bits
            )));
        };
        let accumulator = f_w + self.precision.activation_bits + pool_bits;
        self.out
            .weights
            .insert(CLASSIFIER.into(), folded.round(f_w, accumulator));
        self.out.ops.push(Op::GlobalAvgPool {
            name: "pool".into(),
            input: input.into(),
        });
        self.out.ops.push(Op::Linear {
            name: CLASSIFIER.into(),
            input: "pool".into(),
            out_features: net.arch.n_classes,
        });
        let bits = &mut self.out.numbers.weight_fraction_bits;
        bits.insert(CLASSIFIER.into(), f_w);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fraction_bits_are_the_most_that_fit_and_rounding_is_half_up() {
        let layer = |w: &[f64]| Folded {
            weight: w.to_vec(),
            bias: vec![0.75, -0.125],
        };
        for (max, want) in [(1.0, 6), (0.99, 7), (127.0, 0), (0.01, 13), (1e-12, 20)] {
            assert_eq!(
                layer(&[max, -max / 2.0]).fraction_bits(8).unwrap(),
                want,
                "{max}"
            );
        }
        assert!(layer(&[200.0]).fraction_bits(8).is_err());
        assert_eq!(layer(&[200.0]).fraction_bits(16).unwrap(), 7);
        let q = layer(&[0.375, -0.375, 0.1]).round(2, 3);
        assert_eq!((q.weight, q.bias), (vec![2, -1, 0], vec![6, -1]));
    }
}
