//! Why a query failed, said so that its user can act; and the class of each error, which is the program's exit code.

use std::path::PathBuf;
use std::time::Duration;

use pi_model::ModelError;
use pi_proto::channel::CLOSED;
use pi_protocol::kept::KeepError;
use tonic::{Code, Status};

mod transport;

pub(crate) use transport::{Failed, causes, is_broken};

/// [`ClientError::Lost::during`] before anything was prepared.
pub const SETTING_UP: &str = "setting up";
/// [`ClientError::Lost::during`] while a batch is prepared.
pub(crate) const PREPARING: &str = "preparing";
/// [`ClientError::Lost::during`] once an input may have been sent: what was asked is not asked again.
pub const INFERRING: &str = "inferring";
/// [`ClientError::Lost::during`] where a session is only held open, to see how long that goes well.
pub const HOLDING: &str = "holding a silent stream";

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
        /// Whether TLS is what failed: a certificate, a name, or one side without TLS.
        tls: bool,
    },
    /// The HTTP proxy on the way to the server makes no tunnel.
    #[error("cannot reach {url} through the proxy {proxy}: {reason}")]
    Proxy {
        /// The server's address.
        url: String,
        /// The proxy's address without its password, and the variable that names it.
        proxy: String,
        /// What went wrong and what to do.
        reason: String,
        /// Whether that may pass: it does not if the proxy does not accept who asks.
        passing: bool,
    },
    /// The connection broke within a session.
    #[error(
        "the connection to {url} broke while {during}: {reason}{}",
        consequence(during)
    )]
    Lost {
        /// The server's address.
        url: String,
        /// What was being done.
        during: &'static str,
        /// What the transport says.
        reason: String,
        /// The connection was cut. It was not if the server was silent, or ended the session with a word.
        cut: bool,
    },
    /// The server refused the call.
    #[error("the server refused: {message}")]
    Refused {
        /// The gRPC status code.
        code: Code,
        /// The server's words.
        message: String,
        /// When the server says that it is worth trying again.
        retry_after: Option<Duration>,
    },
    /// Something was asked for that cannot be done.
    #[error("{0}")]
    Usage(String),
    /// More was to be prepared than the server holds for one session. Nothing was done, and the session goes on.
    #[error(
        "{n_asked} more to prepare, with {n_prepared} prepared: this server holds at most {most} for a session. Use some first, prepare fewer, or have them kept on disk if the server does that (`pi-client prepare`)"
    )]
    Full {
        /// How many were asked for, in whole batches.
        n_asked: usize,
        /// How many wait.
        n_prepared: usize,
        /// How many may wait.
        most: usize,
    },
    /// The two programs are of different releases.
    #[error("{0}")]
    Version(String),
    /// The server contradicts itself.
    #[error("{0}")]
    Mismatch(String),
    /// The two-party protocol failed.
    #[error(transparent)]
    Protocol(#[from] pi_protocol::Error),
    /// The model or an input is at fault.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file with a certificate, a key or a token cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// An image or a tensor cannot be used.
    #[error("{name}: {reason}")]
    Input {
        /// Where it comes from.
        name: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// Prepared inferences on this machine's disk cannot be used.
    #[error("{}: {reason}", path.display())]
    Store {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// This client was closed, or its thread is gone.
    #[error("this client is closed; connect again")]
    Closed,
}

/// Whose fault an error is, roughly; what a script decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Something on this machine: a disk, a pipe.
    Local,
    /// Flags, files or addresses that make no sense.
    Usage,
    /// No connection to the server, or it broke.
    Unreachable,
    /// The connection is not secure as asked.
    Tls,
    /// The server knows this client or its wish and says no.
    Refused,
    /// A quota or a limit is used up; it comes back.
    Quota,
    /// The two programs are of different releases.
    Version,
    /// An image or a tensor that cannot be used.
    Input,
    /// The two parties' protocol failed.
    Protocol,
}

impl ErrorClass {
    /// All classes, in the order of their exit codes.
    pub const ALL: [Self; 9] = [
        Self::Local,
        Self::Usage,
        Self::Unreachable,
        Self::Tls,
        Self::Refused,
        Self::Quota,
        Self::Version,
        Self::Input,
        Self::Protocol,
    ];

    /// The exit code of the program. 0 is success, 130 an interruption.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Local => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Tls => 4,
            Self::Refused => 5,
            Self::Quota => 6,
            Self::Version => 7,
            Self::Input => 8,
            Self::Protocol => 9,
        }
    }

    /// What it stands for, in a few words.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Local => "an error of this machine: its disk, its memory, its output",
            Self::Usage => "wrong flags, address, token or certificate file",
            Self::Unreachable => "server not reached, or the connection broke",
            Self::Tls => "TLS failed: certificate, host name, or one side without TLS",
            Self::Refused => "refused: token missing, unknown or taken back, no such model",
            Self::Quota => "a quota or limit is used up; the message says for how long",
            Self::Version => "client and server are of different releases",
            Self::Input => "an image or tensor that cannot be used",
            Self::Protocol => "the protocol failed; the server or the network misbehaves",
        }
    }
}

impl ClientError {
    /// What kind of error it is.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Address { .. } | Self::Usage(_) | Self::File { .. } | Self::Closed => {
                ErrorClass::Usage
            }
            Self::Store { .. } => ErrorClass::Local,
            Self::Unreachable { tls: true, .. } => ErrorClass::Tls,
            Self::Unreachable { .. } | Self::Proxy { .. } | Self::Lost { .. } => {
                ErrorClass::Unreachable
            }
            Self::Refused { code, .. } => match code {
                Code::ResourceExhausted => ErrorClass::Quota,
                Code::Unavailable | Code::DeadlineExceeded => ErrorClass::Unreachable,
                Code::FailedPrecondition | Code::Unimplemented => ErrorClass::Version,
                Code::Internal | Code::Aborted | Code::InvalidArgument => ErrorClass::Protocol,
                _ => ErrorClass::Refused,
            },
            Self::Protocol(pi_protocol::Error::Kept(why)) => match why {
                KeepError::Full | KeepError::Unavailable => ErrorClass::Quota,
                _ => ErrorClass::Refused,
            },
            Self::Full { .. } => ErrorClass::Quota,
            Self::Version(_) => ErrorClass::Version,
            Self::Input { .. } | Self::Model(ModelError::Input(_)) => ErrorClass::Input,
            Self::Mismatch(_) | Self::Model(_) | Self::Protocol(_) => ErrorClass::Protocol,
        }
    }

    /// How long to wait before the same may work, where that makes sense: `None` if trying again changes nothing.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unreachable { tls: false, .. } => Some(Duration::from_millis(500)),
            Self::Lost {
                during, cut: true, ..
            } if *during != INFERRING => Some(Duration::from_millis(500)),
            Self::Proxy { passing: true, .. } => Some(Duration::from_millis(500)),
            Self::Refused { retry_after, .. } if retry_after.is_some() => *retry_after,
            Self::Refused { code, .. } if *code == Code::Unavailable => {
                Some(Duration::from_millis(500))
            }
            _ => None,
        }
    }

    /// A refused call to `url`, or a connection that broke during it.
    #[must_use]
    pub fn from_status(url: &str, status: &Status) -> Self {
        match is_broken(status) {
            true => Self::unreachable(url, std::error::Error::source(status).unwrap_or(status)),
            false => Self::refused(status),
        }
    }

    fn refused(status: &Status) -> Self {
        let after = status.metadata().get("retry-after");
        let seconds = after.and_then(|v| v.to_str().ok()?.parse().ok());
        Self::Refused {
            code: status.code(),
            message: match status.message() {
                "" => format!(
                    "it gives no reason ({:?}); is there a pi-server at this address?",
                    status.code()
                ),
                message => message.to_owned(),
            },
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    /// An error of the protocol in a session with `url`, which the server may have explained in its `farewell`.
    pub(crate) fn in_session(
        url: &str,
        during: &'static str,
        error: pi_protocol::Error,
        farewell: Option<&Status>,
    ) -> Self {
        let (broken, word) = match farewell {
            Some(status) if is_broken(status) => (Some(status), None),
            word => (None, word),
        };
        let refusal = word.filter(|status| {
            matches!(
                status.code(),
                Code::ResourceExhausted
                    | Code::Unauthenticated
                    | Code::PermissionDenied
                    | Code::FailedPrecondition
            ) || status.code() == Code::Unavailable && !status.message().is_empty()
        });
        match (refusal, error) {
            (Some(status), _) => Self::refused(status),
            (_, pi_protocol::Error::Channel(reason)) => Self::Lost {
                url: url.to_owned(),
                during,
                cut: broken.is_some() || word.is_none() && reason == CLOSED,
                reason: match (broken, word.map(Status::message)) {
                    (Some(status), _) => transport::broken_stream(status).to_owned(),
                    (None, Some(said)) if !said.is_empty() => {
                        format!("the server ended the session: {said}")
                    }
                    _ => reason,
                },
            },
            (_, error) => Self::Protocol(error),
        }
    }
}

/// What a lost connection has cost, and what to do.
fn consequence(during: &str) -> &'static str {
    match during {
        SETTING_UP => {
            "; if this happens each time, something in between cuts long streams: see `pi-client doctor`"
        }
        HOLDING => "",
        _ => {
            ". What was prepared in it is gone and nothing of it is used again; if this happens each time, something in between cuts long streams: see `pi-client doctor`"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_says_what_was_lost_and_no_more() {
        let lost = |during| {
            let broken = Status::unknown("h2 protocol error: error reading a body from connection");
            let error = pi_protocol::Error::Channel("(Unknown): h2 protocol error".into());
            ClientError::in_session("http://a:1", during, error, Some(&broken)).to_string()
        };
        let text = lost("preparing");
        assert!(text.contains("the connection was cut. What was prepared in it is gone"));
        for during in [SETTING_UP, HOLDING] {
            let text = lost(during);
            assert!(text.contains("was cut") && !text.contains("gone"), "{text}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words_alone() {
        let error = ClientError::from_status("", &Status::permission_denied("no silent OTs"));
        assert_eq!(error.to_string(), "the server refused: no silent OTs");
        assert_eq!(error.class(), ErrorClass::Refused);
        let error = ClientError::from_status("", &Status::unimplemented(""));
        assert!(error.to_string().contains("Unimplemented"), "{error}");
    }
}
