//! The program `pi-convert`.

mod cli;

use clap::Parser as _;
use pi_model::text::{explain, shown};

fn main() -> std::process::ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Names come from the file; only the lines of a list are ours.
            let text = explain(error.as_ref());
            let lines: Vec<_> = text.lines().map(shown).collect();
            eprintln!("error: {}", lines.join("\n"));
            std::process::ExitCode::FAILURE
        }
    }
}
