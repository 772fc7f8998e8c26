//! The command `bench`: a session with inferences of a grey image, and the medians of its phases.

use std::time::Instant;

use clap::Args;
use pi_client::ClientError;
use pi_client::image::{Image, Sizing};
use serde::Serialize;

use crate::args::{ServerArgs, SessionArgs};
use crate::infer;
use crate::interrupt::{self, Doing};
use crate::print;

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
pub(crate) struct Line {
    pub(crate) phase: &'static str,
    pub(crate) n: usize,
    pub(crate) median_seconds: f64,
    pub(crate) min_seconds: f64,
    pub(crate) max_seconds: f64,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    pub(crate) round_trips: u64,
}

#[derive(Serialize)]
pub(crate) struct Bench {
    pub(crate) model: String,
    pub(crate) batch: usize,
    pub(crate) phases: Vec<Line>,
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let (client, description) = args
        .server
        .describe(args.url.as_deref(), args.model.as_deref())?;
    let shape = &description.model.spec().input;
    let grey = vec![127; shape.n_values()];
    let image = Image::from_pixels(shape.width, shape.height, shape.channels, grey)?;
    let input = image.fit(&description.model, Sizing::Exact)?.input;
    let n = args.n as usize;
    let options = args.session.options();
    let batch = infer::batch(args.session.batch, n, &description, options);
    let started = Instant::now();
    let mut session = {
        let _phase = interrupt::during(Doing::SettingUp);
        args.server
            .again(|| client.session_with(&description, batch, options))?
    };
    let setup = vec![started.elapsed().as_secs_f64()];
    let (mut offline, mut online) = (Vec::new(), Vec::new());
    for i in 0..n {
        if session.n_prepared() == 0 {
            let started = Instant::now();
            infer::prepare(&mut session, n - i)?;
            let seconds = started.elapsed().as_secs_f64() / batch as f64;
            offline.push(seconds);
        }
        let _phase = interrupt::during(Doing::Inferring);
        online.push(session.infer(&input.values)?.time.as_secs_f64());
    }
    let report = session.close()?;
    let line = |phase, mut seconds: Vec<f64>, cost: &pi_client::report::PhaseReport, n: usize| {
        seconds.sort_by(f64::total_cmp);
        let at = |i: usize| seconds.get(i).copied().unwrap_or_default();
        let each = n.max(1) as u64;
        Line {
            phase,
            n,
            median_seconds: (at((seconds.len() - 1) / 2) + at(seconds.len() / 2)) / 2.0,
            min_seconds: at(0),
            max_seconds: at(seconds.len() - 1),
            bytes_up: cost.bytes_up / each,
            bytes_down: cost.bytes_down / each,
            // The round trips of a batch are shared by all in it, and are not a part of any.
            round_trips: match phase {
                "online" => cost.round_trips / each,
                "offline" => cost.round_trips * batch as u64 / each,
                _ => cost.round_trips,
            },
        }
    };
    let bench = Bench {
        model: report.model.clone(),
        batch,
        phases: vec![
            line("setup", setup, &report.setup, 1),
            line("offline", offline, &report.offline, report.n_prepared),
            line("online", online, &report.online, report.n_inferences),
        ],
    };
    if bench.phases.iter().any(|p| !p.median_seconds.is_finite()) {
        return Err(ClientError::Usage("nothing was measured".into()).into());
    }
    print::out(&match args.json {
        true => serde_json::to_string_pretty(&bench)?,
        false => print::bench(&bench),
    })
}
