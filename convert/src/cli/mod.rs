//! The command line of `pi-convert`.

mod check;
mod import;
mod progress;
mod quantise;
mod randomise;

use clap::{Parser, Subcommand};

/// From a trained network in an ONNX file to a model that is served.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read the network in an ONNX file into a float model.
    Import(Box<import::Import>),
    /// Make an integer model, which can be served, of a float model and some images.
    Quantise(quantise::Quantise),
    /// Make an integer model with random weights, and fewer ReLUs, of a float model: to measure what such a network costs.
    Randomise(randomise::Randomise),
    /// Compare a float model with the integer model that was made of it, image by image.
    Check(check::Check),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong and what to do.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Import(command) => command.run(),
            Command::Quantise(command) => command.run(),
            Command::Randomise(command) => command.run(),
            Command::Check(command) => command.run(),
        }
    }
}
