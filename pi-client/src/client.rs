//! The asynchronous client.
//!
//! It needs no particular executor: its futures wait for threads of its own (see `pool`), which hold the sessions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use pi_protocol::session::SessionOptions;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::blocking;
use crate::connect::{ConnectOptions, Description};
use crate::error::ClientError;
use crate::image::{Image, Sizing};
use crate::pool::{Job, Pool, Terms};
use crate::retry::Retries;
use crate::stats::{Prediction, Stats};
use crate::store::Store;

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
    /// Folder for inferences that outlive this client ([`Client::save`]), encrypted; see [`crate::store`]. What lies there is used
    /// when nothing else is prepared.
    pub store: Option<PathBuf>,
    /// How often to try again to connect, to describe and to open a session. Queries are never repeated.
    pub retries: Retries,
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
}

/// A connection to one model. Cheap to share behind an [`Arc`]: its methods take `&self`.
///
/// Dropping it breaks its sessions off; what was prepared and not used is gone. [`Self::close`] ends them in good order.
pub struct Client {
    pool: Pool,
    sizing: Sizing,
}

impl Client {
    /// Connects and reads the model's description. Opens no session yet, unless inferences are to be kept prepared.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Unreachable`], [`ClientError::Refused`], [`ClientError::Version`].
    pub async fn connect(config: Config) -> Result<Self, ClientError> {
        off_thread(move || {
            let (client, description) = config.retries.run(
                || {
                    let client = blocking::Client::connect(config.server.clone())?;
                    let description = client.describe(config.model.as_deref())?;
                    Ok((client, description))
                },
                |_, _| {},
            )?;
            let name = &description.model.spec().name;
            let store = config.store.as_deref();
            let store = store.map(|dir| Store::open(dir, client.url(), name));
            let pool = Pool::start(Terms {
                store: store.transpose()?,
                client: Arc::new(client),
                description,
                options: config.session,
                batch: config.batch,
                keep_prepared: config.keep_prepared,
                retries: config.retries,
            });
            Ok(Self {
                pool: pool.map_err(|e| ClientError::Usage(format!("no thread can be had: {e}")))?,
                sizing: config.sizing,
            })
        })
        .await
    }

    /// What the server says about the model.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.pool.terms().description
    }

    /// Names of the server's models.
    ///
    /// # Errors
    /// [`ClientError::Refused`] or [`ClientError::Unreachable`].
    pub async fn models(&self) -> Result<Vec<String>, ClientError> {
        let client = Arc::clone(&self.pool.terms().client);
        off_thread(move || client.models()).await
    }

    /// Prepares at least `n` more inferences, in whole batches. Needs no image; what is prepared serves later queries.
    ///
    /// If the future is dropped, the batch that has begun is finished and kept, and no other begins.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a quota, [`ClientError::Lost`], [`ClientError::Protocol`]. The session and its store are gone
    /// then; the next call opens another.
    pub async fn prepare(&self, n: usize) -> Result<&Self, ClientError> {
        let (reply, answer) = oneshot::channel();
        let save = false;
        self.pool.submit(Job::Prepare { n, save, reply });
        answer.await.map_err(|_| ClientError::Closed)??;
        Ok(self)
    }

    /// Prepares at least `n` inferences and writes them to [`Config::store`], encrypted, for this or any later client: each is used
    /// once. Needs a server that keeps its half, for [`Description::kept_for`].
    ///
    /// # Errors
    /// [`ClientError::Usage`] without a store here or at the server, [`ClientError::Store`] for the disk, otherwise as
    /// [`Self::prepare`].
    pub async fn save(&self, n: usize) -> Result<&Self, ClientError> {
        let (reply, answer) = oneshot::channel();
        let save = true;
        self.pool.submit(Job::Prepare { n, save, reply });
        answer.await.map_err(|_| ClientError::Closed)??;
        Ok(self)
    }

    /// Classifies `image` with one prepared inference; prepares first if there is none.
    ///
    /// If the future is dropped before the query has begun, nothing is spent. Afterwards its inference is used up and the answer is
    /// thrown away.
    ///
    /// # Errors
    /// [`ClientError::Input`] before anything is spent; otherwise as [`Self::prepare`].
    pub async fn infer(&self, image: &Image) -> Result<Prediction, ClientError> {
        let fitted = image.fit(&self.description().model, self.sizing)?;
        let (reply, answer) = oneshot::channel();
        self.pool.submit(Job::Infer {
            values: Zeroizing::new(fitted.input.values),
            called: Instant::now(),
            reply,
        });
        let (plan, output, stats) = answer.await.map_err(|_| ClientError::Closed)??;
        Ok(Prediction::new(&plan, &output, fitted.notes, stats))
    }

    /// Inferences that are ready.
    #[must_use]
    pub fn n_prepared(&self) -> usize {
        self.pool.n_prepared()
    }

    /// What the last answered query cost.
    #[must_use]
    pub fn last_stats(&self) -> Option<Stats> {
        self.pool.last_stats()
    }

    /// Why preparing in the background does not work at present. It is tried again by itself.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.pool.trouble()
    }

    /// Answers what was asked already, then ends all sessions in good order.
    pub async fn close(self) {
        let mut ends = Vec::with_capacity(self.pool.n_threads());
        self.pool.close(|| {
            let (done, end) = oneshot::channel();
            ends.push(end);
            done
        });
        for end in ends {
            // A thread that is gone has nothing left to end.
            let _ = end.await;
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let model = &self.description().model.spec().name;
        write!(f, "Client({model}, {} prepared)", self.n_prepared())
    }
}

/// Runs what blocks on a thread of its own.
async fn off_thread<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    let (reply, answer) = oneshot::channel();
    std::thread::spawn(move || {
        // The caller may have given up waiting.
        let _ = reply.send(what());
    });
    answer.await.map_err(|_| ClientError::Closed)?
}
