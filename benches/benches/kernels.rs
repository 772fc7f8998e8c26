//! Micro-benchmarks of the kernels, with their units: `cargo bench -p pi-bench`. BENCHMARKING.md says how to read them.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot be set up must stop, and criterion's macros make undocumented functions"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pi_model::kernel::{Conv2d, Shape};
use pi_model::packing::{SourcePacking, SourceSpec, choose};
use pi_model::spec::Window;
use pi_protocol::channel::pair;
use pi_protocol::primitives::he::{
    ClientSource, DEGREE, PublicKey, RlweParams, SecretKey, ServerSource,
};
use pi_protocol::primitives::ot::{CotReceiver as _, CotSender as _, softspoken};
use pi_protocol::primitives::{
    ActiveLabel, Block, Delta, Domain, Instances, Scheme, TweakBase, ZeroLabel, evaluate, garble,
    hash_to_bits, os_seed, sign_circuit,
};
use pi_protocol::wire::{Step, Tag, Wire};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(1)
}

/// Hashes a second, one core: TMMO, two AES calls each, a new key for every 64.
fn hash(c: &mut Criterion) {
    const N: usize = 1 << 12;
    let start = Block::random(&mut rng());
    let base = TweakBase::new(0, 0).unwrap();
    let blocks = vec![start; N];
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Elements(N as u64));
    group.bench_function("blocks to 52 bits, one core", |b| {
        b.iter(|| {
            hash_to_bits(start, Domain::Output, base, 0, blocks.iter().copied(), 52).unwrap()
        });
    });
    group.finish();
}

/// AND gates a second, all cores: sign tests of 14 bits.
fn circuits(c: &mut Criterion) {
    const N: usize = 1 << 14;
    let mut rng = rng();
    let circuit = sign_circuit(14).unwrap();
    let signs = Instances {
        circuit: &circuit,
        n_instances: N,
        start_key: Block::random(&mut rng),
        tweak: TweakBase::new(0, 0).unwrap(),
        scheme: Scheme::HalfGates,
    };
    let delta = Delta::random(&mut rng);
    let zero: Vec<ZeroLabel> = (0..signs.n_evaluator_labels())
        .map(|_| ZeroLabel::from_cot(Block::random(&mut rng), 0, &delta))
        .collect();
    let seed = os_seed().unwrap();
    let colours = vec![0; N];
    let mut group = c.benchmark_group("garbled circuits");
    group.throughput(Throughput::Elements((N * circuit.n_and()) as u64));
    group.bench_function("garble, AND gates", |b| {
        b.iter(|| garble(&signs, &delta, &seed, &zero, Some(&colours)).unwrap());
    });
    let garbled = garble(&signs, &delta, &seed, &zero, Some(&colours)).unwrap();
    let active = |labels: &[ZeroLabel]| -> Vec<ActiveLabel> {
        labels.iter().map(|z| z.active(0, &delta)).collect()
    };
    let (theirs, own) = (active(&garbled.garbler_zero), active(&zero));
    group.bench_function("evaluate, AND gates", |b| {
        b.iter(|| evaluate(&signs, &garbled.tables, &theirs, &own).unwrap());
    });
    let sliced = Instances {
        scheme: Scheme::ThreeHalves,
        ..signs
    };
    group.bench_function("garble, three halves, AND gates", |b| {
        b.iter(|| garble(&sliced, &delta, &seed, &zero, Some(&colours)).unwrap());
    });
    let garbled = garble(&sliced, &delta, &seed, &zero, Some(&colours)).unwrap();
    group.bench_function("evaluate, three halves, AND gates", |b| {
        b.iter(|| evaluate(&sliced, &garbled.tables, &theirs, &own).unwrap());
    });
    group.finish();
}

/// Correlated OTs a second by extension, both parties one after the other, all cores.
fn transfers(c: &mut Criterion) {
    const N: usize = 1 << 17;
    let mut rng = rng();
    let (setup, first) = softspoken::ReceiverSetup::new([7; 32], &mut rng);
    let delta = Delta::random(&mut rng);
    let (sender, answer) = softspoken::SenderSetup::new([7; 32], delta, &first, &mut rng).unwrap();
    let (mut receiver, trees) = setup.finish(&answer).unwrap();
    let mut sender = sender.finish(&trees).unwrap();
    let mut group = c.benchmark_group("oblivious transfer");
    group
        .sample_size(20)
        .throughput(Throughput::Elements(N as u64));
    group.bench_function("SoftSpokenOT, both parties", |b| {
        b.iter(|| {
            let extended = receiver.extend(N).unwrap();
            sender.extend(N, &extended.message).unwrap()
        });
    });
    group.finish();
}

/// A tile of 64 to 64 channels, 16 x 16, under encryption: polynomials or products a second, all cores.
fn encryption(c: &mut Criterion) {
    let mut rng = rng();
    let params = RlweParams::new(52, 20, 6, 16).unwrap();
    let spec = SourceSpec::square(64, 16, 1, 1, &[(64, 3, 1)]);
    let choice = choose(
        &spec,
        DEGREE,
        params.k_bits(),
        params.up_bits(),
        params.down_bits(),
    )
    .unwrap();
    let packing = SourcePacking::new(&spec, DEGREE, &choice).unwrap();
    let (key, message) = SecretKey::generate(&[1; 32], &mut rng);
    let public = PublicKey::from_message(&[1; 32], 0, &message).unwrap();
    let (_, sent) = ClientSource::new(&key, &params, &packing, &[2; 32], &mut rng).unwrap();
    let rebuild = || {
        ServerSource::new(
            &params,
            &packing,
            &[2; 32],
            0,
            &sent.noise,
            &sent.corrections,
        )
        .unwrap()
    };
    let mut group = c.benchmark_group("homomorphic encryption");
    group.sample_size(20);
    group.throughput(Throughput::Elements(2 * packing.n_polys() as u64));
    group.bench_function("transforms, two for each ciphertext rebuilt", |b| {
        b.iter(rebuild)
    });
    let server = rebuild();
    let response = &packing.responses()[0];
    let weights: Vec<i32> = (0..response.n_weights())
        .map(|i| (i * 31 % 255) as i32 - 127)
        .collect();
    group.throughput(Throughput::Elements(response.n_products() as u64));
    group.bench_function("convolution tile, ciphertext products", |b| {
        b.iter(|| {
            server
                .respond(&public, response, &weights, &mut rng)
                .unwrap()
        });
    });
    group.finish();
}

/// Multiply-adds a second in Z_2^52 with 8-bit weights, one core and all.
fn convolution(c: &mut Criterion) {
    let shape = Shape {
        in_channels: 64,
        height: 32,
        width: 32,
        out_channels: 64,
        groups: 1,
        window: Window::square(3, 1, 1),
    };
    let weights: Vec<i32> = (0..shape.n_weights())
        .map(|i| (i * 31 % 255) as i32 - 127)
        .collect();
    let conv = Conv2d::new(shape, &weights, 52).unwrap();
    let x: Vec<u64> = (0..shape.n_inputs() as u64)
        .map(|i| i * 0x9e37_79b9 % (1 << 52))
        .collect();
    let mut group = c.benchmark_group("integer convolution");
    group.throughput(Throughput::Elements(shape.n_multiply_adds() as u64));
    group.bench_function("64x64x3x3 on 32x32, one core, multiply-adds", |b| {
        b.iter(|| conv.apply_serial(&x).unwrap());
    });
    group.bench_function("64x64x3x3 on 32x32, all cores, multiply-adds", |b| {
        b.iter(|| conv.apply(&x).unwrap());
    });
    group.finish();
}

/// Bytes a second through frames and tags, without a network.
fn framing(c: &mut Criterion) {
    const N: usize = 8 << 20;
    let tag = Tag {
        step: Step::Tables,
        layer: 1,
        batch: 1,
        index: 0,
    };
    let message = vec![7; N];
    let mut group = c.benchmark_group("framing");
    group
        .sample_size(20)
        .throughput(Throughput::Bytes(N as u64));
    group.bench_function("a message of 8 MiB through memory", |b| {
        b.iter_batched(
            || {
                let (a, b) = pair();
                (Wire::new(a), Wire::new(b))
            },
            |(mut a, mut b)| {
                a.send(tag, &message).unwrap();
                b.recv(tag, N).unwrap()
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(
    kernels,
    hash,
    circuits,
    transfers,
    encryption,
    convolution,
    framing
);
criterion_main!(kernels);
