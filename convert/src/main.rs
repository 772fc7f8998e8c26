//! The program `pi-convert`.

mod cli;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", pi_model::text::explain(error.as_ref()));
            std::process::ExitCode::FAILURE
        }
    }
}
