//! The flags that say how to reach a server, shared by all commands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use pi_client::blocking::Client;
use pi_client::connect::{check_address, leaves_this_machine_unprotected};
use pi_client::retry::Retries;
use pi_client::{ClientError, Config, ConnectOptions, Token};
use pi_protocol::session::GarblingMode;
use pi_protocol::session::OtMode;
use pi_protocol::session::SessionOptions;

use super::interrupt::{self, Doing};
use super::terminal::{Terminal, tell_wait};

#[derive(Args)]
pub(crate) struct ServerArgs {
    /// http://HOST:PORT, or https://HOST:PORT for TLS; without it the variable PI_SERVER is taken.
    // Not by clap: it takes a variable for a flag that was given, and then the variable excludes an address beside it.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
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
    /// Give up when the server does not answer for so many seconds, in a call or in a session; when connecting, after 10 at the latest.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Try so often again to connect, to describe and to prepare; a query is never asked twice, unless its server went away before it began.
    #[arg(long, value_name = "N", default_value_t = 2)]
    retries: u32,
}

/// How a session is run.
#[derive(Args)]
pub(crate) struct SessionArgs {
    /// Inferences prepared together. More use less traffic for each, and more memory.
    #[arg(long)]
    pub(crate) batch: Option<usize>,
    /// How oblivious transfers are made: softspoken or silent.
    ///
    /// With softspoken each costs 31 bits offline: at 14-bit sign tests 58 bytes for each surviving ReLU. With silent it is
    /// 2 bits at 350,000 of them and under 1 from two million on, so of those 58 bytes hardly any stay. In exchange, preparing
    /// computes more on both sides, and security rests on one more assumption, the hardness of LPN. Batches too small
    /// to gain are made as with softspoken. Take silent where the network is slow.
    #[arg(long, value_name = "MODE", default_value_t, value_parser = ot_modes())]
    ot: OtMode,
    /// How ReLUs are garbled: half-gates, three-halves or client-digits.
    ///
    /// With half-gates an AND gate costs 32 bytes offline, with three-halves 24 and 5 bits: at 14-bit sign tests 416 or 321 bytes
    /// for each surviving ReLU. In exchange, both sides hash half as much again, in preparation and online. Take three-halves
    /// where the network is slow. With client-digits the client garbles: a third of the bytes online, about twice those offline. Take it
    /// where preparation may be long and the query must be short.
    #[arg(long, value_name = "MODE", default_value_t, value_parser = garbling_modes())]
    garbling: GarblingMode,
}

// Listed values show in help and complete in shells.
fn ot_modes() -> impl TypedValueParser<Value = OtMode> {
    let names = [OtMode::SoftSpoken, OtMode::Silent].map(OtMode::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<OtMode>())
}

fn garbling_modes() -> impl TypedValueParser<Value = GarblingMode> {
    let names = GarblingMode::ALL.map(GarblingMode::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<GarblingMode>())
}

/// Where prepared inferences lie.
#[derive(Args)]
pub(crate) struct StoreArgs {
    /// Folder of kept inferences and their key; pi-client in the user's folder for data if not given.
    #[arg(long, value_name = "DIR", env = "PI_STORE")]
    store: Option<PathBuf>,
}

impl StoreArgs {
    pub(crate) fn dir(&self) -> Result<PathBuf, ClientError> {
        let dir = self.store.clone().or_else(pi_client::store::default_dir);
        dir.ok_or_else(|| {
            ClientError::Usage("no folder to keep inferences in; name one with --store DIR".into())
        })
    }
}

impl SessionArgs {
    pub(crate) const fn options(&self) -> SessionOptions {
        SessionOptions {
            ot: self.ot,
            garbling: self.garbling,
        }
    }

    /// How a client reaches `server`, or `url`, and runs its sessions; the terminal sees what it does.
    pub(crate) fn config(
        &self,
        server: &ServerArgs,
        url: Option<&str>,
    ) -> Result<Config, ClientError> {
        Ok(Config {
            batch: self.batch,
            session: self.options(),
            retries: server.retries(),
            observer: Arc::new(Terminal),
            ..Config::for_server(server.options(url)?)
        })
    }
}

impl ServerArgs {
    /// The server's address; `url` is what a command was given besides --server.
    pub(crate) fn url(&self, url: Option<&str>) -> Result<String, ClientError> {
        let given = url.or(self.server.as_deref()).map(str::to_owned);
        let variable = || {
            std::env::var("PI_SERVER")
                .ok()
                .filter(|url| !url.is_empty())
        };
        given.or_else(variable).ok_or_else(|| {
            ClientError::Usage("which server? Give --server URL, or set PI_SERVER".into())
        })
    }

    const fn retries(&self) -> Retries {
        Retries {
            n: self.retries,
            longest: Duration::from_secs(10),
        }
    }

    /// How to reach the server; warns where that is not protected.
    pub(crate) fn options(&self, url: Option<&str>) -> Result<ConnectOptions, ClientError> {
        let url = self.url(url)?;
        check_address(&url)?;
        if leaves_this_machine_unprotected(&url) {
            eprintln!(
                "warning: {url} is not protected by TLS: whoever is on the path can pose as the server. Use https:// across machines"
            );
        }
        let token = match (&self.token_file, std::env::var("PI_TOKEN")) {
            (Some(path), _) => Some(Token::read(path)?),
            (None, Ok(text)) => Some(Token::new(&text)?),
            (None, Err(_)) => None,
        };
        Ok(ConnectOptions {
            ca: self.ca.clone(),
            token,
            identity: self.client_cert.clone().zip(self.client_key.clone()),
            ..ConnectOptions::new(url).with_timeout(Duration::from_secs(self.timeout))
        })
    }

    pub(crate) fn connect(&self, url: Option<&str>) -> Result<Client, ClientError> {
        let options = self.options(url)?;
        let _phase = interrupt::during(Doing::Connecting);
        self.again(|| Client::connect(options.clone()))
    }

    /// Does what spends nothing, some times over, and tells a terminal that it waits.
    pub(crate) fn again<T>(
        &self,
        what: impl FnMut() -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        self.retries().run(what, tell_wait)
    }
}
