//! The command `infer`: from image files to one answer each, and what it cost.

use std::io::IsTerminal as _;
use std::ops::Range;
use std::path::PathBuf;

use clap::Args;
use pi_client::image::{Image, Sizing};
use pi_client::input::{self, Input};
use pi_client::{Client, ClientError, Config, Description, Report};
use pi_model::Model;
use pi_model::spec::OutputMode;

use super::answers::{Check, Lines, Outcome, Run};
use super::args::{ServerArgs, SessionArgs, StoreArgs};
use super::wait::wait;
use super::{costs, interrupt, out};

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

/// Runs the command.
pub(crate) fn run(args: &InferArgs) -> anyhow::Result<()> {
    let check = args.check.as_deref().map(Model::load).transpose()?;
    // What is no image is said before anything is asked of the server.
    let images = open(&args.images)?;
    let config = Config {
        model: args.model.clone(),
        // Without a folder for data there is nothing.
        store: args.store.dir().ok().filter(|_| !args.fresh),
        ..args.session.config(&args.server, None)?
    };
    wait(async {
        let client = Client::connect(config).await?;
        let inputs = inputs(args, &images, check.as_ref(), client.description())?;
        let mut results = Vec::with_capacity(inputs.len());
        let done = ask(args, client, check.as_ref(), &inputs, &mut results).await;
        match done {
            Ok(report) => show(args, Run::new(results, report, None)),
            Err(error) => Err(told(args, results, error, inputs.len())?),
        }
    })?
}

/// What is to be answered by the described model; refuses what does not suit it.
fn inputs(
    args: &InferArgs,
    images: &[Image],
    check: Option<&Model>,
    description: &Description,
) -> Result<Vec<Input>, ClientError> {
    let spec = description.model.spec();
    if check.is_some_and(|model| model.public().to_json() != description.model.to_json()) {
        return Err(ClientError::Usage(format!(
            "the model given with --check is not the one that the server serves as '{}'",
            spec.name
        )));
    }
    let inputs = match (&args.cifar, &args.range) {
        (Some(file), Some(range)) => input::cifar10(file, range.clone(), &description.model)?,
        _ => fit(images, args.exact_size, description)?,
    };
    if args.top.is_some() && spec.output.mode == OutputMode::Argmax {
        eprintln!("note: this model opens the label alone, so there is nothing for --top to show");
    }
    Ok(inputs)
}

/// Asks for all inputs, in order, and prints each answer as soon as it is there. Returns what it cost.
async fn ask(
    args: &InferArgs,
    client: Client,
    check: Option<&Model>,
    inputs: &[Input],
    results: &mut Vec<Outcome>,
) -> anyhow::Result<Option<Report>> {
    let description = client.description();
    let labels = &description.model.spec().labels;
    let lines = Lines::new(inputs.iter().map(|i| &*i.name), description, args.top);
    let n_top = args.top.map_or(usize::MAX, usize::from);
    let mut series = client.series(inputs.len());
    for input in inputs {
        let answer = series.infer_input(input).await?;
        let check = check
            .map(|model| Check::of(model, input, &answer))
            .transpose()?;
        let result = Outcome::new(input, &answer, labels, n_top, check);
        if !args.json {
            out::line(&lines.line(&result))?;
        }
        results.push(result);
        interrupt::answered();
    }
    Ok(client.close().await)
}

/// The error after some images were answered. What was answered is paid for, and its owner gets it whatever comes after.
fn told(
    args: &InferArgs,
    results: Vec<Outcome>,
    error: anyhow::Error,
    n_images: usize,
) -> anyhow::Result<anyhow::Error> {
    if results.is_empty() {
        return Ok(error);
    }
    let answered = format!("after {} of {n_images} images", results.len());
    if args.json {
        let run = Run::new(results, None, Some(error.to_string()));
        out::line(&serde_json::to_string_pretty(&run)?)?;
    }
    Ok(error.context(answered))
}

/// Prints what comes after the answers.
fn show(args: &InferArgs, run: Run) -> anyhow::Result<()> {
    if args.json {
        return out::line(&serde_json::to_string_pretty(&run)?);
    }
    let totals = run.totals();
    if !totals.is_empty() {
        out::line(&totals)?;
    }
    let Some(report) = run.report() else {
        return Ok(());
    };
    if std::io::stdout().is_terminal() {
        out::line(&format!("\n{}", costs::by_phase(report)))?;
    }
    if args.by_layer {
        out::line(&format!("\n{}", costs::by_layer(report)))?;
    }
    Ok(())
}

/// Reads the files, and standard input for `-`.
fn open(paths: &[PathBuf]) -> Result<Vec<Image>, ClientError> {
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
fn fit(
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
