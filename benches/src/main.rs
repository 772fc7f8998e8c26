//! `pi-bench`: random networks of a given size, and one whole inference between two threads.
//!
//! Weights are random, so predictions mean nothing; times and bytes are those of a trained network of the same shape.

mod memory;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use pi_model::Model;
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;

/// Measures the cost of private inference.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the predicted cost of a random network, layer by layer, without running it.
    Predict(Network),
    /// Writes a random network as a model that pi-server can serve.
    RandomModel {
        #[command(flatten)]
        network: Network,
        /// Folder to write it to.
        #[arg(long)]
        out: PathBuf,
    },
    /// Prepares one batch and runs it, both parties in this process, connected in memory.
    Memory {
        #[command(flatten)]
        network: Network,
    },
}

#[derive(Args)]
struct Network {
    /// Shape of the network, for images of 32 x 32 pixels.
    #[arg(long, value_enum, default_value_t = Arch::Resnet20)]
    arch: Arch,
    /// ReLUs to keep, spread evenly; all of them if left out.
    #[arg(long)]
    relus: Option<usize>,
    /// Inferences to prepare at once.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Open the class alone, through a garbled argmax.
    #[arg(long)]
    argmax: bool,
}

/// Known network shapes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Arch {
    /// ResNet-8 of width 16, 10 classes.
    Resnet8,
    /// ResNet-20 of width 16, 10 classes.
    Resnet20,
    /// ResNet-32 of width 16, 10 classes.
    Resnet32,
    /// ResNet-18 of width 64, 100 classes.
    Resnet18,
}

impl Network {
    fn build(&self) -> Result<Model> {
        let (name, widths, blocks, classes): (_, &[usize], _, _) = match self.arch {
            Arch::Resnet8 => ("resnet8", &[16, 32, 64], 1, 10),
            Arch::Resnet20 => ("resnet20", &[16, 32, 64], 3, 10),
            Arch::Resnet32 => ("resnet32", &[16, 32, 64], 5, 10),
            Arch::Resnet18 => ("resnet18", &[64, 128, 256, 512], 2, 100),
        };
        let mode = if self.argmax {
            OutputMode::Argmax
        } else {
            OutputMode::Logits
        };
        let relus = self.relus.unwrap_or(usize::MAX >> 24);
        let name = format!("{name}-random");
        Ok(residual_network(
            &name,
            [3, 32, 32],
            widths,
            blocks,
            classes,
            relus,
            mode,
        )?)
    }
}

fn main() -> std::process::ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Predict(network) => {
            let plan = pi_model::PublicPlan::new(network.build()?.public(), network.batch)?;
            println!("{}", pi_protocol::cost::Cost::of(&plan)?);
        }
        Command::RandomModel { network, out } => {
            network
                .build()?
                .save(&out)
                .with_context(|| format!("writing the model to {}", out.display()))?;
            println!("wrote {}", out.display());
        }
        Command::Memory { network } => memory::run(network.build()?, network.batch)?,
    }
    Ok(())
}
