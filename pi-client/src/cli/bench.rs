//! The command `bench`: a session with inferences of a grey image, or of a tensor in the middle of its range, and the medians of its
//! phases.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use pi_client::image::{Image, Sizing};
use pi_client::observer::{Activity, Note, Observer, Work};
use pi_client::report::PhaseReport;
use pi_client::{Client, ClientError, Config, Report};
use pi_model::text::{Table, shown};
use serde::Serialize;

use super::args::{ServerArgs, SessionArgs};
use super::out::{self, bytes};
use super::terminal::Terminal;
use super::wait::wait;

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The server, if --server is not given.
    #[arg(value_name = "URL", conflicts_with = "server")]
    url: Option<String>,
    /// Name of the model; the server's first one if not given.
    #[arg(long)]
    model: Option<String>,
    /// Inferences to run.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    n: u32,
    #[command(flatten)]
    session: SessionArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One phase: how often it ran, and for one inference (set-up: for the session) the seconds, bytes and round trips.
#[derive(Serialize)]
struct Line {
    phase: &'static str,
    n: usize,
    median_seconds: f64,
    min_seconds: f64,
    max_seconds: f64,
    bytes_up: u64,
    bytes_down: u64,
    round_trips: u64,
}

#[derive(Serialize)]
struct Bench {
    model: String,
    batch: usize,
    phases: Vec<Line>,
}

/// Seconds of each set-up and of each batch's preparation.
#[derive(Debug, Default)]
struct Times {
    setup: Mutex<Vec<f64>>,
    offline: Mutex<Vec<f64>>,
}

/// What the terminal shows, and times beside it.
#[derive(Clone, Debug, Default)]
struct Watch(Arc<Times>);

/// Notes when it is dropped how long that took.
struct Timed(Arc<Times>, Activity, Instant);

impl Observer for Watch {
    fn begins(&self, work: &Work) -> Box<dyn Send> {
        let timed = Timed(Arc::clone(&self.0), work.activity, Instant::now());
        // In this order: the bar takes its time to go.
        Box::new((timed, Terminal.begins(work)))
    }

    fn tries_again(&self, error: &ClientError, wait: Duration) {
        Terminal.tries_again(error, wait);
    }

    fn notes(&self, note: &Note) {
        Terminal.notes(note);
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        let seconds = self.2.elapsed().as_secs_f64();
        match self.1 {
            Activity::SettingUp => push(&self.0.setup, seconds),
            Activity::Preparing { n, .. } => push(&self.0.offline, seconds / n as f64),
            _ => {}
        }
    }
}

fn push(times: &Mutex<Vec<f64>>, seconds: f64) {
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    times.push(seconds);
}

fn take(times: &Mutex<Vec<f64>>) -> Vec<f64> {
    std::mem::take(&mut times.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let watch = Watch::default();
    let config = Config {
        model: args.model.clone(),
        observer: Arc::new(watch.clone()),
        ..args.session.config(&args.server, args.url.as_deref())?
    };
    let (online, report) = wait(measure(config, args.n as usize))??;
    let (setup, offline) = (take(&watch.0.setup), take(&watch.0.offline));
    let bench = Bench {
        phases: vec![
            line("setup", setup, &report.setup, 1, 1),
            line(
                "offline",
                offline,
                &report.offline,
                report.n_prepared,
                report.batch,
            ),
            line("online", online, &report.online, report.n_inferences, 1),
        ],
        model: report.model,
        batch: report.batch,
    };
    if bench.phases.iter().any(|p| !p.median_seconds.is_finite()) {
        return Err(ClientError::Usage("nothing was measured".into()).into());
    }
    out::line(&match args.json {
        true => serde_json::to_string_pretty(&bench)?,
        false => table(&bench),
    })
}

/// Answers the same input `n` times: the seconds of each, and what the session cost.
async fn measure(config: Config, n: usize) -> Result<(Vec<f64>, Report), ClientError> {
    let client = Client::connect(config).await?;
    let model = &client.description().model;
    let input = &model.spec().input;
    let middle = |c| {
        input
            .bounds(c)
            .map_or(0.0, |[low, high]| f64::midpoint(low, high))
    };
    let area = input.height * input.width;
    let values = (0..input.n_values()).map(|i| middle(i / area) as f32);
    let image = Image::from_tensor(&input.shape(), values.collect())?;
    let input = image.fit(model, Sizing::Exact)?.input;
    let mut online = Vec::with_capacity(n);
    let mut series = client.series(n);
    for _ in 0..n {
        online.push(series.infer_input(&input).await?.stats.online_seconds);
    }
    let report = client.close().await;
    let report = report.ok_or_else(|| ClientError::Usage("nothing was measured".into()))?;
    Ok((online, report))
}

/// The medians of a phase that ran for `n` inferences. Round trips are those of `n_together`: those of a batch are shared by all
/// in it, and are not a part of any.
fn line(
    phase: &'static str,
    mut seconds: Vec<f64>,
    cost: &PhaseReport,
    n: usize,
    n_together: usize,
) -> Line {
    seconds.sort_by(f64::total_cmp);
    let at = |i: usize| seconds.get(i).copied().unwrap_or_default();
    let (each, last) = (n.max(1) as u64, seconds.len().saturating_sub(1));
    Line {
        phase,
        n,
        median_seconds: (at(last / 2) + at(seconds.len() / 2)) / 2.0,
        min_seconds: at(0),
        max_seconds: at(last),
        bytes_up: cost.bytes_up / each,
        bytes_down: cost.bytes_down / each,
        round_trips: cost.round_trips * n_together as u64 / each,
    }
}

fn table(bench: &Bench) -> String {
    let mut table = Table::new(&[8, 5, 11, 11, 11, 13, 13, 13]);
    table.row(
        [
            "phase",
            "n",
            "median s",
            "least",
            "most",
            "up",
            "down",
            "round trips",
        ],
        format!("   {}, batches of {}", shown(&bench.model), bench.batch),
    );
    for line in &bench.phases {
        let seconds = |s: f64| format!("{s:.3}");
        table.row(
            [
                line.phase.to_owned(),
                line.n.to_string(),
                seconds(line.median_seconds),
                seconds(line.min_seconds),
                seconds(line.max_seconds),
                bytes(line.bytes_up),
                bytes(line.bytes_down),
                line.round_trips.to_string(),
            ],
            "",
        );
    }
    format!(
        "{table}seconds and bytes are those of one inference; round trips of offline are those of a batch"
    )
}
