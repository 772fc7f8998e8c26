//! Times the garbling and OT kernels on this machine: `cargo run --release -p pi-protocol --example micro`.

use std::hint::black_box;
use std::time::Instant;

use pi_protocol::Result;
use pi_protocol::primitives::TweakBase;
use pi_protocol::primitives::digits::{
    DigitTests, digit_labels, evaluate_digits, evaluator_keys, garble_digits,
};
use pi_protocol::primitives::ot::{CotReceiver, CotSender, silent};
use pi_protocol::primitives::ot::{ReceiverSetup, SenderSetup};
use pi_protocol::primitives::{ActiveLabel, Block, Delta, ZeroLabel};
use pi_protocol::primitives::{Instances, Scheme, evaluate, garble, sign_circuit};
use pi_protocol::primitives::{Seed, os_seed};

/// Best of twenty, in nanoseconds for each of `n` items.
fn best<T>(n: usize, mut work: impl FnMut() -> T) -> f64 {
    let times = (0..20).map(|_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::MAX, f64::min) * 1e9 / n as f64
}

fn main() -> Result<()> {
    let seed = os_seed()?;
    let mut rng = seed.stream("micro", &[]);
    let delta = Delta::random(&mut rng);

    let (l, n_instances) = (14, 25_000);
    let circuit = sign_circuit(l)?;
    let tweak = TweakBase::new(0, 0)?;
    let start_key = Block::random(&mut rng);
    let instances = Instances {
        circuit: &circuit,
        n_instances,
        start_key,
        tweak,
        scheme: Scheme::HalfGates,
    };
    let zero = vec![ZeroLabel::default(); instances.n_evaluator_labels()];
    let active = vec![ActiveLabel::default(); instances.n_evaluator_labels()];
    let all = rayon::current_num_threads();
    for n_threads in if all == 1 { vec![1] } else { vec![1, all] } {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
        let pool = pool
            .build()
            .map_err(|e| pi_protocol::Error::Misuse(format!("no threads: {e}")))?;
        for scheme in Scheme::ALL {
            let instances = Instances {
                scheme,
                ..instances
            };
            let tables = garble(&instances, &delta, &seed, &zero, None)?.tables;
            pool.install(|| {
                let n_and = instances.n_and();
                let ns = best(n_and, || garble(&instances, &delta, &seed, &zero, None));
                println!(
                    "{:12} garble   {ns:6.1} ns for each AND, {n_threads} threads",
                    scheme.name()
                );
                let ns = best(n_and, || evaluate(&instances, &tables, &active, &active));
                println!(
                    "{:12} evaluate {ns:6.1} ns for each AND, {n_threads} threads",
                    scheme.name()
                );
            });
        }
    }

    time_digits(l as u32, n_instances, &delta, &seed)?;

    let session = [0; 32];
    let start = Instant::now();
    let (receiver, first) = ReceiverSetup::new(session, &mut rng);
    let (sender, second) = SenderSetup::new(session, delta, &first, &mut rng)?;
    let (mut receiver, third) = receiver.finish(&second)?;
    let mut sender = sender.finish(&third)?;
    println!(
        "OT set-up, both parties: {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    println!("SoftSpokenOT:");
    time_ots(&mut sender, &mut receiver)?;
    let (base, first) = ReceiverSetup::new([1; 32], &mut rng);
    let (setup, second) = SenderSetup::new([1; 32], Delta::random(&mut rng), &first, &mut rng)?;
    let (base, third) = base.finish(&second)?;
    let roots = seed.derive("silent roots", &[]);
    println!("silent OT:");
    time_ots(
        &mut silent::Sender::new(setup.finish(&third)?, [1; 32], roots),
        &mut silent::Receiver::new(base, [1; 32]),
    )
}

/// Sign tests by radix-16 digits, on one thread and on all.
fn time_digits(l: u32, n: usize, delta: &Delta, seed: &Seed) -> Result<()> {
    let tests = DigitTests {
        sign_bits: l,
        n_instances: n,
        start_key: Block(9),
        tweak: TweakBase::new(0, 0)?,
    };
    let ots = vec![Block(3); tests.n_ots()];
    let shares: Vec<u64> = (0..n as u64).map(|i| i * 0x9e37 % (1 << l)).collect();
    let keys = evaluator_keys(&tests, &ots)?;
    let all = rayon::current_num_threads();
    for n_threads in if all == 1 { vec![1] } else { vec![1, all] } {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
        let pool = pool
            .build()
            .map_err(|e| pi_protocol::Error::Misuse(format!("no threads: {e}")))?;
        pool.install(|| -> Result<()> {
            let tables = garble_digits(&tests, delta, seed, &ots, &shares)?;
            let labels = digit_labels(&tests, &tables.offsets, delta, &shares)?;
            let ns = best(n, || garble_digits(&tests, delta, seed, &ots, &shares));
            println!("client-digits garble   {ns:6.1} ns for each ReLU, {n_threads} threads");
            let ns = best(n, || digit_labels(&tests, &tables.offsets, delta, &shares));
            println!("client-digits answer   {ns:6.1} ns for each ReLU, {n_threads} threads");
            let ns = best(n, || {
                evaluate_digits(&tests, &tables.tables, &keys, &labels, &shares)
            });
            println!("client-digits evaluate {ns:6.1} ns for each ReLU, {n_threads} threads");
            Ok(())
        })?;
    }
    Ok(())
}

/// Best of three for each number of OTs: what 25,000 ReLUs need alone, one full chunk, and 150,000 ReLUs alone.
fn time_ots(sender: &mut impl CotSender, receiver: &mut impl CotReceiver) -> Result<()> {
    for n in [25_000, 350_000, 1 << 20, 2_100_000, 5_600_000] {
        let mut ns = [f64::MAX; 3];
        for _ in 0..3 {
            let start = Instant::now();
            let mut got = receiver.extend(n)?;
            let extended = Instant::now();
            black_box(sender.extend(n, &got.message)?);
            let sent = Instant::now();
            receiver.finish(n, &mut got, &sender.reply())?;
            let times = [extended - start, sent - extended, sent.elapsed()];
            for (ns, time) in ns.iter_mut().zip(times) {
                *ns = ns.min(time.as_secs_f64() * 1e9 / n as f64);
            }
        }
        let bytes = receiver.message_bytes(n) + receiver.reply_bytes(n);
        println!(
            "{n:8} COTs: receiver {:5.1} + {:5.1} ns, sender {:5.1} ns each; both {:4.1} M OT/s; {:6.2} bits each",
            ns[0],
            ns[2],
            ns[1],
            1e3 / ns.iter().sum::<f64>(),
            8.0 * bytes as f64 / n as f64,
        );
    }
    Ok(())
}
