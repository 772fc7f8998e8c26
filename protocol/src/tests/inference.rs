//! Outputs against the plaintext executor, and ledgers against the predicted cost.

use pi_model::executor;
use pi_model::plan::Plan;
use pi_model::spec::OutputMode;

use super::{inputs, run, small};
use crate::client::Output;
use crate::cost::Cost;
use crate::ledger::{Direction, Phase};

#[test]
fn logits_are_close_to_the_plaintext_executor() {
    let model = small(200, OutputMode::Logits);
    let inputs = inputs([3, 8, 8], 3);
    let scale = f64::from(model.public().graph().layers.last().unwrap().fraction_bits);
    for (output, input) in run(&model, &inputs, 1).outputs.iter().zip(&inputs) {
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
    let inputs = inputs([3, 8, 8], 2);
    let logits = run(&small(200, OutputMode::Logits), &inputs, 1).outputs;
    let classes = run(&small(200, OutputMode::Argmax), &inputs, 1).outputs;
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
        let model = small(relus, mode);
        let plan = Plan::new(model.clone(), batch).unwrap();
        let cost = Cost::of(plan.public()).unwrap();
        let run = run(&model, &inputs([3, 8, 8], batch), 5);
        for (name, ledger) in [("client", &run.client), ("server", &run.server)] {
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
            run.client.bytes(Phase::Online, Direction::Down),
            run.server.bytes(Phase::Online, Direction::Down)
        );
    }
}
