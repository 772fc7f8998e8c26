//! The way to a server: directly, or through a tunnel that an HTTP proxy makes (CONNECT, RFC 9110, section 9.3.6).
//!
//! The proxy is named by the environment, as for curl: the first of HTTPS_PROXY, https_proxy, ALL_PROXY and all_proxy that is set. NO_PROXY
//! or no_proxy lists what is reached directly: names with all beneath them, addresses, networks (10.0.0.0/8), or `*`.
//!
//! Two rules are ours. Loopback never goes through a proxy, which could only reach its own. Nor does a server without TLS
//! (`http://`), which is for one machine or a network that is trusted: a proxy could read tokens and pose as the server.
//!
//! Security: the tunnel carries TLS between this client and the server, so the proxy learns the server's name and how much is said. A
//! name and a password in the proxy's address go to the proxy alone and are never shown.

use std::fmt::{self, Display, Formatter};
use std::future::poll_fn;
use std::time::{Duration, Instant};

use axum::http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tonic::codegen::Service as _;
use tonic::transport::{Channel, Endpoint, Error};

use super::address::is_loopback;
use crate::error::{ClientError, causes};

/// What may name a proxy, the first that is set.
const PROXY: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// What may list the servers that are reached without it.
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// How a server is reached.
#[derive(Clone, Debug)]
pub enum Way {
    /// By a connection of its own.
    Direct {
        /// The variable that names a proxy for other servers than this one.
        unused: Option<&'static str>,
    },
    /// By a tunnel through a proxy.
    Proxied(Proxy),
}

/// An HTTP proxy that makes tunnels. Its password is not shown.
#[derive(Clone, Debug)]
pub struct Proxy {
    variable: &'static str,
    named: Intercept,
}

impl Display for Proxy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let authority = self.named.uri().authority().map_or("", |a| a.as_str());
        write!(f, "http://{authority} ({})", self.variable)
    }
}

fn variable(names: &[&'static str]) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| {
        // What is no text is no address, and is told as such.
        let value = std::env::var_os(name)?.to_string_lossy().into_owned();
        (!value.is_empty()).then_some((*name, value))
    })
}

/// A list of names as the matcher takes them: `*.example.com` is `.example.com`, and a port behind a name does not count.
fn without_ports(list: &str) -> String {
    let entries = list.split(',').map(|entry| {
        let entry = entry.trim();
        let entry = match entry.strip_prefix('*') {
            Some(rest) if rest.starts_with('.') => rest,
            _ => entry,
        };
        match entry.split_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                name
            }
            _ => entry,
        }
    });
    entries.collect::<Vec<_>>().join(",")
}

impl Way {
    /// The way to the server at `url`, as the environment says.
    ///
    /// # Errors
    /// [`ClientError::Address`]; [`ClientError::Usage`] for a variable that names no proxy, or one of another kind.
    pub fn to(url: &str) -> Result<Self, ClientError> {
        let direct = variable(&NO_PROXY).map_or_else(String::new, |(_, list)| list);
        Self::choose(url, variable(&PROXY), &direct)
    }

    fn choose(
        url: &str,
        proxy: Option<(&'static str, String)>,
        no_proxy: &str,
    ) -> Result<Self, ClientError> {
        let server = uri(url)?;
        let Some((variable, value)) = proxy else {
            return Ok(Self::Direct { unused: None });
        };
        // With any proxy, only the list decides.
        let listed = Matcher::builder()
            .https("http://proxy")
            .no(without_ports(no_proxy));
        if server.scheme_str() != Some("https")
            || server.host().is_none_or(is_loopback)
            || no_proxy.split(',').any(|entry| entry.trim() == "*")
            || listed.build().intercept(&server).is_none()
        {
            let unused = Some(variable);
            return Ok(Self::Direct { unused });
        }
        // What is not read as a password would be read as the proxy's name, and shown.
        let is_whole = |named: &Intercept| {
            let shown = named.uri().authority().map_or("@", |a| a.as_str());
            !shown.contains('@') && value.contains('@') == named.basic_auth().is_some()
        };
        let named = Matcher::builder()
            .https(value.clone())
            .build()
            .intercept(&server);
        match named {
            Some(named) if named.uri().scheme_str() == Some("http") && is_whole(&named) => {
                Ok(Self::Proxied(Proxy { variable, named }))
            }
            Some(named) if named.uri().scheme_str() == Some("http") => {
                Err(ClientError::Usage(format!(
                    "{variable} does not name an HTTP proxy as http://NAME:PASSWORD@HOST:PORT; in a name or a password write @ as %40, / as %2F, # as %23 and ? as %3F; or list the server in NO_PROXY to connect directly"
                )))
            }
            // The address may hold a password.
            _ => Err(ClientError::Usage(format!(
                "{variable} does not name an HTTP proxy as http://HOST:PORT, which is the only kind that is used; correct it, or list the server in NO_PROXY to connect directly"
            ))),
        }
    }

    /// Connects to `endpoint` on this way.
    pub(super) async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, Error> {
        match self {
            Self::Direct { .. } => endpoint.connect().await,
            Self::Proxied(proxy) => endpoint.connect_with_connector(proxy.connector()).await,
        }
    }

    /// The same when the first call is made.
    pub(super) fn connect_lazily(&self, endpoint: &Endpoint) -> Channel {
        match self {
            Self::Direct { .. } => endpoint.connect_lazy(),
            Self::Proxied(proxy) => endpoint.connect_with_connector_lazy(proxy.connector()),
        }
    }

    /// `plain`, or what the proxy on this way made of it, which `error` tells.
    pub(super) fn explain(
        &self,
        url: &str,
        error: &dyn std::error::Error,
        plain: ClientError,
    ) -> ClientError {
        match self {
            Self::Direct { .. } => plain,
            Self::Proxied(proxy) => proxy
                .explain(url, error)
                .unwrap_or_else(|| self.told(plain)),
        }
    }

    /// The error of an unreachable server with the way that was taken.
    pub(super) fn told(&self, error: ClientError) -> ClientError {
        match (self, error) {
            (Self::Proxied(proxy), ClientError::Unreachable { url, reason, tls }) => {
                ClientError::Unreachable {
                    url,
                    reason: format!("{reason}; this was through the proxy {proxy}"),
                    tls,
                }
            }
            (_, error) => error,
        }
    }
}

fn uri(url: &str) -> Result<Uri, ClientError> {
    url.parse().map_err(|_| ClientError::Address {
        url: url.to_owned(),
    })
}

impl Proxy {
    fn connector(&self) -> Tunnel<HttpConnector> {
        let mut direct = HttpConnector::new();
        direct.set_nodelay(true);
        let tunnel = Tunnel::new(self.named.uri().clone(), direct);
        match self.named.basic_auth() {
            Some(auth) => tunnel.with_auth(auth.clone()),
            None => tunnel,
        }
    }

    /// Has a tunnel made to the server at `url` and closes it again. Returns how long that took.
    ///
    /// # Errors
    /// [`ClientError::Proxy`], or [`ClientError::Unreachable`] if that takes longer than `limit`.
    pub fn reach(&self, url: &str, limit: Duration) -> Result<Duration, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| ClientError::unreachable(url, &e))?;
        let (server, mut connector) = (uri(url)?, self.connector());
        let started = Instant::now();
        let tunnel = async {
            poll_fn(|context| connector.poll_ready(context)).await?;
            connector.call(server).await
        };
        let tunnel = runtime.block_on(async { tokio::time::timeout(limit, tunnel).await });
        // Looking up a name cannot be broken off, and is not waited for.
        runtime.shutdown_background();
        match tunnel {
            Ok(Ok(_)) => Ok(started.elapsed()),
            Ok(Err(error)) => Err(self.because(url, &error)),
            Err(_) => {
                let way = Way::Proxied(self.clone());
                Err(way.told(ClientError::silent(url, limit)))
            }
        }
    }

    /// What went wrong between here and the end of the tunnel, if it was there.
    fn explain(&self, url: &str, error: &dyn std::error::Error) -> Option<ClientError> {
        // The type of the tunnel's errors is not to be had from outside.
        let is_ours = causes(error).contains("tunnel error: ");
        is_ours.then(|| self.because(url, error))
    }

    fn because(&self, url: &str, error: &dyn std::error::Error) -> ClientError {
        let causes = causes(error);
        let lower = causes.to_lowercase();
        let has = |text: &str| lower.contains(text);
        let variable = self.variable;
        let reason = if has("authorization required") {
            match self.named.basic_auth() {
                Some(_) => format!("it does not accept the name and the password in {variable}"),
                None => format!(
                    "it asks for a name and a password: write http://NAME:PASSWORD@HOST:PORT into {variable}"
                ),
            }
        } else if has("unsuccessful") || has("end of file") || has("too long") {
            "it makes no tunnel to this server: it does not allow that, cannot reach it, or is no HTTP proxy; ask its operator, or list the server in NO_PROXY to connect directly".to_owned()
        } else if has("dns") || has("lookup") {
            format!("its host name is not known: check {variable}")
        } else if has("refused") {
            format!("nothing listens there: check {variable}")
        } else if has("elapsed") || has("timed out") {
            format!("no answer: check {variable}")
        } else {
            "the connection broke".to_owned()
        };
        ClientError::Proxy {
            url: url.to_owned(),
            proxy: self.to_string(),
            passing: !has("authorization required"),
            reason: format!("{reason} ({causes})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "https://models.example.com:8443";

    fn choose(url: &str, proxy: &str, no_proxy: &str) -> Result<Way, ClientError> {
        Way::choose(url, Some(("HTTPS_PROXY", proxy.to_owned())), no_proxy)
    }

    #[test]
    fn a_proxy_is_used_for_what_is_not_listed_not_here_and_not_in_the_clear() {
        let is_proxied = |url: &str, no_proxy: &str| {
            let way = choose(url, "http://10.0.0.9:3128", no_proxy).unwrap();
            assert!(matches!(
                way,
                Way::Proxied(_)
                    | Way::Direct {
                        unused: Some("HTTPS_PROXY")
                    }
            ));
            matches!(way, Way::Proxied(_))
        };
        for list in [
            "",
            "example.org",
            "s.example.com",
            "other.models.example.com",
            "10.0.0.0/8",
        ] {
            assert!(is_proxied(SERVER, list), "{list}");
        }
        for list in [
            "example.com",
            ".example.com",
            "*.example.com",
            "b:1, models.example.com:8443",
            "a, models.EXAMPLE.com",
            "*",
            " * ",
        ] {
            assert!(!is_proxied(SERVER, list), "{list}");
        }
        for (url, list) in [
            ("https://10.1.2.3", "10.0.0.0/8"),
            ("https://10.1.2.3", "10.1.2.3"),
            ("https://10.1.2.3", "*"),
            ("https://[2001:db8::1]:1", "2001:db8::/32"),
            ("https://localhost:1", ""),
            ("https://127.9.9.9", ""),
            ("https://[::1]:1", ""),
            ("http://models.example.com", ""),
        ] {
            assert!(!is_proxied(url, list), "{url} {list}");
        }
        assert!(is_proxied("https://10.1.2.3", "10.2.0.0/16"));
        let none = Way::choose(SERVER, None, "").unwrap();
        assert!(matches!(none, Way::Direct { unused: None }));
    }

    #[test]
    fn a_password_is_used_and_not_shown_and_other_kinds_of_proxies_are_refused() {
        let Way::Proxied(proxy) = choose(SERVER, "http://me:s%20cret@p:3128/", "").unwrap() else {
            panic!("it is direct");
        };
        // me:s cret
        assert_eq!(proxy.named.basic_auth().unwrap(), "Basic bWU6cyBjcmV0");
        assert_eq!(proxy.to_string(), "http://p:3128 (HTTPS_PROXY)");
        assert!(!format!("{proxy:?}").contains("cret"));
        assert!(choose(SERVER, "p:3128", "").is_ok());
        for wrong in [
            "socks5://me:secret@p:1",
            "https://me:secret@p:1",
            "ftp://secret",
            "http://secret path",
            "http://me:p@secret@p:3128",
            "http://me:secret/def@p:3128",
            "http://me:secret#d@p:3128",
            "http://me:secret?d@p:3128",
        ] {
            let said = choose(SERVER, wrong, "").unwrap_err().to_string();
            assert!(
                said.contains("HTTPS_PROXY") && said.contains("NO_PROXY"),
                "{said}"
            );
            assert!(!said.contains("secret"), "{said}");
            // It is asked for nothing where it is not used.
            assert!(choose("https://localhost", wrong, "").is_ok());
        }
    }
}
