use std::sync::Arc;

use pi_model::plan::Plan;
use pi_model::random::{RandomModel, residual_network};
use pi_model::spec::OutputMode;
use pi_model::{Model, executor};

use crate::channel::pair;
use crate::client::{ClientSession, Output};
use crate::cost::Cost;
use crate::ledger::{Direction, Ledger, Phase};
use crate::prg::Seed;
use crate::server::ServerSession;

/// Prepares one batch and runs all of it; returns the outputs and both ledgers.
fn run(model: &Arc<Model>, batch: usize, inputs: &[Vec<i64>]) -> (Vec<Output>, Ledger, Ledger) {
    let plan = Arc::new(Plan::new(model.clone(), batch).unwrap());
    let public = plan.public().clone();
    let (to_server, to_client) = pair();
    let server = std::thread::spawn(move || {
        let mut session =
            ServerSession::accept_with_seed(to_client, plan, Seed::from([2; 32])).unwrap();
        session.serve().unwrap();
        assert_eq!(session.n_prepared(), 0);
        session.ledger().clone()
    });
    let mut client =
        ClientSession::connect_with_seed(to_server, public, Seed::from([1; 32])).unwrap();
    let prepared = client.prepare().unwrap();
    assert_eq!(prepared.len(), batch);
    // In reverse, because the order of a batch is free.
    let mut outputs: Vec<Output> = prepared
        .into_iter()
        .zip(inputs)
        .rev()
        .map(|(p, x)| client.infer(p, x).unwrap())
        .collect();
    outputs.reverse();
    let ledger = client.close().unwrap();
    (outputs, ledger, server.join().unwrap())
}

fn small(mode: OutputMode) -> Arc<Model> {
    Arc::new(residual_network("small", [3, 8, 8], &[4, 6], 1, 5, 200, mode).unwrap())
}

fn inputs_for(shape: [usize; 3], n: usize) -> Vec<Vec<i64>> {
    let mut net = RandomModel::new("inputs", shape, 99);
    (0..n).map(|_| net.input()).collect()
}

#[test]
fn logits_are_close_to_the_plaintext_executor() {
    let model = small(OutputMode::Logits);
    let inputs = inputs_for([3, 8, 8], 3);
    let (outputs, ..) = run(&model, 3, &inputs);
    let scale = f64::from(model.public().graph().layers.last().unwrap().fraction_bits);
    for (output, input) in outputs.iter().zip(&inputs) {
        let expected = executor::run(&model, input).unwrap();
        assert_eq!(expected.n_range_violations, 0);
        let Output::Logits(logits) = output else {
            panic!("no logits")
        };
        for (got, want) in logits.iter().zip(&expected.logits) {
            let error = (got - want) as f64 / scale.exp2();
            assert!(
                error.abs() < 0.1,
                "logits {logits:?} differ from {:?}",
                expected.logits
            );
        }
    }
}

#[test]
fn argmax_opens_the_class_alone() {
    let logits = run(&small(OutputMode::Logits), 2, &inputs_for([3, 8, 8], 2)).0;
    let classes = run(&small(OutputMode::Argmax), 2, &inputs_for([3, 8, 8], 2)).0;
    for (logits, class) in logits.iter().zip(&classes) {
        assert_eq!(*class, Output::Class(logits.class()));
    }
}

#[test]
fn both_ledgers_measure_what_the_plan_predicts() {
    for (mode, relus, batch) in [
        (OutputMode::Logits, 200, 2),
        (OutputMode::Argmax, 30, 1),
        (OutputMode::Logits, 0, 3),
    ] {
        let model =
            Arc::new(residual_network("small", [3, 8, 8], &[4, 6], 1, 5, relus, mode).unwrap());
        let plan = Plan::new(model.clone(), batch).unwrap();
        let cost = Cost::of(plan.public()).unwrap();
        let (_, client, server) = run(&model, batch, &inputs_for([3, 8, 8], batch));
        for (name, ledger) in [("client", &client), ("server", &server)] {
            for (step, layer, predicted) in cost.bytes_by_step() {
                let n = if step.phase() == Phase::Online {
                    batch as u64
                } else {
                    1
                };
                let measured = ledger
                    .traffic()
                    .find(|(s, l, _)| (*s, *l) == (step, layer))
                    .map(|(.., t)| t.n_bytes);
                assert_eq!(
                    measured,
                    Some(predicted * n),
                    "{name}: bytes of {} in layer {layer}",
                    step.name()
                );
            }
            let steps = ledger
                .traffic()
                .filter(|(s, ..)| s.name() != "request")
                .count();
            assert_eq!(
                steps,
                cost.bytes_by_step().count(),
                "{name} sent something that was not predicted"
            );
            assert_eq!(
                ledger.work_by_layer().collect::<Vec<_>>(),
                cost.work_by_layer().collect::<Vec<_>>(),
                "{name}"
            );
            for phase in [Phase::Setup, Phase::Offline, Phase::Online] {
                let n = if phase == Phase::Online {
                    batch as u64
                } else {
                    1
                };
                assert_eq!(
                    ledger.round_trips(phase),
                    cost.round_trips(phase) * n,
                    "{name} {phase:?}"
                );
            }
        }
        assert_eq!(
            client.bytes(Phase::Online, Direction::Down),
            server.bytes(Phase::Online, Direction::Down)
        );
    }
}
