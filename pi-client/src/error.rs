//! Why a query failed, said so that its user can act.

use std::path::PathBuf;

use pi_model::ModelError;
use tonic::{Code, Status};

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's address cannot be understood.
    #[error(
        "'{url}' is not an address of a server; write http://HOST:PORT, or https://HOST:PORT for TLS"
    )]
    Address {
        /// What was given.
        url: String,
    },
    /// No connection to the server.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// The server's address.
        url: String,
        /// What went wrong and what to do.
        reason: String,
    },
    /// The server refused the call.
    #[error("the server refused ({code:?}): {message}")]
    Refused {
        /// The gRPC status code.
        code: Code,
        /// The server's words.
        message: String,
    },
    /// The server describes something that this release cannot work with.
    #[error("{0}")]
    Mismatch(String),
    /// The two-party protocol failed.
    #[error(transparent)]
    Protocol(#[from] pi_protocol::Error),
    /// The model or an input is at fault.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file with inputs or certificates cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
}

impl ClientError {
    /// An error of the transport to `url`, with advice drawn from its causes.
    #[must_use]
    pub fn unreachable(url: &str, error: &dyn std::error::Error) -> Self {
        let causes = causes(error);
        let lower = causes.to_lowercase();
        let has = |text: &str| lower.contains(text);
        let advice = if has("expired") {
            "its certificate has expired: the server's operator must renew it, or this machine's clock is wrong"
        } else if has("notvalidyet") || has("not valid yet") {
            "its certificate is not valid yet: is this machine's clock right?"
        } else if has("notvalidforname") || has("not valid for name") {
            "its certificate is made for another host name: use the name in the certificate, or a certificate made with --host for this one"
        } else if has("unknownissuer") || has("unknown issuer") || has("badsignature") {
            "its certificate is not trusted here: give the certificate, or that of its issuer, with --ca FILE"
        } else if has("invalidcontenttype") || has("corrupt message") {
            "it does not speak TLS there: use http://, or start the server with --tls-cert and --tls-key"
        } else if has("certificaterequired") {
            "it asks for a certificate of this client: give --client-cert and --client-key"
        } else if has("certificate") || has("tls") {
            "the TLS handshake failed"
        } else if has("refused") {
            "nothing listens there: start pi-server, or check host and port"
        } else if has("dns") || has("lookup") {
            "this host name is not known"
        } else if has("elapsed") || has("timed out") || has("deadline") {
            "no answer: check host, port and firewall"
        } else if url.starts_with("http:") {
            "the connection broke: if the server uses TLS, write https://"
        } else {
            "the connection broke"
        };
        Self::Unreachable {
            url: url.to_owned(),
            reason: format!("{advice} ({causes})"),
        }
    }

    /// A refused call to `url`, or a connection that broke during it.
    #[must_use]
    pub fn from_status(url: &str, status: &Status) -> Self {
        if let Some(source) = std::error::Error::source(status) {
            return Self::unreachable(url, source);
        }
        Self::Refused {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
        next = cause.source();
    }
    texts.join(": ")
}
