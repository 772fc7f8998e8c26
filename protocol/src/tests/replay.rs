//! A judge who sees both sides: every layer replayed on shares, bit for bit, and within its bound of exact arithmetic.

use std::sync::Arc;

use pi_model::random::{RandomModel, random_graph};
use pi_model::spec::OutputMode;
use pi_model::{Model, executor};

use super::{Run, inputs, run, run_plan, small};
use crate::layout::Layout;
use crate::ring::Ring;
use crate::session::GarblingMode;
use crate::session::SessionOptions;
use pi_model::plan::{Plan, PublicPlan};

/// Largest error of the shares of an accumulator: homomorphic error and rounding, far beyond its bound for these weights.
const MAX_ERROR: i64 = 12;

fn open(ring: Ring, client: &[u64], server: &[u64]) -> Vec<i64> {
    client
        .iter()
        .zip(server)
        .map(|(&c, &s)| ring.decode(ring.add(c, s)))
        .collect()
}

/// Checks every layer of every inference; returns the errors of accumulators whose convolutions are not shifted.
fn judge(model: &Arc<Model>, inputs: &[Vec<i64>], run: &Run) -> Vec<i64> {
    let plan = PublicPlan::new(model.public(), inputs.len()).unwrap();
    let layout = Layout::new(&plan, SessionOptions::default()).unwrap();
    let graph = plan.graph();
    let mut errors = vec![];
    for (index, input) in inputs.iter().enumerate() {
        let (client, server) = (&run.client_trace[index], &run.server_trace[index]);
        let tensors: Vec<Vec<i64>> = (0..graph.tensors.len())
            .map(|t| {
                open(
                    Ring::new(plan.tensor_bits(t)),
                    &client.masks[t],
                    &server.tensors[t],
                )
            })
            .collect();
        assert_eq!(&tensors[0], input, "the input does not survive its masking");
        let words: Vec<Vec<u64>> = tensors
            .iter()
            .map(|t| t.iter().map(|&v| v as u64).collect())
            .collect();
        for (layer, node) in graph.layers.iter().enumerate() {
            let ring = Ring::new(plan.accumulator_bits(layer));
            let (y_c, y_s) = (&client.accumulators[layer], &server.accumulators[layer]);
            let y = open(ring, y_c, y_s);
            let exact = executor::accumulators(model, node, &words);
            let differences = y.iter().zip(&exact).map(|(a, b)| a - b);
            let Some(relu) = layout.relu_layers.get(layer) else {
                assert!(
                    differences.clone().all(|e| e == 0),
                    "the opened layer has an error"
                );
                continue;
            };
            // A convolution that is shifted to the accumulator's scale has its error shifted too.
            let responses = plan.responses().iter().filter(|r| r.layer == layer);
            let shifts = responses.map(|r| node.convs[r.convs[0]].shift);
            let max_error: i64 = shifts.map(|shift| MAX_ERROR << shift).sum();
            assert!(
                differences.clone().all(|e| e.abs() <= max_error),
                "layer {layer}: an error past {max_error}"
            );
            if node.convs.iter().all(|c| c.shift == 0) {
                errors.extend(differences);
            }
            let (t, l) = (relu.truncated_bits, relu.sign_bits);
            for (i, &kept) in relu.positions.to_mask().iter().enumerate() {
                let rescaled = relu.ring_out.decode(relu.ring_out.add(
                    relu.ring_out.reduce(ring.truncate_client(y_c[i], t)),
                    relu.ring_out.reduce(ring.truncate_server(y_s[i], t)),
                ));
                let low = |v: u64| v >> t & ((1 << l) - 1);
                let negative = (low(y_c[i]) + low(y_s[i])) >> (l - 1) & 1 == 1;
                let replayed = if kept == 1 && negative { 0 } else { rescaled };
                assert_eq!(
                    tensors[layer + 1][i],
                    replayed,
                    "layer {layer}, position {i}: not the replayed share"
                );
                assert!(
                    executor::in_range(node, y[i]),
                    "layer {layer}: {} is out of range",
                    y[i]
                );
                if kept == 1 && negative != (y[i] < 0) {
                    assert!(
                        (0..1 << t).contains(&y[i]),
                        "layer {layer}: the sign of {} is wrong",
                        y[i]
                    );
                }
            }
            let bound = 1 + (max_error >> t);
            for (i, want) in executor::activate(node, &exact).iter().enumerate() {
                let got = tensors[layer + 1][i];
                assert!(
                    (got - want).abs() <= bound,
                    "layer {layer}, position {i}: {got} for {want}"
                );
            }
        }
    }
    errors
}

/// As [`run`], with the ReLUs garbled by the client.
fn run_by_client(model: &Arc<Model>, inputs: &[Vec<i64>], seed: u8) -> Run {
    let plan = Plan::new(model.clone(), inputs.len()).unwrap();
    let options = SessionOptions {
        garbling: GarblingMode::ClientDigits,
        ..SessionOptions::default()
    };
    run_plan(plan, inputs, seed, options)
}

#[test]
fn a_residual_network_replays_bit_for_bit() {
    for relus in [0, 150, usize::MAX >> 24] {
        let model = small(relus, OutputMode::Logits);
        let inputs = inputs([3, 8, 8], 3);
        judge(&model, &inputs, &run_by_client(&model, &inputs, 4));
        let run = run(&model, &inputs, 3);
        let errors = judge(&model, &inputs, &run);
        let rms = (errors.iter().map(|e| (e * e) as f64).sum::<f64>() / errors.len() as f64).sqrt();
        assert!(
            rms < 2.0,
            "rms error {rms} of {} accumulators",
            errors.len()
        );
    }
}

#[test]
fn random_networks_replay_bit_for_bit() {
    for seed in 0..6u64 {
        let mut net = RandomModel::new("random", [2, 9, 7], seed);
        let kernel = [1, 3, 5][(seed % 3) as usize];
        net.conv("a", "input", 5, kernel, 1, kernel / 2)
            .relu("a.relu", "a", 60);
        net.conv("b", "a.relu", 4, 3, 2, (seed % 2) as usize).relu(
            "b.relu",
            "b",
            (seed % 4) as usize * 5,
        );
        net.conv("c", "b.relu", 4, 3, 1, 1)
            .add("sum", "c", "b.relu")
            .relu("sum.relu", "sum", 9);
        net.conv("d", "sum.relu", 6, 1, 1, 0)
            .relu("d.relu", "d", 11)
            .classifier("fc", "d.relu", 3);
        let model = Arc::new(net.finish(OutputMode::Logits, 8).unwrap());
        let inputs: Vec<Vec<i64>> = (0..2).map(|_| net.input()).collect();
        judge(&model, &inputs, &run(&model, &inputs, 10 + seed as u8));
        judge(
            &model,
            &inputs,
            &run_by_client(&model, &inputs, 60 + seed as u8),
        );
    }
}

#[test]
fn pools_in_the_middle_and_skips_alone_replay_bit_for_bit() {
    let mut net = RandomModel::new("pools", [2, 8, 8], 77);
    net.conv("a", "input", 4, 5, 1, 2).relu("a.relu", "a", 40);
    // A tensor that only a pool reads, one that feeds a convolution and a skip, and one that only skips read.
    net.pool("half", "a.relu", Some(2))
        .conv("b", "half", 4, 3, 1, 1)
        .relu("b.relu", "b", 12);
    net.conv("c", "b.relu", 4, 3, 1, 1)
        .add("c.sum", "c", "b.relu")
        .relu("c.relu", "c.sum", 5);
    net.add("twice", "c.relu", "c.relu")
        .relu("twice.relu", "twice", 3);
    net.pool("end", "twice.relu", None)
        .classifier("fc", "end", 4);
    let model = Arc::new(net.finish(OutputMode::Logits, 8).unwrap());
    let inputs: Vec<Vec<i64>> = (0..2).map(|_| net.input()).collect();
    judge(&model, &inputs, &run(&model, &inputs, 40));
}

#[test]
fn any_graph_replays_bit_for_bit() {
    for seed in 0..24u64 {
        let (model, inputs) = random_graph(seed, 8, 8).unwrap();
        let model = Arc::new(model);
        judge(&model, &inputs, &run(&model, &inputs, 3 * seed as u8));
    }
}

#[test]
fn maps_larger_than_a_polynomial_replay_bit_for_bit() {
    let mut net = RandomModel::new("bands", [2, 70, 90], 5);
    net.conv("a", "input", 3, 3, 1, 1).relu("a.relu", "a", 300);
    net.conv("b", "a.relu", 2, 7, 2, 3).relu("b.relu", "b", 100);
    net.conv("c", "b.relu", 2, 3, 1, 1)
        .add("sum", "c", "b.relu")
        .relu("sum.relu", "sum", 9);
    net.pool("end", "sum.relu", None).classifier("fc", "end", 4);
    let model = Arc::new(net.finish(OutputMode::Logits, 4).unwrap());
    let plan = PublicPlan::new(model.public(), 2).unwrap();
    assert!(plan.sources().len() > plan.graph().sources.len());
    let inputs: Vec<Vec<i64>> = (0..2).map(|_| net.input()).collect();
    judge(&model, &inputs, &run(&model, &inputs, 6));
}
