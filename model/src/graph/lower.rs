//! Operations that are made of several layers or views: pools, clips, leaky ReLUs.

use super::compile::Compiler;
use super::value::Value;
use super::{Shape, Span, pool_shift};
use crate::error::{ModelError, Result};
use crate::relu_set::ReluSet;
use crate::spec::{Op, Padding, Window};

/// Fraction bits of constants that shares are multiplied by: slopes, and divisors of small windows.
const CONSTANT_BITS: u32 = 12;
/// Bits of the reciprocal of a large divisor at least: it is off by 1 / 2048 at most.
const RECIPROCAL_BITS: u32 = 10;

/// One element of every window along an axis, and the outputs at which it is no padding.
struct Element {
    value: Value,
    exists: Vec<bool>,
}

impl<'a> Compiler<'a> {
    pub(super) fn pad(&mut self, name: &str, input: &'a str, p: Padding) -> Result<Value> {
        let value = self.map(name, input)?;
        let shape = self.shapes[name];
        let span = |before: usize, count: usize| Span {
            first: -(before as isize),
            ..Span::whole(count)
        };
        self.spanned(
            input,
            value,
            span(p.top, shape.height),
            span(p.left, shape.width),
        )
    }

    /// What spans make of a map, which becomes a tensor first where it is not simple enough.
    fn spanned(&mut self, input: &str, value: Value, rows: Span, columns: Span) -> Result<Value> {
        if let Some(value) = value.spanned(rows, columns) {
            return Ok(value);
        }
        let value = self.tensor(format!("{input}.map"), value)?;
        value
            .spanned(rows, columns)
            .ok_or_else(|| ModelError::op(input, "a tensor has simple views"))
    }

    /// `value` with the fraction bits of activations, so that constants of constants do not add up.
    fn rescaled(&mut self, input: &'a str, value: Value) -> Result<Value> {
        if value.fraction_bits == self.activation_bits() {
            return Ok(value);
        }
        self.local_tensor(input, value)
    }

    pub(super) fn average(&mut self, op: &'a Op) -> Result<Value> {
        let (name, input) = (op.name(), op.inputs()[0].as_str());
        let value = self.map(name, input)?;
        let value = self.rescaled(input, value)?;
        let shape = value.shape;
        let (window, count_padding) = match op {
            Op::AvgPool {
                window,
                count_padding,
                ..
            } => (*window, *count_padding),
            _ => {
                let kernel = [shape.height, shape.width];
                let stride = kernel;
                let square = Window::square(1, 1, 0);
                (
                    Window {
                        kernel,
                        stride,
                        ..square
                    },
                    false,
                )
            }
        };
        let result = self.shapes[name];
        let [rows, columns] = windows(&window, result);
        let mut sums = self.spanned(input, value, rows, columns)?;
        if self.remainders.contains_key(name) {
            // The division is a change of scale; the readers' weights hold the rest.
            sums.fraction_bits += pool_shift(window.kernel);
            return Ok(sums);
        }
        let size = [shape.height, shape.width];
        let divisors = divisors(&window, size, [rows, columns], count_padding);
        let most = divisors.iter().copied().max().unwrap_or(1);
        let bits = CONSTANT_BITS.max(RECIPROCAL_BITS + most.ilog2());
        let reciprocal = |&n: &usize| (((1 << bits) + n / 2) / n) as i64;
        let factors: Vec<i64> = divisors.iter().map(reciprocal).collect();
        let mut average = match factors.split_first() {
            Some((first, rest)) if rest.iter().all(|f| f == first) => sums.times(&[*first]),
            _ => sums.times(&factors.repeat(result.channels)),
        };
        average.fraction_bits += bits;
        Ok(average)
    }

    /// max(a, b) = a + ReLU(b - a), as trees: the columns of a window first, then its rows.
    pub(super) fn max_pool(
        &mut self,
        name: &str,
        input: &'a str,
        window: &Window,
    ) -> Result<Value> {
        let value = self.map(name, input)?;
        let mut value = match value.view() {
            Some(_) => value,
            None => self.local_tensor(input, value)?,
        };
        let result = self.shapes[name];
        let mut n_layers = 0;
        for axis in [1, 0] {
            let extent = [value.shape.height, value.shape.width][axis];
            let count = [result.height, result.width][axis];
            let before = [window.padding.top, window.padding.left][axis];
            let mut elements = Vec::with_capacity(window.kernel[axis]);
            for tap in 0..window.kernel[axis] {
                let span = Span {
                    first: (tap * window.dilation[axis]) as isize - before as isize,
                    step: window.stride[axis],
                    size: 1,
                    count,
                };
                let exists: Vec<bool> = (0..count).map(|i| span.exists(i, extent)).collect();
                if exists.contains(&true) {
                    let (rows, columns) = match axis {
                        0 => (span, Span::whole(result.width)),
                        _ => (Span::whole(value.shape.height), span),
                    };
                    // A sum of tensors becomes one before its rows are taken: then every view is simple.
                    let sliced = match value.spanned(rows, columns) {
                        Some(sliced) => sliced,
                        None => {
                            value = self.tensor(format!("{name}.columns"), value)?;
                            self.spanned(name, value.clone(), rows, columns)?
                        }
                    };
                    elements.push(Element {
                        value: sliced,
                        exists,
                    });
                }
            }
            value = self.largest(name, &mut n_layers, elements, axis)?;
        }
        Ok(value)
    }

    /// The largest of `elements`, which lie along `axis`, two and two at a time.
    fn largest(
        &mut self,
        name: &str,
        n_layers: &mut usize,
        mut elements: Vec<Element>,
        axis: usize,
    ) -> Result<Value> {
        while elements.len() > 1 {
            let odd = (elements.len() % 2 == 1).then(|| elements.pop()).flatten();
            let mut pairs: Vec<(Element, Element)> = Vec::with_capacity(elements.len() / 2);
            let mut left = elements.into_iter();
            while let (Some(a), Some(b)) = (left.next(), left.next()) {
                pairs.push((a, b));
            }
            let shape = pairs[0].0.value.shape;
            let differences = pairs
                .iter()
                .map(|(a, b)| b.value.clone().plus(a.value.clone().times(&[-1])));
            let differences = Value::concat(differences.collect())
                .ok_or_else(|| ModelError::op(name, "its windows hold nothing but padding"))?;
            // Where one of the two is padding there is nothing to compare: the difference stays as it is, and counts or not.
            let both = |i: usize, pair: &(Element, Element)| pair.0.exists[i] && pair.1.exists[i];
            let mask: Vec<u8> = pairs
                .iter()
                .flat_map(|pair| each(shape, axis, |i| u8::from(both(i, pair))))
                .collect();
            *n_layers += 1;
            let relu = ReluSet::from_mask(name, &mask)?;
            let gains = self.close(format!("{name}.max{n_layers}"), differences, relu)?;
            elements = Vec::with_capacity(pairs.len() + 1);
            for (at, (a, b)) in pairs.into_iter().enumerate() {
                let channels: Vec<usize> =
                    (at * shape.channels..(at + 1) * shape.channels).collect();
                let mut gain = gains.clone().pick(&channels);
                if b.exists.contains(&false) {
                    gain = gain.times(&each(shape, axis, |i| i64::from(b.exists[i])));
                }
                let exists = a.exists.iter().zip(&b.exists).map(|(a, b)| a | b);
                elements.push(Element {
                    exists: exists.collect(),
                    value: a.value.plus(gain),
                });
            }
            elements.extend(odd);
        }
        let largest = elements.pop().map(|e| e.value);
        largest.ok_or_else(|| ModelError::op(name, "its windows hold nothing but padding"))
    }

    /// min(ReLU(x), c) = r - ReLU(r - c), r = ReLU(x).
    pub(super) fn clip(&mut self, name: &str, input: &str, max: f64) -> Result<Value> {
        let mask = self.mask(name)?;
        let value = self.take(name, input)?;
        let rectified = self.close(name.to_owned(), value, mask.clone())?;
        let limit = (max * (1u64 << rectified.fraction_bits) as f64).round();
        if !(1.0..2f64.powi(24)).contains(&limit) {
            return Err(ModelError::op(
                name,
                format!("it clips at {max}, which activations do not resolve or reach"),
            ));
        }
        let mut beyond = rectified.clone();
        beyond.constant = -(limit as i64);
        let beyond = self.close(format!("{name}.max"), beyond, mask.clone())?;
        // Where the ReLU was removed nothing is clipped.
        let factors: Vec<i64> = match mask.removed() {
            [] => vec![-1],
            _ => mask.to_mask().iter().map(|&m| -i64::from(m)).collect(),
        };
        Ok(rectified.plus(beyond.times(&factors)))
    }

    /// a x + (1 - a) ReLU(x).
    pub(super) fn leaky_relu(&mut self, name: &str, input: &'a str, slope: f64) -> Result<Value> {
        let mask = self.mask(name)?;
        let value = self.local(name, input)?;
        let value = self.rescaled(input, value)?;
        let rectified = self.close(name.to_owned(), value.clone(), mask)?;
        let unit = 1i64 << CONSTANT_BITS;
        let slope = (slope * unit as f64).round() as i64;
        let mut sum = value.times(&[slope]).plus(rectified.times(&[unit - slope]));
        sum.fraction_bits += CONSTANT_BITS;
        Ok(sum)
    }
}

/// The spans of windows whose results make the map of `result`.
fn windows(window: &Window, result: Shape) -> [Span; 2] {
    let before = [window.padding.top, window.padding.left];
    let counts = [result.height, result.width];
    [0, 1].map(|axis| Span {
        first: -(before[axis] as isize),
        step: window.stride[axis],
        size: window.kernel[axis],
        count: counts[axis],
    })
}

/// What the sum of each window is divided by.
fn divisors(
    window: &Window,
    size: [usize; 2],
    spans: [Span; 2],
    count_padding: bool,
) -> Vec<usize> {
    let after = [window.padding.bottom, window.padding.right];
    let counts = |axis: usize| -> Vec<usize> {
        let span = spans[axis];
        let (low, high) = if count_padding {
            (span.first, (size[axis] + after[axis]) as isize)
        } else {
            (0, size[axis] as isize)
        };
        let count = |i: usize| {
            let first = span.first + (i * span.step) as isize;
            let last = first + span.size as isize;
            (last.min(high) - first.max(low)).max(1) as usize
        };
        (0..span.count).map(count).collect()
    };
    let (rows, columns) = (counts(0), counts(1));
    let all = rows.iter().flat_map(|r| columns.iter().map(move |c| r * c));
    all.collect()
}

/// A number for each value of `shape`, by its position along `axis`.
fn each<T>(shape: Shape, axis: usize, of: impl Fn(usize) -> T) -> Vec<T> {
    let (height, width) = (shape.height, shape.width);
    (0..shape.n_values())
        .map(|at| of([at / width % height, at % width][axis]))
        .collect()
}
