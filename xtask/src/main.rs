//! The commands of the README, `cargo xtask demo` and `cargo xtask test`, and those for developers.

mod demo;
mod demo_tables;
mod house;
mod instructions;
mod libtorch;
mod python;
mod test;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask demo [--models DIR] [--images N]
           a server and a client on this machine, on real images, with what it cost
       cargo xtask test
           formatting, lints, documentation, and all tests, those of the trainer included
       cargo xtask house
           how long files and functions are, and which files import each other, against their bounds
       cargo xtask python [ARGS]
           builds the Python client, installs it into a virtual environment of its own, and runs pytest ARGS: the client, and ONNX imports
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
        Some(("house", [])) => house::run(),
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
