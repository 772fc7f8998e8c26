//! Max pools: fewer ReLUs by putting them before their ReLUs, or none by averages instead.

use std::collections::BTreeMap;

use pi_model::ModelError;
use pi_model::graph::Shape;
use pi_model::spec::{Op, Window};

use super::super::network::{Network, inputs_mut};

/// Puts max pools before the activations that they read, or turns them into average pools.
///
/// # Errors
/// [`ModelError::Op`] naming an operation that does not fit.
pub fn run(
    network: &mut Network,
    average: bool,
    notes: &mut Vec<String>,
) -> Result<(), ModelError> {
    let is_max = |op: &Op| matches!(op, Op::MaxPool { .. });
    if !network.spec.ops.iter().any(is_max) {
        return Ok(());
    }
    let mut with_max = Network {
        spec: network.spec.clone(),
        weights: BTreeMap::new(),
        statistics: BTreeMap::new(),
    };
    let before = count(&with_max)?;
    let swapped = swap(&mut with_max);
    let after = count(&with_max)?;
    if average {
        let mut n = 0;
        for op in &mut network.spec.ops {
            if let Op::MaxPool {
                name,
                input,
                window,
            } = op
            {
                n += 1;
                *op = Op::AvgPool {
                    name: std::mem::take(name),
                    input: std::mem::take(input),
                    window: *window,
                    count_padding: false,
                };
            }
        }
        let averaged = count(network)?;
        notes.push(format!(
            "{n} max pools became average pools, which is another function: train the network again, or check its accuracy. ReLUs: {averaged}; with max pools {after}"
        ));
        return Ok(());
    }
    network.spec = with_max.spec;
    if swapped > 0 {
        notes.push(format!(
            "{swapped} max pools swapped with the ReLUs before them, the same function: {after} ReLUs instead of {before}"
        ));
    }
    Ok(())
}

/// Number of the ReLUs of a network, those that compare the values of max pools included.
///
/// # Errors
/// [`ModelError::Op`] naming an operation that does not fit.
pub fn count(network: &Network) -> Result<usize, ModelError> {
    let shapes = network.shapes()?;
    let relus = network.spec.ops.iter().map(|op| match op {
        Op::MaxPool { input, window, .. } => comparisons(shapes[input], shapes[op.name()], window),
        Op::MaskedRelu { .. } | Op::LeakyRelu { .. } => shapes[op.name()].n_values(),
        // ReLU(x) - ReLU(x - max)
        Op::Clip { .. } => 2 * shapes[op.name()].n_values(),
        _ => 0,
    });
    Ok(relus.sum())
}

/// Comparisons of a max pool, columns first and then rows: the maximum of n values takes n - 1.
fn comparisons(from: Shape, to: Shape, window: &Window) -> usize {
    let p = window.padding;
    let real = |axis: usize, at: usize| {
        let (size, before) = [(from.height, p.top), (from.width, p.left)][axis];
        let steps = (0..window.kernel[axis])
            .map(move |k| at * window.stride[axis] + k * window.dilation[axis]);
        steps
            .filter(move |&x| x >= before && x - before < size)
            .map(move |x| x - before)
    };
    let in_a_row: usize = (0..to.width)
        .map(|x| real(1, x).count().saturating_sub(1))
        .sum();
    let rows: std::collections::BTreeSet<usize> = (0..to.height).flat_map(|y| real(0, y)).collect();
    let of_rows: usize = (0..to.height)
        .map(|y| real(0, y).count().saturating_sub(1))
        .sum();
    to.channels * (rows.len() * in_a_row + of_rows * to.width)
}

/// Swaps max pools with the activations before them where nothing else reads these, also through a `concat`; returns how many.
///
/// Max pools commute with every function that never falls, so with ReLU, clipped and leaky ReLU.
fn swap(network: &mut Network) -> usize {
    let mut swapped = 0;
    let mut i = 0;
    while i < network.spec.ops.len() {
        if swap_at(network, i).is_some() {
            swapped += 1;
            // The pool may have come to stand behind another activation.
            i = 0;
        } else {
            i += 1;
        }
    }
    swapped
}

fn swap_at(network: &mut Network, i: usize) -> Option<()> {
    let Op::MaxPool { name, input, .. } = &network.spec.ops[i] else {
        return None;
    };
    let (name, input) = (name.clone(), input.clone());
    let readers = network.readers();
    let read_once = |op: &str| readers.get(op).is_some_and(|r| r.len() == 1);
    let source = network.position(&input)?;
    let concat = match &network.spec.ops[source] {
        Op::Concat { inputs, .. } => Some(inputs.clone()),
        _ => None,
    };
    let sources = concat.clone().unwrap_or_else(|| vec![input.clone()]);
    let activations = sources
        .iter()
        .map(|s| network.position(s))
        .collect::<Option<Vec<_>>>()?;
    let all: Vec<&Op> = activations.iter().map(|&a| &network.spec.ops[a]).collect();
    let alike = all
        .iter()
        .all(|op| kind(op).is_some() && kind(op) == kind(all[0]));
    let mut distinct = activations.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if !alike
        || !read_once(&input)
        || !sources.iter().all(|s| read_once(s))
        || distinct.len() != sources.len()
    {
        return None;
    }
    for &a in &distinct {
        let (gone, before) = (
            network.spec.ops[a].name().to_owned(),
            network.spec.ops[a].inputs()[0].clone(),
        );
        for &reader in &readers[&gone] {
            for input in inputs_mut(&mut network.spec.ops[reader]) {
                if *input == gone {
                    before.clone_into(input);
                }
            }
        }
    }
    // The first activation moves behind the pool and takes its readers; others go.
    let mut activation = network.spec.ops[activations[0]].clone();
    network.redirect(&name, activation.name(), i + 1);
    if let Some(to) = inputs_mut(&mut activation).first_mut() {
        name.clone_into(to);
    }
    network.spec.ops.insert(i + 1, activation);
    for &a in distinct.iter().rev() {
        network.spec.ops.remove(a);
    }
    Some(())
}

/// Which function an activation computes.
fn kind(op: &Op) -> Option<(u8, u64)> {
    match op {
        Op::MaskedRelu { .. } => Some((0, 0)),
        Op::Clip { max, .. } => Some((1, max.to_bits())),
        Op::LeakyRelu { slope, .. } => Some((2, slope.to_bits())),
        _ => None,
    }
}
