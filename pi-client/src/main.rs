//! `pi-client`: asks a server for the classes of images that the server never sees.

mod infer;
mod print;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use pi_client::blocking::Client;
use pi_client::connect::leaves_this_machine_unprotected;
use pi_client::{ClientError, ConnectOptions, Token};

/// Private neural-network inference: the client, which holds the images and never sees the weights.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Classify images privately.
    Infer(infer::InferArgs),
    /// Show the models of a server.
    Describe {
        #[command(flatten)]
        server: ServerArgs,
        /// Only this model.
        #[arg(long)]
        model: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(crate) struct ServerArgs {
    /// http://HOST:PORT, or https://HOST:PORT for TLS.
    #[arg(long, value_name = "URL", env = "PI_SERVER")]
    server: String,
    /// Certificate to trust, in PEM; without it the system's authorities are trusted.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with the token that the server's operator gave; without it the variable PI_TOKEN is taken.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// This client's certificate in PEM, where the server asks for one.
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// Its private key in PEM.
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// Give up when the server is silent for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

impl ServerArgs {
    pub(crate) fn connect(&self) -> Result<Client, ClientError> {
        if leaves_this_machine_unprotected(&self.server) {
            eprintln!(
                "warning: {} is not protected by TLS: whoever is on the path can pose as the server. Use https:// across machines",
                self.server
            );
        }
        let token = match (&self.token_file, std::env::var("PI_TOKEN")) {
            (Some(path), _) => Some(Token::read(path)?),
            (None, Ok(text)) => Some(Token::new(&text)?),
            (None, Err(_)) => None,
        };
        Client::connect(ConnectOptions {
            ca: self.ca.clone(),
            token,
            identity: self.client_cert.clone().zip(self.client_key.clone()),
            idle_timeout: Duration::from_secs(self.timeout.max(1)),
            ..ConnectOptions::new(&self.server)
        })
    }
}

fn main() -> std::process::ExitCode {
    let outcome = match Cli::parse().command {
        Command::Infer(args) => infer::run(&args),
        Command::Describe {
            server,
            model,
            json,
        } => describe(&server, model.as_deref(), json),
    };
    match outcome {
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

fn describe(server: &ServerArgs, model: Option<&str>, json: bool) -> anyhow::Result<()> {
    let client = server.connect()?;
    let names = match model {
        Some(name) => vec![name.to_owned()],
        None => client.models()?,
    };
    let descriptions = names
        .iter()
        .map(|name| client.describe(Some(name)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut out = std::io::stdout();
    if json {
        let specs: Vec<_> = descriptions.iter().map(|d| d.model.spec()).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&specs)?)?;
    } else {
        for description in &descriptions {
            writeln!(out, "{}", print::description(description))?;
        }
    }
    Ok(())
}
