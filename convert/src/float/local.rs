//! Operations that need no weights: sums, padding, pools and activations.

use pi_model::graph::Shape;
use pi_model::spec::{Padding, Window};

/// The first summand, plus `sign` times all others.
pub(super) fn sum<'a>(mut summands: impl Iterator<Item = &'a [f32]>, sign: f32) -> Vec<f32> {
    let mut sum = summands.next().unwrap_or_default().to_vec();
    for summand in summands {
        for (s, v) in sum.iter_mut().zip(summand) {
            *s += sign * v;
        }
    }
    sum
}

/// `what` at the positions `kept`, the same values elsewhere.
pub(super) fn map(mut values: Vec<f32>, kept: &[u32], what: impl Fn(f32) -> f32) -> Vec<f32> {
    for &i in kept {
        values[i as usize] = what(values[i as usize]);
    }
    values
}

/// Zeros around each plane.
pub(super) fn pad(values: &[f32], read: Shape, shape: Shape, padding: Padding) -> Vec<f32> {
    let mut padded = vec![0.0; shape.n_values()];
    for (i, row) in values.chunks(read.width).enumerate() {
        let (channel, y) = (i / read.height, i % read.height);
        let at = (channel * shape.height + y + padding.top) * shape.width + padding.left;
        padded[at..at + read.width].copy_from_slice(row);
    }
    padded
}

/// Mean of each window; `[read, shape]` are the shapes before and after.
pub(super) fn average(
    values: &[f32],
    [read, shape]: [Shape; 2],
    window: &Window,
    count_padding: bool,
) -> Vec<f32> {
    let all = window.kernel.iter().product::<usize>();
    windows(values, [read, shape], window, |inside| {
        let (mut sum, mut n) = (0.0, 0);
        inside.for_each(|v| {
            sum += v;
            n += 1;
        });
        sum / if count_padding { all } else { n } as f32
    })
}

/// Largest value of each window; the padding never is.
pub(super) fn largest(values: &[f32], shapes: [Shape; 2], window: &Window) -> Vec<f32> {
    windows(values, shapes, window, |inside| {
        inside.fold(f32::NEG_INFINITY, f32::max)
    })
}

/// What `what` makes of those values of each window that are not padding.
fn windows(
    values: &[f32],
    [read, shape]: [Shape; 2],
    window: &Window,
    what: impl Fn(&mut dyn Iterator<Item = f32>) -> f32,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(shape.n_values());
    for plane in values.chunks(read.height * read.width) {
        for y in 0..shape.height {
            for x in 0..shape.width {
                let rows = taps(window, 0, y, read.height);
                let columns = || taps(window, 1, x, read.width);
                let mut inside =
                    rows.flat_map(|(_, y)| columns().map(move |(_, x)| plane[y * read.width + x]));
                out.push(what(&mut inside));
            }
        }
    }
    out
}

/// Along `axis` (0 for rows, 1 for columns): each tap of the window at output position `at` that is not padding, and where it reads.
pub(super) fn taps(
    window: &Window,
    axis: usize,
    at: usize,
    size: usize,
) -> impl Iterator<Item = (usize, usize)> + use<> {
    let before = [window.padding.top, window.padding.left][axis];
    let (stride, dilation) = (window.stride[axis], window.dilation[axis]);
    (0..window.kernel[axis]).filter_map(move |tap| {
        let position = (at * stride + tap * dilation).checked_sub(before)?;
        (position < size).then_some((tap, position))
    })
}
