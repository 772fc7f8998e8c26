//! `pi-trainer`: the command line of the trainer.

mod cli;
mod commands;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    let cli = cli::Cli::parse();
    match cli.command {
        cli::Command::Teacher(args) => commands::teacher(&args),
        cli::Command::Bench(args) => commands::bench(&args),
    }
}
