//! Throughput of each stage on synthetic images, to choose device, threads and number type; and of the
//! teacher's step written the usual way, as the mark to be held.

mod plain;

use crate::error::Result;
use crate::finetune::{Finetune, Losses};
use crate::net::{Compute, Graph, Mask, MaskSet, Mode, Net};
use crate::optim::{Sgd, gradients};
use crate::run::Stage;
use crate::search::{Options, Search};
use crate::selection::Selection;
use crate::sensitivity::Sensitivity;
use crate::teacher::Teacher;
use plain::Plain;
use std::time::Instant;
use tch::{Cuda, Device, Kind, Tensor};

/// Each measurement is repeated in turn with the others, and the best counts: other work on the machine
/// only ever slows a step down.
const ROUNDS: usize = 3;

/// A step to be measured.
type Step<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// Images a second of each stage, of inference with masks, and (in 32-bit floats) of the teacher's step
/// in plain libtorch; each is measured for about `seconds`. Stages after the teacher's include the
/// teacher's forward pass.
// house: one list of what is measured, whose steps borrow the networks made above it
pub fn measure(
    graph: &Graph,
    batch: i64,
    compute: Compute,
    seconds: f64,
    device: Device,
) -> Result<Vec<(String, f64)>> {
    let shapes = graph.relu_shapes();
    let budget: Vec<usize> = graph.relu_counts().iter().map(|n| n / 5).collect();
    let random = |(i, (s, &n)): (usize, (&[i64; 3], &usize))| Mask::random(*s, n, i as u64);
    let masks = || {
        let masks = shapes.iter().zip(&budget).enumerate().map(random);
        MaskSet::new(masks.collect()).on(device)
    };
    let net = Net::on(graph, 1, device);
    let teacher = || Net::on(graph, 2, device);
    let search = |selection| Search::new(teacher(), &budget, 1, 10, 1, Options::new(selection));
    let [c, h, w] = graph.input.map(|n| n as i64);
    let x = Tensor::randn([batch, h, w, c], (Kind::Float, device)).permute([0, 3, 1, 2]);
    let labels = Tensor::randint(graph.n_classes as i64, [batch], (Kind::Int64, device));
    let mode = Mode {
        train: true,
        collect: false,
        compute,
    };
    // Its zeros are its own.
    let sparse = Net::on(graph, 3, device);
    let all = Teacher {
        masks: MaskSet::all_relu(graph),
        label_smoothing: 0.1,
    };
    let tuned = Finetune::new(teacher(), masks(), &net, Losses::PUBLISHED);
    let stages: [(&str, &Net, Box<dyn Stage>); 5] = [
        ("teacher", &net, Box::new(all)),
        (
            "sparse proxy",
            &sparse,
            Box::new(Sensitivity::new(&sparse, 10, 1)),
        ),
        ("search, senet", &net, Box::new(search(Selection::Senet)?)),
        (
            "search, anneal-kink",
            &net,
            Box::new(search(Selection::AnnealKink)?),
        ),
        ("finetune, published", &net, Box::new(tuned)),
    ];
    let mut steps: Vec<(&str, Step)> = Vec::new();
    for (name, net, mut stage) in stages {
        let mut sgd = Sgd::new(net, 0.9, true, 5e-4);
        let (x, labels) = (&x, &labels);
        let step = move || {
            let (loss, _) = stage.loss(net, x, labels, mode);
            let (by_params, by_probes) = gradients(&loss, net, &stage.probes())?;
            stage.take_gradients(&by_probes);
            sgd.step(net, &by_params, 1e-4);
            stage.after_step(net);
            Ok(())
        };
        steps.push((name, Box::new(step)));
    }
    let (masks, eval) = (
        masks(),
        Mode {
            train: false,
            ..mode
        },
    );
    let (model, images) = (&net, &x);
    let infer = move || {
        tch::no_grad(|| model.forward(images, &masks, eval));
        Ok(())
    };
    steps.push(("inference", Box::new(infer)));
    if compute == Compute::F32 {
        let mut plain = Plain::new(graph, device)?;
        let (x, labels) = (x.contiguous(), &labels);
        let step = move || {
            plain.step(&x, labels);
            Ok(())
        };
        steps.push(("teacher in plain libtorch", Box::new(step)));
    }
    let mut rates = vec![0f64; steps.len()];
    for _ in 0..ROUNDS {
        for ((_, step), best) in steps.iter_mut().zip(&mut rates) {
            let rate = rate(batch, seconds / ROUNDS as f64, device, step)?;
            *best = best.max(rate);
        }
    }
    let names = steps.iter().map(|(name, _)| (*name).to_owned());
    Ok(names.zip(rates).collect())
}

fn rate(batch: i64, seconds: f64, device: Device, step: &mut Step) -> Result<f64> {
    let wait = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    step()?;
    wait();
    let clock = Instant::now();
    let mut n = 0;
    while clock.elapsed().as_secs_f64() < seconds {
        step()?;
        n += batch;
    }
    wait();
    Ok(n as f64 / clock.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_measured() {
        tch::set_num_threads(1);
        let graph = crate::net::Arch::custom(&[4, 8], 1, [3, 8, 8], 3).graph();
        for (compute, n) in [(Compute::F32, 7), (Compute::Bf16, 6)] {
            let rates = measure(&graph, 4, compute, 0.03, Device::Cpu).unwrap();
            assert_eq!(rates.len(), n);
            assert!(rates.iter().all(|r| r.1 > 0.0), "{rates:?}");
        }
    }
}
