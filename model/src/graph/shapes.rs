//! The shape of every result of a list of operations, float or integer.

use std::collections::BTreeMap;

use super::Shape;
use crate::error::{ModelError, Result};
use crate::spec::{ModelSpec, Op, Window};

/// Shape of the image, called `input`, and of the result of each operation, by name.
///
/// # Errors
/// [`ModelError::Op`] naming the operation whose inputs are missing or do not fit.
pub fn shapes(spec: &ModelSpec) -> Result<BTreeMap<String, Shape>> {
    let input = &spec.input;
    let image = Shape::new(input.channels, input.height, input.width).check("input")?;
    let mut known = BTreeMap::from([("input".to_owned(), image)]);
    for op in &spec.ops {
        let name = op.name();
        let inputs = op.inputs().iter().map(|input| {
            known.get(input).copied().ok_or_else(|| {
                ModelError::op(
                    name,
                    format!("it reads '{input}', which no earlier operation makes"),
                )
            })
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let shape = result(op, &inputs)?.check(name)?;
        if known.insert(name.to_owned(), shape).is_some() {
            return Err(ModelError::op(
                name,
                "another operation has the same name, or it is called 'input'",
            ));
        }
    }
    Ok(known)
}

/// Largest kernel, stride, dilation or padding along an axis.
const MAX_WINDOW: usize = 1 << 12;

/// Rows and columns after windows have slid over `shape`.
///
/// # Errors
/// A sentence without the name of the operation.
pub fn slide(shape: Shape, window: &Window) -> std::result::Result<[usize; 2], String> {
    let p = window.padding;
    let sides = [
        (shape.height, p.top, p.bottom),
        (shape.width, p.left, p.right),
    ];
    let mut out = [0; 2];
    for (axis, (size, before, after)) in sides.into_iter().enumerate() {
        let (kernel, stride, dilation) = (
            window.kernel[axis],
            window.stride[axis],
            window.dilation[axis],
        );
        let all = [kernel, stride, dilation, before, after];
        if let Some(n) = all.iter().find(|&&n| n > MAX_WINDOW) {
            return Err(format!(
                "a kernel, stride, dilation or padding of {n}; at most {MAX_WINDOW} is supported"
            ));
        }
        let span = kernel.checked_sub(1).and_then(|k| k.checked_mul(dilation));
        let span = span.and_then(|s| s.checked_add(1));
        let padded = before.checked_add(after).and_then(|p| p.checked_add(size));
        let fits = span
            .zip(padded)
            .filter(|&(span, _)| stride > 0 && dilation > 0 && before < span && after < span)
            .and_then(|(span, padded)| padded.checked_sub(span));
        let Some(left) = fits else {
            return Err(format!(
                "a kernel of {:?} with stride {:?}, dilation {:?} and padding {:?} does not fit the shape {shape}; the kernel must fit the padded input, the padding be smaller than the kernel, strides and dilations be positive",
                window.kernel,
                window.stride,
                window.dilation,
                <[usize; 4]>::from(p)
            ));
        };
        out[axis] = left / stride + 1;
    }
    Ok(out)
}

fn result(op: &Op, inputs: &[Shape]) -> Result<Shape> {
    let refuse = |reason: String| Err(ModelError::op(op.name(), reason));
    let Some(&first) = inputs.first() else {
        return refuse("it reads nothing".into());
    };
    let windows = |channels: usize, window: &Window| -> Result<Shape> {
        let [height, width] =
            slide(first, window).map_err(|reason| ModelError::op(op.name(), reason))?;
        Ok(Shape::new(channels, height, width))
    };
    match op {
        Op::Conv2d {
            out_channels,
            window,
            groups,
            ..
        } => {
            let divides = |n: usize| *groups > 0 && n.is_multiple_of(*groups);
            if !divides(first.channels) || !divides(*out_channels) {
                return refuse(format!(
                    "{groups} groups do not divide its {} channels and {out_channels} filters",
                    first.channels
                ));
            }
            windows(*out_channels, window)
        }
        Op::Linear { out_features, .. } => {
            if (first.height, first.width) != (1, 1) {
                return refuse(format!(
                    "it reads the shape {first}; put a flatten before it"
                ));
            }
            Ok(Shape::new(*out_features, 1, 1))
        }
        Op::Add { .. } | Op::Sub { .. } => {
            if inputs.len() < 2 {
                return refuse("it needs two summands or more".into());
            }
            match inputs.iter().find(|&&shape| shape != first) {
                Some(other) => refuse(format!("its summands have the shapes {first} and {other}")),
                None => Ok(first),
            }
        }
        Op::Concat { .. } | Op::Channels { .. } => channels(op, inputs),
        Op::Pad { padding: p, .. } => {
            let sides = [p.top, p.left, p.bottom, p.right];
            if sides.iter().any(|&n| n > super::MAX_TENSOR_VALUES) {
                return refuse(format!("a padding of {sides:?} is too large"));
            }
            Ok(Shape::new(
                first.channels,
                first.height + p.top + p.bottom,
                first.width + p.left + p.right,
            ))
        }
        Op::AvgPool { window, .. } if window.dilation != [1, 1] => {
            refuse("an average pool with dilation is not supported".into())
        }
        Op::AvgPool { window, .. } | Op::MaxPool { window, .. } => windows(first.channels, window),
        Op::GlobalAvgPool { .. } => Ok(Shape::new(first.channels, 1, 1)),
        Op::Flatten { .. } => Ok(Shape::new(first.n_values(), 1, 1)),
        Op::Clip { max, .. } if !(max.is_finite() && *max > 0.0) => {
            refuse(format!("it clips at {max}, which must be above 0"))
        }
        Op::LeakyRelu { slope, .. } if !(0.0..1.0).contains(slope) => refuse(format!(
            "its slope is {slope}, which must be from 0 to below 1"
        )),
        Op::Bias { .. } | Op::MaskedRelu { .. } | Op::Clip { .. } | Op::LeakyRelu { .. } => {
            Ok(first)
        }
    }
}

/// What is made of channels.
fn channels(op: &Op, inputs: &[Shape]) -> Result<Shape> {
    let refuse = |reason: String| Err(ModelError::op(op.name(), reason));
    let first = inputs[0];
    match op {
        Op::Concat { .. } => {
            let map = |s: &Shape| (s.height, s.width);
            if let Some(other) = inputs.iter().find(|s| map(s) != map(&first)) {
                return refuse(format!(
                    "it puts together the shapes {first} and {other}; rows and columns must be the same"
                ));
            }
            let channels = inputs.iter().map(|s| s.channels).sum();
            Ok(Shape::new(channels, first.height, first.width))
        }
        Op::Channels { channels, .. } => match channels.iter().find(|&&c| c >= first.channels) {
            Some(c) => refuse(format!(
                "it takes channel {c} of a result that has {} of them, counted from 0",
                first.channels
            )),
            None => Ok(Shape::new(channels.len(), first.height, first.width)),
        },
        _ => Ok(first),
    }
}
