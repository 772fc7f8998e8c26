//! The command line of `pi-convert`.

mod import;

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
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong and what to do.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Import(command) => command.run(),
        }
    }
}
