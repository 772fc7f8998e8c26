//! Outputs against the plaintext executor, and ledgers against the predicted cost.

use pi_model::executor;
use pi_model::packing::PackingGoal;
use pi_model::plan::{Plan, PublicPlan};
use pi_model::spec::OutputMode;

use super::{Run, inputs, run, run_plan, small};
use crate::client::Output;
use crate::cost::Cost;
use crate::ledger::{Direction, Phase};
use crate::wire::Step;

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
        assert_measured(&run, &cost, batch);
        assert_linear_bytes(&run, plan.public());
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
        let cost = Cost::of(plan.public()).unwrap();
        let public = plan.public().clone();
        let run = run_plan(plan, &inputs, 5);
        assert_measured(&run, &cost, batch);
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
    for (output, input) in run_plan(plan, &inputs, 9).outputs.iter().zip(&inputs) {
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

fn assert_measured(run: &Run, cost: &Cost, batch: usize) {
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
