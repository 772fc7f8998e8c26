//! Sums, constants for each channel, and activations.

use pi_model::spec::Op;

use super::super::constant::Constant;
use super::super::network::Affine;
use super::builder::{Builder, Call, Result, Value, View};

/// `Add`, `Sum`: of results and of constants.
///
/// # Errors
/// A sentence.
pub fn add(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let mut views: Vec<&View> = Vec::new();
    let mut constants: Vec<&Constant> = Vec::new();
    for input in call.inputs.iter().flatten() {
        match input {
            Value::View(view) => views.push(view),
            Value::Constant(constant) => constants.push(constant),
            Value::Unknown => {}
        }
    }
    let Some((&first, rest)) = views.split_first() else {
        return Err("it adds nothing that depends on the image".into());
    };
    let mut view = first.clone();
    if !rest.is_empty() {
        same_dims(b, &views)?;
        let inputs = views.iter().map(|v| v.op.clone()).collect();
        let name = b.name(&call.node.name);
        (view.op, _) = b.push(Op::Add { name, inputs })?;
    }
    for constant in constants {
        let mut affine = Affine::identity(b.shape(&view)?.channels);
        affine.shift = by_channel(b, &view, constant)?;
        view = b.push_affine(&call.node.name, &view, &affine)?;
    }
    Ok(vec![Value::View(view)])
}

fn same_dims(b: &Builder, views: &[&View]) -> Result<()> {
    for view in &views[1..] {
        if view.dims != views[0].dims || b.shape(view)? != b.shape(views[0])? {
            return Err(format!(
                "it combines results of the shapes {:?} and {:?}; both must have the same shape",
                views[0].dims, view.dims
            ));
        }
    }
    Ok(())
}

/// `Sub`.
///
/// # Errors
/// A sentence.
pub fn sub(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let (left, right) = (
        call.inputs.first().cloned().flatten(),
        call.inputs.get(1).cloned().flatten(),
    );
    let view = match (left, right) {
        (Some(Value::View(left)), Some(Value::View(right))) => {
            same_dims(b, &[&left, &right])?;
            let name = b.name(&call.node.name);
            let inputs = [left.op.clone(), right.op];
            let (op, _) = b.push(Op::Sub { name, inputs })?;
            View { op, ..left }
        }
        (Some(Value::View(view)), Some(Value::Constant(c))) => {
            let mut affine = Affine::identity(b.shape(&view)?.channels);
            affine.shift = by_channel(b, &view, &c)?.iter().map(|v| -v).collect();
            b.push_affine(&call.node.name, &view, &affine)?
        }
        (Some(Value::Constant(c)), Some(Value::View(view))) => {
            let shift = by_channel(b, &view, &c)?;
            let scale = vec![-1.0; shift.len()];
            b.push_affine(&call.node.name, &view, &Affine { scale, shift })?
        }
        _ => return Err("an input is absent".into()),
    };
    Ok(vec![Value::View(view)])
}

/// `Mul`, `Div` by constants, and `Neg`.
///
/// # Errors
/// A sentence if two results are multiplied.
pub fn scale(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let kind = call.node.op_type();
    let get = |i: usize| call.inputs.get(i).cloned().flatten();
    let (view, scale) = match (get(0), get(1)) {
        (Some(Value::View(view)), None) if kind == "Neg" => {
            let n = b.shape(&view)?.channels;
            (view, vec![-1.0; n])
        }
        (Some(Value::View(view)), Some(Value::Constant(c))) => {
            let values = by_channel(b, &view, &c)?;
            if kind == "Div" {
                (view, values.iter().map(|v| 1.0 / v).collect())
            } else {
                (view, values)
            }
        }
        (Some(Value::Constant(c)), Some(Value::View(view))) if kind == "Mul" => {
            let values = by_channel(b, &view, &c)?;
            (view, values)
        }
        _ => {
            return Err(
                "it multiplies or divides results by each other, as squeeze-and-excitation and attention do; only constants for each channel can be run privately. Train the network without".into(),
            );
        }
    };
    let mut affine = Affine::identity(scale.len());
    affine.scale = scale;
    let view = b.push_affine(&call.node.name, &view, &affine)?;
    Ok(vec![Value::View(view)])
}

/// The value of `constant` for each channel of `view`.
fn by_channel(b: &Builder, view: &View, constant: &Constant) -> Result<Vec<f64>> {
    let values = constant.to_floats();
    let channels = b.shape(view)?.channels;
    if let [one] = values.as_slice()
        && constant.dims.len() <= view.dims.len()
    {
        return Ok(vec![f64::from(*one); channels]);
    }
    let shape = b.map(view)?;
    let from_end = view.dims.len() - 1;
    let varies = |(i, &d): (usize, &usize)| d != 1 && constant.dims.len() - i != from_end;
    if constant.dims.iter().enumerate().any(varies)
        || constant.dims.len() > view.dims.len()
        || values.len() != shape.channels
    {
        return Err(format!(
            "its constant has the shape {:?} for a result of shape {:?}; only one value for each channel can be run privately",
            constant.dims, view.dims
        ));
    }
    Ok(values.into_iter().map(f64::from).collect())
}

/// `Relu`.
///
/// # Errors
/// A sentence.
pub fn relu(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    push_relu(b, call, call.view(0)?)
}

fn push_relu(b: &mut Builder, call: &Call, view: &View) -> Result<Vec<Value>> {
    let (name, input) = (b.name(&call.node.name), view.op.clone());
    activation(
        b,
        view,
        Op::MaskedRelu {
            name,
            input,
            relus_kept: 0,
        },
    )
}

fn activation(b: &mut Builder, view: &View, op: Op) -> Result<Vec<Value>> {
    let (op, _) = b.push(op)?;
    Ok(vec![Value::View(View { op, ..view.clone() })])
}

/// `Clip` from 0, and `Max` with 0.
///
/// # Errors
/// A sentence for other bounds.
pub fn clip(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let node = call.node;
    let one = |i: usize| -> Result<Option<f32>> {
        let values = call.constant(i)?.map(Constant::to_floats);
        Ok(values.filter(|v| v.len() == 1).map(|v| v[0]))
    };
    let (min, max, view) = if node.op_type() == "Max" {
        let is_view = |i: &usize| matches!(call.inputs.get(*i), Some(Some(Value::View(_))));
        let i = (0..2).find(is_view).unwrap_or(0);
        if call.inputs.len() != 2 {
            return Err("only the maximum of a result and 0 can be run privately".into());
        }
        (one(1 - i)?, None, call.view(i)?)
    } else {
        (
            one(1)?.or(node.float("min")),
            one(2)?.or(node.float("max")),
            call.view(0)?,
        )
    };
    let max = max.map_or(f64::INFINITY, f64::from);
    if min != Some(0.0) || max <= 0.0 || max.is_nan() {
        return Err(format!(
            "it clips from {} to {max}; only clipping from 0 to a value above 0 can be run privately. Train the network with ReLU or ReLU6",
            min.unwrap_or(f32::NEG_INFINITY)
        ));
    }
    if max >= f64::from(f32::MAX) {
        return push_relu(b, call, view);
    }
    let (name, input) = (b.name(&node.name), view.op.clone());
    activation(
        b,
        view,
        Op::Clip {
            name,
            input,
            max,
            relus_kept: 0,
        },
    )
}

/// `LeakyRelu`, and `PRelu` with a slope for each channel.
///
/// # Errors
/// A sentence.
pub fn leaky_relu(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let view = call.view(0)?;
    let slopes = if call.node.op_type() == "PRelu" {
        let constant = call.parameter(1)?;
        // Exporters may write the slopes of a map as (C, 1, 1).
        by_channel(b, view, constant)?
    } else {
        let slope = call.node.float("alpha").unwrap_or(0.01);
        vec![f64::from(slope); b.shape(view)?.channels]
    };
    let slope = slopes.first().copied().unwrap_or(0.0);
    if slopes.iter().all(|&s| s == slope) && (0.0..=1.0).contains(&slope) {
        if slope == 0.0 {
            return push_relu(b, call, view);
        }
        if slope == 1.0 {
            return Ok(vec![Value::View(view.clone())]);
        }
        let (name, input) = (b.name(&call.node.name), view.op.clone());
        let op = Op::LeakyRelu {
            name,
            input,
            slope,
            relus_kept: 0,
        };
        return activation(b, view, op);
    }
    // a x + (1 - a) ReLU(x)
    let name = call.node.name.as_str();
    let affine = |scale: Vec<f64>| Affine {
        shift: vec![0.0; scale.len()],
        scale,
    };
    let part = |kind: &str| format!("{name}.{kind}");
    let negative = b.push_affine(&part("slope"), view, &affine(slopes.clone()))?;
    let (relu, input) = (b.name(&part("relu")), view.op.clone());
    let op = Op::MaskedRelu {
        name: relu,
        input,
        relus_kept: 0,
    };
    let (op, _) = b.push(op)?;
    let relu = View { op, ..view.clone() };
    let rest = slopes.iter().map(|s| 1.0 - s).collect();
    let positive = b.push_affine(&part("rest"), &relu, &affine(rest))?;
    let op = Op::Add {
        name: b.name(name),
        inputs: vec![negative.op, positive.op],
    };
    activation(b, view, op)
}
