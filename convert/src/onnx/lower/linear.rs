//! Convolutions, matrices and normalisations with constant weights.

use pi_model::FloatWeights;
use pi_model::spec::{Op, Padding, Window};

use super::super::constant::Constant;
use super::super::network::Affine;
use super::builder::{Builder, Call, Result, Value, View};
use super::windows::{map_op, window};

/// `Conv`.
///
/// # Errors
/// A sentence.
pub fn conv(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let view = call.view(0)?;
    let weight = call.parameter(1)?;
    let shape = b.map(view)?;
    let &[out_channels, per_group, ref kernel @ ..] = weight.dims.as_slice() else {
        return Err(format!("its weights have the shape {:?}", weight.dims));
    };
    if kernel.len() + 2 != view.dims.len() {
        return Err(format!(
            "its weights have the shape {:?} and its input {:?}, which do not fit",
            weight.dims, view.dims
        ));
    }
    let groups = usize::try_from(call.node.int("group").unwrap_or(1)).unwrap_or(0);
    if per_group.checked_mul(groups) != Some(shape.channels) {
        return Err(format!(
            "its weights read {per_group} channels in each of {groups} groups, its input has {}",
            shape.channels
        ));
    }
    let (mut window, _) = window(call.node, kernel, shape)?;
    let mut input = view.op.clone();
    let name = b.name(&call.node.name);
    if is_wide(&window) {
        let padding = std::mem::take(&mut window.padding);
        let pad = b.name(&format!("{}.pad", call.node.name));
        (input, _) = b.push(Op::Pad {
            name: pad,
            input,
            padding,
        })?;
    }
    let weights = FloatWeights {
        weight: weight.to_floats(),
        bias: bias(call.constant(2)?, out_channels, 1.0)?,
    };
    let op = Op::Conv2d {
        name,
        input,
        out_channels,
        window,
        groups,
    };
    let results = map_op(b, op, view)?;
    if let Some(Value::View(view)) = results.first() {
        b.network.weights.insert(view.op.clone(), weights);
    }
    Ok(results)
}

/// Whether a side of the padding is as large as the kernel: then zeros must be put around the map first.
fn is_wide(window: &Window) -> bool {
    let Padding {
        top,
        left,
        bottom,
        right,
    } = window.padding;
    let span = |axis: usize| {
        let steps = window.kernel[axis].max(1) - 1;
        steps.saturating_mul(window.dilation[axis])
    };
    top.max(bottom) > span(0) || left.max(right) > span(1)
}

fn bias(constant: Option<&Constant>, n: usize, factor: f32) -> Result<Vec<f32>> {
    let Some(constant) = constant else {
        return Ok(vec![0.0; n]);
    };
    let values = constant.to_floats();
    match values.as_slice() {
        &[one] => Ok(vec![one * factor; n]),
        all if all.len() == n => Ok(all.iter().map(|v| v * factor).collect()),
        all => Err(format!("it has {} biases for {n} results", all.len())),
    }
}

/// `Gemm` and `MatMul` by a constant.
///
/// # Errors
/// A sentence.
pub fn matrix(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let node = call.node;
    let is_gemm = node.op_type() == "Gemm";
    if matches!(
        (call.inputs.first(), call.inputs.get(1)),
        (Some(Some(Value::View(_))), Some(Some(Value::View(_))))
    ) {
        return Err(
            "it multiplies two results with each other, as attention does; only products with constant weights can be run privately. Choose a network of convolutions".into(),
        );
    }
    let view = call.view(0)?;
    let weight = call.parameter(1)?;
    let factor = |name: &str| node.float(name).filter(|_| is_gemm).unwrap_or(1.0);
    let transposed = is_gemm && node.int("transB") == Some(1);
    if is_gemm && node.int("transA") == Some(1) {
        return Err(
            "it transposes its input (transA), which is not supported; export it without".into(),
        );
    }
    let features = b.vector(view)?;
    let &[rows, columns] = weight.dims.as_slice() else {
        return Err(format!(
            "its weights have the shape {:?}; a matrix is needed",
            weight.dims
        ));
    };
    let (out_features, read) = if transposed {
        (rows, columns)
    } else {
        (columns, rows)
    };
    if read != features {
        return Err(format!(
            "its weights read {read} features, its input has {features}"
        ));
    }
    let (values, alpha) = (weight.to_floats(), factor("alpha"));
    let weight = if transposed {
        values.iter().map(|v| v * alpha).collect()
    } else {
        let column = |o: usize| values.iter().skip(o).step_by(columns).map(|v| v * alpha);
        (0..columns).flat_map(column).collect()
    };
    let third = if is_gemm { call.constant(2)? } else { None };
    let bias = bias(third, out_features, factor("beta"))?;
    let (name, input) = (b.name(&node.name), view.op.clone());
    let op = Op::Linear {
        name,
        input,
        out_features,
    };
    let (op, _) = b.push_weights(op, FloatWeights { weight, bias })?;
    let mut dims = view.dims.clone();
    if let Some(last) = dims.last_mut() {
        *last = out_features;
    }
    Ok(vec![Value::View(View {
        op,
        dims,
        ended: None,
    })])
}

/// `BatchNormalization` with the statistics of the training.
///
/// # Errors
/// A sentence.
pub fn batch_normalization(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let view = call.view(0)?;
    if call.node.int("training_mode") == Some(1) {
        return Err(
            "it is in training mode, where it depends on the other images; call model.eval() before the export".into(),
        );
    }
    let channels = b.map(view)?.channels;
    let read = |i: usize| -> Result<Vec<f64>> {
        let values = call.parameter(i)?.to_floats();
        if values.len() != channels {
            return Err(format!(
                "its input {i} has {} values for {channels} channels",
                values.len()
            ));
        }
        Ok(values.into_iter().map(f64::from).collect())
    };
    let (gamma, beta, mean, variance) = (read(1)?, read(2)?, read(3)?, read(4)?);
    let epsilon = f64::from(call.node.float("epsilon").unwrap_or(1e-5));
    let mut affine = Affine::identity(channels);
    let mut statistics = vec![];
    for c in 0..channels {
        let deviation = (variance[c] + epsilon).sqrt();
        if deviation <= 0.0 || deviation.is_nan() {
            return Err(format!("the variance of channel {c} is {}", variance[c]));
        }
        statistics.push([mean[c], deviation]);
        affine.scale[c] = gamma[c] / deviation;
        affine.shift[c] = beta[c] - mean[c] * affine.scale[c];
    }
    let view = b.push_affine(&call.node.name, view, &affine)?;
    b.network.statistics.insert(view.op.clone(), statistics);
    Ok(vec![Value::View(view)])
}
