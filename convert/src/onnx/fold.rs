//! Operators whose inputs are all known are computed at once: exporters write shapes and normalisations that way.

use super::constant::{Constant, MAX_VALUES, Values};
use super::graph::Node;
use super::shape;

type Result<T> = std::result::Result<T, String>;

/// Result of a node that reads nothing but constants; none for operators that are not computed here.
///
/// # Errors
/// A sentence where its parameters do not fit.
pub fn fold(node: &Node, inputs: &[Option<&Constant>]) -> Option<Result<Constant>> {
    let second = inputs.get(1).copied().flatten();
    if node.op_type() == "Range" {
        return Some(range(inputs));
    }
    if node.op_type() == "Concat" {
        return Some(concat(node, inputs));
    }
    let first = inputs.first().copied().flatten()?;
    if let Some(dims) = shape::reshaped(node, &first.dims, second) {
        return Some(dims.map(|dims| Constant {
            dims,
            values: first.values.clone(),
        }));
    }
    Some(match node.op_type() {
        "ConstantOfShape" => constant_of_shape(node, first),
        "Shape" => sizes(node, &first.dims),
        "Cast" => Ok(cast(node, first)),
        "Slice" => shape::slice(node, &first.dims, &inputs[1..]).map(|picks| {
            let dims = picks.iter().map(Vec::len).collect();
            first.pick(dims, &shape::positions(&first.dims, &picks))
        }),
        "Gather" => gather(node, first, second?),
        "Transpose" => shape::order(node, first.dims.len()).map(|order| {
            let (dims, from) = shape::transposed(&first.dims, &order);
            first.pick(dims, &from)
        }),
        "Expand" => {
            let wanted = second?.to_ints()?;
            let wanted: Option<Vec<usize>> =
                wanted.iter().map(|&d| usize::try_from(d).ok()).collect();
            let dims = wanted.ok_or_else(|| "its shape is negative".to_owned());
            dims.and_then(|wanted| broadcast(&first.dims, &wanted))
                .map(|dims| spread(first, &dims))
        }
        "Sqrt" => real(first, f32::sqrt),
        "Neg" => match &first.values {
            Values::Floats(_) => real(first, |v| -v),
            Values::Ints(v) => Ok(Constant {
                dims: first.dims.clone(),
                values: Values::Ints(v.iter().map(|n| n.wrapping_neg()).collect()),
            }),
        },
        "Exp" => real(first, f32::exp),
        "Floor" => real(first, f32::floor),
        "Ceil" => real(first, f32::ceil),
        "Reciprocal" => real(first, f32::recip),
        "Add" => binary(first, second?, |a, b| a + b, i64::checked_add),
        "Sub" => binary(first, second?, |a, b| a - b, i64::checked_sub),
        "Mul" => binary(first, second?, |a, b| a * b, i64::checked_mul),
        "Div" => binary(first, second?, |a, b| a / b, i64::checked_div),
        _ => return None,
    })
}

/// What a `Shape` node makes of a tensor of shape `dims`.
///
/// # Errors
/// A sentence where a size is too large.
pub fn sizes(node: &Node, dims: &[usize]) -> Result<Constant> {
    let rank = i64::try_from(dims.len()).map_err(|e| e.to_string())?;
    let bound = |name: &str, default: i64| {
        let at = node.int(name).unwrap_or(default);
        let at = if at < 0 { at.saturating_add(rank) } else { at };
        usize::try_from(at.clamp(0, rank)).unwrap_or(0)
    };
    let (start, end) = (bound("start", 0), bound("end", rank));
    let part = dims.get(start..end).unwrap_or(&[]);
    let sizes = part
        .iter()
        .map(|&d| i64::try_from(d).map_err(|e| e.to_string()));
    Ok(Constant::ints(sizes.collect::<Result<_>>()?))
}

/// The shape that two shapes are stretched to.
///
/// # Errors
/// A sentence where they do not fit.
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    let dims = (0..rank).map(|i| match (at(a, i), at(b, i)) {
        (x, y) if x == y || y == 1 => Ok(x),
        (1, y) => Ok(y),
        _ => Err(format!("the shapes {a:?} and {b:?} do not fit")),
    });
    dims.collect()
}

/// `constant` stretched to `dims`, which it must fit.
pub fn spread(constant: &Constant, dims: &[usize]) -> Constant {
    let extra = dims.len() - constant.dims.len();
    let mut from = vec![0];
    for (a, &dim) in dims.iter().enumerate() {
        let own = a.checked_sub(extra).map_or(1, |a| constant.dims[a]);
        from = from
            .into_iter()
            .flat_map(|base| (0..dim).map(move |i| base * own + if own == 1 { 0 } else { i }))
            .collect();
    }
    constant.pick(dims.to_vec(), &from)
}

fn real(c: &Constant, f: impl Fn(f32) -> f32) -> Result<Constant> {
    Ok(Constant {
        dims: c.dims.clone(),
        values: Values::Floats(c.to_floats().into_iter().map(f).collect()),
    })
}

fn binary(
    a: &Constant,
    b: &Constant,
    real: impl Fn(f32, f32) -> f32,
    whole: impl Fn(i64, i64) -> Option<i64>,
) -> Result<Constant> {
    let dims = broadcast(&a.dims, &b.dims)?;
    let (a, b) = (spread(a, &dims), spread(b, &dims));
    let values = match (&a.values, &b.values) {
        (Values::Ints(a), Values::Ints(b)) => {
            let values = a.iter().zip(b).map(|(&a, &b)| whole(a, b));
            let values = values.collect::<Option<Vec<_>>>();
            Values::Ints(values.ok_or("integers overflow, or are divided by 0")?)
        }
        _ => {
            let (a, b) = (a.to_floats(), b.to_floats());
            Values::Floats(a.into_iter().zip(b).map(|(a, b)| real(a, b)).collect())
        }
    };
    Ok(Constant { dims, values })
}

fn constant_of_shape(node: &Node, shape: &Constant) -> Result<Constant> {
    let value = match node.tensor("value") {
        Some(proto) => Constant::decode(proto, None).map_err(|e| e.to_string())?,
        None => Constant {
            dims: vec![1],
            values: Values::Floats(vec![0.0]),
        },
    };
    let sizes = shape.to_ints().unwrap_or_default();
    let dims = sizes
        .iter()
        .map(|&d| usize::try_from(d).ok())
        .collect::<Option<Vec<_>>>();
    let n = dims
        .as_ref()
        .and_then(|dims| dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)));
    match dims.zip(n) {
        Some((dims, n)) if value.n_values() == 1 && n <= MAX_VALUES => {
            let values = match value.values {
                Values::Floats(v) => Values::Floats(vec![v[0]; n]),
                Values::Ints(v) => Values::Ints(vec![v[0]; n]),
            };
            Ok(Constant { dims, values })
        }
        _ => Err(format!("its shape {sizes:?} is not possible")),
    }
}

/// Whether a `Cast` node makes real numbers.
pub fn is_to_real(node: &Node) -> bool {
    use super::proto::data_type as t;
    matches!(
        node.int("to").and_then(|to| i32::try_from(to).ok()),
        Some(t::FLOAT | t::DOUBLE | t::FLOAT16 | t::BFLOAT16)
    )
}

fn cast(node: &Node, c: &Constant) -> Constant {
    let to_real = is_to_real(node);
    let values = match &c.values {
        Values::Ints(_) if to_real => Values::Floats(c.to_floats()),
        Values::Floats(v) if !to_real => Values::Ints(v.iter().map(|&v| v as i64).collect()),
        same => same.clone(),
    };
    Constant {
        dims: c.dims.clone(),
        values,
    }
}

fn gather(node: &Node, data: &Constant, indices: &Constant) -> Result<Constant> {
    let axis = shape::axis(node.int("axis").unwrap_or(0), data.dims.len())?;
    let indices_of = indices.to_ints().ok_or("its indices are not integers")?;
    let picks = indices_of.iter().map(|&i| shape::axis(i, data.dims[axis]));
    let picks = picks.collect::<Result<Vec<_>>>()?;
    let mut all: Vec<Vec<usize>> = data.dims.iter().map(|&d| (0..d).collect()).collect();
    all[axis] = picks;
    let dims = [&data.dims[..axis], &indices.dims, &data.dims[axis + 1..]].concat();
    Ok(data.pick(dims, &shape::positions(&data.dims, &all)))
}

fn concat(node: &Node, inputs: &[Option<&Constant>]) -> Result<Constant> {
    let parts = inputs.iter().copied().collect::<Option<Vec<_>>>();
    let parts = parts
        .filter(|p| !p.is_empty())
        .ok_or("an input is absent")?;
    let first = &parts[0].dims;
    let axis = shape::axis(node.int("axis").unwrap_or(0), first.len())?;
    let same = |p: &&&Constant| {
        p.dims.len() == first.len() && (0..first.len()).all(|a| a == axis || p.dims[a] == first[a])
    };
    if parts.iter().filter(same).count() != parts.len() {
        return Err("the shapes of its inputs do not fit".into());
    }
    let mut dims = first.clone();
    dims[axis] = parts.iter().map(|p| p.dims[axis]).sum();
    let outer: usize = first[..axis].iter().product();
    let chunk = |p: &Constant| p.dims[axis..].iter().product::<usize>();
    let values = if parts.iter().all(|p| matches!(p.values, Values::Ints(_))) {
        let parts: Vec<_> = parts
            .iter()
            .map(|p| (chunk(p), p.to_ints().unwrap_or_default()))
            .collect();
        Values::Ints(interleave(outer, &parts))
    } else {
        let parts: Vec<_> = parts.iter().map(|p| (chunk(p), p.to_floats())).collect();
        Values::Floats(interleave(outer, &parts))
    };
    Ok(Constant { dims, values })
}

fn interleave<T: Copy>(outer: usize, parts: &[(usize, Vec<T>)]) -> Vec<T> {
    (0..outer)
        .flat_map(|o| {
            parts
                .iter()
                .flat_map(move |(n, v)| v[o * n..(o + 1) * n].iter().copied())
        })
        .collect()
}

fn range(inputs: &[Option<&Constant>]) -> Result<Constant> {
    let bounds = inputs
        .iter()
        .map(|c| c.and_then(Constant::to_ints).filter(|v| v.len() == 1));
    let bounds = bounds
        .collect::<Option<Vec<_>>>()
        .unwrap_or_default()
        .concat();
    match bounds.as_slice() {
        &[start, limit, delta] if delta > 0 && limit.saturating_sub(start) <= 1 << 24 => {
            let mut values = vec![];
            let mut at = start;
            while at < limit {
                values.push(at);
                at = at.saturating_add(delta);
            }
            Ok(Constant::ints(values))
        }
        other => Err(format!("its bounds {other:?} are not supported")),
    }
}
