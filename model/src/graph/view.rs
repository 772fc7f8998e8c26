//! What local operations make of tensors, without a word between the parties: the same on values, on shares and on masks.

use super::Shape;

/// One axis of a view: output i is the sum of positions `first + i * step ..` of the tensor, `size` of them. Positions that do not
/// exist are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Position of the first window; negative where zeros are in front.
    pub first: isize,
    /// Positions from one window to the next.
    pub step: usize,
    /// Positions in a window.
    pub size: usize,
    /// Windows.
    pub count: usize,
}

impl Span {
    /// All `count` positions as they are.
    #[must_use]
    pub const fn whole(count: usize) -> Self {
        Self {
            first: 0,
            step: 1,
            size: 1,
            count,
        }
    }

    /// Whether every one of `extent` positions is in exactly one window.
    #[must_use]
    pub const fn covers(&self, extent: usize) -> bool {
        self.first == 0 && self.step == self.size && self.count * self.size == extent
    }

    /// Whether window `index` has a position among `extent`.
    #[must_use]
    pub fn exists(&self, index: usize, extent: usize) -> bool {
        !self.range(index, extent).is_empty()
    }

    /// Positions of window `index` that exist.
    fn range(&self, index: usize, extent: usize) -> std::ops::Range<usize> {
        let first = self.first + (index * self.step) as isize;
        let last = first + self.size as isize;
        let bound = |at: isize| (at.max(0) as usize).min(extent);
        bound(first)..bound(last)
    }

    /// This span of what `inner` makes of `extent` positions; none where positions that do not exist here do exist there, or where
    /// windows of windows would need gaps.
    pub(super) fn of(self, inner: Self, extent: usize) -> Option<Self> {
        let last = self.first + ((self.count - 1) * self.step + self.size) as isize;
        let inside = self.first >= 0 && last <= inner.count as isize;
        let simple = self.size == 1 || (inner.step, inner.size) == (1, 1);
        if !simple || !(inside || inner == Self::whole(extent)) {
            return None;
        }
        Some(Self {
            first: inner.first + self.first * inner.step as isize,
            step: inner.step * self.step,
            size: inner.size * self.size,
            count: self.count,
        })
    }
}

/// Channels that follow each other in a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The tensor; none for channels of zeros.
    pub tensor: Option<usize>,
    /// The first channel.
    pub first: usize,
    /// Channels.
    pub count: usize,
}

/// Channels of tensors of the same size, put together, with windows summed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Where its channels come from, in their order.
    pub runs: Vec<Run>,
    /// Its rows.
    pub rows: Span,
    /// Its columns.
    pub columns: Span,
    /// Rows and columns of the tensors.
    pub size: [usize; 2],
}

impl View {
    /// Tensor `tensor` of `shape` as it is.
    #[must_use]
    pub fn whole(tensor: usize, shape: Shape) -> Self {
        Self {
            runs: vec![Run {
                tensor: Some(tensor),
                first: 0,
                count: shape.channels,
            }],
            rows: Span::whole(shape.height),
            columns: Span::whole(shape.width),
            size: [shape.height, shape.width],
        }
    }

    /// Shape of the result.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let channels = self.runs.iter().map(|r| r.count).sum();
        Shape::new(channels, self.rows.count, self.columns.count)
    }

    /// The tensors that it reads, once for each run.
    pub fn tensors(&self) -> impl Iterator<Item = usize> + '_ {
        self.runs.iter().filter_map(|r| r.tensor)
    }

    /// Rows and columns of a window.
    #[must_use]
    pub const fn window(&self) -> [usize; 2] {
        [self.rows.size, self.columns.size]
    }

    /// Whether every value of its tensors is in it exactly once.
    #[must_use]
    pub fn covers(&self, tensors: &[Shape]) -> bool {
        let [rows, columns] = self.size;
        let mut channels: Vec<(usize, usize)> = Vec::new();
        for run in &self.runs {
            let Some(tensor) = run.tensor else {
                return false;
            };
            channels.extend((run.first..run.first + run.count).map(|c| (tensor, c)));
        }
        let n = channels.len();
        channels.sort_unstable();
        channels.dedup();
        let mut owned: Vec<usize> = self.tensors().collect();
        owned.sort_unstable();
        owned.dedup();
        let due: usize = owned.iter().map(|&t| tensors[t].channels).sum();
        channels.len() == n && n == due && self.rows.covers(rows) && self.columns.covers(columns)
    }

    /// The view of each of its tensors with the same windows, by the number of the channel in this view.
    pub(super) fn pick(&self, channels: &[usize]) -> Self {
        let ends: Vec<usize> = self
            .runs
            .iter()
            .scan(0, |end, run| {
                *end += run.count;
                Some(*end)
            })
            .collect();
        let mut runs: Vec<Run> = Vec::new();
        for &channel in channels {
            let at = ends.partition_point(|&end| end <= channel);
            let run = self.runs[at];
            let first = run.first + channel - (ends[at] - run.count);
            match runs.last_mut() {
                Some(last)
                    if last.tensor == run.tensor
                        && (last.first + last.count == first || run.tensor.is_none()) =>
                {
                    last.count += 1;
                }
                _ => runs.push(Run {
                    first,
                    count: 1,
                    ..run
                }),
            }
        }
        Self {
            runs,
            ..self.clone()
        }
    }

    /// With `before` channels of zeros in front and `after` behind.
    pub(super) fn between(&self, before: usize, after: usize) -> Self {
        let zeros = |count| Run {
            tensor: None,
            first: 0,
            count,
        };
        let mut runs = vec![zeros(before)];
        runs.extend(&self.runs);
        runs.push(zeros(after));
        runs.retain(|r| r.count > 0);
        Self {
            runs,
            ..self.clone()
        }
    }

    /// What it makes of `tensors`, which hold all values of each, in (C, H, W) order and modulo 2^64.
    #[must_use]
    pub fn apply<T: AsRef<[u64]>>(&self, tensors: &[T]) -> Vec<u64> {
        let shape = self.shape();
        let mut out = vec![0u64; shape.n_values()];
        let mut planes = out.chunks_exact_mut(shape.height * shape.width);
        let [height, width] = self.size;
        for run in &self.runs {
            for channel in run.first..run.first + run.count {
                let Some(plane) = planes.next() else {
                    return out;
                };
                let Some(tensor) = run.tensor else { continue };
                let map = &tensors[tensor].as_ref()[channel * height * width..][..height * width];
                self.plane(map, plane);
            }
        }
        out
    }

    fn plane(&self, map: &[u64], out: &mut [u64]) {
        let [height, width] = self.size;
        if (self.rows, self.columns) == (Span::whole(height), Span::whole(width)) {
            out.copy_from_slice(map);
            return;
        }
        for (i, line) in out.chunks_exact_mut(self.columns.count).enumerate() {
            for row in self.rows.range(i, height) {
                let values = &map[row * width..][..width];
                for (j, sum) in line.iter_mut().enumerate() {
                    for &value in &values[self.columns.range(j, width)] {
                        *sum = sum.wrapping_add(value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_padding_and_channels() {
        let map: Vec<u64> = (0..2 * 3 * 4).collect();
        let whole = View::whole(0, Shape::new(2, 3, 4));
        assert_eq!(whole.apply(&[&map]), map);
        assert!(whole.covers(&[Shape::new(2, 3, 4)]));
        let view = View {
            rows: Span {
                first: -1,
                step: 2,
                size: 2,
                count: 2,
            },
            ..whole.pick(&[1])
        };
        // Rows -1 and 0, then 1 and 2, of channel 1.
        assert_eq!(view.apply(&[&map]), [12, 13, 14, 15, 36, 38, 40, 42]);
        assert!(!view.covers(&[Shape::new(2, 3, 4)]));
        let zeros = whole.between(1, 0).apply(&[&map]);
        assert_eq!(zeros[..12], [0; 12]);
        assert_eq!(zeros[12..], map);
        let turned = whole.pick(&[1, 0]);
        assert!(turned.covers(&[Shape::new(2, 3, 4)]));
        assert_eq!(turned.apply(&[&map])[..12], map[12..]);
    }

    #[test]
    fn a_span_of_a_span() {
        let inner = Span {
            first: -1,
            step: 2,
            size: 1,
            count: 4,
        };
        let outer = Span {
            first: 1,
            step: 2,
            size: 1,
            count: 2,
        };
        assert_eq!(
            outer.of(inner, 8),
            Some(Span {
                first: 1,
                step: 4,
                size: 1,
                count: 2
            })
        );
        let beyond = Span { first: -1, ..outer };
        assert_eq!(beyond.of(inner, 8), None);
        assert_eq!(beyond.of(Span::whole(4), 4), Some(beyond));
        // A crop goes on where it ends.
        assert_eq!(beyond.of(Span::whole(4), 5), None);
    }
}
