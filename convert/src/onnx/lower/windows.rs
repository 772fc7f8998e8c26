//! Windows that slide over a map: attributes of convolutions and pools, pools, and zeros around a map.

use pi_model::graph::Shape;
use pi_model::spec::{Op, Padding, Window};

use super::super::constant::Constant;
use super::super::graph::Node;
use super::super::shape;
use super::builder::{Builder, Call, Result, Value, View};

/// The window that the attributes of a node describe, over a map of `shape`, and its padding before rounding up.
///
/// `kernel` has one size for each axis of the map: two, or one for a sequence, which is a map of one row.
///
/// # Errors
/// A sentence.
pub fn window(node: &Node, kernel: &[usize], shape: Shape) -> Result<(Window, Padding)> {
    let kernel = two(kernel, "kernel")?;
    let sizes = |name: &str| -> Result<[usize; 2]> {
        let listed = node.ints(name).filter(|l| !l.is_empty());
        let Some(listed) = listed else {
            return Ok([1, 1]);
        };
        let listed = listed.iter().map(|&v| usize::try_from(v).ok());
        let listed = listed.collect::<Option<Vec<_>>>();
        two(
            &listed.ok_or_else(|| format!("its {name} are negative"))?,
            name,
        )
    };
    let (stride, dilation) = (sizes("strides")?, sizes("dilations")?);
    let mut window = Window {
        kernel,
        stride,
        padding: Padding::default(),
        dilation,
    };
    let span = |axis: usize| (kernel[axis].max(1) - 1).saturating_mul(dilation[axis]) + 1;
    let size = [shape.height, shape.width];
    let mut sides = [[0; 2]; 2];
    let auto = node.text("auto_pad").unwrap_or_default();
    match auto.as_str() {
        "" | "NOTSET" => window.padding = padding(node.ints("pads").unwrap_or(&[]))?,
        "VALID" => {}
        "SAME_UPPER" | "SAME_LOWER" => {
            for axis in 0..2 {
                let out = size[axis].div_ceil(stride[axis].max(1));
                let needed = (out.max(1) - 1) * stride[axis] + span(axis);
                let total = needed.saturating_sub(size[axis]);
                let less = total / 2;
                sides[axis] = if auto == "SAME_UPPER" {
                    [less, total - less]
                } else {
                    [total - less, less]
                };
            }
            window.padding = Padding {
                top: sides[0][0],
                bottom: sides[0][1],
                left: sides[1][0],
                right: sides[1][1],
            };
        }
        other => return Err(format!("its auto_pad '{other}' is not known")),
    }
    let stated = window.padding;
    if node.int("ceil_mode") == Some(1) {
        let more = |axis: usize, before: usize, after: usize| {
            let (step, padded) = (stride[axis].max(1), size[axis] + before + after);
            let mut out = padded.saturating_sub(span(axis)).div_ceil(step) + 1;
            // A window must begin on the map or on the padding before it.
            if (out - 1) * step >= size[axis] + before {
                out -= 1;
            }
            ((out.max(1) - 1) * step + span(axis)).saturating_sub(padded)
        };
        let p = &mut window.padding;
        p.bottom += more(0, p.top, p.bottom);
        p.right += more(1, p.left, p.right);
    }
    Ok((window, stated))
}

fn two(sizes: &[usize], what: &str) -> Result<[usize; 2]> {
    match *sizes {
        [columns] => Ok([1, columns]),
        [rows, columns] => Ok([rows, columns]),
        _ => Err(format!(
            "its {what} has {} dimensions; maps of one or two dimensions can be run privately",
            sizes.len()
        )),
    }
}

/// Zeros in the order of ONNX: all beginnings, then all ends.
fn padding(pads: &[i64]) -> Result<Padding> {
    let sizes = pads
        .iter()
        .map(|&p| usize::try_from(p).ok())
        .collect::<Option<Vec<_>>>();
    let sizes = sizes.ok_or("a negative padding, which crops, is not supported")?;
    match *sizes.as_slice() {
        [] => Ok(Padding::default()),
        [left, right] => Ok(Padding::from([0, left, 0, right])),
        [top, left, bottom, right] => Ok(Padding::from([top, left, bottom, right])),
        _ => Err(format!(
            "its padding {pads:?} is not that of a map of one or two dimensions"
        )),
    }
}

/// Whether each window is a single value and none is left out; exporters write such pools where an input fits as it is.
fn is_identity(window: &Window) -> bool {
    *window == Window::square(1, 1, 0)
}

fn kernel(node: &Node) -> Result<Vec<usize>> {
    let listed = node.ints("kernel_shape").unwrap_or(&[]);
    let sizes = listed
        .iter()
        .map(|&v| usize::try_from(v).ok())
        .collect::<Option<Vec<_>>>();
    sizes.ok_or_else(|| "its kernel is negative".into())
}

/// `shape` under as many dimensions as `like` has.
pub fn dims(shape: Shape, like: &View) -> Vec<usize> {
    match like.dims.len() {
        2 => vec![1, shape.n_values()],
        3 => vec![1, shape.channels, shape.width],
        _ => vec![1, shape.channels, shape.height, shape.width],
    }
}

/// Appends an operation that makes a new map from `view`.
///
/// # Errors
/// A sentence.
pub fn map_op(b: &mut Builder, op: Op, view: &View) -> Result<Vec<Value>> {
    let (op, shape) = b.push(op)?;
    let dims = dims(shape, view);
    Ok(vec![Value::View(View {
        op,
        dims,
        ended: None,
    })])
}

/// `MaxPool`, `GlobalMaxPool`.
///
/// # Errors
/// A sentence.
pub fn max_pool(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let view = call.view(0)?;
    let shape = b.map(view)?;
    let window = if call.node.op_type() == "GlobalMaxPool" {
        Window {
            kernel: [shape.height, shape.width],
            ..Window::square(1, 1, 0)
        }
    } else {
        window(call.node, &kernel(call.node)?, shape)?.0
    };
    if is_identity(&window) {
        return Ok(vec![Value::View(view.clone())]);
    }
    let (name, input) = (b.name(&call.node.name), view.op.clone());
    let op = Op::MaxPool {
        name,
        input,
        window,
    };
    map_op(b, op, view)
}

/// `AveragePool`.
///
/// # Errors
/// A sentence.
pub fn average_pool(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let view = call.view(0)?;
    let shape = b.map(view)?;
    let (window, stated) = window(call.node, &kernel(call.node)?, shape)?;
    if window.dilation != [1, 1] {
        return Err("its windows are dilated, which is not supported for averages".into());
    }
    let count_padding =
        call.node.int("count_include_pad") == Some(1) && window.padding != Padding::default();
    if count_padding && window.padding != stated {
        return Err(
            "it counts its padding and rounds its size up (ceil_mode); export it with one of the two".into(),
        );
    }
    if is_identity(&window) {
        return Ok(vec![Value::View(view.clone())]);
    }
    if window.kernel == [shape.height, shape.width] && window.padding == Padding::default() {
        return global_average_pool(b, call);
    }
    let (name, input) = (b.name(&call.node.name), view.op.clone());
    let op = Op::AvgPool {
        name,
        input,
        window,
        count_padding,
    };
    map_op(b, op, view)
}

/// `GlobalAveragePool`.
///
/// # Errors
/// A sentence.
pub fn global_average_pool(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let view = call.view(0)?;
    b.map(view)?;
    let (name, input) = (b.name(&call.node.name), view.op.clone());
    map_op(b, Op::GlobalAvgPool { name, input }, view)
}

/// `ReduceMean` over rows and columns.
///
/// # Errors
/// A sentence if it is over other axes.
pub fn reduce_mean(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let view = call.view(0)?;
    b.map(view)?;
    let rank = view.dims.len();
    let listed = shape::axes(call.node, call.constant(1)?).unwrap_or_default();
    let mut axes = listed
        .iter()
        .map(|&a| shape::axis(a, rank))
        .collect::<Result<Vec<_>>>()?;
    axes.sort_unstable();
    if rank < 3 || axes != (2..rank).collect::<Vec<_>>() {
        return Err(format!(
            "it takes the mean over the axes {listed:?} of {:?}; only that over all rows and columns can be run privately",
            view.dims
        ));
    }
    let mut results = global_average_pool(b, call)?;
    if call.node.int("keepdims") == Some(0)
        && let Some(Value::View(view)) = results.first_mut()
    {
        view.dims.truncate(2);
    }
    Ok(results)
}

/// `Pad` with zeros: around the map, and of whole channels.
///
/// # Errors
/// A sentence for other ways to fill.
pub fn pad(b: &mut Builder, call: &Call) -> Result<Vec<Value>> {
    let (node, view) = (call.node, call.view(0)?);
    let mode = node.text("mode").unwrap_or_default();
    let fill = call
        .constant(2)?
        .map(Constant::to_floats)
        .unwrap_or_default();
    let fill = fill.first().copied().or(node.float("value")).unwrap_or(0.0);
    if !matches!(mode.as_str(), "" | "constant") || fill != 0.0 {
        return Err(format!(
            "it fills with {}; only zeros can be put around a map",
            if fill == 0.0 { mode } else { fill.to_string() }
        ));
    }
    let rank = view.dims.len();
    let pads = match call.constant(1)?.and_then(Constant::to_ints) {
        Some(pads) => pads,
        None => node.ints("pads").unwrap_or(&[]).to_vec(),
    };
    let axes = match call.constant(3)?.and_then(Constant::to_ints) {
        Some(axes) => axes
            .iter()
            .map(|&a| shape::axis(a, rank))
            .collect::<Result<Vec<_>>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(format!(
            "its padding {pads:?} does not fit the shape {:?}",
            view.dims
        ));
    }
    let mut all = vec![0; 2 * rank];
    for (i, a) in axes.iter().enumerate() {
        all[*a] = pads[i];
        all[rank + a] = pads[i + axes.len()];
    }
    let shape = b.map(view)?;
    if all[0] != 0 || all[rank] != 0 {
        return Err("it makes the batch larger, which is not supported".into());
    }
    let map = [&all[2..rank], &all[rank + 2..]].concat();
    let channels = [all[1], all[rank + 1]].map(usize::try_from);
    let [Ok(before), Ok(after)] = channels else {
        return Err("a negative padding, which crops, is not supported".into());
    };
    let mut view = view.clone();
    let padding = padding(&map)?;
    if padding != Padding::default() {
        let (name, input) = (b.name(&node.name), view.op.clone());
        let (op, shape) = b.push(Op::Pad {
            name,
            input,
            padding,
        })?;
        view = View {
            op,
            dims: dims(shape, &view),
            ..view
        };
    }
    if before + after > 0 {
        let parts = [before, after].map(|n| (n > 0).then_some(n));
        view = zero_channels(b, node, view, shape.channels, parts)?;
    }
    Ok(vec![Value::View(view)])
}

/// Puts channels of zeros before and after those of `view`. A channel less itself is zero and costs nothing.
fn zero_channels(
    b: &mut Builder,
    node: &Node,
    view: View,
    channels: usize,
    zeros: [Option<usize>; 2],
) -> Result<View> {
    let mut names = Vec::new();
    for n in zeros {
        let Some(n) = n else {
            names.push(None);
            continue;
        };
        if n > pi_model::graph::MAX_TENSOR_VALUES {
            return Err(format!("a padding of {n} channels is too large"));
        }
        let (name, input) = (b.name(&format!("{}.some", node.name)), view.op.clone());
        let (some, _) = b.push(Op::Channels {
            name,
            input,
            channels: (0..n).map(|i| i % channels).collect(),
        })?;
        let name = b.name(&format!("{}.zeros", node.name));
        let inputs = [some.clone(), some];
        names.push(Some(b.push(Op::Sub { name, inputs })?.0));
    }
    let after = names.pop().flatten();
    let before = names.pop().flatten();
    let inputs = [before, Some(view.op.clone()), after]
        .into_iter()
        .flatten()
        .collect();
    let name = b.name(&node.name);
    let (op, shape) = b.push(Op::Concat { name, inputs })?;
    Ok(View {
        op,
        dims: dims(shape, &view),
        ..view
    })
}
