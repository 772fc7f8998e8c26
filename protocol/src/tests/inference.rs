//! Outputs against the plaintext executor, and ledgers against the predicted cost.

use std::sync::Arc;

use pi_model::Model;
use pi_model::executor;
use pi_model::packing::PackingGoal;
use pi_model::plan::{Plan, PublicPlan};
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;

use super::{Run, inputs, run, run_plan, small};
use crate::client::Output;
use crate::cost::Cost;
use crate::session::GarblingMode;
use crate::session::OtMode;
use crate::session::SessionOptions;
use crate::wire::Step;
use crate::wire::{Direction, Phase};

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
        ledgers_match(plan, &inputs([3, 8, 8], batch), OtMode::SoftSpoken);
    }
}

/// Goals that lead to different packings of a network with shortcuts, the fewest bytes first.
const GOALS: [PackingGoal; 3] = [
    PackingGoal::FEWEST_BYTES,
    PackingGoal::DEFAULT,
    PackingGoal::for_bandwidth(1 << 50),
];

#[test]
fn every_goal_costs_what_it_predicts() {
    let model = small(40, OutputMode::Logits);
    let batch = 5;
    let inputs = inputs([3, 8, 8], batch);
    let mut linear = vec![];
    let mut outputs = vec![];
    for goal in GOALS {
        let plan = Plan::with_goal(model.clone(), batch, goal).unwrap();
        let public = plan.public().clone();
        let run = ledgers_match(plan, &inputs, OtMode::SoftSpoken);
        linear.push(assert_linear_bytes(&run, &public));
        outputs.push(run.outputs.iter().map(Output::class).collect::<Vec<_>>());
    }
    assert!(
        linear[0] <= linear[1] && linear[1] <= linear[2],
        "{linear:?}"
    );
    assert!(
        linear[0] < linear[2],
        "goals make no difference: {linear:?}"
    );
    assert!(outputs.iter().all(|o| *o == outputs[0]));
}

#[test]
fn shortcuts_join_the_response_of_their_block() {
    let model = small(200, OutputMode::Logits);
    let plan = Plan::with_goal(model.clone(), 2, PackingGoal::FEWEST_BYTES).unwrap();
    let n_convs: usize = plan
        .public()
        .graph()
        .layers
        .iter()
        .map(|l| l.convs.len())
        .sum();
    let joined = plan
        .public()
        .responses()
        .iter()
        .filter(|r| r.convs.len() > 1);
    assert!(joined.count() > 0);
    let served: usize = plan
        .public()
        .responses()
        .iter()
        .map(|r| r.convs.len())
        .sum();
    assert_eq!(served, n_convs);
    let inputs = inputs([3, 8, 8], 2);
    let scale = f64::from(model.public().graph().layers.last().unwrap().fraction_bits);
    for (output, input) in run_plan(plan, &inputs, 9, SessionOptions::default())
        .outputs
        .iter()
        .zip(&inputs)
    {
        let expected = executor::run(&model, input).unwrap();
        let Output::Logits(logits) = output else {
            panic!("no logits")
        };
        for (got, want) in logits.iter().zip(&expected.logits) {
            assert!(((got - want) as f64 / scale.exp2()).abs() < 0.1);
        }
    }
}

/// The bytes of the linear layers that the client's ledger saw; they are what the packings say.
fn assert_linear_bytes(run: &Run, plan: &PublicPlan) -> usize {
    let explained = plan.explain(0).unwrap().total();
    let linear = |step| matches!(step, Step::HeNoise | Step::HeCorrections | Step::HeResponse);
    let steps = run.client.traffic().filter(|(s, ..)| linear(*s));
    let measured: u64 = steps.map(|(.., t)| t.n_bytes).sum();
    assert_eq!(measured, explained.bytes as u64);
    explained.bytes
}

/// Runs a session and compares what both sides measured with the prediction, to the byte.
fn ledgers_match(plan: Plan, inputs: &[Vec<i64>], options: impl Into<SessionOptions>) -> Run {
    let batch = inputs.len();
    let public = plan.public().clone();
    let options = options.into();
    let cost = Cost::with_options(&public, options).unwrap();
    let run = run_plan(plan, inputs, 5, options);
    assert_linear_bytes(&run, &public);
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
    run
}

/// Enough ReLUs for both directions to be silent, in a batch; the outputs must be those of the other mode.
#[test]
fn silent_ots_give_the_same_outputs_and_the_predicted_bytes() {
    let net = residual_network("wide", [3, 16, 16], &[8], 1, 5, 6_000, OutputMode::Logits);
    let model = Arc::new(net.unwrap());
    let inputs = inputs([3, 16, 16], 3);
    let silent = ledgers_match(
        Plan::new(model.clone(), 3).unwrap(),
        &inputs,
        OtMode::Silent,
    );
    let names: Vec<&str> = silent.client.traffic().map(|(s, ..)| s.name()).collect();
    for step in [Step::MuxReply, Step::LabelReply] {
        assert!(names.contains(&step.name()), "{} was not sent", step.name());
    }
    let scale = f64::from(model.public().graph().layers.last().unwrap().fraction_bits);
    for (output, input) in silent.outputs.iter().zip(&inputs) {
        let expected = executor::run(&model, input).unwrap();
        let Output::Logits(logits) = output else {
            panic!("no logits")
        };
        for (got, want) in logits.iter().zip(&expected.logits) {
            assert!(((got - want) as f64 / scale.exp2()).abs() < 0.1);
        }
    }
    // A small session in silent mode falls back to the base extension, in all it sends.
    let model = small(200, OutputMode::Argmax);
    ledgers_match(
        Plan::new(model, 1).unwrap(),
        &super::inputs([3, 8, 8], 1),
        OtMode::Silent,
    );
}

/// Logits and class, alone and in a batch: the same outputs as by half-gates, and the predicted bytes.
#[test]
fn three_halves_give_the_same_outputs_and_the_predicted_bytes() {
    for (mode, relus, batch) in [
        (OutputMode::Logits, 200, 2),
        (OutputMode::Argmax, 30, 1),
        (OutputMode::Logits, 0, 1),
    ] {
        let model = small(relus, mode);
        let inputs = inputs([3, 8, 8], batch);
        let modes = [GarblingMode::HalfGates, GarblingMode::ThreeHalves];
        let [half_gates, three_halves] = modes.map(|garbling| {
            let plan = Plan::new(model.clone(), batch).unwrap();
            let ot = OtMode::SoftSpoken;
            ledgers_match(plan, &inputs, SessionOptions { ot, garbling })
        });
        assert_eq!(half_gates.outputs, three_halves.outputs);
        let bytes = |run: &Run| run.client.bytes(Phase::Offline, Direction::Down);
        assert!(relus == 0 || bytes(&three_halves) < bytes(&half_gates));
    }
}

/// The client garbles, with both kinds of OT: outputs near the plaintext ones, the predicted bytes, a third of them online.
#[test]
fn a_client_that_garbles_gives_the_same_outputs_and_the_predicted_bytes() {
    let wide = |mode| {
        let net = residual_network("wide", [3, 16, 16], &[8], 1, 5, 6_000, mode);
        Arc::new(net.unwrap())
    };
    for (model, shape, batch, ot) in [
        (
            small(200, OutputMode::Logits),
            [3, 8, 8],
            2,
            OtMode::SoftSpoken,
        ),
        (
            small(30, OutputMode::Argmax),
            [3, 8, 8],
            1,
            OtMode::SoftSpoken,
        ),
        (
            small(0, OutputMode::Logits),
            [3, 8, 8],
            1,
            OtMode::SoftSpoken,
        ),
        (small(0, OutputMode::Argmax), [3, 8, 8], 1, OtMode::Silent),
        (wide(OutputMode::Logits), [3, 16, 16], 2, OtMode::Silent),
    ] {
        let inputs = inputs(shape, batch);
        let [by_server, by_client] =
            [GarblingMode::HalfGates, GarblingMode::ClientDigits].map(|garbling| {
                let plan = Plan::new(model.clone(), batch).unwrap();
                ledgers_match(plan, &inputs, SessionOptions { ot, garbling })
            });
        for (output, input) in by_client.outputs.iter().zip(&inputs) {
            assert_near(&model, output, input);
        }
        let sum = |run: &Run, phase| {
            run.client.bytes(phase, Direction::Up) + run.client.bytes(phase, Direction::Down)
        };
        let n_relus = model.public().graph().n_relus();
        if n_relus >= 200 {
            let [before, after] = [&by_server, &by_client].map(|run| {
                let fixed = run
                    .client
                    .traffic()
                    .filter(|(s, ..)| matches!(s, Step::Input | Step::Logits));
                sum(run, Phase::Online) - fixed.map(|(.., t)| t.n_bytes).sum::<u64>()
            });
            assert!(5 * after < 2 * before, "{after} of {before} bytes online");
        }
    }
}

/// Logits within a tenth of the plaintext executor's, or its class.
fn assert_near(model: &Arc<Model>, output: &Output, input: &[i64]) {
    let expected = executor::run(model, input).unwrap();
    let scale = f64::from(model.public().graph().layers.last().unwrap().fraction_bits);
    match output {
        Output::Class(_) => {
            let sorted = {
                let mut logits = expected.logits.clone();
                logits.sort_unstable();
                logits
            };
            let [.., second, first] = sorted.as_slice() else {
                panic!("fewer than two classes")
            };
            let clear = (first - second) as f64 / scale.exp2() > 0.1;
            assert!(!clear || output.class() == executor::argmax(&expected.logits));
        }
        Output::Logits(logits) => {
            for (got, want) in logits.iter().zip(&expected.logits) {
                let error = (got - want) as f64 / scale.exp2();
                assert!(error.abs() < 0.1, "{logits:?} for {:?}", expected.logits);
            }
        }
    }
}
