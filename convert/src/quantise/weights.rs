//! Integer weights: fraction bits for each convolution and fully connected layer, and rounding.
//!
//! Weights have f_w = floor(log2(q / max |w|)) fraction bits, q = 2^(bits - 1) - 1, and are rounded half up. Pools that
//! [`pool_remainders`] names are sums with a change of scale; what remains of their division is in the weights of their readers.

use std::collections::{BTreeMap, HashMap};

use pi_model::graph::{Graph, Layer, pool_remainders};
use pi_model::spec::Op;
use pi_model::{ConvWeights, FloatModel, ModelError};

use super::error::{Error, Result};

/// Most fraction bits that a weight can have in the format.
const MAX_FRACTION_BITS: u32 = 20;
/// Bits of weights that act on one channel alone: wider numbers cost nothing there.
const CHANNELWISE_BITS: u32 = 12;
/// Bits of the largest constant that is aimed at; the format takes 40 with the sign.
const CONSTANT_BITS: u32 = 38;

/// The fraction bits of a model's weights, as many as fit at first.
pub(super) struct Weights<'a> {
    model: &'a FloatModel,
    /// By convolution or fully connected layer.
    bits: BTreeMap<String, u32>,
    /// Those that were given up.
    dropped: BTreeMap<String, u32>,
    /// What the weights are multiplied by, where that is not 1.
    factors: HashMap<String, f64>,
}

impl<'a> Weights<'a> {
    pub(super) fn new(model: &'a FloatModel, weight_bits: u32) -> Result<Self> {
        let shapes = model.check()?;
        let remainders = pool_remainders(&model.spec);
        // By result: what the readers of a pool, perhaps behind a flatten, multiply their weights by.
        let mut results: HashMap<&str, f64> = HashMap::new();
        let mut weights = Self {
            model,
            bits: BTreeMap::new(),
            dropped: BTreeMap::new(),
            factors: HashMap::new(),
        };
        for op in &model.spec.ops {
            let name = op.name();
            let read = op.inputs().first().map_or("input", String::as_str);
            let behind = results.get(read).copied();
            let bits = match op {
                Op::Flatten { .. } => {
                    results.extend(behind.map(|factor| (name, factor)));
                    continue;
                }
                Op::AvgPool { .. } | Op::GlobalAvgPool { .. } => {
                    results.extend(remainders.get(name).map(|&factor| (name, factor)));
                    continue;
                }
                Op::Conv2d { groups, .. } if *groups == shapes[read].channels => {
                    weight_bits.max(CHANNELWISE_BITS)
                }
                Op::Conv2d { .. } | Op::Linear { .. } => weight_bits,
                _ => continue,
            };
            weights
                .factors
                .extend(behind.map(|factor| (name.to_owned(), factor)));
            let all = model.weights[name].weight.iter();
            let largest = all.fold(0.0f64, |m, &w| m.max(f64::from(w).abs()));
            let largest = largest * behind.unwrap_or(1.0);
            let fitting = fraction_bits(largest, bits).ok_or_else(|| Error::Weight {
                layer: name.to_owned(),
                largest,
                bits,
            })?;
            weights.bits.insert(name.to_owned(), fitting);
        }
        Ok(weights)
    }

    /// Fraction bits by convolution or fully connected layer.
    pub(super) const fn bits(&self) -> &BTreeMap<String, u32> {
        &self.bits
    }

    /// How many each gave up, of those that did.
    pub(super) const fn dropped(&self) -> &BTreeMap<String, u32> {
        &self.dropped
    }

    /// How many fraction bits the accumulator of `layer` can give up.
    pub(super) fn room(&self, layer: &Layer) -> u32 {
        let own = layer.convs.iter().map(|conv| {
            let bits = self.bits.get(&conv.op).copied().unwrap_or(0);
            bits + conv.shift
        });
        own.min().unwrap_or(0)
    }

    /// Gives up `n` fraction bits of the accumulator of `layer`, which has the room.
    pub(super) fn lower(&mut self, layer: &Layer, n: u32) {
        for conv in &layer.convs {
            let own = n.saturating_sub(conv.shift);
            if let Some(bits) = self.bits.get_mut(&conv.op).filter(|_| own > 0) {
                *bits = bits.saturating_sub(own);
                *self.dropped.entry(conv.op.clone()).or_default() += own;
            }
        }
    }

    /// Fraction bits that the accumulator of `layer` has to give up for its constants to fit.
    pub(super) fn excess(&self, layer: &Layer) -> u32 {
        let convs = layer
            .convs
            .iter()
            .map(|c| (&c.op, c.fraction_bits, c.shift));
        let biases = layer
            .biases
            .iter()
            .map(|b| (&b.op, b.fraction_bits, b.shift));
        let excess = convs.chain(biases).map(|(op, fraction_bits, shift)| {
            let all = self.model.weights[op.as_str()].bias.iter();
            let largest = all.fold(0.0f64, |m, &b| m.max(f64::from(b).abs()));
            let bits = (largest.log2() + f64::from(fraction_bits)).ceil().max(0.0) as u32;
            match bits.saturating_sub(CONSTANT_BITS) {
                0 => 0,
                n => n + shift,
            }
        });
        excess.max().unwrap_or(0)
    }

    /// Rounds all weights and constants to what `graph` was compiled with.
    pub(super) fn round(&self, graph: &Graph) -> HashMap<String, ConvWeights> {
        let mut rounded = HashMap::new();
        for layer in &graph.layers {
            for conv in &layer.convs {
                let factor = self.factors.get(&conv.op).copied().unwrap_or(1.0);
                let bits = self.bits.get(&conv.op).copied().unwrap_or(0);
                let own = &self.model.weights[&conv.op];
                let weight = own.weight.iter();
                let weight = weight.map(|&w| half_up(f64::from(w) * factor, bits) as i32);
                let bias = constants(&own.bias, conv.fraction_bits);
                rounded.insert(
                    conv.op.clone(),
                    ConvWeights {
                        weight: weight.collect(),
                        bias,
                    },
                );
            }
            for bias in &layer.biases {
                let own = &self.model.weights[&bias.op].bias;
                rounded.insert(
                    bias.op.clone(),
                    ConvWeights {
                        weight: vec![],
                        bias: constants(own, bias.fraction_bits),
                    },
                );
            }
        }
        rounded
    }
}

/// Bits that weights may have: those of the format, with the sign.
pub(super) fn check_bits(weight_bits: u32) -> Result<()> {
    if (2..=16).contains(&weight_bits) {
        return Ok(());
    }
    Err(Error::Model(ModelError::Plan(format!(
        "{weight_bits} weight bits; use 2 to 16"
    ))))
}

/// floor(log2(q / largest)), at most [`MAX_FRACTION_BITS`]; none where not even the integers fit.
fn fraction_bits(largest: f64, bits: u32) -> Option<u32> {
    let q = f64::from((1u32 << (bits - 1)) - 1);
    let fitting = (q / largest.max(1e-9)).log2().floor();
    (fitting >= 0.0).then(|| (fitting as u32).min(MAX_FRACTION_BITS))
}

fn half_up(value: f64, fraction_bits: u32) -> i64 {
    (value * f64::from(fraction_bits).exp2() + 0.5).floor() as i64
}

fn constants(values: &[f32], fraction_bits: u32) -> Vec<i64> {
    let values = values.iter();
    values
        .map(|&v| half_up(f64::from(v), fraction_bits))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fraction_bits_are_the_most_that_fit_and_rounding_is_half_up() {
        for (max, want) in [(1.0, 6), (0.99, 7), (127.0, 0), (0.01, 13), (0.0, 20)] {
            assert_eq!(fraction_bits(max, 8), Some(want), "{max}");
        }
        assert_eq!(fraction_bits(200.0, 8), None);
        assert_eq!(fraction_bits(200.0, 16), Some(7));
        let rounded = [0.375, -0.375, 0.1].map(|v| half_up(v, 2));
        assert_eq!(rounded, [2, -1, 0]);
    }
}
