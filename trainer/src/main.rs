//! `pi-trainer`: the command line of the trainer.

mod all_command;
mod cli;
mod commands;
mod export_commands;
mod import_command;
mod model_folder;
mod report_commands;
mod sensitivity_command;
mod setting;

use clap::Parser;
use pi_trainer::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let Err(e) = run(cli.command) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {e:#}");
    match e.downcast_ref() {
        // As a shell has it for an interrupt: there is more to do.
        Some(Error::Interrupted(_)) => ExitCode::from(130),
        _ => ExitCode::FAILURE,
    }
}

fn run(command: cli::Command) -> anyhow::Result<()> {
    pi_trainer::interrupt::watch()?;
    match command {
        cli::Command::Teacher(args) => commands::teacher(&args),
        cli::Command::Sensitivity(args) => sensitivity_command::run(&args),
        cli::Command::Search(args) => commands::search(&args),
        cli::Command::Finetune(args) => commands::finetune(&args),
        cli::Command::All(args) => all_command::all(&args),
        cli::Command::Export(args) => export_commands::export(&args),
        cli::Command::Evaluate(args) => export_commands::evaluate(&args),
        cli::Command::Samples(args) => export_commands::samples(&args),
        cli::Command::Import(args) => import_command::run(&args),
        cli::Command::Report(args) => report_commands::report(&args),
        cli::Command::Bench(args) => commands::bench(&args),
    }
}
