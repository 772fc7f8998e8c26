//! Runs a suite: every model on every network, two processes each, saving the report after each run.
//!
//! What is planned is written down as missing first, and struck off when it is there: whatever ends this program, the
//! saved report says what it lacks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pi_model::spec::OutputMode;
use pi_model::{Model, PublicPlan};
use pi_protocol::cost::Cost;

use crate::calibrate::Rates;
use crate::collect::{self, Samples};
use crate::error::{BenchError, failed};
use crate::host::{self, Host};
use crate::netns::Namespaces;
use crate::network::{NetworkInfo, Shaping};
use crate::predict;
use crate::process::{Client, Server};
use crate::result::{Missing, ModelInfo, Report, Run, SCHEMA_VERSION};
use crate::scale;
use crate::suite::{ModelEntry, Suite};
use crate::worker::Order;

/// Share of the machine that other processes may use before a run is warned of.
const FOREIGN_LIMIT: f64 = 0.05;

/// Pause after a batch is prepared, in which the server ends its part; the time of the bytes on the wire comes on top.
const SETTLE: Duration = Duration::from_millis(100);

/// A model on disk with what a report says about it.
pub struct Subject {
    /// Folder.
    pub dir: PathBuf,
    /// For the report.
    pub info: ModelInfo,
    /// Its plan for the suite's batch.
    pub plan: PublicPlan,
}

/// One suite on its way to a report in `out`.
pub struct Runner {
    suite: Suite,
    networks: Vec<NetworkInfo>,
    out: PathBuf,
    rates: Rates,
    /// What there is so far.
    pub report: Report,
}

/// Two processes with a session, and their samples.
struct Pair {
    server: Server,
    client: Client,
    samples: Samples,
}

impl Runner {
    /// Plans `suite`.
    ///
    /// # Errors
    /// [`BenchError::UnknownNetwork`], [`BenchError::File`] when nothing can be written to `out`.
    pub fn new(suite: Suite, out: &Path, rates: Rates) -> Result<Self, BenchError> {
        std::fs::create_dir_all(out).map_err(BenchError::file(out))?;
        let names = suite.networks.iter();
        let networks = names
            .map(|n| NetworkInfo::find(n))
            .collect::<Result<_, _>>()?;
        let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let report = Report {
            schema_version: SCHEMA_VERSION,
            suite: suite.name.clone(),
            description: suite.description.clone(),
            started_unix_s: started.map_or(0, |d| d.as_secs()),
            host: Host::here(),
            rates: Some(rates.clone()),
            runs: vec![],
            scale: vec![],
            missing: vec![],
            warnings: vec![],
        };
        Ok(Self {
            suite,
            networks,
            out: out.to_owned(),
            rates,
            report,
        })
    }

    /// Runs everything. Failures of single runs are written down; the rest goes on.
    ///
    /// # Errors
    /// [`BenchError::Interrupted`], and [`BenchError::File`] when the report cannot be saved.
    pub fn run(&mut self) -> Result<(), BenchError> {
        if cfg!(debug_assertions) {
            self.warn("this is a debug build: bytes and rounds are right, times are not".into());
        }
        let load = host::load_average();
        if load > 0.25 * self.report.host.n_cpus as f64 {
            self.warn(format!(
                "the machine was busy when the suite started: load average {load:.2}"
            ));
        }
        let temporary = tempfile::tempdir().map_err(BenchError::file(&std::env::temp_dir()))?;
        let subjects = self.subjects(temporary.path())?;
        for network in &self.networks {
            self.report.missing.extend(subjects.iter().map(|s| Missing {
                model: s.info.name.clone(),
                network: network.name.clone(),
                reason: "not run yet".into(),
            }));
        }
        self.report.save(&self.out)?;
        for network in self.networks.clone() {
            let namespaces = match network.shaping {
                Shaping::Namespaces => Some(Namespaces::up(&network)),
                Shaping::Loopback | Shaping::Proxy => None,
            };
            if let Some(Err(error)) = &namespaces {
                for subject in &subjects {
                    self.miss(&subject.info.name, &network.name, error);
                }
                self.report.save(&self.out)?;
                continue;
            }
            let outcome = if self.suite.scale.is_some() {
                self.many_clients(&subjects, &network, temporary.path())
            } else if self.suite.interleave {
                self.group(
                    &subjects.iter().collect::<Vec<_>>(),
                    &network,
                    temporary.path(),
                )
            } else {
                subjects
                    .iter()
                    .try_for_each(|s| self.group(&[s], &network, temporary.path()))
            };
            if let Err(error) = outcome {
                for missing in &mut self.report.missing {
                    if missing.reason == "not run yet" {
                        missing.reason = error.to_string();
                    }
                }
                self.report.save(&self.out)?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn warn(&mut self, text: String) {
        eprintln!("warning: {text}");
        self.report.warnings.push(text);
    }

    fn subjects(&self, temporary: &Path) -> Result<Vec<Subject>, BenchError> {
        let mut subjects: Vec<Subject> = Vec::new();
        for entry in &self.suite.models {
            for (dir, model) in models(entry, temporary)? {
                subjects.push(Subject::new(dir, &model, self.suite.batch)?);
            }
        }
        Ok(subjects)
    }

    /// Samples of several models in turn, all on one network. A pair that fails is written down and left out.
    fn group(
        &mut self,
        subjects: &[&Subject],
        network: &NetworkInfo,
        temporary: &Path,
    ) -> Result<(), BenchError> {
        let before = (host::machine_cpu_seconds(), std::time::Instant::now());
        let me = host::cpu_seconds(std::process::id());
        let mut pairs: Vec<Result<Pair, BenchError>> = subjects
            .iter()
            .map(|subject| Pair::start(subject, network, self.suite.batch, temporary))
            .collect();
        let mut steps = Vec::new();
        // The first session warms everything up, its samples are thrown away.
        for session in 0..=self.suite.sessions {
            steps.push((Order::Open, session > 0));
            if session == 0 {
                steps.extend([(Order::Prepare, false), (Order::Infer, false)]);
            }
        }
        for n_done in 0..self.suite.repetitions {
            if n_done % self.suite.batch == 0 {
                steps.push((Order::Prepare, true));
            }
            steps.push((Order::Infer, true));
        }
        for (order, counts) in steps {
            for (pair, subject) in pairs.iter_mut().zip(subjects) {
                let Ok(running) = pair else { continue };
                match running.step(order, counts, network) {
                    Ok(()) => {}
                    Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
                    Err(error) => {
                        eprintln!("{} over {}: {error}", subject.info.name, network.name);
                        // Samples that were taken are kept: they are in the report as a run, and it is still missing.
                        let error = running.because(&error, temporary, subject, network);
                        if running.samples.n_online() > 0 {
                            let run = self.finish(running, subject, network, 0.0)?;
                            self.report.runs.push(run);
                        }
                        *pair = Err(error);
                    }
                }
            }
        }
        let busy = host::machine_cpu_seconds() - before.0;
        let own: f64 = pairs
            .iter()
            .flatten()
            .map(|p| p.server.cpu_seconds() + p.server.proxy_cpu_seconds() + p.client.cpu_seconds())
            .sum::<f64>()
            + host::cpu_seconds(std::process::id())
            - me;
        let capacity = before.1.elapsed().as_secs_f64() * self.report.host.n_cpus as f64;
        // A process that is gone has taken its clock along.
        let all_there = pairs.iter().all(Result::is_ok);
        let share = ((busy - own) / capacity.max(1e-9)).clamp(0.0, 1.0);
        let foreign = if all_there { share } else { 0.0 };
        for (pair, subject) in pairs.iter().zip(subjects) {
            match pair {
                Ok(pair) => {
                    let run = self.finish(pair, subject, network, foreign)?;
                    eprintln!("{}", collect::line(&run));
                    self.report.runs.push(run);
                    self.strike(&subject.info.name, &network.name);
                }
                Err(error) => self.miss(&subject.info.name, &network.name, error),
            }
        }
        if foreign > FOREIGN_LIMIT {
            self.warn(format!(
                "other processes used {:.0} % of the machine during {} over {}",
                100.0 * foreign,
                subjects
                    .iter()
                    .map(|s| s.info.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
                network.name
            ));
        }
        self.report.save(&self.out)
    }

    fn many_clients(
        &mut self,
        subjects: &[Subject],
        network: &NetworkInfo,
        temporary: &Path,
    ) -> Result<(), BenchError> {
        let Some(scale) = self.suite.scale.clone() else {
            return Ok(());
        };
        for subject in subjects {
            let mut failure = None;
            for &clients in &scale.clients {
                for &prepared in &scale.prepared {
                    let load = scale::Load {
                        clients,
                        prepared,
                        requests: scale.requests,
                        batch: self.suite.batch,
                    };
                    match scale::run(subject, network, &load, temporary) {
                        Ok(run) => {
                            eprintln!("{}", scale::line(&run));
                            self.report.scale.push(run);
                        }
                        Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
                        Err(error) => failure = Some(format!("{clients} clients: {error}")),
                    }
                    self.report.save(&self.out)?;
                }
            }
            match failure {
                None => self.strike(&subject.info.name, &network.name),
                Some(reason) => self.miss(&subject.info.name, &network.name, &reason),
            }
            self.report.save(&self.out)?;
        }
        Ok(())
    }

    fn finish(
        &self,
        pair: &Pair,
        subject: &Subject,
        network: &NetworkInfo,
        foreign: f64,
    ) -> Result<Run, BenchError> {
        let (predicted, layers) = predict::predict(&subject.plan, &self.rates, network)?;
        let mut run = pair.samples.run(subject, network)?;
        run.memory.server_peak_bytes = pair.server.peak_memory();
        run.predicted = Some(predicted);
        for (layer, time) in run.layers.iter_mut().zip(&layers) {
            layer.online_predicted_s = time.linear_s + time.relu_s + time.other_s;
        }
        run.foreign_cpu_share = foreign;
        run.load_average = host::load_average();
        Ok(run)
    }

    fn strike(&mut self, model: &str, network: &str) {
        self.report
            .missing
            .retain(|m| m.model != model || m.network != network);
    }

    fn miss(&mut self, model: &str, network: &str, reason: &dyn std::fmt::Display) {
        for missing in &mut self.report.missing {
            if missing.model == model && missing.network == network {
                missing.reason = reason.to_string();
            }
        }
    }
}

impl Pair {
    fn start(
        subject: &Subject,
        network: &NetworkInfo,
        batch: usize,
        temporary: &Path,
    ) -> Result<Self, BenchError> {
        let log = log(temporary, subject, network);
        let server = Server::start(&subject.dir, network, batch, 2, &log)?;
        let client = Client::start(network, server.address, &subject.dir, batch)?;
        Ok(Self {
            server,
            client,
            samples: Samples::default(),
        })
    }

    fn step(
        &mut self,
        order: Order,
        counts: bool,
        network: &NetworkInfo,
    ) -> Result<(), BenchError> {
        let before = self.server.cpu_seconds();
        let sample = self.client.obey(order)?;
        if matches!(order, Order::Prepare) {
            // Nothing acknowledges the client's last offline messages. Without a pause they would still be on their way
            // when the inference starts, and it would pay for them.
            let up = sample.traffic.iter().filter(|e| e.direction == "c2s");
            let wire = network.wire_seconds(up.map(|e| e.bytes).sum(), 0, 1);
            std::thread::sleep(SETTLE + Duration::from_secs_f64(1.1 * wire));
        }
        let cpu_s_server = self.server.cpu_seconds() - before;
        if counts {
            self.samples.add(order, sample, cpu_s_server);
        }
        Ok(())
    }

    /// The error with the last words of the server.
    fn because(
        &self,
        error: &BenchError,
        temporary: &Path,
        subject: &Subject,
        network: &NetworkInfo,
    ) -> BenchError {
        let said = std::fs::read_to_string(log(temporary, subject, network)).unwrap_or_default();
        match said.lines().last() {
            Some(last) => failed("run", format!("{error}; the server's last words: {last}")),
            None => failed("run", error),
        }
    }
}

fn log(temporary: &Path, subject: &Subject, network: &NetworkInfo) -> PathBuf {
    temporary.join(format!("{}-{}.log", subject.info.name, network.name))
}

/// The models of an entry, random ones written to `temporary`.
fn models(entry: &ModelEntry, temporary: &Path) -> Result<Vec<(PathBuf, Model)>, BenchError> {
    let Some(arch) = entry.arch else {
        let dir = entry.path.clone().unwrap_or_default();
        if !dir.join("model.json").exists() {
            return Err(BenchError::UnknownModel {
                name: dir.display().to_string(),
                known: "the shapes tiny, resnet8, resnet20, resnet32, resnet18".into(),
            });
        }
        let model = Model::load(&dir)?;
        return Ok(vec![(dir, model)]);
    };
    let mode = if entry.argmax {
        OutputMode::Argmax
    } else {
        OutputMode::Logits
    };
    let budgets = match entry.budgets.as_slice() {
        [] => &[usize::MAX],
        budgets => budgets,
    };
    let mut made = Vec::new();
    for &budget in budgets {
        let text = if budget == usize::MAX {
            "all".to_owned()
        } else {
            budget.to_string()
        };
        let name = format!("{}-relu{text}", arch.name());
        let model = arch.build(&name, budget, mode)?;
        let dir = temporary.join(&name);
        model.save(&dir)?;
        made.push((dir, model));
    }
    Ok(made)
}

impl Subject {
    fn new(dir: PathBuf, model: &Model, batch: usize) -> Result<Self, BenchError> {
        let plan = PublicPlan::new(model.public(), batch)?;
        let cost = Cost::of(&plan)?;
        let work = cost.total_work();
        let (spec, graph) = (model.public().spec(), model.public().graph());
        let mut hash = blake3::Hasher::new();
        for file in ["model.json", "model.safetensors"] {
            let path = dir.join(file);
            hash.update(&std::fs::read(&path).map_err(BenchError::file(&path))?);
        }
        let positions = graph.layers.iter().filter_map(|l| l.relu.as_ref());
        let info = ModelInfo {
            name: spec.name.clone(),
            architecture: spec.card.architecture.clone(),
            dataset: spec.card.dataset.clone(),
            checksum: hash.finalize().to_hex().to_string(),
            relus_total: positions.map(|r| r.n_positions()).sum(),
            relus_kept: graph.n_relus(),
            accuracy: spec.card.fixed_accuracy,
            and_gates: work.n_and_gates / batch as u64,
            ots: work.n_ots / batch as u64,
            ciphertexts: work.n_ciphertexts,
            multiply_adds: predict::multiply_adds(&plan).iter().sum(),
        };
        Ok(Self { dir, info, plan })
    }
}
