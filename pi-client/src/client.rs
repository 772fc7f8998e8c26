//! The asynchronous client, which every road to an answer takes: libraries, the command line, the proxy and Python.
//!
//! It needs no particular executor: its futures wait for threads of its own (see `pool`), which hold the sessions.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::blocking;
use crate::config::Config;
use crate::connect::Description;
use crate::error::ClientError;
use crate::image::{Image, Sizing};
use crate::input::Input;
use crate::kept::{Kept, Place};
use crate::observer::{Activity, Work};
use crate::pool::{Answered, Job, Pool, Query, Terms};
use crate::report::Report;
use crate::stats::{Prediction, Stats};

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
            let work = config.observer.begins(&Work::new(Activity::Connecting));
            let (client, description) = config.retries.run(
                || {
                    let client = blocking::Client::connect(config.server.clone())?;
                    let description = client.describe(config.model.as_deref())?;
                    Ok((client, description))
                },
                |error, wait| config.observer.tries_again(error, wait),
            )?;
            drop(work);
            let place = config.store.map(|dir| Place {
                dir,
                url: client.url().to_owned(),
                model: description.model.spec().name.clone(),
            });
            let pool = Pool::start(Terms {
                kept: Kept::new(place, description.kept_for),
                client: Arc::new(client),
                description,
                options: config.session,
                batch: config.batch,
                keep_prepared: config.keep_prepared,
                retries: config.retries,
                observer: config.observer,
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
        self.pool.submit(Job::Prepare { n, reply });
        answer.await.map_err(|_| ClientError::Closed)??;
        Ok(self)
    }

    /// Prepares at least `n` inferences and writes them to [`Config::store`], encrypted, for this or any later client: each is used
    /// once. Needs a server that keeps its half, for [`Description::kept_for`].
    ///
    /// # Errors
    /// [`ClientError::Refused`] by a server that keeps nothing, [`ClientError::Usage`] without a store here, [`ClientError::Store`] for
    /// the disk, otherwise as [`Self::prepare`]. Batches that were finished before stay on the disk.
    pub async fn save(&self, n: usize) -> Result<&Self, ClientError> {
        let (reply, answer) = oneshot::channel();
        self.pool.submit(Job::Save { n, reply });
        answer.await.map_err(|_| ClientError::Closed)??;
        Ok(self)
    }

    /// Classifies `image` with one prepared inference; prepares first if there is none.
    ///
    /// If the future is dropped before the query has begun, nothing is spent. Afterwards its inference is used up and the answer is
    /// thrown away. For many images in a row see [`Self::series`].
    ///
    /// # Errors
    /// [`ClientError::Input`] before anything is spent; otherwise as [`Self::prepare`].
    pub async fn infer(&self, image: &Image) -> Result<Prediction, ClientError> {
        self.series(1).infer(image).await
    }

    /// The same for an input that fits the model already: from [`Image::fit`] or [`crate::input::cifar10`].
    ///
    /// # Errors
    /// As [`Self::infer`].
    pub async fn infer_input(&self, input: &Input) -> Result<Prediction, ClientError> {
        self.series(1).infer_input(input).await
    }

    /// `n` queries that come one after the other. What they lack is prepared for as many as are still to come, in batches of equal
    /// size and never more than the server holds.
    #[must_use]
    pub const fn series(&self, n: usize) -> Series<'_> {
        Series {
            client: self,
            n_left: n,
        }
    }

    /// Inferences that wait in [`Config::store`] for this server and model.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn n_kept(&self) -> Result<usize, ClientError> {
        self.pool.terms().kept.n_waiting()
    }

    /// Inferences of the model of this name that wait in [`Config::store`] under other addresses, which may be other names of the same
    /// service: address and number.
    #[must_use]
    pub fn kept_elsewhere(&self) -> Vec<(String, usize)> {
        self.pool.terms().kept.elsewhere()
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

    /// Answers what was asked already, then ends all sessions in good order. Returns what they have cost in all, by phase and by
    /// layer; `None` if none was opened.
    pub async fn close(self) -> Option<Report> {
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
        self.pool.take_report()
    }
}

/// Queries that come one after the other: see [`Client::series`].
#[derive(Debug)]
pub struct Series<'a> {
    client: &'a Client,
    n_left: usize,
}

impl Series<'_> {
    /// Answers the next one; more than were announced are answered, too.
    ///
    /// # Errors
    /// As [`Client::infer`]. The next query may be asked all the same.
    pub async fn infer(&mut self, image: &Image) -> Result<Prediction, ClientError> {
        let client = self.client;
        let fitted = image.fit(&client.description().model, client.sizing)?;
        let mut answer = self.infer_input(&fitted.input).await?;
        answer.notes.splice(0..0, fitted.notes);
        Ok(answer)
    }

    /// The same for an input that fits the model already.
    ///
    /// # Errors
    /// As [`Client::infer`]. The next query may be asked all the same.
    pub async fn infer_input(&mut self, input: &Input) -> Result<Prediction, ClientError> {
        input.check(&self.client.description().model)?;
        let (reply, answer) = oneshot::channel();
        self.client.pool.submit(Job::Infer {
            query: Query {
                values: Zeroizing::new(input.values.clone()),
                called: Instant::now(),
                n_left: self.n_left.max(1),
            },
            reply,
        });
        self.n_left = self.n_left.saturating_sub(1);
        let Answered {
            plan,
            output,
            stats,
            notes,
        } = answer.await.map_err(|_| ClientError::Closed)??;
        Ok(Prediction::new(&plan, &output, notes, stats))
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
