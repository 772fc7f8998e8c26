//! Integer convolution: the server's main work online, and the plaintext executor's.
//!
//! Shares live in Z_2^k. Three kernels compute the same: an AVX-512 IFMA one (`vpmadd52luq` multiplies the low 52 bits of two
//! words and adds the low 52 bits of the product to a 64-bit sum, so sums are right modulo 2^52) for k <= 52, an AVX2 one
//! and a portable one modulo 2^64. Callers mask results to k bits. All are exact for signed results below 2^51, which
//! [`Conv2d::apply_signed`] relies on.
//!
//! The vector kernels take panels of 8 output pixels by K = C * kh * kw inputs against blocks of 16 filters; weights are
//! reordered once, in [`Conv2d::new`].

mod avx2;
mod ifma;
mod panels;
mod scalar;

pub use scalar::convolve;

use panels::Panels;
use rayon::prelude::*;

use crate::spec::Window;

/// Sizes of a convolution. A linear layer is a 1x1 kernel over a 1x1 map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Input channels C.
    pub in_channels: usize,
    /// Input rows H.
    pub height: usize,
    /// Input columns W.
    pub width: usize,
    /// Filters O.
    pub out_channels: usize,
    /// Groups of channels and filters.
    pub groups: usize,
    /// Kernel, stride, padding, dilation.
    pub window: Window,
}

impl Shape {
    /// Output rows.
    pub fn out_height(&self) -> usize {
        let p = self.window.padding;
        (self.height + p.top + p.bottom - self.span(0)) / self.window.stride[0] + 1
    }

    /// Output columns.
    pub fn out_width(&self) -> usize {
        let p = self.window.padding;
        (self.width + p.left + p.right - self.span(1)) / self.window.stride[1] + 1
    }

    /// Positions from the first to the last of a window, both included.
    fn span(&self, axis: usize) -> usize {
        (self.window.kernel[axis] - 1) * self.window.dilation[axis] + 1
    }

    /// Values of the input.
    pub fn n_inputs(&self) -> usize {
        self.in_channels * self.height * self.width
    }

    /// Values of the output.
    pub fn n_outputs(&self) -> usize {
        self.out_channels * self.n_pixels()
    }

    /// Weights.
    pub fn n_weights(&self) -> usize {
        self.out_channels * self.depth()
    }

    /// Multiply-adds of one image.
    pub fn n_multiply_adds(&self) -> usize {
        self.n_weights() * self.n_pixels()
    }

    fn n_pixels(&self) -> usize {
        self.out_height() * self.out_width()
    }

    /// Weights of a filter.
    fn depth(&self) -> usize {
        self.in_channels / self.groups * self.window.kernel[0] * self.window.kernel[1]
    }

    /// One of its groups.
    fn group(&self) -> Self {
        Self {
            in_channels: self.in_channels / self.groups,
            out_channels: self.out_channels / self.groups,
            groups: 1,
            ..*self
        }
    }

    fn is_sound(&self) -> bool {
        let counts = [self.in_channels, self.height, self.width, self.out_channels];
        let map = crate::graph::Shape::new(self.in_channels, self.height, self.width);
        let divides = |n: usize| self.groups > 0 && n.is_multiple_of(self.groups);
        !counts.contains(&0)
            && divides(self.in_channels)
            && divides(self.out_channels)
            && crate::graph::slide(map, &self.window).is_ok()
    }
}

/// Why a convolution was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Sizes that make no sense, or another number of weights than they need.
    #[error("{n_weights} weights do not make a convolution of shape {shape:?}")]
    Shape {
        /// The sizes.
        shape: Box<Shape>,
        /// Weights given.
        n_weights: usize,
    },
    /// The input has another size.
    #[error("the convolution takes {expected} values, got {got}")]
    Input {
        /// Values due.
        expected: usize,
        /// Values given.
        got: usize,
    },
}

/// Which instructions a convolution uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// AVX-512 IFMA, for k <= 52.
    Ifma,
    /// AVX2.
    Avx2,
    /// Any processor's.
    Portable,
}

impl Kernel {
    /// All of them, the fastest first.
    pub const ALL: [Self; 3] = [Self::Ifma, Self::Avx2, Self::Portable];

    /// Whether this processor has the instructions and they serve ring elements of `k_bits`.
    pub fn serves(self, k_bits: u32) -> bool {
        match self {
            Self::Ifma => k_bits <= 52 && ifma::available(),
            Self::Avx2 => avx2::available(),
            Self::Portable => true,
        }
    }

    /// The fastest one that serves ring elements of `k_bits` here.
    pub fn best(k_bits: u32) -> Self {
        let mut kernels = Self::ALL.into_iter();
        kernels
            .find(|kernel| kernel.serves(k_bits))
            .unwrap_or(Self::Portable)
    }

    fn multiply(self, panel: &[u64], block: &[i32]) -> [u64; PIXELS * FILTERS] {
        match self {
            Self::Ifma => ifma::multiply(panel, block),
            Self::Avx2 => avx2::multiply(panel, block),
            Self::Portable => multiply_portable(panel, block),
        }
    }
}

/// The twin of the vector kernels' inner product.
fn multiply_portable(panel: &[u64], block: &[i32]) -> [u64; PIXELS * FILTERS] {
    let mut sums = [0u64; PIXELS * FILTERS];
    for (inputs, weights) in panel.chunks_exact(PIXELS).zip(block.chunks_exact(FILTERS)) {
        for (sums, &x) in sums.chunks_exact_mut(FILTERS).zip(inputs) {
            for (sum, &w) in sums.iter_mut().zip(weights) {
                *sum = sum.wrapping_add(x.wrapping_mul(i64::from(w) as u64));
            }
        }
    }
    sums
}

/// Filters in a block of the vector kernels.
const FILTERS: usize = 16;
/// Output pixels in a panel of the vector kernels.
const PIXELS: usize = 8;
/// Words of panels that share one pass over the weights: they stay in the second-level cache.
const GROUP_WORDS: usize = 1 << 15;

/// A convolution with its weights made ready.
pub struct Conv2d {
    shape: Shape,
    kernel: Kernel,
    weights: Weights,
}

enum Weights {
    /// (O, C / groups, kh, kw) order, for the portable kernel.
    Plain(Vec<i32>),
    /// (O / 16, K, 16) order, zero filters at the end, for the vector kernels.
    Blocked(Vec<i32>),
    /// A convolution for each group.
    Groups(Vec<Conv2d>),
}

impl Conv2d {
    /// Makes `weights`, in (O, C / groups, kh, kw) order, ready for ring elements of `k_bits`, by the fastest kernel there is.
    ///
    /// # Errors
    /// If the shape makes no sense or the number of weights differs from it.
    pub fn new(shape: Shape, weights: &[i32], k_bits: u32) -> Result<Self, KernelError> {
        Self::with_kernel(shape, weights, Kernel::best(k_bits))
    }

    /// As [`Conv2d::new`], with this kernel, which must [serve](Kernel::serves) the ring; it is slow where the processor lacks the
    /// instructions.
    ///
    /// # Errors
    /// If the shape makes no sense or the number of weights differs from it.
    pub fn with_kernel(shape: Shape, weights: &[i32], kernel: Kernel) -> Result<Self, KernelError> {
        if !shape.is_sound() || weights.len() != shape.n_weights() {
            let n_weights = weights.len();
            return Err(KernelError::Shape {
                shape: Box::new(shape),
                n_weights,
            });
        }
        let weights = match kernel {
            Kernel::Ifma | Kernel::Avx2 if shape.groups == 1 => {
                Weights::Blocked(block_weights(&shape, weights))
            }
            Kernel::Ifma | Kernel::Avx2 if shape.group().out_channels >= FILTERS / 2 => {
                let group = shape.group();
                let groups = weights.chunks_exact(group.n_weights());
                let groups = groups.map(|w| Self::with_kernel(group, w, kernel));
                Weights::Groups(groups.collect::<Result<_, _>>()?)
            }
            // Blocks of filters that read different channels would be almost empty.
            _ => Weights::Plain(weights.to_vec()),
        };
        Ok(Self {
            shape,
            kernel,
            weights,
        })
    }

    /// The sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Output (O, Ho, Wo) for input `x` (C, H, W), right modulo 2^k; bits above are not. Uses rayon's pool.
    ///
    /// # Errors
    /// If `x` has another size.
    pub fn apply(&self, x: &[u64]) -> Result<Vec<u64>, KernelError> {
        self.run(x, self.shape.n_multiply_adds() > 1 << 19)
    }

    /// As [`Conv2d::apply`], on the calling thread alone: for callers that work on many images at once.
    ///
    /// # Errors
    /// If `x` has another size.
    pub fn apply_serial(&self, x: &[u64]) -> Result<Vec<u64>, KernelError> {
        self.run(x, false)
    }

    /// Exact signed convolution on the calling thread, where every output is below 2^51 in absolute value.
    ///
    /// # Errors
    /// If `x` has another size.
    pub fn apply_signed(&self, x: &[i64]) -> Result<Vec<i64>, KernelError> {
        let outputs = self.run(bytemuck::cast_slice(x), false)?;
        Ok(outputs
            .into_iter()
            .map(|y| (y << 12) as i64 >> 12)
            .collect())
    }

    fn run(&self, x: &[u64], parallel: bool) -> Result<Vec<u64>, KernelError> {
        let (expected, got) = (self.shape.n_inputs(), x.len());
        if expected != got {
            return Err(KernelError::Input { expected, got });
        }
        Ok(match &self.weights {
            Weights::Plain(weights) if parallel => {
                scalar::convolve_parallel(&self.shape, x, weights)
            }
            Weights::Plain(weights) => scalar::convolve(&self.shape, x, weights),
            Weights::Blocked(weights) => self.run_blocked(x, weights, parallel),
            Weights::Groups(groups) => {
                let inputs = x.chunks_exact(self.shape.group().n_inputs());
                let outputs = groups.iter().zip(inputs).map(|(g, x)| g.run(x, parallel));
                outputs.collect::<Result<Vec<_>, _>>()?.concat()
            }
        })
    }

    fn run_blocked(&self, x: &[u64], weights: &[i32], parallel: bool) -> Vec<u64> {
        let (n_pixels, depth) = (self.shape.n_pixels(), self.shape.depth());
        let panels = Panels::new(&self.shape, x);
        let group_panels = (GROUP_WORDS / (depth * PIXELS)).clamp(1, n_pixels.div_ceil(PIXELS));
        let n_groups = n_pixels.div_ceil(group_panels * PIXELS);
        let mut outputs = vec![0; self.shape.out_channels * n_pixels];
        let blocks = weights.chunks_exact(depth * FILTERS);
        let multiply = |group: &[u64], block: &[i32]| -> Vec<u64> {
            let mut tile = Vec::with_capacity(group.len() / depth * FILTERS);
            for panel in group.chunks_exact(depth * PIXELS) {
                tile.extend_from_slice(&self.kernel.multiply(panel, block));
            }
            tile
        };
        let pack = |group: usize| {
            let first = group * group_panels * PIXELS;
            panels.pack(first, (first + group_panels * PIXELS).min(n_pixels))
        };
        if parallel && n_groups < 2 * rayon::current_num_threads() {
            for g in 0..n_groups {
                let group = pack(g);
                let blocks: Vec<&[i32]> = blocks.clone().collect();
                let tiles: Vec<Vec<u64>> = blocks
                    .par_iter()
                    .map(|block| multiply(&group, block))
                    .collect();
                self.scatter(g * group_panels * PIXELS, &tiles, &mut outputs);
            }
        } else {
            let work = |g: usize| -> Vec<Vec<u64>> {
                let group = pack(g);
                blocks
                    .clone()
                    .map(|block| multiply(&group, block))
                    .collect()
            };
            if parallel {
                let all: Vec<Vec<Vec<u64>>> = (0..n_groups).into_par_iter().map(work).collect();
                for (g, tiles) in all.iter().enumerate() {
                    self.scatter(g * group_panels * PIXELS, tiles, &mut outputs);
                }
            } else {
                for g in 0..n_groups {
                    self.scatter(g * group_panels * PIXELS, &work(g), &mut outputs);
                }
            }
        }
        outputs
    }

    /// Writes the tiles of one group, (pixel, filter) each, to (filter, pixel) order.
    fn scatter(&self, first_pixel: usize, tiles: &[Vec<u64>], outputs: &mut [u64]) {
        let n_pixels = self.shape.n_pixels();
        for (filter, row) in outputs.chunks_exact_mut(n_pixels).enumerate() {
            let tile = &tiles[filter / FILTERS];
            let values = tile[filter % FILTERS..].iter().step_by(FILTERS);
            for (output, value) in row[first_pixel..].iter_mut().zip(values) {
                *output = *value;
            }
        }
    }
}

fn block_weights(shape: &Shape, weights: &[i32]) -> Vec<i32> {
    let depth = shape.depth();
    let mut blocked = vec![0; shape.out_channels.next_multiple_of(FILTERS) * depth];
    for (filter, row) in weights.chunks_exact(depth).enumerate() {
        let block = &mut blocked[filter / FILTERS * FILTERS * depth..];
        for (k, &weight) in row.iter().enumerate() {
            block[k * FILTERS + filter % FILTERS] = weight;
        }
    }
    blocked
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    fn random_shape(rng: &mut ChaCha20Rng) -> Shape {
        let kernel = [1, 3, 5][rng.random_range(0..3)];
        let dilation = [rng.random_range(1..3), rng.random_range(1..3)];
        let groups = [1, 1, 2, 3][rng.random_range(0..4)];
        let mut padding = || rng.random_range(0..kernel.min(3));
        let padding = [padding(), padding(), padding(), padding()];
        let is_square = rng.random();
        Shape {
            in_channels: groups * rng.random_range(1..10),
            height: rng.random_range(1..14) + 2 * (kernel - 1),
            width: rng.random_range(1..14) + 2 * (kernel - 1),
            out_channels: groups * rng.random_range(1..20),
            groups,
            window: Window {
                kernel: [kernel, if is_square { kernel } else { 1 }],
                stride: [rng.random_range(1..4), rng.random_range(1..4)],
                padding: if is_square {
                    padding
                } else {
                    [padding[0], 0, padding[2], 0]
                }
                .into(),
                dilation,
            },
        }
    }

    #[test]
    fn kernels_agree_modulo_two_to_the_52_or_64() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        for _ in 0..200 {
            let shape = random_shape(&mut rng);
            let x: Vec<u64> = (0..shape.n_inputs()).map(|_| rng.random()).collect();
            let weights: Vec<i32> = (0..shape.n_weights())
                .map(|_| rng.random_range(-(1 << 15)..1 << 15))
                .collect();
            let expected = convolve(&shape, &x, &weights);
            let both = |kernel| [false, true].map(|parallel| (kernel, parallel));
            for (kernel, parallel) in Kernel::ALL.into_iter().flat_map(both) {
                let conv = Conv2d::with_kernel(shape, &weights, kernel).unwrap();
                let mut got = conv.run(&x, parallel).unwrap();
                let mut expected = expected.clone();
                if kernel == Kernel::Ifma {
                    got.iter_mut().chain(&mut expected).for_each(|y| *y <<= 12);
                }
                assert_eq!(got, expected, "{kernel:?} {shape:?}");
            }
            let conv = Conv2d::new(shape, &weights, 60).unwrap();
            assert_eq!(conv.run(&x, true).unwrap(), expected);
        }
    }

    #[test]
    fn signed_results_are_exact() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        for _ in 0..20 {
            let shape = random_shape(&mut rng);
            let x: Vec<i64> = (0..shape.n_inputs())
                .map(|_| rng.random_range(-1 << 20..1 << 20))
                .collect();
            let weights: Vec<i32> = (0..shape.n_weights())
                .map(|_| rng.random_range(-127..128))
                .collect();
            let as_words: Vec<u64> = x.iter().map(|&v| v as u64).collect();
            let expected: Vec<i64> = convolve(&shape, &as_words, &weights)
                .iter()
                .map(|&y| y as i64)
                .collect();
            let conv = Conv2d::new(shape, &weights, 52).unwrap();
            assert_eq!(conv.apply_signed(&x).unwrap(), expected, "{shape:?}");
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let mut shape = random_shape(&mut ChaCha20Rng::seed_from_u64(4));
        let weights = vec![0; shape.n_weights()];
        let conv = Conv2d::new(shape, &weights, 52).unwrap();
        assert!(matches!(conv.apply(&[0]), Err(KernelError::Input { .. })));
        assert!(Conv2d::new(shape, &weights[1..], 52).is_err());
        shape.window.stride[0] = 0;
        assert!(Conv2d::new(shape, &weights, 52).is_err());
    }
}
