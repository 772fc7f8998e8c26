//! Times the garbling and OT kernels on this machine: `cargo run --release -p pi-protocol --example micro`.

use std::hint::black_box;
use std::time::Instant;

use pi_protocol::block::{ActiveLabel, Block, Delta, ZeroLabel};
use pi_protocol::gc::{Instances, evaluate, garble, sign_circuit};
use pi_protocol::hash::TweakBase;
use pi_protocol::ot::softspoken::{ReceiverSetup, SenderSetup};
use pi_protocol::ot::{CotReceiver, CotSender};
use pi_protocol::prg::os_seed;

/// Best of twenty, in nanoseconds for each of `n` items.
fn best<T>(n: usize, mut work: impl FnMut() -> T) -> f64 {
    let times = (0..20).map(|_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::MAX, f64::min) * 1e9 / n as f64
}

fn main() -> pi_protocol::Result<()> {
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
    };
    let n_and = n_instances * circuit.n_and();
    let zero = vec![ZeroLabel::default(); instances.n_evaluator_labels()];
    let active = vec![ActiveLabel::default(); instances.n_evaluator_labels()];
    let garbled = garble(&instances, &delta, &seed, &zero, None)?;
    let all = rayon::current_num_threads();
    for n_threads in if all == 1 { vec![1] } else { vec![1, all] } {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
        let pool = pool
            .build()
            .map_err(|e| pi_protocol::Error::Misuse(format!("no threads: {e}")))?;
        pool.install(|| {
            let ns = best(n_and, || garble(&instances, &delta, &seed, &zero, None));
            println!("garble   {ns:6.1} ns for each AND, {n_threads} threads");
            let ns = best(n_and, || {
                evaluate(&instances, &garbled.tables, &active, &active)
            });
            println!("evaluate {ns:6.1} ns for each AND, {n_threads} threads");
        });
    }

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
    let n = 1_000_000;
    let mut receiver_ns = f64::MAX;
    let mut sender_ns = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let got = receiver.extend(n)?;
        let middle = Instant::now();
        black_box(sender.extend(n, &got.message)?);
        receiver_ns = receiver_ns.min((middle - start).as_secs_f64() * 1e9 / n as f64);
        sender_ns = sender_ns.min(middle.elapsed().as_secs_f64() * 1e9 / n as f64);
    }
    println!("COT receiver {receiver_ns:5.1} ns, sender {sender_ns:5.1} ns for each OT");
    println!("both: {:.1} M OT/s", 1e3 / (receiver_ns + sender_ns));
    Ok(())
}
