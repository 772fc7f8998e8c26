//! Command line.

use clap::{Args, Parser, Subcommand};
use pi_trainer::data::DatasetKind;
use pi_trainer::net::Compute;
use pi_trainer::search::Score;
use std::path::PathBuf;

/// Trains networks that keep few ReLUs (SENet, ICLR 2023) and exports them for private inference.
///
/// Every stage writes one checkpoint into --out each minute and after each epoch; a stopped run
/// goes on exactly where it was with --resume. Stages: teacher, search, finetune, then export.
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
    /// Train the network with every ReLU (writes teacher.safetensors)
    Teacher(TrainArgs),
    /// Train a sparse proxy and print each layer's density, for --densities (stage 1, optional)
    Sensitivity(TrainArgs),
    /// Find where --relus ReLUs matter most (stage 2; writes search.safetensors)
    Search(StudentArgs),
    /// Train on with the masks frozen (stage 3; writes student.safetensors)
    Finetune(StudentArgs),
    /// All stages in a row, each skipped if its result is there; then export
    All(AllArgs),
    /// Write a checkpoint as a fixed-point model, calibrated and measured
    Export(ExportArgs),
    /// Accuracy of a checkpoint, or of an exported model by the plaintext executor, on the test set
    Evaluate(EvaluateArgs),
    /// Write the first test image of each class as PNG, named by index and label
    Samples(SamplesArgs),
    /// Measure training and inference speed for each number type and thread count
    Bench(BenchArgs),
}

/// Which images and which network.
#[derive(Args, Clone)]
pub struct ModelArgs {
    /// Folder with the image set's own files
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Image set
    #[arg(long, value_enum, default_value = "cifar10")]
    pub dataset: DatasetKind,
    /// Side of the images read from folders [default: 64 tiny-imagenet, 224 folder]
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<usize>,
    /// Architecture: resnet8, resnet20, resnet32 (widths 16, 32, 64), resnet18, resnet34 (64 to 512),
    /// resnet18-imagenet, resnet34-imagenet (7x7 stem and pool), wrn22-8 or vgg16
    #[arg(long, default_value = "resnet20")]
    pub arch: String,
    /// Processor threads; with other work on the machine, one thread is often the fastest
    #[arg(long, default_value_t = 1)]
    pub threads: i32,
}

/// Settings of a training stage.
#[derive(Args, Clone)]
pub struct TrainArgs {
    /// Images and network.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Folder for checkpoints and results
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on with the checkpoint in --out, if there is one
    #[arg(long)]
    pub resume: bool,
    /// Passes over the training images [default: 16 teacher, 3 search, 10 finetune]
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Peak learning rate [default: 0.15 teacher, 0.05 search and finetune]
    #[arg(long)]
    pub lr: Option<f64>,
    /// Share of the steps in which the learning rate rises
    #[arg(long, default_value_t = 0.2)]
    pub warmup: f64,
    /// Images a minibatch
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
    /// Weight decay
    #[arg(long, default_value_t = 5e-4)]
    pub weight_decay: f64,
    /// Label smoothing of the teacher
    #[arg(long, default_value_t = 0.1)]
    pub label_smoothing: f64,
    /// Zeros around an image before the random crop
    #[arg(long, default_value_t = 4)]
    pub crop_pad: usize,
    /// Number type of the convolutions while training
    #[arg(long, value_enum, default_value = "bf16")]
    pub compute: Compute,
    /// Hold out this many images from the end of the training set, to watch or to select on
    #[arg(long, default_value_t = 0)]
    pub holdout: usize,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Settings of the speed measurement.
#[derive(Args)]
pub struct BenchArgs {
    /// Architecture
    #[arg(long, default_value = "resnet20")]
    pub arch: String,
    /// Images a minibatch
    #[arg(long, default_value_t = 64)]
    pub batch: i64,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
}

/// Settings of the stages after the teacher.
#[derive(Args, Clone)]
pub struct StudentArgs {
    /// Settings of the stage.
    #[command(flatten)]
    pub train: TrainArgs,
    /// ReLUs to keep, spread over the layers by the sensitivity rule
    #[arg(long, default_value_t = 30_000)]
    pub relus: usize,
    /// ReLUs to keep for each layer, stem first, in place of the rule
    #[arg(long, value_delimiter = ',', value_name = "N,N,...")]
    pub relu_list: Option<Vec<usize>>,
    /// Proxy densities for each layer, as `sensitivity` prints them, in place of the known ones
    #[arg(long, value_delimiter = ',', value_name = "D,D,...")]
    pub densities: Option<Vec<f64>>,
    /// What the search scores a position by
    #[arg(long, value_enum, default_value = "removal")]
    pub score: Score,
    /// Keep whole channels instead of pixels
    #[arg(long)]
    pub per_channel: bool,
    /// Stop the search when no layer's mask moves by more than this share (0.05 in the paper)
    #[arg(long)]
    pub stop_distance: Option<f64>,
    /// Start the search from fresh weights instead of the teacher's
    #[arg(long)]
    pub fresh: bool,
    /// Fine-tune from this checkpoint's weights and masks, such as an earlier student
    /// [default: search.safetensors in --out]
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Teacher checkpoint [default: teacher.safetensors in --out]
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
    /// Settings of the numbers.
    #[command(flatten)]
    pub numbers: NumberArgs,
}

/// Fixed-point numbers and where they go.
#[derive(Args, Clone)]
pub struct NumberArgs {
    /// Folder that gets a folder for the model
    #[arg(long, value_name = "DIR", default_value = "models")]
    pub models: PathBuf,
    /// Fraction bits of every activation
    #[arg(long, default_value_t = 8)]
    pub fraction_bits: u32,
    /// Bits of a weight, 8 or 16
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub weight_bits: u32,
    /// Training images to calibrate the ranges on
    #[arg(long, default_value_t = 10_000)]
    pub calibrate: usize,
    /// Where it was trained, for the card
    #[arg(long, default_value = "CPU")]
    pub device: String,
}

/// Settings of `all`.
#[derive(Args, Clone)]
pub struct AllArgs {
    /// Settings of the stages.
    #[command(flatten)]
    pub student: StudentArgs,
    /// Settings of the export.
    #[command(flatten)]
    pub numbers: NumberArgs,
    /// Epochs of the mask search
    #[arg(long, default_value_t = 3)]
    pub search_epochs: usize,
    /// Epochs of the fine-tuning
    #[arg(long, default_value_t = 10)]
    pub finetune_epochs: usize,
    /// Peak learning rate of search and fine-tuning; --lr and --epochs are the teacher's
    #[arg(long, default_value_t = 0.05)]
    pub student_lr: f64,
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
