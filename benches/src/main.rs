//! `pi-bench`: what private inference costs, by two processes over stated networks, from suites to reports.
//!
//! Weights may be random: predictions then mean nothing; times and bytes are those of a trained network of the same shape.

mod arch;
mod calibrate;
mod charts;
mod collect;
mod compare;
mod error;
mod host;
mod lane;
mod memory;
mod models;
mod netns;
mod network;
mod page;
mod predict;
mod process;
mod result;
mod runner;
mod scale;
mod server_ledger;
mod shaper;
mod stats;
mod subject;
mod suite;
mod tables;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use pi_model::{Model, PublicPlan};
use pi_protocol::cost::Cost;
use pi_protocol::session::GarblingMode;
use pi_protocol::session::OtMode;
use pi_protocol::session::SessionOptions;

use crate::arch::Network;
use crate::calibrate::Rates;
use crate::error::BenchError;
use crate::network::NetworkInfo;
use crate::process::Build;
use crate::result::Report;
use crate::runner::{BASELINE, Runner};
use crate::suite::Suite;
use crate::worker::WorkerArgs;

/// Measures the cost of private inference.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a suite (smoke, relu-sweep, scale, accuracy, argmax, or a .toml file) and write report.json, .md, .csv and .html.
    Run(RunArgs),
    /// Tell what changed between two reports; fail if deterministic counts differ.
    Compare {
        /// The earlier report.json, or its folder.
        a: PathBuf,
        /// The later one.
        b: PathBuf,
    },
    /// Print the predicted cost and times of a network, layer by layer, without running it.
    Predict {
        /// Folder with a model; a random network if left out.
        model: Option<PathBuf>,
        #[command(flatten)]
        shape: Network,
        /// Between the parties.
        #[arg(long, default_value = "loopback")]
        network: String,
        /// How oblivious transfers are made: softspoken or silent.
        #[arg(long, value_name = "MODE", default_value_t)]
        ot: OtMode,
        /// How circuits are garbled: half-gates or three-halves.
        #[arg(long, value_name = "MODE", default_value_t)]
        garbling: GarblingMode,
        /// File with the rates of this machine, as `calibrate` writes it.
        #[arg(long)]
        calibration: Option<PathBuf>,
    },
    /// Measure what this machine does in a second, and store it for `predict`.
    Calibrate {
        /// File to write.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Write report.md, .csv and .html again from report.json.
    Report {
        /// Folder with report.json.
        dir: PathBuf,
    },
    /// Write a random network as a model that pi-server can serve.
    RandomModel {
        #[command(flatten)]
        network: Network,
        /// Folder to write it to.
        #[arg(long)]
        out: PathBuf,
    },
    /// Prepare one batch and run it, both parties in this process, connected in memory.
    Memory {
        #[command(flatten)]
        network: Network,
    },
    /// The client's process of a run.
    #[command(hide = true)]
    ClientWorker(WorkerArgs),
    /// The far end of the transport that is calibrated.
    #[command(hide = true)]
    TransportPeer,
    /// A proxy that only delays, for a run between network namespaces.
    #[command(hide = true)]
    Delay {
        #[arg(long)]
        network: String,
        #[arg(long)]
        to: std::net::SocketAddr,
    },
}

#[derive(Args)]
struct RunArgs {
    /// smoke, relu-sweep, scale, accuracy, argmax, or a .toml file.
    suite: String,
    /// ReLU budgets in place of the suite's, separated by commas.
    #[arg(long, value_delimiter = ',')]
    budgets: Option<Vec<usize>>,
    /// Networks in place of the suite's, separated by commas.
    #[arg(long, value_delimiter = ',')]
    networks: Option<Vec<String>>,
    /// Online samples of each configuration in place of the suite's.
    #[arg(long)]
    repetitions: Option<usize>,
    /// Inferences prepared together in place of the suite's.
    #[arg(long)]
    batch: Option<usize>,
    /// How oblivious transfers are made, in place of the suite's: softspoken or silent.
    #[arg(long, value_name = "MODE")]
    ot: Option<OtMode>,
    /// How circuits are garbled, in place of the suite's: half-gates or three-halves.
    #[arg(long, value_name = "MODE")]
    garbling: Option<GarblingMode>,
    /// Folder that holds the suite's trained models, in place of the one that the suite names (models/ in the current
    /// folder for the built-in suites).
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Folder with another build's pi-server and pi-bench: both builds take their samples in turn, the other's report goes to
    /// OUT/baseline, and what changed is told.
    #[arg(long, value_name = "DIR")]
    baseline: Option<PathBuf>,
    /// Folder for the report.
    #[arg(long, default_value = "bench-report")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref::<BenchError>() {
                Some(BenchError::Interrupted) => ExitCode::from(130),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run_suite(&args)?,
        Command::Compare { a, b } => {
            let (text, n_changed) = compare::compare(&Report::load(&a)?, &Report::load(&b)?);
            print!("{text}");
            if n_changed > 0 {
                return Err(BenchError::CountsChanged { n_changed }.into());
            }
        }
        Command::Predict {
            model,
            shape,
            network,
            ot,
            garbling,
            calibration,
        } => {
            let options = SessionOptions { ot, garbling };
            predicted(model.as_deref(), &shape, &network, options, calibration)?;
        }
        Command::Calibrate { out } => {
            let path = out.unwrap_or_else(Rates::default_path);
            let rates = Rates::measure()?;
            rates.save(&path)?;
            println!("{rates}\nstored in {}", path.display());
        }
        Command::Report { dir } => page::write_all(&Report::load(&dir)?, &dir)?,
        Command::RandomModel { network, out } => {
            network
                .build()?
                .save(&out)
                .with_context(|| format!("writing the model to {}", out.display()))?;
            println!("wrote {}", out.display());
        }
        Command::Memory { network } => memory::run(network.build()?, network.batch)?,
        Command::ClientWorker(args) => worker::run(&args)?,
        Command::TransportPeer => calibrate::peer::serve()?,
        Command::Delay { network, to } => {
            let mut network = NetworkInfo::find(&network)?;
            (network.up_bit_s, network.down_bit_s) = (None, None);
            println!("listening on {}", shaper::start(&network, to)?);
            // The proxy runs on its own threads until whoever started it closes the input.
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        }
    }
    Ok(())
}

fn run_suite(args: &RunArgs) -> Result<()> {
    let mut suite = Suite::find(&args.suite)?;
    if let Some(networks) = &args.networks {
        suite.networks.clone_from(networks);
    }
    if let Some(budgets) = &args.budgets {
        for model in suite.models.iter_mut().filter(|m| m.arch.is_some()) {
            model.budgets.clone_from(budgets);
        }
    }
    suite.repetitions = args.repetitions.unwrap_or(suite.repetitions).max(1);
    suite.batch = args.batch.unwrap_or(suite.batch).max(1);
    suite.ot = args.ot.unwrap_or(suite.ot);
    suite.garbling = args.garbling.unwrap_or(suite.garbling);
    if let Some(models) = &args.models {
        for path in suite.models.iter_mut().filter_map(|m| m.path.as_mut()) {
            *path = models.join(path.file_name().unwrap_or_default());
        }
    }
    let baseline = args.baseline.as_deref().map(Build::in_folder).transpose()?;
    if baseline.is_some() && suite.scale.is_some() {
        return Err(BenchError::Suite {
            name: suite.name,
            reason: "many clients at once are not compared with a baseline".into(),
        }
        .into());
    }
    process::watch_signals();
    Build::here()?;
    let mut runner = Runner::new(suite, &args.out, Rates::measure()?, baseline)?;
    let outcome = runner.run();
    // Whatever happened, what there is becomes a page.
    let mut written = page::write_all(&runner.report, &args.out);
    if let Some(report) = &runner.baseline_report {
        written = written.and(page::write_all(report, &args.out.join(BASELINE)));
    }
    outcome?;
    written?;
    print!("{}", tables::markdown(&runner.report));
    println!("report: {}", args.out.join("report.html").display());
    let mut n_missing = runner.report.missing.len();
    if let Some(baseline) = &runner.baseline_report {
        n_missing += baseline.missing.len();
        println!("From the baseline to this build, samples taken in turn:");
        // Counts that differ are told: the two builds may well do other things.
        print!("{}", compare::compare(baseline, &runner.report).0);
    }
    if n_missing > 0 {
        let report = args.out.join(result::FILE);
        return Err(BenchError::Incomplete { n_missing, report }.into());
    }
    Ok(())
}

fn predicted(
    model: Option<&Path>,
    shape: &Network,
    network: &str,
    options: SessionOptions,
    calibration: Option<PathBuf>,
) -> Result<()> {
    let network = NetworkInfo::find(network)?;
    let model = match model {
        Some(dir) => Model::load(dir)?,
        None => shape.build()?,
    };
    let path = calibration.unwrap_or_else(Rates::default_path);
    let rates = match Rates::load(&path) {
        Some(rates) => rates,
        None => {
            eprintln!(
                "no calibration of this machine; measuring for a moment (`pi-bench calibrate` stores one)"
            );
            Rates::measure()?
        }
    };
    let started = std::time::Instant::now();
    let plan = PublicPlan::new(model.public(), shape.batch)?;
    let plan_s = started.elapsed().as_secs_f64();
    let (times, _) = predict::predict(&plan, options, plan_s, &rates, &network)?;
    println!("{}\n", Cost::with_options(&plan, options)?);
    println!("Predicted times over {}", network.text());
    println!("setup {}", tables::seconds(times.setup_s));
    let each = times.offline_s / shape.batch as f64;
    println!(
        "offline {} for the batch, {} each",
        tables::seconds(times.offline_s),
        tables::seconds(each)
    );
    println!(
        "online {}: linear {}, ReLU {}, other {}",
        tables::seconds(times.online_s),
        tables::seconds(times.online_linear_s),
        tables::seconds(times.online_relu_s),
        tables::seconds(times.online_other_s)
    );
    Ok(())
}
