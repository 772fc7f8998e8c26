//! From the samples of two processes to one run of a report.

use std::collections::BTreeMap;

use pi_protocol::cost::Cost;
use pi_protocol::wire::Step;

use crate::error::BenchError;
use crate::network::NetworkInfo;
use crate::result::{LayerRun, Memory, PhaseRun, Phases, Plaintext, Run};
use crate::runner::Subject;
use crate::stats::{Latency, median};
use crate::worker::{Order, Sample};

/// All samples of one pair of processes, with the server's CPU seconds beside each.
#[derive(Default)]
pub struct Samples {
    setup: Vec<(Sample, f64)>,
    offline: Vec<(Sample, f64)>,
    online: Vec<(Sample, f64)>,
}

impl Samples {
    /// Keeps the sample of an order.
    pub fn add(&mut self, order: Order, sample: Sample, cpu_s_server: f64) {
        match order {
            Order::Open => self.setup.push((sample, cpu_s_server)),
            Order::Prepare => self.offline.push((sample, cpu_s_server)),
            Order::Infer | Order::Burst(_) => self.online.push((sample, cpu_s_server)),
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
            .map(|(s, _)| s.peak_memory);
        let time = phases.offline.latency.median_s + batch as f64 * phases.online.latency.median_s;
        Ok(Run {
            model: subject.info.clone(),
            batch,
            network: network.clone(),
            layers: self.layers(subject)?,
            ledger: traffic.flat_map(|(s, _)| s.traffic.clone()).collect(),
            memory: Memory {
                client_peak_bytes: peaks.max().unwrap_or(0),
                server_peak_bytes: 0,
            },
            plaintext: self.plaintext(),
            throughput_per_s: if time > 0.0 { batch as f64 / time } else { 0.0 },
            predicted: None,
            timeline: self.typical().map(|s| s.events.clone()).unwrap_or_default(),
            foreign_cpu_share: 0.0,
            load_average: 0.0,
            phases,
        })
    }

    /// The inference in the middle of all.
    fn typical(&self) -> Option<&Sample> {
        let mut sorted: Vec<&Sample> = self.online.iter().map(|(s, _)| s).collect();
        sorted.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        sorted.get(sorted.len() / 2).copied()
    }

    fn plaintext(&self) -> Plaintext {
        let checks: Vec<_> = self.online.iter().filter_map(|(s, _)| s.check).collect();
        Plaintext {
            n_compared: checks.len(),
            n_agree: checks.iter().filter(|c| c.0).count(),
            max_logit_error: checks.iter().map(|c| c.1).fold(0.0, f64::max),
            latency: Latency::new(checks.iter().map(|c| c.2).collect()),
        }
    }

    fn layers(&self, subject: &Subject) -> Result<Vec<LayerRun>, BenchError> {
        let batch = subject.plan.batch() as u64;
        let work: BTreeMap<u16, _> = Cost::of(&subject.plan)?.work_by_layer().collect();
        let mut layers: Vec<LayerRun> = Vec::new();
        for (index, layer) in subject.plan.graph().layers.iter().enumerate() {
            let work = work.get(&(index as u16)).copied().unwrap_or_default();
            let part = |which: usize| {
                let of = self
                    .online
                    .iter()
                    .filter_map(|(s, _)| s.layers.get(&(index as u16)));
                median(&of.map(|t| t[which]).collect::<Vec<_>>())
            };
            layers.push(LayerRun {
                name: layer.name.clone(),
                relus_total: layer.relu.as_ref().map_or(0, |r| r.n_positions()),
                relus_kept: layer.n_relus(),
                and_gates: work.n_and_gates / batch,
                ots: work.n_ots / batch,
                ciphertexts: work.n_ciphertexts,
                online_wait_s: part(0),
                online_client_s: part(1),
                ..LayerRun::default()
            });
        }
        let first = |samples: &[(Sample, f64)]| samples.first().map(|(s, _)| s.traffic.clone());
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
    let of_a_batch = [
        Step::LabelBase,
        Step::LabelBaseReply,
        Step::LabelTrees,
        Step::LabelExtension,
        Step::MuxExtension,
        Step::HashKey,
        Step::MuxReply,
        Step::LabelReply,
    ];
    !of_a_batch.iter().any(|step| step.name() == operation)
}

fn phase(samples: &[(Sample, f64)]) -> PhaseRun {
    let n = samples.len().max(1) as f64;
    let mean = |of: &dyn Fn(&(Sample, f64)) -> f64| samples.iter().map(of).sum::<f64>() / n;
    let Some((first, _)) = samples.first() else {
        return PhaseRun::default();
    };
    let bytes = |direction: &str| {
        let of = first.traffic.iter().filter(|e| e.direction == direction);
        of.map(|e| e.bytes).sum()
    };
    let names = first.operations.keys().cloned();
    PhaseRun {
        latency: Latency::new(samples.iter().map(|(s, _)| s.seconds).collect()),
        cpu_s_client: mean(&|(s, _)| s.cpu_s),
        cpu_s_server: mean(&|(_, server)| *server),
        bytes_c2s: bytes("c2s"),
        bytes_s2c: bytes("s2c"),
        messages: first.traffic.iter().map(|e| e.messages).sum(),
        rounds: first.rounds,
        waited_s_client: mean(&|(s, _)| s.waited_s),
        operations_s_client: names
            .map(|name| {
                let time = mean(&|(s, _)| s.operations.get(&name).copied().unwrap_or(0.0));
                (name, time)
            })
            .collect(),
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
