//! One batch between two threads of this process: the protocol's compute and bytes, without a network.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use pi_model::{Model, Plan, executor};
use pi_protocol::channel::pair;
use pi_protocol::client::{ClientSession, Output};
use pi_protocol::ledger::{Direction, Ledger, Phase};
use pi_protocol::server::ServerSession;

/// Prepares one batch of `model` and runs all of it.
pub fn run(model: Model, batch: usize) -> Result<()> {
    let model = Arc::new(model);
    let plan = Arc::new(Plan::new(model.clone(), batch)?);
    let public = plan.public().clone();
    let (to_server, to_client) = pair();
    let server = std::thread::spawn(move || -> Result<Ledger> {
        let mut session = ServerSession::accept(to_client, plan)?;
        session.serve()?;
        Ok(session.ledger().clone())
    });
    let started = Instant::now();
    let mut client = ClientSession::connect(to_server, public)?;
    let setup = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let prepared = client.prepare()?;
    let offline = started.elapsed().as_secs_f64();
    let n_inputs = model.public().spec().input.n_values();
    let mut online = Vec::new();
    for (index, prepared) in prepared.into_iter().enumerate() {
        let input: Vec<i64> = (0..n_inputs)
            .map(|i| ((i * 37 + index * 101) % 512) as i64 - 256)
            .collect();
        let started = Instant::now();
        let output = client.infer(prepared, &input)?;
        online.push(started.elapsed().as_secs_f64());
        let expected = executor::run(&model, &input)?;
        let agree = output.class() == expected.class();
        let error = match &output {
            Output::Logits(logits) => logits
                .iter()
                .zip(&expected.logits)
                .map(|(a, b)| (a - b).unsigned_abs())
                .max(),
            Output::Class(_) => None,
        };
        println!(
            "inference {index}: class {} ({}), largest logit error {error:?} of scale 2^-{}",
            output.class(),
            if agree {
                "as in plaintext"
            } else {
                "NOT as in plaintext"
            },
            model
                .public()
                .graph()
                .layers
                .last()
                .map_or(0, |l| l.fraction_bits)
        );
    }
    let client = client.close()?;
    let server = server
        .join()
        .map_err(|_| anyhow!("the server thread panicked"))??;
    online.sort_by(f64::total_cmp);
    println!(
        "{} ReLUs, batch of {batch}, both parties in one process",
        model.public().graph().n_relus()
    );
    println!(
        "setup {setup:.3} s, offline {offline:.3} s ({:.3} s an inference), online median {:.4} s",
        offline / batch as f64,
        online[online.len() / 2]
    );
    report(&client, &server, batch);
    Ok(())
}

/// Prints bytes, round trips and where the time went.
fn report(client: &Ledger, server: &Ledger, batch: usize) {
    for (phase, n) in [
        (Phase::Setup, 1),
        (Phase::Offline, batch as u64),
        (Phase::Online, batch as u64),
    ] {
        println!(
            "{phase:?}: {} bytes up, {} bytes down for each inference, {} round trips",
            client.bytes(phase, Direction::Up) / n,
            client.bytes(phase, Direction::Down) / n,
            client.round_trips(phase)
        );
    }
    for (name, ledger) in [("client", client), ("server", server)] {
        for (phase, operation, seconds) in ledger.seconds() {
            println!("{name} {phase:?} {operation}: {seconds:.4} s");
        }
    }
}
