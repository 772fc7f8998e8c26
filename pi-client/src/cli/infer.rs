//! The command `infer`: from image files to one answer each, and what it cost.

use std::io::IsTerminal as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pi_client::blocking::{Answer, Client, Session};
use pi_client::image::{Image, Sizing};
use pi_client::input::{self, Input};
use pi_client::session::DEFAULT_BATCH;
use pi_client::{ClientError, Description, Report, Store};
use pi_model::spec::OutputMode;
use pi_model::{Model, executor};
use pi_protocol::client::Output;
use pi_protocol::cost::Cost;
use pi_protocol::ledger::{Direction, Phase};
use pi_protocol::session::SessionOptions;
use serde::Serialize;

use crate::args::{ServerArgs, SessionArgs, StoreArgs};
use crate::interrupt::{self, Doing};
use crate::print;

const TEMPLATE: &str = "{msg} {bar:30} {decimal_bytes} of {decimal_total_bytes}  {elapsed}";

#[derive(Args)]
pub(crate) struct InferArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Name of the model; the server's first one if not given.
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    session: SessionArgs,
    /// Print this many labels for each image, with their logits.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    top: Option<u16>,
    #[command(flatten)]
    store: StoreArgs,
    /// Leave what `pi-client prepare` has kept where it is, and prepare anew.
    #[arg(long)]
    fresh: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Print the traffic of each layer.
    #[arg(long)]
    by_layer: bool,
    /// Compare with this model in the clear, on this machine. For who has the model anyway.
    #[arg(long, value_name = "MODEL_DIR")]
    check: Option<PathBuf>,
    /// Read images from a file of CIFAR-10's binary version and report the accuracy.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "images",
        requires = "range"
    )]
    cifar: Option<PathBuf>,
    /// Which records of it, for example 0..10.
    #[arg(long, value_parser = input::parse_range, requires = "cifar")]
    range: Option<Range<usize>>,
    /// Refuse images of another size than the model's instead of resizing them.
    #[arg(long)]
    exact_size: bool,
    /// PNG, JPEG or .npy files (uint8 pixels (H, W, C), or float32 (C, H, W) normalised already); - reads one from standard input.
    #[arg(required_unless_present = "cifar", value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

/// One answer.
#[derive(Serialize)]
pub(crate) struct Outcome {
    /// File or record.
    pub(crate) image: String,
    /// The true label, where known.
    pub(crate) label: Option<String>,
    /// The predicted label.
    pub(crate) prediction: String,
    /// The predicted class.
    pub(crate) class: usize,
    /// Labels and logits, the largest first; empty when only the class is opened.
    pub(crate) top: Vec<(String, f64)>,
    /// Online seconds.
    pub(crate) seconds: f64,
    /// Comparison with the model in the clear.
    pub(crate) check: Option<Check>,
}

/// Comparison with the model in the clear.
#[derive(Serialize)]
pub(crate) struct Check {
    /// The label that the plaintext executor predicts.
    pub(crate) prediction: String,
    /// Whether both predict the same class.
    pub(crate) agrees: bool,
    /// Largest difference of a logit, where logits are opened.
    pub(crate) max_logit_error: Option<f64>,
    /// Values outside the ranges for which the protocol is correct. They spoil an inference, and the model's
    /// calibration is at fault.
    pub(crate) n_range_violations: u64,
}

/// All answers of one run.
#[derive(Serialize)]
pub(crate) struct Run {
    pub(crate) results: Vec<Outcome>,
    /// Images whose true label is known.
    pub(crate) n_labelled: usize,
    /// Right ones among them.
    pub(crate) n_correct: usize,
    /// Images compared with the model in the clear.
    pub(crate) n_checked: usize,
    /// Agreeing ones among them.
    pub(crate) n_agree: usize,
    /// What it cost, if all went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) report: Option<Report>,
    /// Why it ended before all images were answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &InferArgs) -> anyhow::Result<()> {
    let check = args.check.as_deref().map(Model::load).transpose()?;
    // What is no image is said before anything is asked of the server.
    let images = open(&args.images)?;
    let (client, description) = args.server.describe(None, args.model.as_deref())?;
    if let Some(model) = &check
        && model.public().to_json() != description.model.to_json()
    {
        return Err(ClientError::Usage(format!(
            "the model given with --check is not the one that the server serves as '{}'",
            description.model.spec().name
        ))
        .into());
    }
    let inputs = match (&args.cifar, &args.range) {
        (Some(file), Some(range)) => input::cifar10(file, range.clone(), &description.model)?,
        _ => fit(&images, args.exact_size, &description)?,
    };
    if args.top.is_some() && description.model.spec().output.mode == OutputMode::Argmax {
        eprintln!("note: this model opens the label alone, so there is nothing for --top to show");
    }
    let kept = match args.fresh {
        true => None,
        false => Kept::find(args, &client, &description)?,
    };
    let printer = print::Answers::new(&inputs, &description, args.top);
    let mut results = Vec::with_capacity(inputs.len());
    let done = ask(
        args,
        &client,
        &description,
        kept,
        &inputs,
        |session, input, answer| {
            let mut result = outcome(session, input, answer, check.as_ref())?;
            if let Some(n) = args.top {
                result.top.truncate(n.into());
            }
            if !args.json {
                print::out(&printer.line(&result))?;
            }
            results.push(result);
            interrupt::answered();
            Ok(())
        },
    );
    let report = match done {
        Ok(report) => report,
        Err(error) => {
            // What was answered is paid for, and its owner gets it whatever comes after.
            if results.is_empty() {
                return Err(error);
            }
            let answered = format!("after {} of {} images", results.len(), inputs.len());
            if args.json {
                let run = Run::new(results, None, Some(error.to_string()));
                print::out(&serde_json::to_string_pretty(&run)?)?;
            }
            return Err(error.context(answered));
        }
    };
    let run = Run::new(results, Some(report), None);
    if args.json {
        return print::out(&serde_json::to_string_pretty(&run)?);
    }
    let totals = print::totals(&run);
    if !totals.is_empty() {
        print::out(&totals)?;
    }
    let Some(report) = &run.report else {
        return Ok(());
    };
    if std::io::stdout().is_terminal() {
        print::out(&format!("\n{}", print::cost(report)))?;
    }
    if args.by_layer {
        print::out(&format!("\n{}", print::layers(report)))?;
    }
    Ok(())
}

/// Opens a session and asks for all inputs, in order. `each` gets every answer as soon as it is there.
fn ask(
    args: &InferArgs,
    client: &Client,
    description: &Description,
    mut kept: Option<Kept>,
    inputs: &[Input],
    mut each: impl FnMut(&Session, &Input, &Answer) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let options = args.session.options();
    let open = |n| {
        let _phase = interrupt::during(Doing::SettingUp);
        let batch = batch(args.session.batch, n, description, options);
        args.server
            .again(|| client.session_with(description, batch, options))
    };
    // Enough for all images: a session without keys and base OTs.
    let is_kept_only = kept.as_ref().is_some_and(|k| k.n >= inputs.len());
    let mut session = match &kept {
        Some(kept) => {
            let _phase = interrupt::during(Doing::SettingUp);
            args.server.again(|| match is_kept_only {
                true => client.session_for_kept(description, kept.batch),
                false => client.session_with(description, kept.batch, options),
            })?
        }
        None => open(inputs.len())?,
    };
    for (i, input) in inputs.iter().enumerate() {
        let answered = match &kept {
            Some(kept) => kept.infer(&mut session, input)?,
            None => None,
        };
        let answer = match answered {
            Some(answer) => answer,
            None => {
                if kept.take().is_some() && is_kept_only {
                    // Another process was faster, or what was kept is of no use: this session cannot prepare.
                    session.close()?;
                    session = open(inputs.len() - i)?;
                }
                if session.n_prepared() == 0 {
                    prepare(&mut session, inputs.len() - i)?;
                }
                infer(&mut session, |session| session.infer(&input.values))?
            }
        };
        each(&session, input, &answer)?;
    }
    Ok(session.close()?)
}

/// Does the online phase under a bar of its bytes.
fn infer(
    session: &mut Session,
    what: impl FnOnce(&mut Session) -> Result<Answer, ClientError>,
) -> Result<Answer, ClientError> {
    let _phase = interrupt::during(Doing::Inferring);
    let cost = Cost::with_options(session.plan(), session.options())?;
    let n_bytes =
        cost.bytes(Phase::Online, Direction::Up) + cost.bytes(Phase::Online, Direction::Down);
    with_bar(session, n_bytes, "inferring", what)
}

/// What `pi-client prepare` has left for this server and model.
struct Kept {
    store: Store,
    n: usize,
    batch: usize,
}

impl Kept {
    fn find(
        args: &InferArgs,
        client: &Client,
        description: &Description,
    ) -> Result<Option<Self>, ClientError> {
        // Without a folder for data there is nothing.
        let Ok(dir) = args.store.dir() else {
            return Ok(None);
        };
        let model = &description.model.spec().name;
        let Some(store) = Store::open_if_there(&dir, client.url(), model)? else {
            return Ok(None);
        };
        let (n, batch) = store.waiting()?;
        if n > 0 && description.kept_for.is_zero() {
            eprintln!(
                "note: {n} kept inferences stay unused: the server keeps their other halves no more"
            );
            return Ok(None);
        }
        let batch = batch.filter(|b| {
            *b <= description.max_batch && args.session.batch.is_none_or(|asked| asked == *b)
        });
        Ok(batch.map(|batch| Self { store, n, batch }))
    }

    /// Answers with the next one that both sides still have; none if there is none.
    fn infer(&self, session: &mut Session, input: &Input) -> Result<Option<Answer>, ClientError> {
        let taken = self.store.take(session.plan())?;
        if taken.n_unusable > 0 {
            eprintln!(
                "note: {} kept inferences were dropped: their files are damaged, or of another key or model",
                taken.n_unusable
            );
        }
        let Some(prepared) = taken.prepared else {
            return Ok(None);
        };
        match infer(session, |session| {
            session.infer_with(prepared, &input.values)
        }) {
            // The server has seen the masked image. One mask of an older copy is bad enough: none of the others is tried.
            Err(error) if error.is_kept_gone() => {
                let n_gone = 1 + self.store.discard()?;
                eprintln!(
                    "note: {n_gone} kept inferences were dropped: the server does not have the other half of the first, so its store was replaced, or this folder is an older copy"
                );
                Ok(None)
            }
            outcome => outcome.map(Some),
        }
    }
}

/// How many are prepared together: what the user says, or batches of equal size, so that nothing is prepared in vain.
pub(crate) fn batch(
    asked: Option<usize>,
    n: usize,
    description: &Description,
    options: SessionOptions,
) -> usize {
    let most = description.largest_batch(options).min(DEFAULT_BATCH);
    asked.unwrap_or_else(|| n.div_ceil(n.div_ceil(most).max(1)).max(1))
}

/// Reads the files, and standard input for `-`.
pub(crate) fn open(paths: &[PathBuf]) -> Result<Vec<Image>, ClientError> {
    let images = paths.iter().map(|path| match path.to_str() {
        Some("-") => Image::read("stdin", std::io::stdin().lock()),
        // It may hold a password, and is not repeated.
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            Err(ClientError::Usage(
                "an address was given where images stand; write --server URL".into(),
            ))
        }
        _ => Image::open(path),
    });
    images.collect()
}

/// Makes images fit the model, and tells what had to be guessed.
pub(crate) fn fit(
    images: &[Image],
    exact_size: bool,
    description: &Description,
) -> Result<Vec<Input>, ClientError> {
    let sizing = if exact_size {
        Sizing::Exact
    } else {
        Sizing::Resize
    };
    let mut inputs = Vec::with_capacity(images.len());
    for image in images {
        let fitted = image.fit(&description.model, sizing)?;
        for note in &fitted.notes {
            eprintln!("note: {}: {note}", image.name());
        }
        inputs.push(fitted.input);
    }
    Ok(inputs)
}

/// Prepares a batch under a bar that follows the bytes on the wire.
pub(crate) fn prepare(session: &mut Session, n_left: usize) -> Result<(), ClientError> {
    let _phase = interrupt::during(Doing::Preparing);
    let cost = Cost::with_options(session.plan(), session.options())?;
    let n_bytes =
        cost.bytes(Phase::Offline, Direction::Up) + cost.bytes(Phase::Offline, Direction::Down);
    let message = preparing(session, n_left);
    with_bar(session, n_bytes, &message, Session::prepare)
}

/// What stands before the bar.
pub(crate) fn preparing(session: &Session, n_left: usize) -> String {
    format!("preparing {}, {n_left} to go", session.plan().batch())
}

/// Does `what` under a bar of so many bytes, which appears when it takes longer than a moment.
pub(crate) fn with_bar<T>(
    session: &mut Session,
    n_bytes: u64,
    message: &str,
    what: impl FnOnce(&mut Session) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let bar = ProgressBar::with_draw_target(Some(n_bytes), ProgressDrawTarget::hidden());
    // The template is ours: a test looks at it.
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(message.to_owned());
    let meter = Arc::clone(session.meter());
    let before = meter.n_bytes_sent() + meter.n_bytes_received();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let ticker = std::thread::spawn({
        let bar = bar.clone();
        move || {
            use std::sync::mpsc::RecvTimeoutError::Timeout;
            while stopped.recv_timeout(Duration::from_millis(100)) == Err(Timeout) {
                if bar.is_hidden() {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                }
                bar.set_position(meter.n_bytes_sent() + meter.n_bytes_received() - before);
                bar.tick();
            }
        }
    });
    let done = what(session);
    drop(stop);
    // The ticker cannot fail in a way that matters to the result.
    let _ = ticker.join();
    bar.finish_and_clear();
    done
}

fn outcome(
    session: &Session,
    input: &Input,
    answer: &Answer,
    check: Option<&Model>,
) -> anyhow::Result<Outcome> {
    let plan = session.plan();
    let labels = &plan.model().spec().labels;
    let label = |class: usize| {
        let known = labels.get(class).cloned();
        known.unwrap_or_else(|| format!("class {class}"))
    };
    let scale = f64::from(plan.logit_fraction_bits()).exp2();
    let (class, top) = match &answer.output {
        Output::Class(class) => (*class, vec![]),
        Output::Logits(logits) => {
            let mut order: Vec<usize> = (0..logits.len()).collect();
            // Stable: of equal logits the lowest class comes first, as in the plaintext executor.
            order.sort_by_key(|&i| std::cmp::Reverse(logits[i]));
            let top = order.iter().map(|&i| (label(i), logits[i] as f64 / scale));
            (executor::argmax(logits), top.collect())
        }
    };
    let check = check
        .map(|model| executor::run(model, &input.values))
        .transpose()?
        .map(|clear| Check {
            prediction: label(clear.class()),
            agrees: clear.class() == class,
            n_range_violations: clear.n_range_violations,
            max_logit_error: match &answer.output {
                Output::Logits(logits) => {
                    let differences = logits
                        .iter()
                        .zip(&clear.logits)
                        .map(|(a, b)| a.abs_diff(*b));
                    differences.max().map(|d| d as f64 / scale)
                }
                Output::Class(_) => None,
            },
        });
    Ok(Outcome {
        image: input.name.clone(),
        label: input.label.map(label),
        prediction: label(class),
        class,
        top,
        seconds: answer.time.as_secs_f64(),
        check,
    })
}

impl Run {
    fn new(results: Vec<Outcome>, report: Option<Report>, error: Option<String>) -> Self {
        let labelled = results.iter().filter(|r| r.label.is_some());
        let checked = results.iter().filter_map(|r| r.check.as_ref());
        Self {
            n_labelled: labelled.clone().count(),
            n_correct: labelled
                .filter(|r| r.label.as_ref() == Some(&r.prediction))
                .count(),
            n_checked: checked.clone().count(),
            n_agree: checked.filter(|c| c.agrees).count(),
            results,
            report,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_has_a_style() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
