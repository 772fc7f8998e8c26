//! `pi-server`: serves models, prints what they will cost, makes a development certificate.

mod bandwidth;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::{Parser, Subcommand};
use pi_model::packing::PackingGoal;
use pi_model::{Model, PublicPlan};
use pi_protocol::cost::Cost;
use pi_protocol::gc::GarblingMode;
use pi_protocol::ot::mode::OtMode;
use pi_protocol::session::SessionOptions;
use pi_server::{Limits, ServeOptions, Server, TlsFiles, certificate};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Private neural-network inference: the server, which holds the model and never sees an input.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve models over gRPC until Ctrl-C or SIGTERM.
    Serve {
        /// Folder with model.json and model.safetensors; may be given more than once.
        #[arg(long = "model", value_name = "DIR", required = true)]
        models: Vec<PathBuf>,
        /// Address to listen on; port 0 takes any free one.
        #[arg(long, default_value = "127.0.0.1:50051", env = "PI_LISTEN")]
        listen: SocketAddr,
        /// Most inferences that a client may prepare together.
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
        max_batch: u16,
        /// Pack ciphertexts for a network of this speed, for example 100Mbit or 1Gbit: fewer bytes on a slow one, less work on
        /// a fast one. Clients plan for the same.
        #[arg(long, value_name = "SPEED", default_value = "100Mbit", value_parser = bandwidth::parse)]
        packing_bandwidth: u64,
        /// Most sessions at the same time.
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
        max_sessions: u16,
        /// End a session that is silent for longer, for example 60s or 5m.
        #[arg(long, default_value = "60s", value_parser = duration)]
        idle_timeout: Duration,
        /// Memory for prepared inferences, all sessions together, in MiB; each session may use an equal part.
        #[arg(long, value_name = "MIB", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
        prepared_memory: u32,
        /// How long running sessions may go on after a stop.
        #[arg(long, default_value = "10s", value_parser = duration)]
        stop_timeout: Duration,
        /// Certificate chain in PEM.
        #[arg(long, value_name = "FILE", requires = "tls_key")]
        tls_cert: Option<PathBuf>,
        /// Private key in PEM.
        #[arg(long, value_name = "FILE", requires = "tls_cert")]
        tls_key: Option<PathBuf>,
        /// Append where the time goes to FILE: one line of JSON for each finished step of a session.
        ///
        /// A step is set-up, one offline batch, or one inference. Its line has the seconds by operation and layer, the
        /// seconds spent waiting for the client, bytes and messages by kind and layer, round trips, and the events of the
        /// step with the time of day that their clock starts at. No values, no keys, nothing about inputs; but it does tell
        /// when somebody asked. Read it for example with
        /// `jq -c 'select(.record=="step" and .phase=="online").operations_s' FILE`. The file grows without limit. It must
        /// be writable at the start; a failure later is warned of once and serving goes on.
        #[arg(long, value_name = "FILE")]
        ledger: Option<PathBuf>,
        /// Stop when the standard input closes: for programs that start a server and must not leave it behind.
        #[arg(long)]
        stop_at_eof: bool,
    },
    /// Print what an inference will cost, layer by layer, without running one.
    Plan {
        /// Folder with model.json and model.safetensors.
        dir: PathBuf,
        /// Inferences prepared together.
        #[arg(long, default_value_t = 1)]
        batch: usize,
        /// Speed of the network for which ciphertexts are packed, for example 100Mbit or 1Gbit.
        #[arg(long, value_name = "SPEED", default_value = "100Mbit", value_parser = bandwidth::parse)]
        bandwidth: u64,
        /// How the client makes oblivious transfers: softspoken, or silent for fewer bytes offline and more computing.
        #[arg(long, value_name = "MODE", default_value_t)]
        ot: OtMode,
        /// How the client wants circuits garbled: half-gates, or three-halves for fewer bytes offline and more computing.
        #[arg(long, value_name = "MODE", default_value_t)]
        garbling: GarblingMode,
        /// Print the packing of each linear layer too, beside those that came next.
        #[arg(long)]
        explain: bool,
    },
    /// Make a self-signed certificate for development.
    Certificate {
        /// Folder to write certificate.pem and key.pem to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Host names and addresses that clients will use; may be given more than once.
        #[arg(long, default_values = ["localhost", "127.0.0.1"])]
        host: Vec<String>,
    },
}

fn main() -> std::process::ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match run(Cli::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", explain(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

/// The error and those of its causes that its own text leaves out.
fn explain(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .fold(error.to_string(), |text, cause| {
            let cause = cause.to_string();
            if text.contains(&cause) {
                text
            } else {
                format!("{text}: {cause}")
            }
        })
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve {
            models,
            listen,
            max_batch,
            packing_bandwidth,
            max_sessions,
            idle_timeout,
            prepared_memory,
            stop_timeout,
            tls_cert,
            tls_key,
            ledger,
            stop_at_eof,
        } => {
            let options = ServeOptions {
                models,
                listen,
                max_batch: max_batch.into(),
                packing_bandwidth,
                limits: Limits {
                    max_sessions: max_sessions.into(),
                    idle_timeout,
                    prepared_bytes: (prepared_memory as usize) << 20,
                },
                tls: tls_cert
                    .zip(tls_key)
                    .map(|(certificate, key)| TlsFiles { certificate, key }),
                stop_timeout,
                ledger,
            };
            serve(options, stop_at_eof)
        }
        Command::Plan {
            dir,
            batch,
            bandwidth,
            ot,
            garbling,
            explain,
        } => {
            let model = Model::load(&dir)?;
            let goal = PackingGoal::for_bandwidth(bandwidth);
            let plan = PublicPlan::with_goal(model.public(), batch, goal)?;
            let cost = Cost::with_options(&plan, SessionOptions { ot, garbling })?;
            say(format_args!("{cost}"))?;
            if explain {
                say(format_args!("\n{}", plan.explain(3)?))?;
            }
            Ok(())
        }
        Command::Certificate { out, host } => {
            let files = certificate::make(&out, &host)?;
            say(format_args!(
                "certificate {}\nkey         {}\nStart the server with --tls-cert and --tls-key, give the certificate to clients with --ca.",
                files.certificate.display(),
                files.key.display()
            ))
        }
    }
}

fn serve(options: ServeOptions, stop_at_eof: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let server = Server::bind(options)?;
        for name in server.repository().names() {
            tracing::info!(model = name, "serving");
        }
        // The one line on the standard output: a program that asked for port 0 reads it.
        say(format_args!("listening on {}", server.local_addr()))?;
        let (at_eof, eof) = tokio::sync::oneshot::channel::<()>();
        if stop_at_eof {
            std::thread::spawn(move || {
                // A read error ends the input as well; nobody waits for the message when the server is gone.
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                let _ = at_eof.send(());
            });
        }
        let stop = async move {
            tokio::select! {
                Ok(()) = eof => {}
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        };
        anyhow::Ok(server.run(stop).await?)
    });
    // Threads of sessions that were cut off may still compute; the process does not wait for them.
    runtime.shutdown_background();
    served
}

fn say(text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Reads 500ms, 60s, 5m or a bare number of seconds.
fn duration(text: &str) -> anyhow::Result<Duration> {
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let number: u64 = number
        .parse()
        .map_err(|_| anyhow!("'{text}' is not a time; write 500ms, 60s or 5m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(anyhow!("'{text}' is not a time; write 500ms, 60s or 5m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert_eq!(duration("60s").unwrap(), Duration::from_secs(60));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert!(duration("1h").is_err() && duration("s").is_err());
    }
}
