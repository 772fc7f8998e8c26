//! Runs a suite: every model on every network, two processes each, saving the report after each run.
//!
//! What is planned is written down as missing first, and struck off when it is there: whatever ends this program, the
//! saved report says what it lacks.

use std::path::{Path, PathBuf};

use crate::calibrate::Rates;
use crate::collect;
use crate::error::BenchError;
use crate::host::{self, Host, Watch};
use crate::lane::{Lane, Pair, build_name};
use crate::netns::Namespaces;
use crate::network::{NetworkInfo, Shaping};
use crate::predict;
use crate::process::Build;
use crate::result::{Missing, Report, Run, SCHEMA_VERSION};
use crate::scale;
use crate::subject::Subject;
use crate::suite::Suite;
use crate::worker::Order;

/// Share of the machine that other processes may use before a run is warned of.
const FOREIGN_LIMIT: f64 = 0.05;

/// One suite on its way to a report in `out`.
pub struct Runner {
    suite: Suite,
    networks: Vec<NetworkInfo>,
    out: PathBuf,
    rates: Rates,
    build: Build,
    baseline: Option<Build>,
    /// What there is so far.
    pub report: Report,
    /// The same of the other build, if there is one, for the folder [`BASELINE`] of `out`.
    pub baseline_report: Option<Report>,
}

/// Folder of the other build's report in the folder of this one's.
pub const BASELINE: &str = "baseline";

impl Runner {
    /// Plans `suite`.
    ///
    /// # Errors
    /// [`BenchError::UnknownNetwork`], [`BenchError::File`] when nothing can be written to `out`.
    pub fn new(
        suite: Suite,
        out: &Path,
        rates: Rates,
        baseline: Option<Build>,
    ) -> Result<Self, BenchError> {
        std::fs::create_dir_all(out).map_err(BenchError::file(out))?;
        if baseline.is_some() {
            let folder = out.join(BASELINE);
            std::fs::create_dir_all(&folder).map_err(BenchError::file(&folder))?;
        }
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
        let baseline_report = match &baseline {
            None => None,
            Some(build) => Some(Report {
                host: Host {
                    commit: build_name(&build.server)?,
                    rustc: "unknown".into(),
                    profile: "unknown".into(),
                    ..report.host.clone()
                },
                // These are of this build.
                rates: None,
                ..report.clone()
            }),
        };
        Ok(Self {
            suite,
            networks,
            out: out.to_owned(),
            rates,
            build: Build::here()?,
            baseline,
            report,
            baseline_report,
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
        let subjects = Subject::of_suite(&self.suite, temporary.path())?;
        for network in &self.networks {
            let planned = subjects.iter().map(|s| Missing {
                model: s.info.name.clone(),
                network: network.name.clone(),
                reason: "not run yet".into(),
            });
            for report in std::iter::once(&mut self.report).chain(&mut self.baseline_report) {
                report.missing.extend(planned.clone());
            }
        }
        self.save()?;
        let networks = self.networks.clone();
        let at_once = if self.suite.interleave_networks {
            networks.len()
        } else {
            1
        };
        for networks in networks.chunks(at_once) {
            let outcome = self.over(networks, &subjects, temporary.path());
            if let Err(error) = outcome {
                for report in std::iter::once(&mut self.report).chain(&mut self.baseline_report) {
                    for missing in &mut report.missing {
                        if missing.reason == "not run yet" {
                            missing.reason = error.to_string();
                        }
                    }
                }
                self.save()?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Everything over these networks; their lanes take samples in turn if the suite says so.
    fn over(
        &mut self,
        networks: &[NetworkInfo],
        subjects: &[Subject],
        temporary: &Path,
    ) -> Result<(), BenchError> {
        let mut namespaces = Vec::new();
        let mut there = Vec::new();
        for network in networks {
            match network.shaping {
                Shaping::Loopback | Shaping::Proxy => there.push(network),
                Shaping::Namespaces => match Namespaces::up(network) {
                    Ok(made) => {
                        namespaces.push(made);
                        there.push(network);
                    }
                    Err(error) => {
                        for subject in subjects {
                            self.miss(&subject.info.name, &network.name, &error, false);
                            self.miss(&subject.info.name, &network.name, &error, true);
                        }
                        self.save()?;
                    }
                },
            }
        }
        if self.suite.scale.is_some() {
            return there
                .iter()
                .try_for_each(|network| self.many_clients(subjects, network, temporary));
        }
        let (build, baseline) = (self.build.clone(), self.baseline.clone());
        let mut groups: Vec<Vec<Lane>> = Vec::new();
        for network in there {
            for subject in subjects {
                let lane = |build, is_baseline| Lane {
                    subject,
                    network,
                    build,
                    is_baseline,
                };
                let mut lanes = vec![lane(&build, false)];
                lanes.extend(baseline.iter().map(|b| lane(b, true)));
                match groups.last_mut() {
                    Some(group) if self.suite.interleave || self.suite.interleave_networks => {
                        group.extend(lanes);
                    }
                    _ => groups.push(lanes),
                }
            }
        }
        groups
            .iter()
            .try_for_each(|lanes| self.group(lanes, temporary))
    }

    fn save(&self) -> Result<(), BenchError> {
        self.report.save(&self.out)?;
        match &self.baseline_report {
            Some(report) => report.save(&self.out.join(BASELINE)),
            None => Ok(()),
        }
    }

    fn report_of(&mut self, is_baseline: bool) -> &mut Report {
        match &mut self.baseline_report {
            Some(report) if is_baseline => report,
            _ => &mut self.report,
        }
    }

    fn warn(&mut self, text: String) {
        eprintln!("warning: {text}");
        for report in std::iter::once(&mut self.report).chain(&mut self.baseline_report) {
            report.warnings.push(text.clone());
        }
    }

    /// What every lane does, in this order, and whether it counts.
    fn steps(&self) -> Vec<(Order, bool)> {
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
        steps
    }

    /// Samples of several lanes in turn. A pair that fails is written down and left out.
    fn group(&mut self, lanes: &[Lane<'_>], temporary: &Path) -> Result<(), BenchError> {
        let watch = Watch::start();
        let mut pairs: Vec<Result<Pair, BenchError>> = lanes
            .iter()
            .map(|lane| Pair::start(lane, self.suite.batch, temporary))
            .collect();
        for (pair, lane) in pairs.iter_mut().zip(lanes) {
            if let Err(error) = pair {
                eprintln!("{lane}: {error}");
                *pair = Err(lane.because(error));
            }
        }
        for (turn, &(order, counts)) in self.steps().iter().enumerate() {
            // Whoever comes first in a round finds the machine as the last round left it; that place goes around.
            for i in 0..lanes.len() {
                let at = (turn + i) % lanes.len();
                let (lane, pair) = (&lanes[at], &mut pairs[at]);
                let Ok(running) = pair else { continue };
                match running.step(order, counts, lane.network) {
                    Ok(()) => {}
                    Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
                    Err(error) => {
                        eprintln!("{lane}: {error}");
                        // Samples that were taken are kept: they are in the report as a run, and it is still missing.
                        let error = lane.because(&running.because(&error, temporary, lane));
                        if running.samples.n_online() > 0 {
                            let run = self.finish(running, lane, 0.0)?;
                            self.report_of(lane.is_baseline).runs.push(run);
                        }
                        *pair = Err(error);
                    }
                }
            }
        }
        let children_s = pairs
            .iter()
            .flatten()
            .map(|p| p.server.cpu_seconds() + p.server.proxy_cpu_seconds() + p.client.cpu_seconds())
            .sum::<f64>();
        // A process that is gone has taken its clock along.
        let all_there = pairs.iter().all(Result::is_ok);
        let foreign = if all_there {
            watch.foreign_share(children_s)
        } else {
            0.0
        };
        for (pair, lane) in pairs.iter().zip(lanes) {
            let (model, network) = (&lane.subject.info.name, &lane.network.name);
            match pair {
                Ok(pair) => {
                    let run = self.finish(pair, lane, foreign)?;
                    let whose = if lane.is_baseline { "baseline: " } else { "" };
                    eprintln!("{whose}{}", collect::line(&run));
                    self.report_of(lane.is_baseline).runs.push(run);
                    self.strike(model, network, lane.is_baseline);
                }
                Err(error) => self.miss(model, network, error, lane.is_baseline),
            }
        }
        let names: Vec<String> = lanes
            .iter()
            .filter(|l| !l.is_baseline)
            .map(ToString::to_string)
            .collect();
        self.warn_of_others(foreign, &names.join(", "));
        self.save()
    }

    fn warn_of_others(&mut self, foreign: f64, during: &str) {
        if foreign > FOREIGN_LIMIT {
            self.warn(format!(
                "other processes used {:.0} % of the machine during {during}",
                100.0 * foreign
            ));
        }
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
                    let watch = Watch::start();
                    match scale::run(&self.build, subject, network, &load, temporary) {
                        Ok((mut run, children_s)) => {
                            run.foreign_cpu_share = watch.foreign_share(children_s);
                            eprintln!("{}", scale::line(&run));
                            let foreign = run.foreign_cpu_share;
                            self.report.scale.push(run);
                            let during = format!(
                                "{} over {} with {clients} clients",
                                subject.info.name, network.name
                            );
                            self.warn_of_others(foreign, &during);
                        }
                        Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
                        Err(error) => failure = Some(format!("{clients} clients: {error}")),
                    }
                    self.save()?;
                }
            }
            match failure {
                None => self.strike(&subject.info.name, &network.name, false),
                Some(reason) => self.miss(&subject.info.name, &network.name, &reason, false),
            }
            self.save()?;
        }
        Ok(())
    }

    fn finish(&self, pair: &Pair, lane: &Lane<'_>, foreign: f64) -> Result<Run, BenchError> {
        let (subject, network) = (lane.subject, lane.network);
        let mut run = pair.samples.run(subject, network)?;
        run.memory.server_peak_bytes = pair.server.peak_memory();
        // The calibration is of this build's kernels.
        if !lane.is_baseline {
            let (predicted, layers) = predict::predict(
                &subject.plan,
                subject.options,
                subject.plan_s,
                &self.rates,
                network,
            )?;
            run.predicted = Some(predicted);
            for (layer, time) in run.layers.iter_mut().zip(&layers) {
                layer.online_predicted_s = time.linear_s + time.relu_s + time.other_s;
            }
        }
        run.foreign_cpu_share = foreign;
        run.load_average = host::load_average();
        Ok(run)
    }

    fn strike(&mut self, model: &str, network: &str, is_baseline: bool) {
        self.report_of(is_baseline)
            .missing
            .retain(|m| m.model != model || m.network != network);
    }

    fn miss(
        &mut self,
        model: &str,
        network: &str,
        reason: &dyn std::fmt::Display,
        is_baseline: bool,
    ) {
        for missing in &mut self.report_of(is_baseline).missing {
            if missing.model == model && missing.network == network {
                missing.reason = reason.to_string();
            }
        }
    }
}
