//! Seconds from a plan, rates and a network, before anything runs.
//!
//! Online everything is done one after the other: the server's layers, a message with its labels, the client's evaluation.
//! Offline follows the flights as they are: the client encrypts while it sends; the server answers each source as soon as
//! it is in, while the next one comes and the client opens what has come back; oblivious transfers wait for each other; garbled tables leave inference by
//! inference. Where both parties compute at once they share the machine's cores, as in the benchmark, so their times add up,
//! and what a stream costs the processors adds to them; the wire does not.

use std::collections::BTreeMap;

use pi_model::PublicPlan;
use pi_model::packing::ResponsePacking;
use pi_protocol::cost::Cost;
use pi_protocol::ledger::{Direction, Phase};
use pi_protocol::primitives::ActiveLabel;
use pi_protocol::session::GarblingMode;
use pi_protocol::session::SessionOptions;
use pi_protocol::wire::{MAX_FRAME_BYTES, Step};

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

/// What the integer convolutions of one layer have to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerWork {
    /// Multiply-adds.
    pub n_multiply_adds: u64,
    /// Weights.
    pub n_weights: u64,
    /// Inputs and outputs.
    pub n_values: u64,
}

/// The work of each layer.
#[must_use]
pub fn work_of_layers(plan: &PublicPlan) -> Vec<LayerWork> {
    let graph = plan.graph();
    let layers = graph.layers.iter();
    layers
        .map(|layer| {
            let mut work = LayerWork::default();
            for conv in &layer.convs {
                let source = &graph.sources[conv.source].shape;
                let [rows, columns] = conv.window.kernel;
                let kernel = (conv.channels_read(source.channels) * rows * columns) as u64;
                let n_outputs = layer.shape.n_values() as u64;
                work.n_multiply_adds += kernel * n_outputs;
                work.n_weights += kernel * conv.out_channels as u64;
                work.n_values += source.n_values() as u64 + n_outputs;
            }
            work
        })
        .collect()
}

/// Multiply-adds of one inference.
#[must_use]
pub fn multiply_adds(plan: &PublicPlan) -> u64 {
    let layers = work_of_layers(plan);
    layers.iter().map(|work| work.n_multiply_adds).sum()
}

/// Polynomials of weights that one response transforms.
#[must_use]
pub fn n_transforms(response: &ResponsePacking) -> usize {
    response.n_products() / response.n_groups()
}

/// Times of the three phases, and of each layer online. `plan_s` is how long it took to make the plan here: a client makes
/// it anew for each session, the server once.
///
/// # Errors
/// [`BenchError::Protocol`] when the plan cannot be laid out.
pub fn predict(
    plan: &PublicPlan,
    options: SessionOptions,
    plan_s: f64,
    rates: &Rates,
    network: &NetworkInfo,
) -> Result<(Predicted, Vec<LayerTime>), BenchError> {
    let cost = Cost::with_options(plan, options)?;
    let layers = online(plan, options.garbling, &cost, rates, network);
    let sum = |part: fn(&LayerTime) -> f64| layers.iter().map(part).sum::<f64>();
    let (linear, relu, other) = (sum(|l| l.linear_s), sum(|l| l.relu_s), sum(|l| l.other_s));
    // When the answer is there, before it is handed out, the client wipes and frees what it has used up.
    let work = cost.total_work();
    let tables = cost.bytes_by_step().filter(|(s, ..)| *s == Step::Tables);
    let tables: u64 = tables.map(|(.., n)| n).sum();
    let labels = match options.garbling {
        // A label for each digit, and one more word a ReLU or so.
        GarblingMode::ClientDigits => work.n_and_gates,
        _ => work.n_ots,
    };
    let material = tables as usize + labels as usize * ActiveLabel::BYTES;
    let other = other + material as f64 / plan.batch() as f64 * rates.forget_byte_s;
    let mut setup_s = plan_s + plan.sources().len() as f64 * rates.key_s;
    if work.n_ots > 0 {
        setup_s += rates.base_ot_s;
    }
    for direction in [Direction::Up, Direction::Down] {
        setup_s += message_seconds(
            cost.bytes(Phase::Setup, direction),
            direction,
            rates,
            network,
        );
    }
    // One more delay opens the stream.
    setup_s += (cost.round_trips(Phase::Setup) + 1) as f64 * round_trip_seconds(rates, network);
    Ok((
        Predicted {
            setup_s,
            offline_s: offline(plan, options, &cost, rates, network),
            online_s: linear + relu + other,
            online_linear_s: linear,
            online_relu_s: relu,
            online_other_s: other,
        },
        layers,
    ))
}

fn round_trip_seconds(rates: &Rates, network: &NetworkInfo) -> f64 {
    network.round_trip_ms / 1e3 + rates.round_trip_s
}

fn wire_seconds(n_bytes: u64, direction: Direction, network: &NetworkInfo) -> f64 {
    match direction {
        Direction::Up => network.wire_seconds(n_bytes, 0, 0),
        Direction::Down => network.wire_seconds(0, n_bytes, 0),
    }
}

/// A message that the other party waits for. Its first frame is made before a byte of it leaves; after that, the wire and
/// both ends work at once.
fn message_seconds(
    n_bytes: u64,
    direction: Direction,
    rates: &Rates,
    network: &NetworkInfo,
) -> f64 {
    let first = n_bytes.min(MAX_FRAME_BYTES as u64);
    let ends = (n_bytes - first) as f64 * rates.message_byte_s;
    let wire = wire_seconds(n_bytes, direction, network);
    first as f64 * rates.message_byte_s + ends.max(wire)
}

/// What the offline phase sends, and over what.
struct Flow<'p> {
    cost: &'p Cost,
    rates: &'p Rates,
    network: &'p NetworkInfo,
}

impl Flow<'_> {
    /// Bytes of these steps together.
    fn bytes(&self, steps: &[Step]) -> u64 {
        let all = self.cost.bytes_by_step();
        let all = all.filter(|(step, ..)| steps.contains(step));
        all.map(|(.., n)| n).sum()
    }

    /// Seconds of computing while these steps are on the wire.
    fn stream(&self, compute_s: f64, steps: &[Step], direction: Direction) -> f64 {
        let n_bytes = self.bytes(steps);
        let busy = compute_s + n_bytes as f64 * self.rates.stream_byte_s;
        busy.max(wire_seconds(n_bytes, direction, self.network))
    }
}

fn offline(
    plan: &PublicPlan,
    options: SessionOptions,
    cost: &Cost,
    rates: &Rates,
    network: &NetworkInfo,
) -> f64 {
    let flow = Flow {
        cost,
        rates,
        network,
    };
    let bytes = |steps: &[Step]| flow.bytes(steps);
    let (mut encrypt_s, mut respond_s) = (0.0, 0.0);
    for source in plan.sources() {
        let n_polys = source.packing.n_polys() as f64;
        encrypt_s += n_polys * rates.encrypt_s;
        respond_s += n_polys * rates.rebuild_s;
        for response in source.packing.responses() {
            respond_s += response.n_products() as f64 * rates.product_s
                + n_transforms(response) as f64 * rates.weight_transform_s
                + response.n_polys() as f64 * (rates.finish_s + rates.decrypt_s);
        }
    }
    let sources = [Step::HeNoise, Step::HeCorrections, Step::LabelBase];
    let responses = [Step::HeResponse];
    // Both directions of the wire are in use at once, but for the first source and the last response.
    let ends = |steps: &[Step], which: fn(u16, u16) -> u16| {
        let all = || cost.bytes_by_step().filter(|(s, ..)| steps.contains(s));
        let layer = all().map(|(_, layer, _)| layer).reduce(which);
        let there = all().filter(|(_, l, _)| Some(*l) == layer);
        there.map(|(.., n)| n).sum::<u64>()
    };
    let up_s = |n| wire_seconds(n, Direction::Up, network);
    let down_s = |n| wire_seconds(n, Direction::Down, network);
    let first_s = up_s(ends(&sources, u16::min)) + down_s(bytes(&responses));
    let last_s = up_s(bytes(&sources)) + down_s(ends(&responses, u16::max));
    let moved = bytes(&sources) + bytes(&responses);
    let busy_s = encrypt_s + respond_s + moved as f64 * rates.stream_byte_s;
    let mut seconds = busy_s.max(first_s).max(last_s)
        + cost.round_trips(Phase::Offline) as f64 * round_trip_seconds(rates, network);
    if cost.total_work().n_ots > 0 {
        seconds += relus(plan, options, &flow);
    }
    seconds + flow.stream(0.0, &[Step::Identity], Direction::Up)
}

/// Transfers and tables of the layers that keep ReLUs.
fn relus(plan: &PublicPlan, options: SessionOptions, flow: &Flow<'_>) -> f64 {
    let Flow {
        cost,
        rates,
        network,
    } = *flow;
    let work = cost.total_work();
    let batch = plan.batch() as f64;
    let n_relus = batch * plan.graph().n_relus() as f64;
    let n_labels = work.n_ots as f64 - n_relus;
    // Few OTs are made as the base extension makes them in either mode.
    let each_s = |n: f64| match options.ot.reply_bytes(n as usize) {
        0 => n * rates.ot_s,
        _ => n * rates.silent_ot_s,
    };
    let transfers_s = rates.base_ot_s + each_s(n_labels) + each_s(n_relus);
    let replies = [Step::LabelBaseReply, Step::MuxExtension, Step::LabelReply];
    let shares = [
        Step::LabelTrees,
        Step::LabelExtension,
        Step::LabelBits,
        Step::MuxReply,
        Step::MuxCorrections,
    ];
    let around_s = n_labels * rates.prepare_label_s + n_relus * rates.prepare_relu_s;
    let seconds = transfers_s
        + around_s
        + flow.stream(0.0, &replies, Direction::Down)
        + flow.stream(0.0, &shares, Direction::Up);
    // Tables of one inference are on their way while those of the next are made.
    let garble_s = work.n_and_gates as f64 * rates.garble_s(options.garbling) / batch;
    let (steps, direction): (&[Step], _) = match options.garbling {
        GarblingMode::ClientDigits => (
            &[Step::DigitOrders, Step::DigitTables, Step::AnswerSums],
            Direction::Up,
        ),
        _ => (&[Step::HashKey, Step::Tables], Direction::Down),
    };
    let tables = flow.bytes(steps);
    let ends_s = tables as f64 * rates.stream_byte_s / batch;
    let wire_s = wire_seconds(tables, direction, network) / batch;
    let each = (garble_s + ends_s).max(wire_s);
    seconds + garble_s + ends_s.max(wire_s) + (batch - 1.0) * each
}

fn online(
    plan: &PublicPlan,
    garbling: GarblingMode,
    cost: &Cost,
    rates: &Rates,
    network: &NetworkInfo,
) -> Vec<LayerTime> {
    let evaluate_and_s = rates.evaluate_s(garbling);
    let batch = cost.batch() as f64;
    let gates: BTreeMap<u16, _> = cost.work_by_layer().collect();
    let work = work_of_layers(plan);
    let mut layers = vec![LayerTime::default(); work.len()];
    let last = work.len().saturating_sub(1);
    for (index, (layer, work)) in layers.iter_mut().zip(&work).enumerate() {
        let node = &plan.graph().layers[index];
        layer.linear_s = work.n_multiply_adds as f64 * rates.multiply_add_s
            + work.n_weights as f64 * rates.weight_s
            + work.n_values as f64 * rates.value_s
            + node.shape.n_values() as f64 * rates.position_s;
        let n_gates = gates.get(&(index as u16)).map_or(0, |w| w.n_and_gates);
        layer.relu_s =
            n_gates as f64 / batch * evaluate_and_s + node.n_relus() as f64 * rates.relu_s;
        if node.n_relus() > 0 || index == last {
            layer.other_s = round_trip_seconds(rates, network);
        }
    }
    let online = cost.bytes_by_step();
    for (step, layer, bytes) in online.filter(|(s, ..)| s.phase() == Phase::Online) {
        let Some(time) = layers.get_mut(usize::from(layer)) else {
            continue;
        };
        let seconds = message_seconds(bytes, step.direction(), rates, network);
        match step {
            Step::Input | Step::Logits => time.other_s += seconds,
            Step::Labels | Step::DigitLabels => {
                let n_labels = bytes as f64 / ActiveLabel::BYTES as f64;
                time.relu_s += seconds + n_labels * rates.label_s;
            }
            _ => time.relu_s += seconds,
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
            predict(&plan, SessionOptions::default(), 0.0, &rates, &network)
                .unwrap()
                .0
        });
        let parts = far.online_linear_s + far.online_relu_s + far.online_other_s;
        assert!((far.online_s - parts).abs() < 1e-12);
        let rounds = Cost::of(&plan).unwrap().round_trips(Phase::Online) as f64;
        assert!(
            far.online_s > near.online_s + 0.04 * rounds,
            "{near:?} {far:?}"
        );
        // The stem of the tiny network: 3 to 8 channels, 3 x 3, 16 x 16.
        assert_eq!(work_of_layers(&plan)[0].n_multiply_adds, 27 * 8 * 256);
    }
}
