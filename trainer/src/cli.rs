//! Command line.

use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand};
use pi_trainer::data::DatasetKind;
use pi_trainer::loss::Pram;
use pi_trainer::net::{Arch, Compute};
use pi_trainer::optim::Shape;
use pi_trainer::preset::Preset;
use pi_trainer::selection::Selection;
use std::path::PathBuf;

/// Trains networks that keep few ReLUs (SENet, ICLR 2023) and exports them for private inference.
///
/// Every stage writes one checkpoint into --out each minute and after each epoch; a stopped run
/// goes on exactly where it was with --resume. Stages: teacher, search, finetune, then export. The network is
/// one of the architectures with names, or any with ReLUs that `pi-convert import` has made a folder of (--arch).
#[derive(Parser)]
#[command(name = "pi-trainer", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the trainer does.
#[derive(Subcommand)]
pub enum Command {
    /// Train the network with every ReLU (writes teacher.safetensors); of a model folder the weights are taken
    /// as they are, and trained on only if --epochs is given
    Teacher(TrainArgs),
    /// How sensitive each layer is and how many ReLUs it keeps (stage 1): table, JSON, plot
    Sensitivity(SensitivityArgs),
    /// Find where --relus ReLUs matter most (stage 2; writes search.safetensors)
    Search(SearchArgs),
    /// Train on with the masks frozen (stage 3; writes student.safetensors)
    Finetune(FinetuneArgs),
    /// All stages in a row for one or several budgets, each skipped if its result is there; then export
    /// and report
    All(AllArgs),
    /// Write a checkpoint as a fixed-point model, calibrated and measured, or as a float model (--float)
    Export(ExportArgs),
    /// Accuracy of a checkpoint, or of an exported model by the plaintext executor, on the test set
    Evaluate(EvaluateArgs),
    /// Write the first test image of each class as PNG, named by index and label
    Samples(SamplesArgs),
    /// Take a teacher trained with PyTorch (writes teacher.safetensors)
    Import(ImportArgs),
    /// Write report.json and report.html over finished runs
    Report(ReportArgs),
    /// Measure training and inference speed for each number type and thread count
    Bench(BenchArgs),
}

/// The architecture where none is given.
pub const DEFAULT_ARCH: &str = "resnet20";

/// Which images and which network.
#[derive(Args, Clone)]
pub struct ModelArgs {
    /// Folder with the image set's own files
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Image set
    #[arg(long, value_enum, default_value = "cifar10")]
    pub dataset: DatasetKind,
    /// Side of the images read from folders [default: 64 tiny-imagenet, 224 folder; a model folder's own]
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<usize>,
    #[arg(long, value_name = "NAME|FOLDER", help = format!("Architecture [default: {DEFAULT_ARCH}; `import`: the file's]: {}. Or the folder of a float model, as `pi-convert import` or `export --float` writes it: any network with ReLUs, whose weights and normalisation are then the teacher's", Arch::FAMILIES))]
    pub arch: Option<String>,
    /// Use only the first images of the training set, to try things out
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Where to compute: cpu, cuda, cuda:N, or auto for a GPU if there is one
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Processor threads [default: all cores]; with other work on the machine, one is often the fastest
    #[arg(long)]
    pub threads: Option<i32>,
}

/// Settings of a training stage.
#[derive(Args, Clone)]
pub struct TrainArgs {
    /// Images and network.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Folder for checkpoints and results
    #[arg(long, value_name = "DIR", default_value = "senet")]
    pub out: PathBuf,
    /// Go on with the checkpoint in --out, if there is one
    #[arg(long)]
    pub resume: bool,
    /// Epochs, batch, learning rates and schedule; each can be given on its own as well
    #[arg(long, value_enum, default_value = "short")]
    pub preset: Preset,
    /// Passes over the training images [default: the preset's; a model folder's weights are a teacher already]
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Peak learning rate [default: the preset's]
    #[arg(long)]
    pub lr: Option<f64>,
    /// How the learning rate moves [default: the preset's]
    #[arg(long, value_enum)]
    pub schedule: Option<Shape>,
    /// Share of the steps in which the learning rate rises (one-cycle and cosine)
    #[arg(long, default_value_t = 0.2)]
    pub warmup: f64,
    /// Images a minibatch [default: the preset's]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Momentum as SGD first had it instead of Nesterov's; --preset published has it so
    #[arg(long)]
    pub plain_momentum: bool,
    /// Weight decay
    #[arg(long, default_value_t = 5e-4)]
    pub weight_decay: f64,
    /// Factor of the learning rate of BatchNorm's shifts (64 in the recipe of lean networks)
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub shift_rate: f64,
    /// Label smoothing of this stage (`all`: of the teacher) [default: 0.1 for a teacher, 0 published]
    #[arg(long)]
    pub label_smoothing: Option<f64>,
    /// Zeros around an image before the random crop
    #[arg(long, default_value_t = 4)]
    pub crop_pad: usize,
    /// Mirror each image in every other epoch instead of at random
    #[arg(long)]
    pub alternate_flip: bool,
    /// Blend two images: parameter of mixup's Beta distribution, 0 for none
    #[arg(long, default_value_t = 0.0)]
    pub mixup: f64,
    /// Paste a box of another image: parameter of CutMix's Beta distribution, 0 for none
    #[arg(long, default_value_t = 0.0)]
    pub cutmix: f64,
    /// Decay of a running average of the weights, which becomes the result (such as 0.999)
    #[arg(long)]
    pub ema: Option<f64>,
    /// Number type of the convolutions while training [default: the preset's: bf16, or f32 published]
    #[arg(long, value_enum)]
    pub compute: Option<Compute>,
    /// Hold out this many images (such as 5000) from the end of the training set, from the teacher on;
    /// teacher and fine-tuning then keep the epoch that does best on them
    #[arg(long, default_value_t = 0)]
    pub hold_out: usize,
    /// Bits of a weight in checkpoints; runs resumed from 16 bits go on from the rounded numbers
    #[arg(long, default_value_t = 32, value_parser = clap::builder::PossibleValuesParser::new(["16", "32"]).map(|s| if s == "16" { 16u32 } else { 32 }))]
    pub checkpoint_bits: u32,
    /// Split checkpoints into files of at most this many megabytes
    #[arg(long, value_name = "MB")]
    pub checkpoint_part: Option<usize>,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Settings of the sensitivity table.
#[derive(Args)]
pub struct SensitivityArgs {
    /// Settings of the proxy's training.
    #[command(flatten)]
    pub train: TrainArgs,
    /// ReLUs to spread over the layers [default: a fifth of them]
    #[arg(long, value_name = "N")]
    pub budget: Option<usize>,
    /// Take the known densities of the architecture (the default)
    #[arg(long, conflicts_with = "train_proxy")]
    pub fixture: bool,
    /// Train the sparse proxy for its densities; needs --data
    #[arg(long = "train")]
    pub train_proxy: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Draw the layers into this SVG file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// Settings of the speed measurement.
#[derive(Args)]
pub struct BenchArgs {
    /// Architecture, as for training
    #[arg(long, default_value = DEFAULT_ARCH)]
    pub arch: String,
    /// Images a minibatch
    #[arg(long, default_value_t = 64)]
    pub batch: i64,
    /// Where to compute, as for training
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Processor threads to measure with [default: all cores]
    #[arg(long, value_delimiter = ',', value_name = "N,N,...")]
    pub threads: Vec<i32>,
    /// Number types to measure with
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32,bf16")]
    pub compute: Vec<Compute>,
    /// Number of classes
    #[arg(long, default_value_t = 10)]
    pub classes: usize,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
}

/// How many ReLUs a student keeps, and how it finds where.
#[derive(Args, Clone)]
pub struct SearchOptions {
    /// ReLUs to keep, spread over the layers by the sensitivity rule; `all` takes several budgets
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "N,N,...",
        default_value = "30000"
    )]
    pub relus: Vec<usize>,
    /// ReLUs to keep for each layer, stem first, in place of the rule
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "N,N,...",
        conflicts_with = "relus"
    )]
    pub relu_list: Option<Vec<usize>>,
    /// Proxy densities for each layer, as `sensitivity` prints them, in place of the known ones
    #[arg(long, value_delimiter = ',', value_name = "D,D,...")]
    pub densities: Option<Vec<f64>>,
    /// They come from a proxy of this run.
    #[arg(skip)]
    pub densities_trained: bool,
    /// How the search chooses positions [default: the preset's: anneal-kink, or senet published]
    #[arg(long, value_enum)]
    pub selection: Option<Selection>,
    /// Budgets of the layers follow the scores in each epoch; the rule gives only the first ones
    /// (selections by gradients, such as anneal-kink)
    #[arg(long)]
    pub budgets_from_scores: bool,
    /// Empty this many layers half way through the search, those whose scores are lowest (selections by
    /// gradients)
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub empty_layers: usize,
    /// Width factors below 1 that search and fine-tuning train along (SENet++), such as 0.5
    #[arg(long, value_delimiter = ',', value_name = "F,F,...")]
    pub widths: Vec<f64>,
    /// Keep whole channels instead of pixels
    #[arg(long)]
    pub per_channel: bool,
    /// Stop the search when no layer's mask moves by more than this share (0.05 in the paper)
    #[arg(long)]
    pub stop_distance: Option<f64>,
    /// Start the search from fresh weights instead of the teacher's; --preset published does
    #[arg(long)]
    pub fresh: bool,
}

/// How fine-tuning compares activations with the teacher's.
#[derive(Args, Clone)]
pub struct PramOptions {
    /// How fine-tuning compares activations: attention maps, or whole maps as the paper writes it
    #[arg(long, value_enum, default_value = "collapsed")]
    pub pram: Pram,
    /// Weight of that comparison in the loss; 0 leaves it out [default: the preset's: 0, or 1000 published]
    #[arg(long, value_name = "W")]
    pub pram_weight: Option<f64>,
    /// Let that weight fall linearly to 0 over the run
    #[arg(long)]
    pub pram_decay: bool,
}

/// What a student learns from.
#[derive(Args, Clone)]
pub struct TargetOptions {
    /// Share of the cross-entropy with the labels; the rest is distillation from the teacher
    /// [default: the preset's: 0.5, or 0.1 to fine-tune as published]
    #[arg(long, value_name = "SHARE")]
    pub ce_share: Option<f64>,
    /// Temperature at which the teacher's class scores are distilled
    #[arg(long, value_name = "T", default_value_t = 4.0)]
    pub temperature: f64,
}

/// Settings of the mask search.
#[derive(Args, Clone)]
pub struct SearchArgs {
    /// Settings of the stage.
    #[command(flatten)]
    pub train: TrainArgs,
    /// What it looks for.
    #[command(flatten)]
    pub options: SearchOptions,
    /// What it learns from.
    #[command(flatten)]
    pub targets: TargetOptions,
    /// Teacher checkpoint [default: teacher.safetensors in --out]
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
}

/// Settings of the fine-tuning. Budget, masks and widths are those of the checkpoint it starts from.
#[derive(Args, Clone)]
pub struct FinetuneArgs {
    /// Settings of the stage.
    #[command(flatten)]
    pub train: TrainArgs,
    /// How activations are compared.
    #[command(flatten)]
    pub pram: PramOptions,
    /// What it learns from.
    #[command(flatten)]
    pub targets: TargetOptions,
    /// Fine-tune from this checkpoint's weights and masks, such as an earlier student
    /// [default: search.safetensors in --out]
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Teacher checkpoint, perhaps of another network on the same images (unless activations are compared)
    /// [default: teacher.safetensors in --out]
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
}

/// Settings of the export.
#[derive(Args, Clone)]
pub struct ExportArgs {
    /// Images and network.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Checkpoint to export: student.safetensors, or teacher.safetensors for the all-ReLU twin
    #[arg(long, value_name = "FILE")]
    pub checkpoint: PathBuf,
    /// Teacher checkpoint, for the card
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
    /// Name of the model and its folder [default: network, data set and ReLUs kept]
    #[arg(long)]
    pub name: Option<String>,
    /// Which of the widths that were trained together; 0 is the full one
    #[arg(long, default_value_t = 0)]
    pub width: usize,
    /// Write the float model instead, for `pi-convert quantise` or `--arch`
    #[arg(long)]
    pub float: bool,
    /// Settings of the numbers.
    #[command(flatten)]
    pub numbers: NumberArgs,
    /// Leave a model that is there and measured as it is.
    #[arg(skip)]
    pub only_missing: bool,
}

/// Fixed-point numbers and where they go.
#[derive(Args, Clone)]
pub struct NumberArgs {
    /// Folder that gets a folder for the model [default: models; `all`: models in --out]
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Fraction bits of every activation
    #[arg(long, visible_alias = "activation-bits", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=15))]
    pub fraction_bits: u32,
    /// Bits of a weight, 2 to 16 [default: 8, or as many up to 12 as keep the accuracy within 0.15 points
    /// of the float one on the held-out images, or on the calibration images where none were held out]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub weight_bits: Option<u32>,
    /// Training images to calibrate the ranges on, at least 1
    #[arg(long, default_value_t = 10_000, value_parser = at_least_one)]
    pub calibrate: usize,
    /// Widest output in bits, 24 to 32; fewer make the classifier's weights coarser
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(24..=32))]
    pub output_bits: u32,
    /// Where it was trained, for the card [default: what the checkpoint says]
    #[arg(long, value_name = "TEXT")]
    pub trained_on: Option<String>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}

/// Settings of `all`.
#[derive(Args, Clone)]
pub struct AllArgs {
    /// Settings of every stage.
    #[command(flatten)]
    pub train: TrainArgs,
    /// Settings of the search.
    #[command(flatten)]
    pub search: SearchOptions,
    /// Settings of the fine-tuning.
    #[command(flatten)]
    pub pram: PramOptions,
    /// Settings of the export.
    #[command(flatten)]
    pub numbers: NumberArgs,
    /// Teacher checkpoint, in place of training one
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
    /// Train the sparse proxy first (stage 1) and spread the ReLUs by its densities, in place of the known
    /// ones; it trains like the teacher
    #[arg(long, conflicts_with_all = ["densities", "relu_list"])]
    pub train_proxy: bool,
    /// Epochs of the sparse proxy [default: the preset's for a teacher]
    #[arg(long, requires = "train_proxy")]
    pub proxy_epochs: Option<usize>,
    /// Epochs of the mask search [default: the preset's]
    #[arg(long)]
    pub search_epochs: Option<usize>,
    /// Epochs of the fine-tuning [default: the preset's]
    #[arg(long)]
    pub finetune_epochs: Option<usize>,
    /// Peak learning rate of search and fine-tuning [default: the preset's]; --lr and --epochs are the
    /// teacher's
    #[arg(long)]
    pub student_lr: Option<f64>,
    /// Share of the cross-entropy in the mask search [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub search_ce_share: Option<f64>,
    /// Share of the cross-entropy in the fine-tuning [default: the preset's: 0.5, or 0.1 published]
    #[arg(long, value_name = "SHARE")]
    pub finetune_ce_share: Option<f64>,
    /// Temperature at which the teacher's class scores are distilled
    #[arg(long, value_name = "T", default_value_t = 4.0)]
    pub temperature: f64,
}

/// What to evaluate.
#[derive(Args)]
pub struct EvaluateArgs {
    /// Images and network.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Checkpoint, evaluated in 32-bit floats
    #[arg(long, value_name = "FILE", required_unless_present = "exported")]
    pub checkpoint: Option<PathBuf>,
    /// Folder of an exported model, evaluated in fixed point
    #[arg(long, value_name = "DIR")]
    pub exported: Option<PathBuf>,
}

/// What to import.
#[derive(Args)]
pub struct ImportArgs {
    /// Images, network and the folder that gets the teacher.
    #[command(flatten)]
    pub train: TrainArgs,
    /// State dict as safetensors, or a checkpoint of torch.save that holds one (nothing in the file is run), with
    /// torchvision's or the usual CIFAR names, and anything in front that all share. --hold-out says how many images of the training set's end it never saw
    #[arg(long, value_name = "FILE")]
    pub checkpoint: PathBuf,
    /// Mean of each channel that it was trained with, of pixels scaled to 0..1 [default: measured]
    #[arg(long, value_delimiter = ',', requires = "std")]
    pub mean: Option<Vec<f64>>,
    /// Standard deviation of each channel
    #[arg(long, value_delimiter = ',', requires = "mean")]
    pub std: Option<Vec<f64>>,
}

/// What to report on.
#[derive(Args)]
pub struct ReportArgs {
    /// Folders of runs
    #[arg(required = true, value_name = "DIR")]
    pub runs: Vec<PathBuf>,
    /// Folder for report.json and report.html
    #[arg(long, value_name = "DIR", default_value = "report")]
    pub to: PathBuf,
    /// Images, to measure what was not measured yet.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Where the sample images go.
#[derive(Args)]
pub struct SamplesArgs {
    /// Images and network.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Folder for the images
    #[arg(long, value_name = "DIR", default_value = "models/samples")]
    pub out: PathBuf,
}
