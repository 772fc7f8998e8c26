//! The client's process: this program again, driven line by line over its standard input, answering on its standard
//! output. Uses the client library as any application would; pi-server is the other process.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use pi_client::blocking::{Client, Session};
use pi_client::{ConnectOptions, Description};
use pi_model::{Model, executor};
use pi_protocol::client::Output;
use pi_protocol::ledger::{Ledger, Phase};
use pi_protocol::record::{Party, StepRecord};
use pi_protocol::session::GarblingMode;
use pi_protocol::session::OtMode;
use pi_protocol::session::SessionOptions;
use pi_protocol::wire::Step;
use serde::{Deserialize, Serialize};

use crate::host;
use crate::result::{LedgerEntry, TimelineEvent};

/// How the client's process is started.
#[derive(Args)]
pub struct WorkerArgs {
    /// Address of the server.
    #[arg(long)]
    url: String,
    /// The model that the server has, for the comparison in the clear.
    #[arg(long)]
    model: PathBuf,
    /// Inferences prepared together.
    #[arg(long)]
    batch: usize,
    /// How OTs are made.
    #[arg(long, default_value_t)]
    ot: OtMode,
    /// How circuits are garbled.
    #[arg(long, default_value_t)]
    garbling: GarblingMode,
}

/// What the client's process can be told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// End the session if there is one, and set up another.
    Open,
    /// Prepare one batch.
    Prepare,
    /// Run one prepared inference and compare it with the clear.
    Infer,
    /// Run this many inferences, preparing when there are none, and compare nothing.
    Burst(usize),
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Done(Box<Sample>),
    /// Not done; the process ends.
    Failed(String),
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Wall-clock time.
    pub seconds: f64,
    /// CPU time of the client's process.
    pub cpu_s: f64,
    /// Waiting for server and wire.
    pub waited_s: f64,
    /// Round trips.
    pub rounds: u64,
    /// Traffic.
    pub traffic: Vec<LedgerEntry>,
    /// Own computations by operation.
    pub operations: BTreeMap<String, f64>,
    /// Seconds of waiting and of computing by layer, of one inference.
    pub layers: BTreeMap<u16, [f64; 2]>,
    /// Events of one inference, from its masked input on.
    pub events: Vec<TimelineEvent>,
    /// Time of day at which the masked input left, in seconds from 1970.
    pub input_unix_s: f64,
    /// Comparison with the clear: same class, largest logit difference, seconds in the clear.
    pub check: Option<(bool, f64, f64)>,
    /// Latency of every inference of a burst.
    pub burst: Vec<f64>,
    /// Peak memory of the client's process so far.
    pub peak_memory: u64,
}

struct Worker {
    client: Client,
    description: Description,
    model: Model,
    batch: usize,
    options: SessionOptions,
    session: Option<Session>,
    n_inputs: usize,
}

/// Runs until the standard input ends.
///
/// # Errors
/// Whatever fails; it is said on the standard output as well.
pub fn run(args: &WorkerArgs) -> Result<()> {
    let mut worker = match Worker::new(args) {
        Ok(worker) => worker,
        Err(error) => return say(&Answer::Failed(format!("{error:#}"))),
    };
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?).context("an unknown order")?;
        match worker.obey(order) {
            Ok(sample) => say(&Answer::Done(Box::new(sample)))?,
            Err(error) => return say(&Answer::Failed(format!("{error:#}"))),
        }
    }
    worker.close()
}

fn say(answer: &Answer) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    Ok(out.flush()?)
}

impl Worker {
    fn new(args: &WorkerArgs) -> Result<Self> {
        let model = Model::load(&args.model)?;
        let mut options = ConnectOptions::new(&args.url);
        // A loaded server may compute for long before it answers.
        options.idle_timeout = std::time::Duration::from_secs(600);
        let client = Client::connect(options)?;
        let description = client.describe(Some(&model.public().spec().name))?;
        Ok(Self {
            client,
            description,
            model,
            batch: args.batch,
            options: SessionOptions {
                ot: args.ot,
                garbling: args.garbling,
            },
            session: None,
            n_inputs: 0,
        })
    }

    fn close(&mut self) -> Result<()> {
        if let Some(session) = self.session.take() {
            session.close()?;
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> Result<Sample> {
        let mut sample = match order {
            Order::Open => {
                self.close()?;
                let (started, cpu) = (Instant::now(), cpu());
                let session =
                    self.client
                        .session_with(&self.description, self.batch, self.options)?;
                let clock = (started.elapsed().as_secs_f64(), crate::worker::cpu() - cpu);
                let sample = Sample::new(&Ledger::default(), session.ledger(), Phase::Setup, clock);
                self.session = Some(session);
                sample
            }
            Order::Prepare => {
                self.measured(Phase::Offline, |session| Ok(session.prepare()?))?
                    .1
            }
            Order::Infer => self.infer()?,
            Order::Burst(n) => self.burst(n)?,
        };
        sample.peak_memory = host::peak_memory(std::process::id());
        Ok(sample)
    }

    fn measured<T>(
        &mut self,
        phase: Phase,
        body: impl FnOnce(&mut Session) -> Result<T>,
    ) -> Result<(T, Sample)> {
        let Some(session) = &mut self.session else {
            bail!("no session is open");
        };
        let before = session.ledger().mark();
        let (started, cpu) = (Instant::now(), cpu());
        let value = body(session)?;
        let clock = (started.elapsed().as_secs_f64(), crate::worker::cpu() - cpu);
        Ok((value, Sample::new(&before, session.ledger(), phase, clock)))
    }

    fn infer(&mut self) -> Result<Sample> {
        if self.session.as_ref().is_some_and(|s| s.n_prepared() == 0) {
            bail!("no inference is prepared");
        }
        let input = self.input();
        let (answer, mut sample) =
            self.measured(Phase::Online, |session| Ok(session.infer(&input)?))?;
        let started = Instant::now();
        let clear = executor::run(&self.model, &input)?;
        let seconds = started.elapsed().as_secs_f64();
        let error = match &answer.output {
            Output::Logits(logits) => logits
                .iter()
                .zip(&clear.logits)
                .map(|(a, b)| a.abs_diff(*b))
                .max(),
            Output::Class(_) => None,
        };
        let agrees = answer.output.class() == clear.class();
        sample.check = Some((agrees, error.unwrap_or(0) as f64, seconds));
        Ok(sample)
    }

    fn burst(&mut self, n: usize) -> Result<Sample> {
        let inputs: Vec<Vec<i64>> = (0..n).map(|_| self.input()).collect();
        let Some(session) = &mut self.session else {
            bail!("no session is open");
        };
        let mut burst = Vec::with_capacity(n);
        let started = Instant::now();
        for input in &inputs {
            let one = Instant::now();
            session.infer(input)?;
            burst.push(one.elapsed().as_secs_f64());
        }
        Ok(Sample {
            seconds: started.elapsed().as_secs_f64(),
            burst,
            ..Sample::default()
        })
    }

    /// A pseudorandom image, another one each time.
    fn input(&mut self) -> Vec<i64> {
        self.n_inputs += 1;
        let n = self.model.public().spec().input.n_values();
        (0..n)
            .map(|i| {
                let mixed = (i * 37 + self.n_inputs * 101) as u64;
                ((mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 512) as i64 - 256
            })
            .collect()
    }
}

fn cpu() -> f64 {
    host::cpu_seconds(std::process::id())
}

/// Lower-case name of a phase.
#[must_use]
pub const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Setup => "setup",
        Phase::Offline => "offline",
        Phase::Online => "online",
    }
}

impl Sample {
    fn new(before: &Ledger, after: &Ledger, phase: Phase, clock: (f64, f64)) -> Self {
        let step = StepRecord::new(&after.since(before), phase, Party::Client);
        let traffic = step.traffic.iter().map(|traffic| LedgerEntry {
            phase: phase_name(phase).to_owned(),
            layer: traffic.layer,
            operation: traffic.step.clone(),
            direction: traffic.direction.clone(),
            bytes: traffic.bytes,
            messages: traffic.messages,
        });
        let mut sample = Self {
            seconds: clock.0,
            cpu_s: clock.1,
            waited_s: step.waited_s,
            rounds: step.round_trips,
            traffic: traffic.collect(),
            operations: step.operations_s.clone(),
            ..Self::default()
        };
        if phase == Phase::Online {
            sample.follow(&step);
        }
        sample
    }

    /// Events and layers of the inference, from its masked input on.
    fn follow(&mut self, step: &StepRecord) {
        let is_input = |what: &str| what == Step::Input.name();
        let first = step.events.iter().position(|e| is_input(&e.what));
        let events = step.events.get(first.unwrap_or(0)..).unwrap_or_default();
        let start_s = events.first().map_or(0.0, |e| e.start_s);
        self.input_unix_s = step.epoch_unix_s + start_s;
        // A wait belongs to the layer whose answer leaves or whose result is there next.
        let ends = [Step::ReluResults, Step::Logits, Step::DecodeBits].map(Step::name);
        let mut waited = 0.0;
        for event in events {
            if event.kind == "wait" {
                waited += event.seconds;
            }
            if let Some(layer) = event.layer.filter(|_| ends.contains(&event.what.as_str())) {
                self.layers.entry(layer).or_default()[0] += std::mem::take(&mut waited);
            }
        }
        for layer in &step.layers_s {
            self.layers.entry(layer.layer).or_default()[1] += layer.seconds;
        }
        let events = events.iter();
        self.events = events
            .map(|e| TimelineEvent::new(Party::Client, e, -start_s))
            .collect();
    }
}
