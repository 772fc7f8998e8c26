//! `pi-server`: serves models, checks configurations, prints what models will cost, makes a development certificate.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use pi_model::packing::PackingGoal;
use pi_model::{Model, Plan};
use pi_protocol::cost::Cost;
use pi_protocol::server::SessionMemory;
use pi_protocol::session::GarblingMode;
use pi_protocol::session::OtMode;
use pi_protocol::session::SessionOptions;
use pi_server::options::DEFAULT_ADMIN_ADDRESS;
use pi_server::units::{Span, Speed};
use pi_server::{AdminListen, ServeOptions, Server, Settings, certificate, identity, probe};
use tokio::signal::unix::{SignalKind, signal};

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
        /// Read settings from FILE; flags and variables are preferred to it. `config default` prints one.
        #[arg(long, value_name = "FILE", env = "PI_SERVER_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Box<Settings>,
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
        #[arg(long, value_name = "SPEED", default_value = "100Mbit")]
        bandwidth: Speed,
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
    /// Check or print a configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make a token for a client.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Ask a server on this machine, by its admin port, whether it is ready; fails if not. For health checks of containers.
    Health {
        /// Where its admin port is.
        #[arg(long, value_name = "ADDRESS", env = "PI_SERVER_ADMIN_LISTEN")]
        admin_listen: Option<AdminListen>,
        /// The file that it was started with, which may say where its admin port is.
        #[arg(long, value_name = "FILE", env = "PI_SERVER_CONFIG")]
        config: Option<PathBuf>,
        /// Ask only whether the process answers.
        #[arg(long)]
        live: bool,
        /// How long to wait.
        #[arg(long, value_name = "TIME", default_value = "3s")]
        timeout: Span,
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

#[derive(Subcommand)]
enum TokenCommand {
    /// Print a new token, once, and the line for the file of --token-file, which holds no more than its hash.
    New {
        /// Whose it is: letters, digits and . _ - @
        name: String,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check FILE as `serve --config FILE` would, without starting anything and without reading the files that it names.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print a file with every setting, its meaning and its default.
    Default,
}

fn main() -> std::process::ExitCode {
    pi_server::log::init();
    let command = Cli::command().mut_subcommand("serve", Settings::show_defaults);
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|e| e.exit());
    match run(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", pi_model::text::explain(error.as_ref()));
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve {
            config,
            settings,
            stop_at_eof,
        } => {
            let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
            Settings::check_variables(names)?;
            let file = config.as_deref().map(Settings::read).transpose()?;
            serve(
                settings.over(file.unwrap_or_default()).options()?,
                stop_at_eof,
            )
        }
        Command::Config(ConfigCommand::Default) => {
            say(format_args!("{}", Settings::default_file().trim_end()))
        }
        Command::Config(ConfigCommand::Check { file }) => {
            let context = || format!("{} cannot be used", file.display());
            Settings::read(&file)?.options().with_context(context)?;
            say(format_args!("{}: good", file.display()))
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
            let goal = PackingGoal::for_bandwidth(bandwidth.0);
            let plan = Plan::with_goal(Arc::new(model), batch, goal)?;
            let options = SessionOptions { ot, garbling };
            let memory = SessionMemory::of(&plan, options)?;
            let kb = |bytes: usize| bytes as f64 / 1000.0;
            let plan = plan.public();
            let cost = Cost::with_options(plan, options)?;
            say(format_args!("{cost}"))?;
            say(format_args!(
                "The server keeps {:.1} kB in memory for each prepared inference, and needs {:.1} kB more for each while it prepares a batch (--prepared-memory).",
                kb(memory.prepared),
                kb(memory.in_work)
            ))?;
            if explain {
                say(format_args!("\n{}", plan.explain(3)?))?;
            }
            Ok(())
        }
        Command::Token(TokenCommand::New { name }) => {
            let (token, line) = identity::new_token(&name)?;
            // Apart, so that `>> tokens` keeps the line and the token alone is shown.
            eprintln!(
                "The token, which is not stored anywhere and not shown again; give it to the client alone:\n{token}\nThe line for the file of --token-file:"
            );
            say(format_args!("{line}"))
        }
        Command::Health {
            admin_listen,
            config,
            live,
            timeout,
        } => {
            let file = config.as_deref().map(Settings::read).transpose()?;
            let set = admin_listen.or(file.unwrap_or_default().admin_listen);
            health(set, live, timeout)
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

/// Asks the admin port, and prints what it says.
fn health(set: Option<AdminListen>, live: bool, timeout: Span) -> anyhow::Result<()> {
    let address = match set.unwrap_or(AdminListen::IfFree(DEFAULT_ADMIN_ADDRESS)) {
        AdminListen::At(address) | AdminListen::IfFree(address) => address,
        AdminListen::Off => anyhow::bail!("the admin port is off; see --admin-listen"),
    };
    let path = if live { "/livez" } else { "/readyz" };
    let (code, body) = probe::get(address, path, timeout.0)
        .with_context(|| format!("no answer from the admin port at {address}"))?;
    anyhow::ensure!(code == 200, "{path} has code {code}: {}", body.trim());
    say(format_args!("{}", body.trim()))
}

fn serve(options: ServeOptions, stop_at_eof: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        // It would end the process; many send it to have files read again.
        let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
        // Models take long to load, and a stop must not wait for them.
        let bound = tokio::task::spawn_blocking(move || Server::bind(options));
        let server = tokio::select! {
            bound = bound => bound.context("loading failed")??,
            _ = terminate.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let look = server.look();
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                tracing::info!("SIGHUP: certificates, tokens and models are looked at now");
                look.notify_waiters();
            }
        });
        for name in server.repository().names() {
            tracing::info!(model = name, "serving");
        }
        if let Some(admin) = server.admin_addr() {
            tracing::info!(%admin, "health and metrics");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
