//! Training and inference throughput on synthetic images, to choose threads and number type.

use crate::loss;
use crate::net::{Arch, Compute, Mask, MaskSet, Mode, Net};
use crate::optim::Sgd;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Images a second while training and while inferring.
pub struct Rate {
    /// Forward, backward and update.
    pub train: f64,
    /// Forward in eval mode.
    pub infer: f64,
}

/// Measures for about `seconds` each.
pub fn measure(arch: &Arch, batch: i64, compute: Compute, masked: bool, seconds: f64) -> Rate {
    let net = Net::new(arch, 1);
    let masks = if masked {
        let half = |(i, s): (usize, [i64; 3])| {
            Mask::random(s, s.iter().product::<i64>() as usize / 5, i as u64)
        };
        MaskSet::new(
            arch.relu_shapes()
                .into_iter()
                .enumerate()
                .map(half)
                .collect(),
        )
    } else {
        MaskSet::all_relu(arch)
    };
    let [c, h, w] = arch.input.map(|n| n as i64);
    let x = Tensor::randn([batch, h, w, c], (Kind::Float, Device::Cpu)).permute([0, 3, 1, 2]);
    let labels = Tensor::randint(arch.n_classes as i64, [batch], (Kind::Int64, Device::Cpu));
    let mut sgd = Sgd::new(&net, 0.9, 5e-4);
    let mode = Mode {
        train: true,
        collect: false,
        compute,
    };
    let train = rate(batch, seconds, || {
        let logits = net.forward(&x, &masks, mode).logits;
        loss::cross_entropy(&logits, &labels, 0.1).backward();
        sgd.step(&net, 0.01);
    });
    let infer = rate(batch, seconds / 2.0, || {
        tch::no_grad(|| {
            net.forward(
                &x,
                &masks,
                Mode {
                    train: false,
                    ..mode
                },
            )
        });
    });
    Rate { train, infer }
}

fn rate(batch: i64, seconds: f64, mut step: impl FnMut()) -> f64 {
    step();
    let clock = Instant::now();
    let mut n = 0;
    while clock.elapsed().as_secs_f64() < seconds {
        step();
        n += batch;
    }
    n as f64 / clock.elapsed().as_secs_f64()
}
