//! The command `infer`: from image files to one answer each, and what it cost.

use std::borrow::Cow;
use std::io::IsTerminal as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use pi_client::image::{Image, Sizing};
use pi_client::input::{self, Input};
use pi_client::{Client, ClientError, Config, Description, Report};
use pi_model::spec::OutputMode;
use pi_model::text::shown;
use pi_model::{Model, PublicModel};

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
    /// Compare with this model in the clear, on this machine. For who has the model anyway. Ends with code 10 if a class differs (an
    /// output by more than a twentieth of the largest, where there are no classes) or a value leaves the model's ranges.
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
    /// PNG, JPEG or .npy files (uint8 pixels (H, W, C), or float32 (C, H, W) as the network takes them); - reads one from standard input.
    #[arg(required_unless_present = "cifar", value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

/// Where an image comes from. Only one is held at a time: a camera's takes a thousand times what the model takes.
enum Source<'a> {
    File {
        path: &'a Path,
        /// Width and height of a picture.
        size: Option<(usize, usize)>,
    },
    Stdin(Image),
    Record(Input),
}

/// Runs the command.
pub(crate) fn run(args: &InferArgs) -> anyhow::Result<()> {
    let check = args.check.as_deref().map(Model::load).transpose()?;
    // What is no image is said before anything is asked of the server.
    let sources = args.images.iter().map(|path| Source::look(path));
    let mut sources = sources.collect::<Result<Vec<_>, _>>()?;
    let config = Config {
        model: args.model.clone(),
        sizing: sizing(args),
        // Without a folder for data there is nothing.
        store: args.store.dir().ok().filter(|_| !args.fresh),
        ..args.session.config(&args.server, None)?
    };
    wait(async {
        let client = Client::connect(config).await?;
        let description = client.description();
        suits(args, &sources, check.as_ref(), description)?;
        if let (Some(file), Some(range)) = (&args.cifar, &args.range) {
            let records = input::cifar10(file, range.clone(), &description.model)?;
            sources.extend(records.into_iter().map(Source::Record));
        }
        let n_images = sources.len();
        let mut results = Vec::with_capacity(n_images);
        match ask(args, client, check.as_ref(), sources, &mut results).await {
            Ok(report) => {
                let run = Run::new(results, report, None);
                show(args, &run)?;
                // Whoever compares wants to know in a script, too.
                run.differs().map_or(Ok(()), |differs| Err(differs.into()))
            }
            Err(error) => Err(told(args, results, error, n_images)?),
        }
    })?
}

const fn sizing(args: &InferArgs) -> Sizing {
    match args.exact_size {
        true => Sizing::Exact,
        false => Sizing::Resize,
    }
}

/// Refuses what does not suit the described model, before anything is spent.
fn suits(
    args: &InferArgs,
    sources: &[Source<'_>],
    check: Option<&Model>,
    description: &Description,
) -> Result<(), ClientError> {
    let spec = description.model.spec();
    if check.is_some_and(|model| model.public().to_json() != description.model.to_json()) {
        return Err(ClientError::Usage(format!(
            "the model given with --check is not the one that the server serves as '{}'",
            spec.name
        )));
    }
    for source in sources {
        source.check(&description.model, sizing(args))?;
    }
    if args.top.is_some() && spec.output == OutputMode::Argmax {
        eprintln!("note: this model opens the label alone, so there is nothing for --top to show");
    } else if args.top.is_some() && !description.model.has_classes() {
        eprintln!(
            "note: this model's outputs are no classes, so there is nothing for --top to show"
        );
    }
    Ok(())
}

impl<'a> Source<'a> {
    /// Looks at a file's head, and reads standard input for `-`.
    fn look(path: &'a Path) -> Result<Self, ClientError> {
        match path.to_str() {
            Some("-") => Ok(Self::Stdin(Image::read("stdin", std::io::stdin().lock())?)),
            // It may hold a password, and is not repeated.
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                Err(ClientError::Usage(
                    "an address was given where images stand; write --server URL".into(),
                ))
            }
            _ => Ok(Self::File {
                path,
                size: Image::look(path)?,
            }),
        }
    }

    fn name(&self) -> Cow<'_, str> {
        match self {
            Self::File { path, .. } => path.file_name().unwrap_or_default().to_string_lossy(),
            Self::Stdin(image) => image.name().into(),
            Self::Record(input) => (&*input.name).into(),
        }
    }

    /// Refuses what the model does not take, as far as that can be seen at once.
    fn check(&self, model: &PublicModel, sizing: Sizing) -> Result<(), ClientError> {
        let wanted = &model.spec().input;
        match self {
            Self::File { path, size } => {
                let is_other = *size != Some((wanted.width, wanted.height));
                if size.is_none() || !wanted.takes_images() || sizing == Sizing::Exact && is_other {
                    Image::open(path)?.fit(model, sizing)?;
                }
            }
            Self::Stdin(image) => {
                image.fit(model, sizing)?;
            }
            Self::Record(_) => {}
        }
        Ok(())
    }

    /// Makes it fit the model, and tells what had to be guessed.
    fn into_input(self, model: &PublicModel, sizing: Sizing) -> Result<Input, ClientError> {
        let image = match self {
            Self::File { path, .. } => Image::open(path)?,
            Self::Stdin(image) => image,
            Self::Record(input) => return Ok(input),
        };
        let fitted = image.fit(model, sizing)?;
        for note in &fitted.notes {
            eprintln!("note: {}: {note}", shown(image.name()));
        }
        Ok(fitted.input)
    }
}

/// Asks for all images, in order, and prints each answer as soon as it is there. Returns what it cost.
async fn ask(
    args: &InferArgs,
    client: Client,
    check: Option<&Model>,
    sources: Vec<Source<'_>>,
    results: &mut Vec<Outcome>,
) -> anyhow::Result<Option<Report>> {
    let description = client.description();
    let labels = &description.model.spec().labels;
    let names: Vec<_> = sources.iter().map(Source::name).collect();
    let lines = Lines::new(names.iter().map(|name| &**name), description, args.top);
    drop(names);
    let n_top = args.top.map_or(usize::MAX, usize::from);
    let mut series = client.series(sources.len());
    for source in sources {
        let input = source.into_input(&description.model, sizing(args))?;
        let answer = series.infer_input(&input).await?;
        let check = check
            .map(|model| Check::of(model, &input, &answer))
            .transpose()?;
        let result = Outcome::new(&input, &answer, labels, n_top, check);
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
fn show(args: &InferArgs, run: &Run) -> anyhow::Result<()> {
    if args.json {
        return out::line(&serde_json::to_string_pretty(run)?);
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
