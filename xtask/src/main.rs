//! The commands of the README, `cargo xtask demo` and `cargo xtask test`, and those for developers.

mod demo;
mod demo_tables;
mod instructions;
mod libtorch;
mod python;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask demo [--models DIR] [--images N]
           a server and a client on this machine, on real images, with what it cost
       cargo xtask test
           formatting, lints, documentation, and all tests, those of the trainer included
       cargo xtask python [ARGS]
           builds the Python client, installs it into a virtual environment of its own, and runs pytest ARGS
       cargo xtask instructions [--write]
           instructions of each kernel, by valgrind, against those on record
       cargo xtask trainer ARGS
           fetches libtorch if it is not there, builds pi-trainer and runs it; try --help";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        Some(("demo", rest)) => demo::run(rest),
        Some(("test", [])) => test::run(),
        Some(("python", rest)) => python::run(rest),
        Some(("instructions", rest)) => instructions::run(rest),
        Some(("trainer", rest)) => test::trainer(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The cargo that runs us.
fn cargo() -> std::process::Command {
    let mut command =
        std::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    // What cargo told us about ourselves would make build scripts of others run again.
    let ours = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_CRATE_",
        "CARGO_BIN_",
        "CARGO_PRIMARY_",
    ];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ours.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.current_dir(root());
    command
}
