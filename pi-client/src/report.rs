//! What a session has cost: seconds, bytes and round trips by phase, traffic by layer.
//!
//! Bytes are payloads of the protocol, as its ledger counts them; `wire_bytes` adds the framing of gRPC. All numbers are
//! totals of one session, or of all sessions of a client: `offline` covers `n_prepared` inferences, `online` `n_inferences`.

use std::collections::BTreeMap;
use std::time::Duration;

use pi_model::PublicPlan;
use pi_proto::WireMeter;
use pi_protocol::ledger::{Direction, Ledger, Phase};
use pi_protocol::session::GarblingMode;
use pi_protocol::session::OtMode;
use pi_protocol::session::SessionOptions;
use pi_protocol::wire::Step;
use serde::Serialize;

/// Wall-clock time of each phase, and how many inferences it covers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    /// Opening and setting up.
    pub setup: Duration,
    /// Preparing.
    pub offline: Duration,
    /// From the masked input to the answer.
    pub online: Duration,
    /// Inferences prepared.
    pub n_prepared: usize,
    /// Inferences run.
    pub n_inferences: usize,
}

/// Cost of one phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PhaseReport {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Client to server.
    pub bytes_up: u64,
    /// Server to client.
    pub bytes_down: u64,
    /// Changes of direction from client to server.
    pub round_trips: u64,
}

/// Traffic of one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LayerReport {
    /// Name of the operation that ends the layer.
    pub name: String,
    /// Shape of its output.
    pub shape: String,
    /// Surviving ReLUs.
    pub relus_kept: usize,
    /// Positions at which a ReLU could be; zero in the last layer.
    pub relus_total: usize,
    /// AND gates of one inference.
    pub and_gates: u64,
    /// Linear layers under encryption, offline, both directions.
    pub he_bytes: u64,
    /// Garbled tables, OT corrections and identity positions, offline, both directions.
    pub relu_bytes: u64,
    /// Labels, ciphertexts and results, online, both directions.
    pub online_bytes: u64,
}

/// What a session has cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// Inferences prepared together.
    pub batch: usize,
    /// How OTs were made.
    pub ot: OtMode,
    /// How circuits were garbled.
    pub garbling: GarblingMode,
    /// Inferences prepared.
    pub n_prepared: usize,
    /// Inferences run.
    pub n_inferences: usize,
    /// Once for the session.
    pub setup: PhaseReport,
    /// For all prepared inferences.
    pub offline: PhaseReport,
    /// For all inferences run.
    pub online: PhaseReport,
    /// Bytes handed to and taken from HTTP/2, framing of gRPC included.
    pub wire_bytes: u64,
    /// Surviving ReLUs of the model.
    pub relus_kept: usize,
    /// Positions at which a ReLU could be.
    pub relus_total: usize,
    /// AND gates of one inference.
    pub and_gates: u64,
    /// Traffic of each layer.
    pub layers: Vec<LayerReport>,
    /// Traffic of each kind of message, in bytes.
    pub steps: BTreeMap<&'static str, u64>,
}

impl PhaseReport {
    fn new(ledger: &Ledger, phase: Phase, time: Duration) -> Self {
        Self {
            seconds: time.as_secs_f64(),
            bytes_up: ledger.bytes(phase, Direction::Up),
            bytes_down: ledger.bytes(phase, Direction::Down),
            round_trips: ledger.round_trips(phase),
        }
    }

    fn add(&mut self, more: &Self) {
        self.seconds += more.seconds;
        self.bytes_up += more.bytes_up;
        self.bytes_down += more.bytes_down;
        self.round_trips += more.round_trips;
    }

    /// Both directions.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes_up + self.bytes_down
    }
}

impl Report {
    /// Adds what one more session has cost. The batch and the modes are those of the last session that prepared.
    pub(crate) fn add(sum: &mut Option<Self>, more: Self) {
        let Some(all) = sum else {
            *sum = Some(more);
            return;
        };
        if more.n_prepared > 0 {
            (all.batch, all.ot, all.garbling) = (more.batch, more.ot, more.garbling);
        }
        all.n_prepared += more.n_prepared;
        all.n_inferences += more.n_inferences;
        all.setup.add(&more.setup);
        all.offline.add(&more.offline);
        all.online.add(&more.online);
        all.wire_bytes += more.wire_bytes;
        for (layer, more) in all.layers.iter_mut().zip(&more.layers) {
            // For one inference; a session that prepared none knows of no gate.
            layer.and_gates = layer.and_gates.max(more.and_gates);
            layer.he_bytes += more.he_bytes;
            layer.relu_bytes += more.relu_bytes;
            layer.online_bytes += more.online_bytes;
        }
        all.and_gates = all.layers.iter().map(|layer| layer.and_gates).sum();
        for (step, n_bytes) in more.steps {
            *all.steps.entry(step).or_default() += n_bytes;
        }
    }

    pub(crate) fn new(
        plan: &PublicPlan,
        options: SessionOptions,
        ledger: &Ledger,
        clocks: &Clocks,
        meter: &WireMeter,
    ) -> Self {
        let mut layers = empty_layers(plan);
        let mut steps: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (step, index, traffic) in ledger.traffic() {
            *steps.entry(step.name()).or_default() += traffic.n_bytes;
            let Some(layer) = layers
                .get_mut(usize::from(index))
                .filter(|_| step.is_of_a_layer())
            else {
                continue;
            };
            match step {
                Step::HeNoise | Step::HeCorrections | Step::HeResponse => {
                    layer.he_bytes += traffic.n_bytes;
                }
                _ if step.phase() == Phase::Offline => layer.relu_bytes += traffic.n_bytes,
                _ => layer.online_bytes += traffic.n_bytes,
            }
        }
        for (layer, work) in ledger.work_by_layer() {
            if let Some(layer) = layers.get_mut(usize::from(layer)) {
                layer.and_gates = work.n_and_gates / clocks.n_prepared.max(1) as u64;
            }
        }
        Self {
            model: plan.model().spec().name.clone(),
            batch: plan.batch(),
            ot: options.ot,
            garbling: options.garbling,
            n_prepared: clocks.n_prepared,
            n_inferences: clocks.n_inferences,
            setup: PhaseReport::new(ledger, Phase::Setup, clocks.setup),
            offline: PhaseReport::new(ledger, Phase::Offline, clocks.offline),
            online: PhaseReport::new(ledger, Phase::Online, clocks.online),
            wire_bytes: meter.n_bytes_sent() + meter.n_bytes_received(),
            relus_kept: layers.iter().map(|l| l.relus_kept).sum(),
            relus_total: layers.iter().map(|l| l.relus_total).sum(),
            and_gates: layers.iter().map(|l| l.and_gates).sum(),
            layers,
            steps,
        }
    }
}

fn empty_layers(plan: &PublicPlan) -> Vec<LayerReport> {
    let layers = plan.graph().layers.iter();
    layers
        .map(|layer| LayerReport {
            name: layer.name.clone(),
            shape: layer.shape.to_string(),
            relus_kept: layer.n_relus(),
            relus_total: plan.model().possible_relus(layer),
            ..LayerReport::default()
        })
        .collect()
}
