//! The gate between the network and one session's driver: every request of the client passes it before the driver sees it,
//! so what may not begin does not begin, and a driver that waits can be woken and ended.
//!
//! The driver itself knows of none of this: to it, a closed gate is a channel that failed. Why it closed goes to the client
//! as the stream's status.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pi_proto::channel::Item;
use pi_proto::v1;
use pi_protocol::channel::Channel;
use pi_protocol::session::Request;
use pi_protocol::wire::{Frame, Step};
use pi_protocol::{Error, Result};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;

use crate::access::limits::Account;
use crate::calls::drain::{Drain, Stage, stopping};

/// Tag of the frame that wakes a driver. No message has it; from a client it is refused as any unknown tag is.
const WAKE: u64 = u64::MAX;

/// How long a client may take between preparing and asking while the server stops.
const ASKING: Duration = Duration::from_secs(5);

/// One session's gate.
pub struct Gate {
    drain: Arc<Drain>,
    account: Arc<Account>,
    /// How long a step may take.
    phase_timeout: Duration,
    /// Since when a step runs: set-up, a batch or an inference.
    busy: watch::Sender<Option<Instant>>,
    /// Inferences that are prepared in this session and not used.
    n_prepared: AtomicUsize,
    /// This session has asked for kept inferences, of which a request spends one whatever comes of it.
    uses_kept: AtomicBool,
    refusal: Mutex<Option<Status>>,
}

impl Gate {
    /// The gate of a session that is about to be set up.
    #[must_use]
    pub fn new(drain: Arc<Drain>, account: Arc<Account>, phase_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            drain,
            account,
            phase_timeout,
            busy: watch::Sender::new(Some(Instant::now())),
            n_prepared: AtomicUsize::new(0),
            uses_kept: AtomicBool::new(false),
            refusal: Mutex::default(),
        })
    }

    /// So many inferences are prepared in this session and not used. Told before the step is done.
    pub fn has_prepared(&self, n: usize) {
        self.n_prepared.store(n, Ordering::Release);
    }

    fn n_prepared(&self) -> usize {
        self.n_prepared.load(Ordering::Acquire)
    }

    /// The driver has finished a step.
    pub fn step_done(&self) {
        self.busy.send_replace(None);
    }

    /// Why the gate closed, if it did; the first reason is kept.
    #[must_use]
    pub fn refusal(&self) -> Option<Status> {
        self.lock().clone()
    }

    /// Ends the session at the driver's next turn, and says why.
    pub(crate) fn close(&self, why: Status) {
        self.lock().get_or_insert(why);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Status>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request pass, or closes.
    fn admit(&self, request: Request) -> Result<()> {
        if request == Request::End {
            return Ok(());
        }
        // Busy first: whoever drains then either waits for this step or has been seen here.
        self.busy.send_replace(Some(Instant::now()));
        let uses_kept = matches!(request, Request::InferKept { .. });
        self.uses_kept.fetch_or(uses_kept, Ordering::AcqRel);
        let uses_prepared = matches!(request, Request::Infer { .. }) && self.n_prepared() > 0;
        let uses_prepared = uses_prepared || uses_kept;
        let may = match &request {
            // What is prepared would be lost to no end.
            _ if uses_prepared && self.drain.stage() == Stage::Draining => self.account.infer(),
            _ if self.drain.stage() != Stage::Serving => Err(stopping()),
            Request::Infer { .. } | Request::InferKept { .. } => self.account.infer(),
            Request::Prepare { .. } | Request::PrepareKept { .. } | Request::End => {
                self.account.may_work()
            }
        };
        if let Err(status) = may {
            self.close(status);
        }
        self.check()
    }

    fn check(&self) -> Result<()> {
        match &*self.lock() {
            None => Ok(()),
            Some(why) => Err(Error::Channel(why.message().to_owned())),
        }
    }

    /// Closes once the server drains and no step runs, or is cut, or a step takes too long; then wakes the driver. A client
    /// that has prepared inferences may ask for the next within [`ASKING`].
    async fn watch(self: Arc<Self>, wake: mpsc::Sender<()>) {
        let mut busy = self.busy.subscribe();
        let why = loop {
            let since = *busy.borrow_and_update();
            let deadline = since.and_then(|since| since.checked_add(self.phase_timeout));
            let too_long = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = busy.changed() => {}
                () = self.leaving(), if since.is_none() => {
                    // A step that began before the stop may have been noted since.
                    if busy.borrow().is_none() {
                        break stopping();
                    }
                }
                () = self.drain.reached(Stage::Cut) => break stopping(),
                () = too_long => break Status::deadline_exceeded(format!(
                    "a step took longer than the {:?} that this server grants; prepare smaller batches or use a faster network",
                    self.phase_timeout
                )),
                () = wake.closed() => return,
            }
        };
        self.close(why);
        // The driver may be gone, and then nobody needs to be woken.
        let _ = wake.send(()).await;
    }

    /// Waits until an idle session has nothing more to wait for.
    async fn leaving(&self) {
        self.drain.reached(Stage::Draining).await;
        if self.n_prepared() > 0 || self.uses_kept.load(Ordering::Acquire) {
            tokio::time::sleep(ASKING).await;
        }
    }

    /// The client's frames, and the one that wakes the driver. Must be called inside the runtime.
    pub fn inbound<S>(self: &Arc<Self>, frames: S) -> Inbound<S> {
        let (wake, woken) = mpsc::channel(1);
        tokio::spawn(Arc::clone(self).watch(wake));
        Inbound { frames, woken }
    }

    /// `channel` behind this gate.
    pub fn guard<C>(self: &Arc<Self>, channel: C) -> Gated<C> {
        let gate = Arc::clone(self);
        Gated { channel, gate }
    }
}

/// See [`Gate::inbound`].
pub struct Inbound<S> {
    frames: S,
    woken: mpsc::Receiver<()>,
}

impl<S: Stream<Item = Item> + Unpin> Stream for Inbound<S> {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        if let Poll::Ready(Some(())) = self.woken.poll_recv(context) {
            return Poll::Ready(Some(Ok(v1::Frame {
                tag: WAKE,
                ..v1::Frame::default()
            })));
        }
        Pin::new(&mut self.frames).poll_next(context)
    }
}

/// See [`Gate::guard`].
pub struct Gated<C> {
    channel: C,
    gate: Arc<Gate>,
}

impl<C: Channel> Channel for Gated<C> {
    fn send(&mut self, frame: Frame) -> Result<()> {
        self.gate.check()?;
        // A kept inference that is not there: the session waits again, and no finished step will say so.
        let missed = frame.tag & 0xff == Step::Found as u64 && frame.payload != [0];
        self.channel.send(frame)?;
        if missed {
            self.gate.step_done();
        }
        Ok(())
    }

    fn recv(&mut self) -> Result<Frame> {
        self.gate.check()?;
        let frame = self.channel.recv()?;
        if frame.tag == WAKE {
            self.gate.check()?;
        }
        if frame.tag & 0xff == Step::Request as u64
            && let Ok(request) = Request::decode(&frame)
        {
            self.gate.admit(request)?;
        }
        Ok(frame)
    }

    fn is_ready(&mut self) -> bool {
        self.channel.is_ready()
    }

    fn expect(&mut self, n_bytes: usize) {
        self.channel.expect(n_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::limits::{Accounts, Quota, refused_by};
    use pi_protocol::channel::pair;
    use tokio_stream::StreamExt as _;

    const LONG: Duration = Duration::from_secs(600);

    fn account(quota: Quota) -> Arc<Account> {
        Accounts::default().find("a", quota)
    }

    fn gate(drain: &Arc<Drain>) -> Arc<Gate> {
        Gate::new(Arc::clone(drain), account(Quota::default()), LONG)
    }

    fn frame(request: Request) -> Frame {
        let (tag, payload) = request.encode();
        Frame {
            tag: tag.to_u64(),
            payload: payload.to_vec(),
        }
    }

    #[test]
    fn requests_pass_until_the_server_drains_and_the_running_step_goes_on() {
        let drain = Arc::new(Drain::default());
        let gate = gate(&drain);
        let (mut client, server) = pair();
        let mut server = gate.guard(server);
        let prepare = frame(Request::Prepare { batch: 1 });
        client.send(prepare.clone()).unwrap();
        assert_eq!(server.recv().unwrap(), prepare);
        drain.begin();
        let message = Frame {
            tag: Step::HeNoise as u64,
            payload: vec![1],
        };
        client.send(message.clone()).unwrap();
        assert_eq!(server.recv().unwrap(), message);
        server.send(message).unwrap();
        gate.step_done();
        assert!(gate.refusal().is_none());
        client
            .send(frame(Request::Infer { batch: 1, index: 0 }))
            .unwrap();
        assert!(matches!(server.recv(), Err(Error::Channel(_))));
        assert_eq!(gate.refusal().unwrap().code(), tonic::Code::Unavailable);
    }

    #[test]
    fn what_is_prepared_may_be_used_while_the_server_drains_and_nothing_more_prepared() {
        let drain = Arc::new(Drain::default());
        let gate = gate(&drain);
        let (mut client, server) = pair();
        let mut server = gate.guard(server);
        gate.has_prepared(1);
        gate.step_done();
        drain.begin();
        let infer = frame(Request::Infer { batch: 1, index: 0 });
        client.send(infer.clone()).unwrap();
        assert_eq!(server.recv().unwrap(), infer);
        client.send(frame(Request::Prepare { batch: 2 })).unwrap();
        server.recv().unwrap_err();
        assert_eq!(gate.refusal().unwrap().code(), tonic::Code::Unavailable);
    }

    #[test]
    fn kept_inferences_may_be_asked_for_while_the_server_drains() {
        let drain = Arc::new(Drain::default());
        let gate = gate(&drain);
        let (mut client, server) = pair();
        let mut server = gate.guard(server);
        drain.begin();
        let infer = frame(Request::InferKept {
            id: pi_protocol::kept::Handle::from_bytes([7; 32]).item(0),
            batch: 1,
            index: 0,
        });
        client.send(infer.clone()).unwrap();
        assert_eq!(server.recv().unwrap(), infer);
        drain.cut();
        client.send(infer).unwrap();
        server.recv().unwrap_err();
    }

    #[test]
    fn a_used_up_quota_closes_the_gate_and_says_why() {
        let quota = Quota {
            inferences_per_day: Some(1),
            ..Quota::default()
        };
        let gate = Gate::new(Arc::default(), account(quota), LONG);
        let (mut client, server) = pair();
        let mut server = gate.guard(server);
        for index in 0..2 {
            client
                .send(frame(Request::Infer { batch: 1, index }))
                .unwrap();
        }
        server.recv().unwrap();
        server.recv().unwrap_err();
        assert_eq!(refused_by(&gate.refusal().unwrap()), Some("inferences"));
    }

    #[test]
    fn a_kept_inference_that_is_not_there_leaves_the_session_idle() {
        let gate = gate(&Arc::default());
        let (_client, server) = pair();
        let mut server = gate.guard(server);
        for (code, idle) in [(0, false), (1, true)] {
            gate.busy.send_replace(Some(Instant::now()));
            let found = Frame {
                tag: Step::Found as u64,
                payload: vec![code],
            };
            server.send(found).unwrap();
            assert_eq!(gate.busy.borrow().is_none(), idle);
        }
    }

    #[tokio::test]
    async fn a_step_that_takes_too_long_ends_and_waiting_for_a_request_does_not() {
        for works in [true, false] {
            let short = Duration::from_millis(20);
            let gate = Gate::new(Arc::default(), account(Quota::default()), short);
            let mut inbound = gate.inbound(tokio_stream::pending());
            if !works {
                gate.step_done();
            }
            let woken = tokio::time::timeout(Duration::from_millis(200), inbound.next()).await;
            assert_eq!(woken.is_ok(), works);
            let why = gate.refusal().map(|status| status.code());
            assert_eq!(why, works.then_some(tonic::Code::DeadlineExceeded));
        }
    }

    #[test]
    fn the_end_of_a_session_is_always_let_through() {
        let drain = Arc::new(Drain::default());
        let gate = gate(&drain);
        let (mut client, server) = pair();
        drain.begin();
        client.send(frame(Request::End)).unwrap();
        gate.guard(server).recv().unwrap();
    }

    #[tokio::test]
    async fn a_waiting_driver_is_woken_when_idle_or_cut_and_not_while_it_works() {
        for cut in [false, true] {
            let drain = Arc::new(Drain::default());
            let gate = gate(&drain);
            let mut inbound = gate.inbound(tokio_stream::pending());
            drain.begin();
            let soon = Duration::from_millis(30);
            tokio::time::timeout(soon, inbound.next())
                .await
                .unwrap_err();
            if cut {
                drain.cut()
            } else {
                gate.step_done()
            }
            assert_eq!(inbound.next().await.unwrap().unwrap().tag, WAKE);
            assert!(gate.refusal().is_some());
        }
    }
}
