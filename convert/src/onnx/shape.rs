//! Arithmetic of ONNX shapes: what reshapes, slices and transpositions do to the order of elements. Errors are sentences.

use super::constant::Constant;
use super::graph::Node;

type Result<T> = std::result::Result<T, String>;

/// The axis that `axis`, counted from the end where it is negative, stands for.
pub fn axis(axis: i64, rank: usize) -> Result<usize> {
    let from_start = if axis < 0 {
        i64::try_from(rank).unwrap_or(i64::MAX).checked_add(axis)
    } else {
        Some(axis)
    };
    let found = from_start.and_then(|a| usize::try_from(a).ok());
    found
        .filter(|&a| a < rank)
        .ok_or_else(|| format!("axis {axis} does not exist in a tensor of {rank} dimensions"))
}

/// Axes in a list, or in an input of newer versions.
pub fn axes(node: &Node, input: Option<&Constant>) -> Option<Vec<i64>> {
    let listed = node.ints("axes").map(<[i64]>::to_vec);
    listed.or_else(|| input.and_then(Constant::to_ints))
}

/// Shape after one of the operators that only give the elements another shape; none for other operators.
///
/// `second` is the constant that it reads beside the tensor, if any.
pub fn reshaped(
    node: &Node,
    dims: &[usize],
    second: Option<&Constant>,
) -> Option<Result<Vec<usize>>> {
    Some(match node.op_type() {
        "Identity" | "Dropout" => Ok(dims.to_vec()),
        "Reshape" => match second.and_then(Constant::to_ints) {
            Some(to) => reshape(dims, &to, node.int("allowzero") == Some(1)),
            None => Err("its shape is not known before the network runs".into()),
        },
        "Flatten" => flatten(dims, node.int("axis").unwrap_or(1)),
        "Squeeze" => squeeze(dims, axes(node, second).as_deref()),
        "Unsqueeze" => match axes(node, second) {
            Some(axes) => unsqueeze(dims, &axes),
            None => Err("its axes are not known before the network runs".into()),
        },
        _ => return None,
    })
}

fn reshape(from: &[usize], to: &[i64], allow_zero: bool) -> Result<Vec<usize>> {
    let fault = || format!("a tensor of shape {from:?} cannot be given the shape {to:?}");
    let n: usize = from.iter().product();
    let mut dims = Vec::with_capacity(to.len());
    let mut open = None;
    for (i, &d) in to.iter().enumerate() {
        dims.push(match d {
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            0 if !allow_zero => *from.get(i).ok_or_else(fault)?,
            d => usize::try_from(d).map_err(|_| fault())?,
        });
    }
    let product = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let product = product.ok_or_else(fault)?;
    match open {
        Some(i) if product > 0 && n.is_multiple_of(product) => dims[i] = n / product,
        None if product == n => {}
        _ => return Err(fault()),
    }
    Ok(dims)
}

fn flatten(from: &[usize], at: i64) -> Result<Vec<usize>> {
    let rank = from.len();
    let at = if usize::try_from(at) == Ok(rank) {
        rank
    } else {
        axis(at, rank)?
    };
    let (rows, columns) = from.split_at(at);
    Ok(vec![rows.iter().product(), columns.iter().product()])
}

fn squeeze(from: &[usize], axes: Option<&[i64]>) -> Result<Vec<usize>> {
    let drop = match axes {
        Some(axes) => axes
            .iter()
            .map(|&a| axis(a, from.len()))
            .collect::<Result<Vec<_>>>()?,
        None => (0..from.len()).filter(|&a| from[a] == 1).collect(),
    };
    if let Some(a) = drop.iter().find(|&&a| from[a] != 1) {
        return Err(format!("axis {a} of the shape {from:?} is not 1"));
    }
    let kept = (0..from.len()).filter(|a| !drop.contains(a));
    Ok(kept.map(|a| from[a]).collect())
}

fn unsqueeze(from: &[usize], axes: &[i64]) -> Result<Vec<usize>> {
    let rank = from.len() + axes.len();
    let new = axes
        .iter()
        .map(|&a| axis(a, rank))
        .collect::<Result<Vec<_>>>()?;
    let mut old = from.iter();
    let dims = (0..rank).map(|a| {
        if new.contains(&a) {
            Some(1)
        } else {
            old.next().copied()
        }
    });
    dims.collect::<Option<Vec<_>>>()
        .ok_or_else(|| format!("the axes {axes:?} name one axis twice"))
}

/// Positions along each axis that a `Slice` node takes; `inputs` are its constants beside the tensor: starts, ends, axes, steps.
pub fn slice(node: &Node, dims: &[usize], inputs: &[Option<&Constant>]) -> Result<Vec<Vec<usize>>> {
    let list = |attribute: &str, input: usize| {
        let listed = node.ints(attribute).map(<[i64]>::to_vec);
        listed.or_else(|| {
            inputs
                .get(input)
                .copied()
                .flatten()
                .and_then(Constant::to_ints)
        })
    };
    let (Some(starts), Some(ends)) = (list("starts", 0), list("ends", 1)) else {
        return Err("its bounds are not known before the network runs".into());
    };
    let axes = list("axes", 2).unwrap_or_else(|| (0..).take(starts.len()).collect());
    let steps = list("steps", 3).unwrap_or_else(|| vec![1; starts.len()]);
    let mut picks: Vec<Vec<usize>> = dims.iter().map(|&d| (0..d).collect()).collect();
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err("its starts, ends, axes and steps are not of one length".into());
    }
    for (((start, end), a), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let a = axis(a, dims.len())?;
        picks[a] = range(dims[a], start, end, step)?;
    }
    Ok(picks)
}

fn range(size: usize, start: i64, end: i64, step: i64) -> Result<Vec<usize>> {
    let n = i64::try_from(size).map_err(|e| e.to_string())?;
    let from_start = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let start = from_start(start).clamp(low.max(0), high);
    let end = from_start(end).clamp(low, high);
    let step = match step {
        0 => return Err("its step is 0".into()),
        step => step,
    };
    let mut picks = vec![];
    let mut at = start;
    while (step > 0 && at < end) || (step < 0 && at > end) {
        picks.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    Ok(picks)
}

/// Row-major positions of the elements whose index along each axis is one of `picks`.
pub fn positions(dims: &[usize], picks: &[Vec<usize>]) -> Vec<usize> {
    let mut all = vec![0];
    for (&dim, picks) in dims.iter().zip(picks) {
        all = all
            .into_iter()
            .flat_map(|base| picks.iter().map(move |&p| base * dim + p))
            .collect();
    }
    all
}

/// Shape after a transposition, and where each element of the result was before.
pub fn transposed(dims: &[usize], order: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let mut strides = vec![1; dims.len()];
    for a in (1..dims.len()).rev() {
        strides[a - 1] = strides[a] * dims[a];
    }
    let new: Vec<usize> = order.iter().map(|&a| dims[a]).collect();
    let mut from = vec![0];
    for (&a, &dim) in order.iter().zip(&new) {
        let stride = strides[a];
        from = from
            .into_iter()
            .flat_map(|base| (0..dim).map(move |i| base + i * stride))
            .collect();
    }
    (new, from)
}

/// The order of axes of a `Transpose` node.
pub fn order(node: &Node, rank: usize) -> Result<Vec<usize>> {
    let Some(listed) = node.ints("perm") else {
        return Ok((0..rank).rev().collect());
    };
    let order = listed
        .iter()
        .map(|&a| axis(a, rank))
        .collect::<Result<Vec<_>>>()?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return Err(format!("{listed:?} is no order of {rank} axes"));
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshapes() {
        assert_eq!(reshape(&[1, 6, 2], &[0, -1], false), Ok(vec![1, 12]));
        assert_eq!(reshape(&[1, 6], &[1, 2, 3], false), Ok(vec![1, 2, 3]));
        assert!(reshape(&[1, 6], &[-1, 4], false).is_err());
        assert!(reshape(&[1, 6], &[-1, -1], false).is_err());
        assert!(reshape(&[6], &[6, 0], false).is_err());
        assert_eq!(flatten(&[1, 2, 3], 1), Ok(vec![1, 6]));
        assert_eq!(flatten(&[1, 2, 3], 3), Ok(vec![6, 1]));
        assert_eq!(squeeze(&[1, 3, 1], None), Ok(vec![3]));
        assert_eq!(squeeze(&[1, 3, 1], Some(&[-1])), Ok(vec![1, 3]));
        assert!(squeeze(&[1, 3], Some(&[1])).is_err());
        assert_eq!(unsqueeze(&[3], &[1, 2]), Ok(vec![3, 1, 1]));
        assert!(unsqueeze(&[3], &[0, 0]).is_err());
    }

    #[test]
    fn ranges() {
        assert_eq!(range(5, 1, i64::MAX, 2), Ok(vec![1, 3]));
        assert_eq!(range(5, -1, i64::MIN, -2), Ok(vec![4, 2, 0]));
        assert_eq!(range(5, -3, -1, 1), Ok(vec![2, 3]));
        assert_eq!(range(5, 7, 9, 1), Ok(vec![]));
        assert!(range(5, 0, 5, 0).is_err());
    }

    #[test]
    fn orders_of_elements() {
        assert_eq!(positions(&[2, 3], &[vec![1], vec![2, 0]]), [5, 3]);
        assert_eq!(
            transposed(&[2, 3], &[1, 0]),
            (vec![3, 2], vec![0, 3, 1, 4, 2, 5])
        );
    }
}
