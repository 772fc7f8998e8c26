//! Seconds from a plan, rates and a network, before anything runs.
//!
//! A phase takes its computations, one after the other on both sides, and its bytes and round trips on the wire. What
//! overlaps in truth is counted twice, so offline times err on the high side on slow networks.

use std::collections::BTreeMap;

use pi_model::PublicPlan;
use pi_model::packing::GROUPS_AT_ONCE;
use pi_protocol::cost::Cost;
use pi_protocol::ledger::{Direction, Phase};
use pi_protocol::wire::Step;

use crate::calibrate::Rates;
use crate::error::BenchError;
use crate::network::NetworkInfo;
use crate::result::Predicted;

/// The parts of one layer's online time.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerTime {
    /// The server's linear layers.
    pub linear_s: f64,
    /// Labels, evaluation, results, and their bytes on the wire.
    pub relu_s: f64,
    /// Delay of the round trip, and bytes of input and output.
    pub other_s: f64,
}

/// Multiply-adds of each layer.
#[must_use]
pub fn multiply_adds(plan: &PublicPlan) -> Vec<u64> {
    let graph = plan.graph();
    let layers = graph.layers.iter();
    layers
        .map(|layer| {
            let convs = layer.convs.iter();
            convs
                .map(|conv| {
                    let source = &graph.sources[conv.source].shape;
                    let kernel = source.channels * conv.kernel[0] * conv.kernel[1];
                    (kernel * layer.shape.n_values()) as u64
                })
                .sum()
        })
        .collect()
}

/// Times of the three phases, and of each layer online.
///
/// # Errors
/// [`BenchError::Protocol`] when the plan cannot be laid out.
pub fn predict(
    plan: &PublicPlan,
    rates: &Rates,
    network: &NetworkInfo,
) -> Result<(Predicted, Vec<LayerTime>), BenchError> {
    let cost = Cost::of(plan)?;
    let layers = online(plan, &cost, rates, network);
    let sum = |part: fn(&LayerTime) -> f64| layers.iter().map(part).sum::<f64>();
    let (linear, relu, other) = (sum(|l| l.linear_s), sum(|l| l.relu_s), sum(|l| l.other_s));
    let wire = |phase| {
        let (up, down) = (
            cost.bytes(phase, Direction::Up),
            cost.bytes(phase, Direction::Down),
        );
        network.wire_seconds(up, down, cost.round_trips(phase)) + (up + down) as f64 * rates.byte_s
    };
    let keys = plan.sources().len() as f64 * rates.response_s;
    // One more delay opens the stream.
    let base_ots = if cost.total_work().n_ots > 0 {
        rates.base_ot_s
    } else {
        0.0
    };
    let setup_s = wire(Phase::Setup) + keys + base_ots + network.round_trip_ms / 1e3;
    Ok((
        Predicted {
            setup_s,
            offline_s: wire(Phase::Offline) + offline_compute(plan, &cost, rates),
            online_s: linear + relu + other,
            online_linear_s: linear,
            online_relu_s: relu,
            online_other_s: other,
        },
        layers,
    ))
}

fn offline_compute(plan: &PublicPlan, cost: &Cost, rates: &Rates) -> f64 {
    let work = cost.total_work();
    let mut seconds = work.n_and_gates as f64 * rates.garble_and_s + work.n_ots as f64 * rates.ot_s;
    if work.n_ots > 0 {
        seconds += rates.base_ot_s;
    }
    for source in plan.sources() {
        let packing = &source.packing;
        seconds += packing.n_polys() as f64 * rates.encrypt_s;
        for response in packing.responses() {
            let n_products = response.n_products();
            let passes = packing.n_groups().div_ceil(GROUPS_AT_ONCE);
            let n_transforms = n_products / packing.n_groups() * passes;
            seconds += n_products as f64 * rates.product_s
                + n_transforms as f64 * rates.weight_transform_s
                + response.n_polys() as f64 * rates.response_s;
        }
    }
    seconds
}

fn online(plan: &PublicPlan, cost: &Cost, rates: &Rates, network: &NetworkInfo) -> Vec<LayerTime> {
    let batch = cost.batch() as f64;
    let work: BTreeMap<u16, _> = cost.work_by_layer().collect();
    let macs = multiply_adds(plan);
    let mut layers = vec![LayerTime::default(); macs.len()];
    for (index, layer) in layers.iter_mut().enumerate() {
        layer.linear_s = macs[index] as f64 * rates.multiply_add_s;
        let gates = work.get(&(index as u16)).map_or(0, |w| w.n_and_gates);
        layer.relu_s = gates as f64 / batch * rates.evaluate_and_s;
        let relus = plan.graph().layers[index].n_relus() > 0;
        if relus || index + 1 == macs.len() {
            layer.other_s = network.round_trip_ms / 1e3 + rates.round_trip_s;
        }
    }
    for (step, layer, bytes) in cost
        .bytes_by_step()
        .filter(|(s, ..)| s.phase() == Phase::Online)
    {
        let (up, down) = match step.direction() {
            Direction::Up => (bytes, 0),
            Direction::Down => (0, bytes),
        };
        let seconds = network.wire_seconds(up, down, 0) + bytes as f64 * rates.byte_s;
        if let Some(time) = layers.get_mut(usize::from(layer)) {
            match step {
                Step::Input | Step::Logits => time.other_s += seconds,
                _ => time.relu_s += seconds,
            }
        }
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use pi_model::spec::OutputMode;

    #[test]
    fn parts_add_up_and_a_slower_network_takes_longer() {
        let model = Arch::Tiny.build("t", 500, OutputMode::Logits).unwrap();
        let plan = PublicPlan::new(model.public(), 2).unwrap();
        let rates = Rates {
            evaluate_and_s: 1e-8,
            multiply_add_s: 1e-10,
            ..Rates::default()
        };
        let [near, far] = ["loopback", "wan"].map(|name| {
            let network = NetworkInfo::find(name).unwrap();
            predict(&plan, &rates, &network).unwrap().0
        });
        let parts = far.online_linear_s + far.online_relu_s + far.online_other_s;
        assert!((far.online_s - parts).abs() < 1e-12);
        let rounds = Cost::of(&plan).unwrap().round_trips(Phase::Online) as f64;
        assert!(
            far.online_s > near.online_s + 0.04 * rounds,
            "{near:?} {far:?}"
        );
        // The stem of the tiny network: 3 to 8 channels, 3 x 3, 16 x 16.
        assert_eq!(multiply_adds(&plan)[0], 27 * 8 * 256);
    }
}
