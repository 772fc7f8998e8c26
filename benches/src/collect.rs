//! From the samples of two processes to one run of a report.

use std::collections::BTreeMap;

use pi_protocol::cost::Cost;
use pi_protocol::record::{Party, StepRecord};
use pi_protocol::wire::Step;

use crate::error::BenchError;
use crate::network::NetworkInfo;
use crate::result::{LayerRun, Memory, PhaseRun, Phases, Plaintext, Run, TimelineEvent};
use crate::stats::{Latency, median};
use crate::subject::Subject;
use crate::worker::{Order, Sample};

/// One step, as both parties measured it.
pub struct Taken {
    /// By the client.
    pub client: Sample,
    /// By the server, where it can tell.
    pub server: Option<StepRecord>,
    /// CPU time of the server's process.
    pub cpu_s_server: f64,
}

/// All samples of one pair of processes.
#[derive(Default)]
pub struct Samples {
    setup: Vec<Taken>,
    offline: Vec<Taken>,
    online: Vec<Taken>,
}

/// What an operation of the server is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Linear layers, in the clear on shares or under encryption, and the truncation that ends them.
    Linear,
    /// Garbled circuits and multiplexers.
    Relu,
    /// Reading and writing messages, keys, OT for all layers together.
    Other,
}

impl Part {
    fn of(operation: &str) -> Self {
        match operation {
            "linear" | "truncate" | "transform" | "respond" | "masks" => Self::Linear,
            "labels" | "multiplex" | "garble" => Self::Relu,
            _ => Self::Other,
        }
    }
}

impl Samples {
    /// Keeps the sample of an order.
    pub fn add(&mut self, order: Order, taken: Taken) {
        match order {
            Order::Open => self.setup.push(taken),
            Order::Prepare => self.offline.push(taken),
            Order::Infer | Order::Burst(_) => self.online.push(taken),
        }
    }

    /// Inferences measured.
    #[must_use]
    pub fn n_online(&self) -> usize {
        self.online.len()
    }

    /// The run, without what only its caller knows: prediction, the server's memory, the load.
    ///
    /// # Errors
    /// [`BenchError::Protocol`] when the plan cannot be laid out.
    pub fn run(&self, subject: &Subject, network: &NetworkInfo) -> Result<Run, BenchError> {
        let batch = subject.plan.batch();
        let phases = Phases {
            setup: phase(&self.setup),
            offline: phase(&self.offline),
            online: phase(&self.online),
        };
        let traffic = [&self.setup, &self.offline, &self.online];
        let traffic = traffic.iter().filter_map(|samples| samples.first());
        let all = [&self.setup, &self.offline, &self.online];
        let peaks = all
            .iter()
            .flat_map(|s| s.iter())
            .map(|t| t.client.peak_memory);
        let time = phases.offline.latency.median_s + batch as f64 * phases.online.latency.median_s;
        Ok(Run {
            model: subject.info.clone(),
            batch,
            ot: subject.options.ot,
            garbling: subject.options.garbling,
            network: network.clone(),
            layers: self.layers(subject)?,
            ledger: traffic.flat_map(|t| t.client.traffic.clone()).collect(),
            memory: Memory {
                client_peak_bytes: peaks.max().unwrap_or(0),
                server_peak_bytes: 0,
            },
            plaintext: self.plaintext(),
            throughput_per_s: if time > 0.0 { batch as f64 / time } else { 0.0 },
            predicted: None,
            timeline: self.typical().map(timeline).unwrap_or_default(),
            foreign_cpu_share: 0.0,
            load_average: 0.0,
            phases,
        })
    }

    /// The inference in the middle of all.
    fn typical(&self) -> Option<&Taken> {
        let mut sorted: Vec<&Taken> = self.online.iter().collect();
        sorted.sort_by(|a, b| a.client.seconds.total_cmp(&b.client.seconds));
        sorted.get(sorted.len() / 2).copied()
    }

    fn plaintext(&self) -> Plaintext {
        let checks: Vec<_> = self.online.iter().filter_map(|t| t.client.check).collect();
        Plaintext {
            n_compared: checks.len(),
            n_agree: checks.iter().filter(|c| c.0).count(),
            max_logit_error: checks.iter().map(|c| c.1).fold(0.0, f64::max),
            latency: Latency::new(checks.iter().map(|c| c.2).collect()),
        }
    }

    fn layers(&self, subject: &Subject) -> Result<Vec<LayerRun>, BenchError> {
        let batch = subject.plan.batch() as u64;
        let work: BTreeMap<u16, _> = Cost::with_options(&subject.plan, subject.options)?
            .work_by_layer()
            .collect();
        let mut layers: Vec<LayerRun> = Vec::new();
        for (index, layer) in subject.plan.graph().layers.iter().enumerate() {
            let work = work.get(&(index as u16)).copied().unwrap_or_default();
            let part = |which: usize| {
                let of = self
                    .online
                    .iter()
                    .filter_map(|t| t.client.layers.get(&(index as u16)));
                median(&of.map(|t| t[which]).collect::<Vec<_>>())
            };
            let server = |samples: &[Taken], part: Part| {
                let steps = samples.iter().filter_map(|t| t.server.as_ref());
                let time = |step: &StepRecord| {
                    let of = step.layers_s.iter();
                    of.filter(|l| l.layer == index as u16 && Part::of(&l.operation) == part)
                        .fold(0.0, |sum, l| sum + l.seconds)
                };
                median(&steps.map(time).collect::<Vec<_>>())
            };
            layers.push(LayerRun {
                name: layer.name.clone(),
                relus_total: subject.plan.model().possible_relus(layer),
                relus_kept: layer.n_relus(),
                and_gates: work.n_and_gates / batch,
                ots: work.n_ots / batch,
                ciphertexts: work.n_ciphertexts,
                online_wait_s: part(0),
                online_client_s: part(1),
                online_server_linear_s: server(&self.online, Part::Linear),
                online_server_relu_s: server(&self.online, Part::Relu),
                offline_server_linear_s: server(&self.offline, Part::Linear),
                offline_server_relu_s: server(&self.offline, Part::Relu),
                ..LayerRun::default()
            });
        }
        let first = |samples: &[Taken]| samples.first().map(|t| t.client.traffic.clone());
        let entries = [first(&self.offline), first(&self.online)]
            .into_iter()
            .flatten();
        for entry in entries.flatten().filter(|e| is_of_a_layer(&e.operation)) {
            let Some(layer) = layers.get_mut(usize::from(entry.layer)) else {
                continue;
            };
            if entry.phase == "online" {
                layer.online_bytes += entry.bytes;
            } else if entry.operation.starts_with("HE") {
                layer.offline_linear_bytes += entry.bytes;
            } else {
                layer.offline_relu_bytes += entry.bytes;
            }
        }
        Ok(layers)
    }
}

/// Whether messages of this kind belong to one layer; the others belong to a whole batch.
fn is_of_a_layer(operation: &str) -> bool {
    Step::from_name(operation).is_some_and(Step::is_of_a_layer)
}

/// Both parties' events in order of time. Both clocks are this machine's.
fn timeline(taken: &Taken) -> Vec<TimelineEvent> {
    let mut events = taken.client.events.clone();
    if let Some(server) = &taken.server {
        let shift_s = server.epoch_unix_s - taken.client.input_unix_s;
        let of_server = server.events.iter();
        events.extend(of_server.map(|e| TimelineEvent::new(Party::Server, e, shift_s)));
    }
    events.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
    events
}

/// The mean of each operation.
fn means<'a>(all: impl Iterator<Item = &'a BTreeMap<String, f64>>) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    let mut n = 0;
    for operations in all {
        n += 1;
        for (name, time) in operations {
            *sums.entry(name.clone()).or_default() += time;
        }
    }
    sums.values_mut().for_each(|sum| *sum /= f64::from(n));
    sums
}

fn phase(samples: &[Taken]) -> PhaseRun {
    let Some(first) = samples.first() else {
        return PhaseRun::default();
    };
    let mean = |of: &dyn Fn(&Taken) -> f64| -> f64 {
        samples.iter().map(of).sum::<f64>() / samples.len() as f64
    };
    let traffic = &first.client.traffic;
    let bytes = |direction: &str| {
        let of = traffic.iter().filter(|e| e.direction == direction);
        of.map(|e| e.bytes).sum()
    };
    let server = |of: &dyn Fn(&StepRecord) -> f64| mean(&|t| t.server.as_ref().map_or(0.0, of));
    let told = samples.iter().filter_map(|t| t.server.as_ref());
    PhaseRun {
        latency: Latency::new(samples.iter().map(|t| t.client.seconds).collect()),
        cpu_s_client: mean(&|t| t.client.cpu_s),
        cpu_s_server: mean(&|t| t.cpu_s_server),
        bytes_c2s: bytes("c2s"),
        bytes_s2c: bytes("s2c"),
        messages: traffic.iter().map(|e| e.messages).sum(),
        rounds: first.client.rounds,
        waited_s_client: mean(&|t| t.client.waited_s),
        operations_s_client: means(samples.iter().map(|t| &t.client.operations)),
        wall_s_server: server(&|step| step.seconds),
        waited_s_server: server(&|step| step.waited_s),
        operations_s_server: means(told.map(|step| &step.operations_s)),
    }
}

/// One line about a run, for the terminal.
#[must_use]
pub fn line(run: &Run) -> String {
    let phase = |p: &PhaseRun| p.latency.median_s;
    format!(
        "{:<22} {:<14} {:>7} ReLUs  setup {:.3} s  offline {:.3} s (batch of {})  online {:.1} ms  {} of {} as in the clear",
        run.model.name,
        run.network.name,
        run.model.relus_kept,
        phase(&run.phases.setup),
        phase(&run.phases.offline),
        run.batch,
        1e3 * phase(&run.phases.online),
        run.plaintext.n_agree,
        run.plaintext.n_compared,
    )
}
