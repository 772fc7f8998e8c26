//! The convolutions of ResNet-18 for images of 32 x 32 pixels, twice: over Z_2^52 by each kernel that this processor has,
//! of which the server runs the first online, and in f32 as a network in the clear would, by im2col and a GEMM.
//!
//! `cargo run --release -p pi-bench --example convolutions [ROUNDS]`. Both take turns, layer after layer as in an
//! inference, so that each layer's weights come from where they would; on one core and on all of them, in rayon's pools of
//! the same size. Printed are medians over the rounds, multiply-adds a second, and the ratio that the mark is about.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use pi_model::kernel::{Conv2d, Kernel, Shape};
use pi_model::linear::geometry;
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use rayon::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Bits of the ring, as in the inner layers.
const K_BITS: u32 = 52;
/// Inputs of the check are this small, so that f32 is exact: 4608 products below 2^24.
const CHECKED: i64 = 8;

/// One convolution, made ready for both.
struct Layer {
    shape: Shape,
    conv: Conv2d,
    x: Vec<u64>,
    weights_f32: Vec<f32>,
    x_f32: Vec<f32>,
    y_f32: Vec<f32>,
}

/// Seconds of all layers in one round.
#[derive(Clone, Copy, Default)]
struct Round {
    integer: f64,
    im2col: f64,
    gemm: f64,
}

fn main() -> Result<()> {
    let n_rounds: usize = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 30,
    };
    for kernel in Kernel::ALL.into_iter().filter(|k| k.serves(K_BITS)) {
        compare(kernel, n_rounds)?;
    }
    Ok(())
}

/// Prints what `kernel` takes, beside the GEMM.
fn compare(kernel: Kernel, n_rounds: usize) -> Result<()> {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut layers = layers(kernel, &mut rng)?;
    let n_columns = layers.iter().map(|l| n_columns(&l.shape)).max();
    let mut columns = vec![0.0; n_columns.unwrap_or(0)];
    for layer in &mut layers {
        check(layer, &mut columns, &mut rng)?;
    }
    let n_multiply_adds: usize = layers.iter().map(|l| l.shape.n_multiply_adds()).sum();
    println!(
        "{kernel:?}: {} convolutions, {:.3} G multiply-adds, median of {n_rounds} rounds",
        layers.len(),
        n_multiply_adds as f64 / 1e9
    );
    println!(
        "{:>6} {:>22} {:>22} {:>22} {:>13} {:>13}",
        "cores", "Z_2^52", "f32, im2col and GEMM", "its GEMM alone", "time ratio", "speed to GEMM"
    );
    let all = rayon::current_num_threads();
    let counts: &[usize] = if all > 1 { &[1, all] } else { &[1] };
    for &n_threads in counts {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .build()?;
        let rounds = pool.install(|| rounds(&mut layers, &mut columns, n_rounds))?;
        let median = |of: fn(&Round) -> f64| {
            let mut times: Vec<f64> = rounds.iter().map(of).collect();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let (integer, float) = (median(|r| r.integer), median(|r| r.im2col + r.gemm));
        let gemm = median(|r| r.gemm);
        let text = |s: f64| {
            let speed = n_multiply_adds as f64 / s / 1e9;
            format!("{:.2} ms, {speed:5.1} G/s", 1e3 * s)
        };
        println!(
            "{n_threads:>6} {:>22} {:>22} {:>22} {:>12.2}x {:>11.0} %",
            text(integer),
            text(float),
            text(gemm),
            integer / float,
            100.0 * gemm / integer
        );
    }
    Ok(())
}

/// All convolutions of the network with random weights, and a random input of each.
fn layers(kernel: Kernel, rng: &mut ChaCha20Rng) -> Result<Vec<Layer>> {
    let widths = [64, 128, 256, 512];
    let model = residual_network(
        "resnet18",
        [3, 32, 32],
        &widths,
        2,
        100,
        0,
        OutputMode::Logits,
    )?;
    let graph = model.public().graph();
    let convs = graph.layers.iter().flat_map(|layer| &layer.convs);
    convs
        .map(|conv| {
            let shape = geometry(graph, conv);
            let weights: Vec<i32> = (0..shape.n_weights())
                .map(|_| rng.random_range(-127..128))
                .collect();
            let n_inputs = shape.n_inputs();
            Ok(Layer {
                shape,
                conv: Conv2d::with_kernel(shape, &weights, kernel)?,
                x: (0..n_inputs).map(|_| rng.random::<u64>() >> 12).collect(),
                weights_f32: weights.iter().map(|&w| w as f32).collect(),
                x_f32: (0..n_inputs).map(|_| rng.random_range(-1.0..1.0)).collect(),
                y_f32: vec![0.0; shape.n_outputs()],
            })
        })
        .collect()
}

/// Whether both compute the same convolution, on inputs for which f32 is exact.
fn check(layer: &mut Layer, columns: &mut [f32], rng: &mut ChaCha20Rng) -> Result<()> {
    let x: Vec<i64> = (0..layer.shape.n_inputs())
        .map(|_| rng.random_range(-CHECKED..=CHECKED))
        .collect();
    let expected = layer.conv.apply_signed(&x)?;
    let x: Vec<f32> = x.iter().map(|&v| v as f32).collect();
    let columns = im2col(&layer.shape, &x, columns);
    multiply(&layer.shape, &layer.weights_f32, columns, &mut layer.y_f32);
    let got = layer.y_f32.iter().map(|&y| y as i64);
    if !got.eq(expected) {
        return Err(format!("f32 and Z_2^52 differ for {:?}", layer.shape).into());
    }
    Ok(())
}

/// Rounds on the threads of the current pool, after one that warms up. Who comes first changes from round to round.
fn rounds(layers: &mut [Layer], columns: &mut [f32], n: usize) -> Result<Vec<Round>> {
    let mut rounds = Vec::with_capacity(n);
    for i in 0..=n {
        let mut round = Round::default();
        for turn in 0..2 {
            if (i + turn) % 2 == 0 {
                for layer in layers.iter() {
                    let started = Instant::now();
                    black_box(layer.conv.apply(black_box(&layer.x))?);
                    round.integer += started.elapsed().as_secs_f64();
                }
            } else {
                for layer in layers.iter_mut() {
                    let started = Instant::now();
                    let columns = im2col(&layer.shape, black_box(&layer.x_f32), columns);
                    round.im2col += started.elapsed().as_secs_f64();
                    let started = Instant::now();
                    multiply(&layer.shape, &layer.weights_f32, columns, &mut layer.y_f32);
                    round.gemm += started.elapsed().as_secs_f64();
                    black_box(&mut layer.y_f32);
                }
            }
        }
        if i > 0 {
            rounds.push(round);
        }
    }
    Ok(rounds)
}

/// Inputs of one output pixel.
const fn depth(shape: &Shape) -> usize {
    shape.in_channels * shape.window.kernel[0] * shape.window.kernel[1]
}

fn n_pixels(shape: &Shape) -> usize {
    shape.out_height() * shape.out_width()
}

fn n_columns(shape: &Shape) -> usize {
    depth(shape) * n_pixels(shape)
}

/// The input as a matrix of (C, kh, kw) rows and a column for each output pixel; the input itself where that is it.
fn im2col<'a>(shape: &Shape, x: &'a [f32], columns: &'a mut [f32]) -> &'a [f32] {
    let ([kernel_h, kernel_w], stride) = (shape.window.kernel, shape.window.stride[0]);
    let padding = shape.window.padding.top;
    if [kernel_h, kernel_w, stride, padding] == [1, 1, 1, 0] {
        return x;
    }
    let columns = &mut columns[..n_columns(shape)];
    let plane = shape.height * shape.width;
    let fill = |(row, out): (usize, &mut [f32])| {
        let (channel, u, v) = (
            row / (kernel_h * kernel_w),
            row / kernel_w % kernel_h,
            row % kernel_w,
        );
        let x = &x[channel * plane..(channel + 1) * plane];
        for (i, line) in out.chunks_exact_mut(shape.out_width()).enumerate() {
            let Some(from) = (i * stride + u).checked_sub(padding) else {
                line.fill(0.0);
                continue;
            };
            let Some(from) = x.chunks_exact(shape.width).nth(from) else {
                line.fill(0.0);
                continue;
            };
            // Outputs whose input is inside; the others are padding.
            let first = padding.saturating_sub(v).div_ceil(stride);
            let last = (shape.width + padding - v).div_ceil(stride).min(line.len());
            line[..first].fill(0.0);
            line[last..].fill(0.0);
            let from = &from[first * stride + v - padding..];
            if stride == 1 {
                line[first..last].copy_from_slice(&from[..last - first]);
            } else {
                let strided = from.iter().step_by(stride);
                line[first..last]
                    .iter_mut()
                    .zip(strided)
                    .for_each(|(y, &x)| *y = x);
            }
        }
    };
    let rows = n_pixels(shape);
    columns
        .par_chunks_exact_mut(rows)
        .enumerate()
        .for_each(fill);
    columns
}

/// Weights (O, K) by columns (K, pixels). Each thread takes an equal part of the filters.
fn multiply(shape: &Shape, weights: &[f32], columns: &[f32], y: &mut [f32]) {
    let (depth, n_pixels) = (depth(shape), n_pixels(shape));
    let filters = shape.out_channels.div_ceil(rayon::current_num_threads());
    y.par_chunks_mut(filters * n_pixels)
        .zip(weights.par_chunks(filters * depth))
        .for_each(|(y, weights)| product(weights, columns, y, depth, n_pixels));
}

/// `y` (m, n) is `a` (m, k) times `b` (k, n), all by rows.
#[expect(
    unsafe_code,
    reason = "the crate's interface is of pointers; sizes are checked here"
)]
fn product(a: &[f32], b: &[f32], y: &mut [f32], k: usize, n: usize) {
    let m = y.len() / n;
    assert!(a.len() == m * k && b.len() == k * n && y.len() == m * n);
    let (k_step, n_step) = (k as isize, n as isize);
    // SAFETY: with these steps every access lies in the slices, whose lengths were just checked; `y` is borrowed alone.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.as_ptr(),
            k_step,
            1,
            b.as_ptr(),
            n_step,
            1,
            0.0,
            y.as_mut_ptr(),
            n_step,
            1,
        );
    }
}
