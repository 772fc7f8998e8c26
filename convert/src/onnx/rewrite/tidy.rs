//! Zeros around a map that a convolution can put there itself, and orders of channels that a matrix can read.

use pi_model::ModelError;
use pi_model::spec::{Op, Padding};

use super::super::network::Network;

/// Moves the zeros of a `pad` into the convolutions that read it, where their kernels are larger.
///
/// # Errors
/// [`ModelError::Op`] naming an operation that does not fit.
pub fn pads(network: &mut Network, notes: &mut Vec<String>) -> Result<(), ModelError> {
    network.shapes()?;
    let mut moved = 0;
    let mut i = 0;
    while i < network.spec.ops.len() {
        let Op::Pad { name, padding, .. } = &network.spec.ops[i] else {
            i += 1;
            continue;
        };
        let (name, more) = (name.clone(), *padding);
        let readers = network.readers().remove(&name).unwrap_or_default();
        let sums: Option<Vec<Padding>> = readers
            .iter()
            .map(|&r| widened(&network.spec.ops[r], more))
            .collect();
        match sums {
            Some(sums) if !sums.is_empty() => {
                for (r, sum) in readers.into_iter().zip(sums) {
                    if let Op::Conv2d { window, .. } = &mut network.spec.ops[r] {
                        window.padding = sum;
                    }
                }
                network.remove(i);
                moved += 1;
            }
            _ => i += 1,
        }
    }
    if moved > 0 {
        notes.push(format!(
            "{moved} paddings moved into the convolutions behind them"
        ));
    }
    Ok(())
}

/// Padding of a convolution with `more` around it, if its kernel is larger than that.
fn widened(op: &Op, more: Padding) -> Option<Padding> {
    let Op::Conv2d { window, .. } = op else {
        return None;
    };
    let span = |axis: usize| (window.kernel[axis] - 1) * window.dilation[axis];
    let own = window.padding;
    let sum = Padding {
        top: own.top + more.top,
        left: own.left + more.left,
        bottom: own.bottom + more.bottom,
        right: own.right + more.right,
    };
    let fits = sum.top.max(sum.bottom) <= span(0) && sum.left.max(sum.right) <= span(1);
    fits.then_some(sum)
}

/// Lets a matrix read a vector in its order before a `channels`.
pub fn channels(network: &mut Network, notes: &mut Vec<String>) {
    let mut folded = 0;
    let mut i = 0;
    while i < network.spec.ops.len() {
        let Op::Channels {
            name,
            input,
            channels,
        } = &network.spec.ops[i]
        else {
            i += 1;
            continue;
        };
        let (name, input, channels) = (name.clone(), input.clone(), channels.clone());
        let readers = network.readers().remove(&name).unwrap_or_default();
        let is_linear = |&r: &usize| matches!(network.spec.ops[r], Op::Linear { .. });
        let width = network
            .shapes()
            .ok()
            .and_then(|shapes| shapes.get(&input).copied());
        let Some(width) = width.filter(|_| !readers.is_empty() && readers.iter().all(is_linear))
        else {
            i += 1;
            continue;
        };
        for r in readers {
            let Some(w) = network.weights.get_mut(network.spec.ops[r].name()) else {
                continue;
            };
            let rows = w.weight.chunks(channels.len());
            let mut weight = Vec::with_capacity(w.bias.len() * width.channels);
            for row in rows {
                let mut new = vec![0.0; width.channels];
                for (&c, v) in channels.iter().zip(row) {
                    new[c] += v;
                }
                weight.extend(new);
            }
            w.weight = weight;
        }
        network.remove(i);
        folded += 1;
    }
    if folded > 0 {
        notes.push(format!(
            "{folded} orders of elements folded into the matrices behind them"
        ));
    }
}
