//! The program: its commands, each of which stands on the library, and how it ends.

mod answers;
mod args;
mod bench;
mod costs;
mod describe;
mod doctor;
mod infer;
mod interrupt;
mod out;
mod prepare;
mod proxy;
mod terminal;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use pi_client::connect::check_descriptors;
use pi_client::{ClientError, ErrorClass};
use pi_model::{ModelError, text};

/// Private neural-network inference: the client, which holds the images and never sees the weights.
///
/// A server is named by --server URL, by URL itself where a command takes one, or by the variable PI_SERVER.
#[derive(Parser)]
#[command(version, after_help = exit_codes())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Classify images privately.
    Infer(Box<infer::InferArgs>),
    /// Prepare inferences ahead, and keep them on this machine, encrypted, for later calls of infer.
    Prepare(prepare::PrepareArgs),
    /// List the models of a server.
    Models(describe::ModelsArgs),
    /// Show a model: what it is, who learns what, what a query costs.
    Describe(describe::DescribeArgs),
    /// Measure: prepare and run some inferences, and print medians.
    Bench(bench::BenchArgs),
    /// Find out why a server cannot be reached or is slow.
    Doctor(doctor::DoctorArgs),
    /// Serve KServe and Triton clients on this machine: the Open Inference Protocol by REST and gRPC, answered privately.
    Proxy(Box<proxy::ProxyArgs>),
    /// Print a script of completions for a shell: pi-client completions bash > /etc/bash_completion.d/pi-client
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The table of exit codes, for `--help`.
fn exit_codes() -> String {
    let mut text = "Exit codes:\n  0    success\n".to_owned();
    for class in ErrorClass::ALL {
        text += &format!("  {}    {}\n", class.exit_code(), class.meaning());
    }
    text += &format!(
        "  {}   {}\n",
        answers::Differs::EXIT_CODE,
        answers::Differs::MEANING
    );
    text + "  130  interrupted (Ctrl-C)"
}

/// Does what the command line says.
pub(crate) fn main() -> ExitCode {
    let command = Cli::parse().command;
    #[cfg(unix)]
    interrupt::outlive_file_limit();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // It may hold the server's words.
            eprintln!("error: {}", text::shown(&text::explain(error.as_ref())));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    check_descriptors()?;
    // A proxy is stopped by Ctrl-C in good order.
    if !matches!(command, Command::Proxy(_)) {
        interrupt::watch();
    }
    match command {
        Command::Infer(args) => infer::run(&args),
        Command::Prepare(args) => prepare::run(&args),
        Command::Models(args) => describe::models(&args),
        Command::Describe(args) => describe::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Proxy(args) => proxy::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pi-client", &mut script);
            // clap_complete 4.6 names the commands of a program with a hyphen in two ways in one script for bash.
            let script =
                String::from_utf8_lossy(&script).replace("pi__subcmd__client", "pi__client");
            out::line(script.trim_end())
        }
    }
}

/// Whoever reads our output has enough, as `head` has.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return error.class().exit_code();
    }
    if error.is::<answers::Differs>() {
        return answers::Differs::EXIT_CODE;
    }
    match error.downcast_ref::<ModelError>() {
        Some(_) => ErrorClass::Usage.exit_code(),
        None => ErrorClass::Local.exit_code(),
    }
}
