//! Time and bytes of the linear layers of a network under encryption, offline, in core-seconds of this process.
//!
//! `linear [--net resnet18|layer] [--batch N] [--layers]`: ResNet-18 at 32x32 with 100 classes, or one of its layers (64
//! channels of 32x32, 3x3); the batch is 16 unless stated; `--layers` adds a line for each source.

use nix::time::{ClockId, clock_gettime};
use pi_model::packing::{PackingCost, SourcePacking, SourceSpec, choose};
use pi_protocol::primitives::he::{
    ClientSource, DEGREE, PublicKey, RlweParams, SecretKey, ServerSource, decrypt,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use std::error::Error;
use std::time::Instant;

/// Core-seconds of each step.
#[derive(Clone, Copy, Default)]
struct Times {
    draw: f64,
    rebuild: f64,
    respond: f64,
    decrypt: f64,
}

impl Times {
    fn total(&self) -> f64 {
        self.draw + self.rebuild + self.respond + self.decrypt
    }

    fn add(&mut self, other: &Self) {
        self.draw += other.draw;
        self.rebuild += other.rebuild;
        self.respond += other.respond;
        self.decrypt += other.decrypt;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut net, mut batch, mut by_layer) = ("resnet18".to_owned(), 16, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--net" => net = args.next().ok_or("--net wants resnet18 or layer")?,
            "--batch" => batch = args.next().ok_or("--batch wants a number")?.parse()?,
            "--layers" => by_layer = true,
            other => return Err(format!("{other} is no option of this example").into()),
        }
    }
    let specs = match net.as_str() {
        "resnet18" => resnet18(batch),
        "layer" => vec![stage(batch, 64, 32, 1, &[(64, 3)])],
        other => return Err(format!("{other} is no network: resnet18 or layer").into()),
    };
    let started = Instant::now();
    let (mut all, mut sum) = (Times::default(), PackingCost::default());
    for (index, spec) in specs.iter().enumerate() {
        let params = if net == "resnet18" && index + 1 == specs.len() {
            RlweParams::OPENED
        } else {
            RlweParams::HIDDEN
        };
        let (times, cost, packing) = measure(&params, spec)?;
        if by_layer {
            let choice = packing.choice();
            println!(
                "{:3} x {:2}x{:2} /{}: B_w {:2} C_w {:2} O_w {:?}, {} groups, {:5} products, {:5} transforms; draw {:.4} \
                 rebuild {:.4} respond {:.4} decrypt {:.4}; {:.2} us a product",
                spec.channels,
                spec.height,
                spec.width,
                spec.stride[0],
                choice.images,
                choice.channels,
                choice.filters,
                packing.n_groups(),
                cost.products,
                cost.weight_transforms,
                times.draw,
                times.rebuild,
                times.respond,
                times.decrypt,
                times.respond * 1e6 / cost.products as f64
            );
        }
        all.add(&times);
        sum.bytes += cost.bytes;
        sum.products += cost.products;
        sum.weight_transforms += cost.weight_transforms;
    }
    println!(
        "{net}, batch {batch}, {} threads: {sum:?}, {:.3} s of wall time",
        rayon::current_num_threads(),
        started.elapsed().as_secs_f64()
    );
    let n = batch as f64;
    println!(
        "core-seconds: client draws {:.4}, server rebuilds {:.4}, responds {:.4}, client decrypts {:.4}; in all {:.4}",
        all.draw,
        all.rebuild,
        all.respond,
        all.decrypt,
        all.total()
    );
    println!(
        "each inference: {:.4} core-seconds ({:.4} server, {:.4} client), {:.2} MB; {:.2} us a product",
        all.total() / n,
        (all.rebuild + all.respond) / n,
        (all.draw + all.decrypt) / n,
        sum.bytes as f64 / n / 1e6,
        all.respond * 1e6 / sum.products as f64
    );
    Ok(())
}

/// One source: both parties, all its convolutions.
fn measure(
    params: &RlweParams,
    spec: &SourceSpec,
) -> Result<(Times, PackingCost, SourcePacking), Box<dyn Error>> {
    let (k, up, down) = (params.k_bits(), params.up_bits(), params.down_bits());
    let choice = choose(spec, DEGREE, k, up, down)?;
    let packing = SourcePacking::new(spec, DEGREE, &choice)?;
    let cost = packing.cost(k, up, down);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let (key, message) = SecretKey::generate(&[1; 32], &mut rng);
    let public = PublicKey::from_message(&[1; 32], 0, &message)?;
    let mut times = Times::default();
    let (client, draw) = timed(|| ClientSource::new(&key, params, &packing, &[2; 32], &mut rng))?;
    let (_client, sent) = client?;
    times.draw = draw;
    let (server, rebuild) = timed(|| {
        ServerSource::new(
            params,
            &packing,
            &[2; 32],
            0,
            &sent.noise,
            &sent.corrections,
        )
    })?;
    let server = server?;
    times.rebuild = rebuild;
    for response in packing.responses() {
        let weights: Vec<i32> = (0..response.n_weights())
            .map(|i| (i * 37 % 255) as i32 - 127)
            .collect();
        let (answer, respond) = timed(|| server.respond(&public, response, &weights, &mut rng))?;
        let answer = answer?;
        let (share, decrypted) = timed(|| decrypt(&key, params, response, 0, &answer.message))?;
        share?;
        times.respond += respond;
        times.decrypt += decrypted;
    }
    Ok((times, cost, packing))
}

/// What `f` returns, and the core-seconds that this process spent meanwhile.
fn timed<T>(f: impl FnOnce() -> T) -> nix::Result<(T, f64)> {
    let now = || -> nix::Result<f64> {
        let t = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
        Ok(t.tv_sec() as f64 + t.tv_nsec() as f64 * 1e-9)
    };
    let start = now()?;
    let value = f();
    Ok((value, now()? - start))
}

/// A source that convolutions of (filters, kernel size) read.
fn stage(
    batch: usize,
    channels: usize,
    size: usize,
    stride: usize,
    consumers: &[(usize, usize)],
) -> SourceSpec {
    let convs = consumers.iter().map(|&(filters, k)| (filters, k, k / 2));
    SourceSpec::square(channels, size, batch, stride, &convs.collect::<Vec<_>>())
}

/// The sources of ResNet-18 for images of 32x32 and 100 classes.
fn resnet18(batch: usize) -> Vec<SourceSpec> {
    let mut specs = vec![stage(batch, 3, 32, 1, &[(64, 3)])];
    let (mut channels, mut size) = (64, 32);
    for width in [64, 128, 256, 512] {
        for _ in 0..2 {
            if channels == width {
                specs.push(stage(batch, width, size, 1, &[(width, 3)]));
            } else {
                specs.push(stage(batch, channels, size, 2, &[(width, 3), (width, 1)]));
                (channels, size) = (width, size / 2);
            }
            specs.push(stage(batch, width, size, 1, &[(width, 3)]));
        }
    }
    specs.push(stage(batch, 512, 1, 1, &[(100, 1)]));
    specs
}
