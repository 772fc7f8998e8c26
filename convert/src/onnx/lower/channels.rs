//! Channels put together, taken apart and put in another order; reshapes.

use pi_model::graph::Shape;
use pi_model::spec::{Op, Window};

use super::super::constant::Constant;
use super::super::fold;
use super::super::shape;
use super::builder::{Builder, Call, Result, Value, View};
use super::windows::{dims, map_op};

/// `Concat` of channels.
///
/// # Errors
/// A sentence.
pub fn concat(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let views = (0..call.inputs.len())
        .map(|i| call.view(i))
        .collect::<Result<Vec<_>>>()?;
    let Some(&first) = views.first() else {
        return Err("it reads nothing".into());
    };
    let axis = shape::axis(call.node.int("axis").unwrap_or(1), first.dims.len())?;
    if axis != 1 {
        return Err(format!(
            "it puts together axis {axis} of {:?}; only channels, axis 1, can be put together",
            first.dims
        ));
    }
    for view in &views {
        b.map(view)?;
    }
    if views.len() == 1 {
        return Ok(vec![Value::View(first.clone())]);
    }
    let inputs = views.iter().map(|v| v.op.clone()).collect();
    let name = b.name(&call.node.name);
    map_op(b, Op::Concat { name, inputs }, first)
}

/// The channels `channels` of `view`, as a new result called after `name`.
fn take(b: &mut Builder, name: &str, view: &View, channels: Vec<usize>) -> Result<View> {
    let shape = b.map(view)?;
    if channels.iter().copied().eq(0..shape.channels) {
        return Ok(view.clone());
    }
    if channels.is_empty() {
        return Err("it takes no channel at all".into());
    }
    let (name, input) = (b.name(name), view.op.clone());
    let (op, shape) = b.push(Op::Channels {
        name,
        input,
        channels,
    })?;
    Ok(View {
        op,
        dims: dims(shape, view),
        ..view.clone()
    })
}

/// `Split` of channels.
///
/// # Errors
/// A sentence.
pub fn split(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let (node, view) = (call.node, call.view(0)?);
    let channels = b.map(view)?.channels;
    let axis = shape::axis(node.int("axis").unwrap_or(0), view.dims.len())?;
    if axis != 1 {
        return Err(format!(
            "it splits axis {axis} of {:?}; only channels, axis 1, can be split",
            view.dims
        ));
    }
    let n = node.outputs().len().max(1);
    let listed = match call.constant(1)? {
        Some(constant) => constant.to_ints(),
        None => node.ints("split").map(<[i64]>::to_vec),
    };
    let sizes = match listed {
        Some(listed) => listed.iter().map(|&s| usize::try_from(s).ok()).collect(),
        None => {
            let size = channels.div_ceil(n);
            Some(
                (0..n)
                    .map(|i| size.min(channels.saturating_sub(i * size)))
                    .collect(),
            )
        }
    };
    let sizes: Vec<usize> = sizes.ok_or("a part has a negative size")?;
    let total = sizes.iter().try_fold(0usize, |t, &s| t.checked_add(s));
    if sizes.len() != n || total != Some(channels) {
        return Err(format!(
            "its parts {sizes:?} do not make up {channels} channels"
        ));
    }
    let mut start = 0;
    let mut parts = Vec::with_capacity(n);
    for (i, size) in sizes.into_iter().enumerate() {
        let name = format!("{}.{i}", node.name);
        parts.push(Value::View(take(
            b,
            &name,
            view,
            (start..start + size).collect(),
        )?));
        start += size;
    }
    Ok(parts)
}

/// `Slice` of channels, and every n-th row and column.
///
/// # Errors
/// A sentence.
pub fn slice(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let (node, view) = (call.node, call.view(0)?);
    let picks = shape::slice(node, &view.dims, &call.constants())?;
    if picks
        .iter()
        .zip(&view.dims)
        .all(|(p, &d)| p.iter().copied().eq(0..d))
    {
        return Ok(vec![Value::View(view.clone())]);
    }
    let map = b.map(view)?;
    if picks[0] != [0] {
        return Err("it takes nothing of the batch".into());
    }
    let view = take(b, &node.name, view, picks[1].clone())?;
    let (rows, columns) = match &picks[2..] {
        [] => (1, 1),
        [columns] => (1, every(columns, map.width)?),
        [rows, columns, ..] => (every(rows, map.height)?, every(columns, map.width)?),
    };
    if (rows, columns) == (1, 1) {
        return Ok(vec![Value::View(view)]);
    }
    let (name, input) = (b.name(&node.name), view.op.clone());
    let op = Op::AvgPool {
        name,
        input,
        window: Window {
            stride: [rows, columns],
            ..Window::square(1, 1, 0)
        },
        count_padding: false,
    };
    map_op(b, op, &view)
}

/// The step of `picks` if they are every n-th of `size`.
fn every(picks: &[usize], size: usize) -> Result<usize> {
    let step = match picks {
        [0] => size,
        [0, step, ..] => *step,
        _ => 0,
    };
    if step > 0 && picks.iter().copied().eq((0..size).step_by(step)) {
        return Ok(step);
    }
    Err("it crops the map; only channels, and every n-th row and column from the first, can be taken".into())
}

/// `Gather` of channels by constant numbers.
///
/// # Errors
/// A sentence.
pub fn gather(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let (node, view) = (call.node, call.view(0)?);
    let indices = call.parameter(1)?;
    let axis = shape::axis(node.int("axis").unwrap_or(0), view.dims.len())?;
    let channels = b.map(view)?.channels;
    if axis != 1 || indices.dims.len() != 1 {
        return Err(format!(
            "it takes parts of axis {axis} of {:?}; only a list of channels, axis 1, can be taken",
            view.dims
        ));
    }
    let listed = indices.to_ints().unwrap_or_default();
    let listed = listed
        .iter()
        .map(|&i| shape::axis(i, channels))
        .collect::<Result<_>>()?;
    Ok(vec![Value::View(take(b, &node.name, view, listed)?)])
}

/// `Transpose` where it moves whole channels, as in a shuffle, or elements of a vector.
///
/// # Errors
/// A sentence.
pub fn transpose(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let (node, view) = (call.node, call.view(0)?);
    let order = shape::order(node, view.dims.len())?;
    let (dims, from) = shape::transposed(&view.dims, &order);
    if from.iter().copied().eq(0..from.len()) {
        return Ok(vec![Value::View(view.with_dims(dims))]);
    }
    // Where a layout is changed and then changed back, the map before the first change is read.
    let (source, from) = match reordered(b, &view.op) {
        Some((source, before)) => (source, from.iter().map(|&p| before[p]).collect()),
        None => (view.op.clone(), from),
    };
    let source = view_of(source);
    let shape = b.shape(&source)?;
    let area = shape.height * shape.width;
    let channels: Vec<usize> = from.iter().step_by(area).map(|&p| p / area).collect();
    let whole = |(i, &p): (usize, &usize)| p == channels[i / area] * area + i % area;
    let (input, channels) = if from.iter().enumerate().all(whole) {
        (source.op, channels)
    } else {
        (
            flatten(b, &format!("{}.flatten", node.name), &source.op)?,
            from,
        )
    };
    if channels.iter().copied().eq(0..shape.channels) {
        return Ok(vec![Value::View(view_of(input).with_dims(dims))]);
    }
    let name = b.name(&node.name);
    let (op, _) = b.push(Op::Channels {
        name,
        input,
        channels,
    })?;
    Ok(vec![Value::View(View {
        op,
        dims,
        ended: None,
    })])
}

fn flatten(b: &mut Builder, name: &str, input: &str) -> Result<String> {
    let (name, input) = (b.name(name), input.to_owned());
    Ok(b.push(Op::Flatten { name, input })?.0)
}

/// `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`, `Identity`, `Dropout` and the like: the same elements under another shape.
///
/// # Errors
/// A sentence, also where the elements would not be the same.
pub fn reshape(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let (node, view) = (call.node, call.view(0)?);
    changes_elements(call)?;
    let second = call.inputs.get(1).and_then(|v| match v {
        Some(Value::Constant(c)) => Some(&**c),
        _ => None,
    });
    let dims = match shape::reshaped(node, &view.dims, second) {
        Some(dims) => dims?,
        None => view.dims.clone(),
    };
    let mut view = view.with_dims(dims);
    let shape = b.shape(&view)?;
    let is_vector = view.dims.iter().filter(|&&d| d != 1).count() <= 1 && view.dims.len() <= 2;
    if is_vector && (shape.height, shape.width) != (1, 1) {
        view.op = flatten(b, &node.name, &view.op)?;
    }
    if let [1, c, h, w] = *view.dims.as_slice()
        && let Some(source) = flattened(b, &view.op)
        && b.shape(&source)? == Shape::new(c, h, w)
    {
        view.op = source.op;
    }
    Ok(vec![Value::View(view)])
}

/// Refuses a `Dropout` that drops and a `Cast` that rounds.
fn changes_elements(call: &Call) -> Result<()> {
    match call.node.op_type() {
        "Dropout" if call.constant(2)?.and_then(Constant::to_ints) == Some(vec![1]) => Err(
            "it is in training mode, where it drops values at random; call model.eval() before the export".into(),
        ),
        "Cast" if !fold::is_to_real(call.node) => Err(
            "it makes integers of a result, which is no ReLU; export the network without it".into(),
        ),
        _ => Ok(()),
    }
}

fn view_of(op: String) -> View {
    View {
        op,
        dims: vec![],
        ended: None,
    }
}

/// The map of which `op` holds the elements in another order, and that order.
fn reordered(b: &Builder, op: &str) -> Option<(String, Vec<usize>)> {
    match &b.network.spec.ops[b.network.position(op)?] {
        Op::Channels {
            input, channels, ..
        } => Some((flattened(b, input)?.op, channels.clone())),
        _ => None,
    }
}

/// The map of which `op` is the flattened form.
fn flattened(b: &Builder, op: &str) -> Option<View> {
    match &b.network.spec.ops[b.network.position(op)?] {
        Op::Flatten { input, .. } => Some(view_of(input.clone())),
        _ => None,
    }
}
