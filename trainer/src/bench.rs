//! Throughput of each stage on synthetic images, to choose threads and number type.

use crate::error::Result;
use crate::finetune::Finetune;
use crate::net::{Arch, Compute, Mask, MaskSet, Mode, Net};
use crate::optim::{Sgd, gradients};
use crate::run::Stage;
use crate::search::{Options, Search};
use crate::selection::Selection;
use crate::teacher::Teacher;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Images a second of each stage, and of inference with masks, measured for about `seconds` each.
/// Stages after the teacher's include the teacher's forward pass.
pub fn measure(
    arch: &Arch,
    batch: i64,
    compute: Compute,
    seconds: f64,
) -> Result<Vec<(String, f64)>> {
    let shapes = arch.relu_shapes();
    let budget: Vec<usize> = arch.relu_counts().iter().map(|n| n / 5).collect();
    let random = |(i, (s, &n)): (usize, (&[i64; 3], &usize))| Mask::random(*s, n, i as u64);
    let masks = || MaskSet::new(shapes.iter().zip(&budget).enumerate().map(random).collect());
    let net = Net::new(arch, 1);
    let search = |selection| {
        let options = Options::new(selection);
        Search::new(Net::new(arch, 2), &budget, 1, 10, 1, options)
    };
    let mut teacher = Teacher {
        masks: MaskSet::all_relu(arch),
        label_smoothing: 0.1,
    };
    let (mut removal, mut taylor) = (search(Selection::Removal), search(Selection::Taylor));
    let mut finetune = Finetune::new(Net::new(arch, 2), masks(), &net);
    let stages: [(&str, &mut dyn Stage); 4] = [
        ("teacher", &mut teacher),
        ("search, removal", &mut removal),
        ("search, taylor", &mut taylor),
        ("finetune", &mut finetune),
    ];
    let [c, h, w] = arch.input.map(|n| n as i64);
    let x = Tensor::randn([batch, h, w, c], (Kind::Float, Device::Cpu)).permute([0, 3, 1, 2]);
    let labels = Tensor::randint(arch.n_classes as i64, [batch], (Kind::Int64, Device::Cpu));
    let mode = Mode {
        train: true,
        collect: false,
        compute,
    };
    let mut rates = Vec::new();
    for (name, stage) in stages {
        let mut sgd = Sgd::new(&net, 0.9, 5e-4);
        let step = || {
            let (loss, _) = stage.loss(&net, &x, &labels, mode);
            let (by_params, by_probes) = gradients(&loss, &net, &stage.probes())?;
            stage.take_gradients(&by_probes);
            sgd.step(&net, &by_params, 1e-4);
            Ok(())
        };
        rates.push((name.to_owned(), rate(batch, seconds, step)?));
    }
    let (masks, eval) = (
        masks(),
        Mode {
            train: false,
            ..mode
        },
    );
    let infer = || {
        tch::no_grad(|| net.forward(&x, &masks, eval));
        Ok(())
    };
    rates.push(("inference".to_owned(), rate(batch, seconds, infer)?));
    Ok(rates)
}

fn rate(batch: i64, seconds: f64, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    step()?;
    let clock = Instant::now();
    let mut n = 0;
    while clock.elapsed().as_secs_f64() < seconds {
        step()?;
        n += batch;
    }
    Ok(n as f64 / clock.elapsed().as_secs_f64())
}
