//! Which server and model a client asks, and how.

use std::path::PathBuf;
use std::sync::Arc;

use pi_protocol::session::SessionOptions;

use crate::connect::ConnectOptions;
use crate::image::Sizing;
use crate::observer::Observer;
use crate::retry::Retries;

/// Which server and model, and how to ask.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to reach the server.
    pub server: ConnectOptions,
    /// Name of the model; the server's first one if `None`.
    pub model: Option<String>,
    /// How many inferences the client prepares ahead by itself and keeps ready. With 0 it prepares when asked to, or when a
    /// query finds nothing prepared. With more it holds two sessions, so that queries are answered while others are prepared.
    pub keep_prepared: usize,
    /// How many are prepared together; `None` chooses by what is asked for, up to 16 and the server's limit. Then a session for small
    /// batches gives way to one for larger ones when these are asked for and nothing is left in its store.
    pub batch: Option<usize>,
    /// How OTs are made and circuits garbled.
    pub session: SessionOptions,
    /// What to do with pixels of another size than the model's.
    pub sizing: Sizing,
    /// Folder for inferences that outlive this client ([`Client::save`](crate::Client::save)), encrypted; see [`crate::store`]. What
    /// lies there is used when nothing else is prepared, if it was prepared in batches of [`Self::batch`] or that is `None`.
    pub store: Option<PathBuf>,
    /// How often to try again to connect, to describe and to prepare, and to ask a query that did not begin: nothing of it had left, or
    /// the server, or a balancer before it, said that it is not available and nothing had been answered. It is asked with another inference then. Other queries are never repeated.
    pub retries: Retries,
    /// Who hears what the client does.
    pub observer: Arc<dyn Observer>,
}

impl Config {
    /// The first model of the server at `url` (`http://HOST:PORT`, or `https://HOST:PORT` for TLS).
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self::for_server(ConnectOptions::new(url))
    }

    /// The first model of this server.
    #[must_use]
    pub fn for_server(server: ConnectOptions) -> Self {
        Self {
            server,
            model: None,
            keep_prepared: 0,
            batch: None,
            session: SessionOptions::default(),
            sizing: Sizing::default(),
            store: None,
            retries: Retries::default(),
            observer: Arc::new(()),
        }
    }

    /// The same for the model called `name`.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>) -> Self {
        self.model = Some(name.into());
        self
    }

    /// The same, keeping `n` inferences prepared.
    #[must_use]
    pub const fn keep_prepared(mut self, n: usize) -> Self {
        self.keep_prepared = n;
        self
    }

    /// The same, telling `observer` what the client does.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Arc::new(observer);
        self
    }
}
