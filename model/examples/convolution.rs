//! Speed of the integer convolution on one core: 64 filters over 64 channels of 32x32, 3x3, k = 52.

use pi_model::kernel::{Conv2d, Shape};
use pi_model::spec::Window;
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    for (channels, size) in [(16, 32), (64, 32), (128, 16), (256, 8), (512, 4)] {
        let shape = Shape {
            in_channels: channels,
            height: size,
            width: size,
            out_channels: channels,
            groups: 1,
            window: Window::square(3, 1, 1),
        };
        let weights: Vec<i32> = (0..shape.n_weights())
            .map(|i| (i * 37 % 255) as i32 - 127)
            .collect();
        let x: Vec<u64> = (0..shape.n_inputs() as u64)
            .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .collect();
        for k_bits in [52, 62] {
            let conv = Conv2d::new(shape, &weights, k_bits)?;
            for parallel in [false, true] {
                let mut best = f64::INFINITY;
                for _ in 0..20 {
                    let start = Instant::now();
                    let y = if parallel {
                        conv.apply(&x)?
                    } else {
                        conv.apply_serial(&x)?
                    };
                    best = best.min(start.elapsed().as_secs_f64());
                    std::hint::black_box(y);
                }
                let speed = shape.n_multiply_adds() as f64 / best / 1e9;
                println!(
                    "{channels} channels {size}x{size}, k = {k_bits}, parallel {parallel}: {speed:.1} G multiply-adds/s"
                );
            }
        }
    }
    Ok(())
}
