//! One session: set up once, prepare batches while idle, infer at once.
//!
//! A prepared inference is a one-time pad. It is taken out of the store before its first byte is sent, and never comes
//! back, whatever happens next.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pi_model::PublicPlan;
use pi_proto::channel::{LINGER, outbound};
use pi_proto::limits::MAX_MESSAGE_BYTES;
use pi_proto::v1::{Frame, Open};
use pi_proto::{GrpcChannel, WireMeter};
use pi_protocol::client::{ClientSession, Output, Prepared};
use pi_protocol::ledger::Ledger;
use pi_protocol::session::SessionOptions;
use pi_protocol::wire::PROTOCOL_VERSION;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_stream::StreamExt as _;
use tonic::Status;

use crate::connect::{Client, Description, Network};
use crate::error::{ClientError, INFERRING, PREPARING, SETTING_UP};
use crate::report::{Clocks, Report};

/// Most inferences that are prepared together when the user does not say.
pub const DEFAULT_BATCH: usize = 16;

/// A session with prepared inferences in store.
pub struct Session {
    // Declared first: the driver must be gone before the network.
    driver: ClientSession<GrpcChannel>,
    most_prepared: usize,
    prepared: VecDeque<Prepared>,
    plan: Arc<PublicPlan>,
    clocks: Clocks,
    meter: Arc<WireMeter>,
    pump: Option<JoinHandle<()>>,
    url: String,
    farewell: Arc<OnceLock<Status>>,
    network: Arc<Network>,
}

/// The result of one inference.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the client learns.
    pub output: Output,
    /// Online time.
    pub time: Duration,
}

/// Whether a server prepares batches of `batch` where it grants at most `most`.
///
/// # Errors
/// [`ClientError::Usage`] when it does not.
pub fn check_batch(batch: usize, most: usize) -> Result<(), ClientError> {
    if (1..=most).contains(&batch) {
        return Ok(());
    }
    Err(ClientError::Usage(if most == 0 {
        "this server has no memory for inferences that the client garbles: leave out --garbling client-digits, or ask its operator for a larger --prepared-memory".into()
    } else {
        format!("a batch of {batch}: this server prepares 1 to {most} inferences at once")
    }))
}

impl Client {
    /// Opens a session for batches of `batch` inferences of the described model, with the default options.
    ///
    /// # Errors
    /// As [`Self::session_with`].
    pub fn session(&self, description: &Description, batch: usize) -> Result<Session, ClientError> {
        self.session_with(description, batch, SessionOptions::default())
    }

    /// Opens a session for batches of `batch` inferences of the described model; `options` say how its OTs are made and its
    /// circuits garbled.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the server's reason, [`ClientError::Usage`] for a batch that the server does not
    /// grant, [`ClientError::Protocol`] when the setup fails.
    pub fn session_with(
        &self,
        description: &Description,
        batch: usize,
        options: SessionOptions,
    ) -> Result<Session, ClientError> {
        self.open(description, batch, Some(options))
    }

    /// Opens a session that only runs kept inferences, which were prepared in batches of `batch`: one round trip, no keys.
    ///
    /// # Errors
    /// As [`Self::session_with`].
    pub fn session_for_kept(
        &self,
        description: &Description,
        batch: usize,
    ) -> Result<Session, ClientError> {
        self.open(description, batch, None)
    }

    fn open(
        &self,
        description: &Description,
        batch: usize,
        options: Option<SessionOptions>,
    ) -> Result<Session, ClientError> {
        let (most, most_prepared) = match options {
            Some(options) => (
                description.largest_batch(options),
                description.most_prepared(options),
            ),
            // What is kept needs no memory of the session.
            None => (description.max_batch, usize::MAX),
        };
        check_batch(batch, most)?;
        let plan = Arc::new(PublicPlan::with_goal(
            &description.model,
            batch,
            description.packing,
        )?);
        let started = Instant::now();
        let open = Frame {
            open: Some(Open {
                model: description.model.spec().name.clone(),
                batch: batch as u32,
                plan_hash: plan.hash().to_vec().into(),
                protocol_version: PROTOCOL_VERSION,
            }),
            ..Frame::default()
        };
        let (to_server, stream) = outbound();
        let mut stub = self.stub(MAX_MESSAGE_BYTES);
        let inbound = self
            .ask_patiently(async {
                // The queue is empty and its other end is in this function: this cannot fail.
                let _ = to_server.send(Ok(open)).await;
                stub.session(stream.map_while(Result::ok)).await
            })?
            .into_inner();
        let mut channel = GrpcChannel::new(
            self.network.handle.clone(),
            to_server,
            inbound,
            self.options.idle_timeout,
        );
        let (meter, pump) = (channel.meter(), channel.take_pump());
        let (url, farewell) = (self.options.url.clone(), channel.farewell_status());
        let driver = match options {
            Some(options) => ClientSession::connect_with(channel, Arc::clone(&plan), options),
            None => ClientSession::connect_online(channel, Arc::clone(&plan)),
        };
        let driver =
            driver.map_err(|e| ClientError::in_session(&url, SETTING_UP, e, farewell.get()))?;
        Ok(Session {
            driver,
            most_prepared,
            prepared: VecDeque::new(),
            plan,
            clocks: Clocks {
                setup: started.elapsed(),
                ..Clocks::default()
            },
            meter,
            pump,
            url,
            farewell,
            network: Arc::clone(&self.network),
        })
    }
}

impl Session {
    /// The plan that both sides run.
    #[must_use]
    pub const fn plan(&self) -> &Arc<PublicPlan> {
        &self.plan
    }

    /// How the session's OTs are made and its circuits garbled.
    #[must_use]
    pub const fn options(&self) -> SessionOptions {
        self.driver.options()
    }

    /// Bytes on the wire so far; readable from other threads while the session works.
    #[must_use]
    pub const fn meter(&self) -> &Arc<WireMeter> {
        &self.meter
    }

    /// Inferences in store.
    #[must_use]
    pub fn n_prepared(&self) -> usize {
        self.prepared.len()
    }

    /// Whether `n` more may be prepared, in whole batches, without one being used.
    ///
    /// # Errors
    /// [`ClientError::Full`] when the server's memory for this session is too small.
    pub fn check_room(&self, n: usize) -> Result<(), ClientError> {
        let batch = self.plan.batch();
        let n_asked = n.div_ceil(batch).saturating_mul(batch);
        let n_prepared = self.prepared.len();
        if n_prepared.saturating_add(n_asked) <= self.most_prepared {
            return Ok(());
        }
        Err(ClientError::Full {
            n_asked,
            n_prepared,
            most: self.most_prepared,
        })
    }

    /// Prepares one more batch. Needs no input.
    ///
    /// # Errors
    /// [`ClientError::Full`]; or [`ClientError::Refused`], [`ClientError::Lost`] or [`ClientError::Protocol`], and the session is over then.
    pub fn prepare(&mut self) -> Result<(), ClientError> {
        self.check_room(self.plan.batch())?;
        let started = Instant::now();
        let batch = self.driver.prepare();
        let batch = batch.map_err(|e| self.explain(PREPARING, e))?;
        self.clocks.offline += started.elapsed();
        self.clocks.n_prepared += batch.len();
        self.prepared.extend(batch);
        Ok(())
    }

    /// Prepares one batch that the server keeps beyond this session, for [`Self::infer_with`] in any later one or for a
    /// [`crate::Store`].
    ///
    /// # Errors
    /// As [`Self::prepare`]; a server that keeps nothing, or no more, says so.
    pub fn prepare_kept(&mut self) -> Result<Vec<Prepared>, ClientError> {
        let started = Instant::now();
        let batch = self.driver.prepare_kept();
        let batch = batch.map_err(|e| self.explain(PREPARING, e))?;
        self.clocks.offline += started.elapsed();
        self.clocks.n_prepared += batch.len();
        Ok(batch)
    }

    /// Runs one inference on `values`, in (C, H, W) order with the model's fraction bits; prepares a batch first when
    /// the store is empty.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Lost`] or [`ClientError::Protocol`]; the inference is used up, and the session is over unless the input was at fault.
    pub fn infer(&mut self, values: &[i64]) -> Result<Answer, ClientError> {
        if self.prepared.is_empty() {
            self.prepare()?;
        }
        let Some(prepared) = self.prepared.pop_front() else {
            return Err(pi_protocol::Error::Misuse("an empty batch was prepared".into()).into());
        };
        self.infer_with(prepared, values)
    }

    /// The same with this inference, which may have been kept from an earlier session.
    ///
    /// # Errors
    /// As [`Self::infer`].
    pub fn infer_with(
        &mut self,
        prepared: Prepared,
        values: &[i64],
    ) -> Result<Answer, ClientError> {
        let started = Instant::now();
        let output = self.driver.infer(prepared, values);
        let output = output.map_err(|e| self.explain(INFERRING, e))?;
        let time = started.elapsed();
        self.clocks.online += time;
        self.clocks.n_inferences += 1;
        Ok(Answer { output, time })
    }

    fn explain(&self, during: &'static str, error: pi_protocol::Error) -> ClientError {
        ClientError::in_session(&self.url, during, error, self.farewell.get())
    }

    /// Whether the server still holds its end, as far as is known here. Costs nothing and sends nothing.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.pump.as_ref().is_some_and(|pump| !pump.is_finished())
    }

    /// Breaks the session off from another thread: what waits for the server in it fails at once.
    pub(crate) fn abort_handle(&self) -> Option<AbortHandle> {
        self.pump.as_ref().map(JoinHandle::abort_handle)
    }

    /// What this session has cost so far.
    #[must_use]
    pub fn report(&self) -> Report {
        Report::new(
            &self.plan,
            self.options(),
            self.ledger(),
            &self.clocks,
            &self.meter,
        )
    }

    /// The protocol's own meter.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        self.driver.ledger()
    }

    /// Ends the session in good order.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] when the server is gone; the results that were returned are good all the same.
    pub fn close(self) -> Result<Report, ClientError> {
        let options = self.options();
        let ledger = self.driver.close()?;
        if let Some(pump) = self.pump {
            // When the server has ended the stream it has read our last frame.
            let _ = self
                .network
                .handle
                .block_on(async { tokio::time::timeout(LINGER, pump).await });
        }
        Ok(Report::new(
            &self.plan,
            options,
            &ledger,
            &self.clocks,
            &self.meter,
        ))
    }
}
