//! A blocking [`Channel`] over one gRPC stream of frames, for either end.
//!
//! The driver's thread blocks; the network is asynchronous. Between them stands one bounded queue each way
//! ([`QUEUE_FRAMES`] frames), so that neither a slow peer nor a slow driver makes memory
//! grow. Both directions give up after the idle timeout: a peer that neither sends nor reads cannot hold a thread.
//!
//! Where both ends send at the same time, full queues both ways would stop them for good. A driver that is about to do so
//! says how many bytes may come meanwhile ([`Channel::expect`]); while it waits to send, up to so many are taken in.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pi_protocol::channel::Channel;
use pi_protocol::wire::{Frame, MAX_FRAME_BYTES};
use pi_protocol::{Error, Result};
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Status};

use crate::limits::QUEUE_FRAMES;
use crate::v1;

/// Bytes that gRPC puts before each message.
const GRPC_PREFIX_BYTES: u64 = 5;

/// What a frame in memory is counted for besides its payload: many small ones must not take more than their bytes say.
const FRAME_OVERHEAD: usize = 256;

/// What an error says where the peer, or what lies between, closed the connection without a word.
pub const CLOSED: &str = "the peer closed the connection";

/// How long the stream stays open after the driver is done.
pub const LINGER: Duration = Duration::from_secs(2);

/// A queue entry: a frame, or why there are no more.
pub type Item = std::result::Result<v1::Frame, Status>;

/// Bytes of a session on the wire, gRPC framing included, HTTP/2 and TLS excluded.
#[derive(Debug, Default)]
pub struct WireMeter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl WireMeter {
    /// Bytes handed to the network so far.
    #[must_use]
    pub fn n_bytes_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes taken from the network so far.
    #[must_use]
    pub fn n_bytes_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// One end of a session, for use on a thread that may block.
pub struct GrpcChannel {
    runtime: Handle,
    to_peer: Sender<Item>,
    from_peer: Receiver<Item>,
    /// Taken in while this side waited to send, or to see whether there is anything; the oldest first.
    backlog: VecDeque<Item>,
    /// Bytes that may still be taken in while this side waits to send.
    room: usize,
    idle_timeout: Duration,
    meter: Arc<WireMeter>,
    farewell: Arc<OnceLock<Status>>,
    pump: Option<JoinHandle<()>>,
}

/// The queue towards the network: where to put frames, and the stream that gRPC takes them from.
#[must_use]
pub fn outbound() -> (Sender<Item>, ReceiverStream<Item>) {
    let (to_peer, queue) = channel(QUEUE_FRAMES);
    (to_peer, ReceiverStream::new(queue))
}

impl GrpcChannel {
    /// Joins the queue towards the network with the stream that comes from it. Must be called inside `runtime`.
    pub fn new(
        runtime: Handle,
        to_peer: Sender<Item>,
        inbound: impl Stream<Item = Item> + Send + Unpin + 'static,
        idle_timeout: Duration,
    ) -> Self {
        let (into_queue, from_peer) = channel(QUEUE_FRAMES);
        let pump = Some(runtime.spawn(pump(inbound, into_queue)));
        Self {
            runtime,
            to_peer,
            from_peer,
            backlog: VecDeque::new(),
            room: 0,
            idle_timeout,
            meter: Arc::default(),
            farewell: Arc::default(),
            pump,
        }
    }

    /// The task that reads from the network. It outlives the driver until the peer has ended the stream, or
    /// [`LINGER`]: a client that waits for it knows that its last frame was read. `None` when already taken.
    pub fn take_pump(&mut self) -> Option<JoinHandle<()>> {
        self.pump.take()
    }

    /// The counters of this session; they stay readable while a driver owns the channel.
    #[must_use]
    pub fn meter(&self) -> Arc<WireMeter> {
        Arc::clone(&self.meter)
    }

    /// The status with which the peer ended the session, once the driver has met it: what its error tells in words.
    #[must_use]
    pub fn farewell_status(&self) -> Arc<OnceLock<Status>> {
        Arc::clone(&self.farewell)
    }

    fn ended(&self, status: &Status) -> Error {
        // Only the first one counts.
        let _ = self.farewell.set(status.clone());
        ended(status)
    }

    /// Why the peer ended the session, once sending has failed: its status is the last entry of the queue.
    fn farewell(&mut self) -> Error {
        if let Some(Err(status)) = self.backlog.iter().find(|item| item.is_err()) {
            return self.ended(status);
        }
        let wait = Duration::from_secs(2).min(self.idle_timeout);
        let queue = &mut self.from_peer;
        let last = self.runtime.block_on(async {
            let status = async {
                while let Some(item) = queue.recv().await {
                    if let Err(status) = item {
                        return Some(status);
                    }
                }
                None
            };
            timeout(wait, status).await
        });
        match last {
            Ok(Some(status)) => self.ended(&status),
            _ => Error::Channel(CLOSED.into()),
        }
    }
}

impl Channel for GrpcChannel {
    fn send(&mut self, frame: Frame) -> Result<()> {
        let frame = v1::Frame {
            tag: frame.tag,
            payload: frame.payload.into(),
            open: None,
        };
        let n_bytes = frame.encoded_len() as u64 + GRPC_PREFIX_BYTES;
        let queue = self.to_peer.clone();
        // One deadline for all that may come meanwhile: a peer that sends but never reads is given up, too.
        let deadline = Instant::now() + self.idle_timeout;
        loop {
            let (inbound, may_take) = (&mut self.from_peer, self.room > 0);
            // `timeout` needs the runtime's clock, so it must be made inside `block_on`.
            let next = self.runtime.block_on(async {
                let either = async {
                    tokio::select! {
                        biased;
                        place = queue.reserve() => Some(Ok(place)),
                        item = inbound.recv(), if may_take => item.map(Err),
                    }
                };
                timeout_at(deadline, either).await
            });
            match next {
                Ok(Some(Ok(Ok(place)))) => {
                    place.send(Ok(frame));
                    self.meter.sent.fetch_add(n_bytes, Ordering::Relaxed);
                    return Ok(());
                }
                Ok(Some(Err(item))) => {
                    let n_bytes = item.as_ref().map_or(Ok(0), counted)?;
                    self.room = self.room.saturating_sub(n_bytes);
                    self.backlog.push_back(item);
                }
                Ok(Some(Ok(Err(_))) | None) => return Err(self.farewell()),
                Err(_) => {
                    return Err(Error::Channel(format!(
                        "the peer has read nothing for {:?}",
                        self.idle_timeout
                    )));
                }
            }
        }
    }

    fn recv(&mut self) -> Result<Frame> {
        let received = match self.backlog.pop_front() {
            Some(item) => Ok(Some(item)),
            None => self
                .runtime
                .block_on(async { timeout(self.idle_timeout, self.from_peer.recv()).await }),
        };
        let frame = match received {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(status))) => return Err(self.ended(&status)),
            Ok(None) => return Err(Error::Channel(CLOSED.into())),
            Err(_) => {
                return Err(Error::Channel(format!(
                    "the peer was silent for {:?}",
                    self.idle_timeout
                )));
            }
        };
        let n_bytes = frame.encoded_len() as u64 + GRPC_PREFIX_BYTES;
        self.meter.received.fetch_add(n_bytes, Ordering::Relaxed);
        counted(&frame)?;
        Ok(Frame {
            tag: frame.tag,
            payload: frame.payload.into(),
        })
    }

    fn is_ready(&mut self) -> bool {
        if self.backlog.is_empty() {
            match self.from_peer.try_recv() {
                Ok(item) => self.backlog.push_back(item),
                Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => {}
            }
        }
        !self.backlog.is_empty()
    }

    fn expect(&mut self, n_bytes: usize) {
        // Whole frames are far longer than a sixteenth of their overhead; the rest is for the last frames of messages.
        self.room = n_bytes + n_bytes / 16 + 64 * FRAME_OVERHEAD;
    }
}

/// The bytes that a frame is counted for, if it is one that a session may hold.
fn counted(frame: &v1::Frame) -> Result<usize> {
    if frame.open.is_some() {
        return Err(Error::peer("frame", 0, "a tag and a payload", "Open"));
    }
    if frame.payload.len() > MAX_FRAME_BYTES {
        return Err(Error::peer(
            "frame",
            0,
            format!("at most {MAX_FRAME_BYTES} bytes"),
            format!("{} bytes", frame.payload.len()),
        ));
    }
    Ok(frame.payload.len() + FRAME_OVERHEAD)
}

/// Moves frames from the network to the queue until either end is gone.
async fn pump(mut inbound: impl Stream<Item = Item> + Unpin, queue: Sender<Item>) {
    loop {
        let next = tokio::select! {
            next = inbound.next() => next,
            () = queue.closed() => break,
        };
        let Some(item) = next else { return };
        let last = item.is_err();
        if queue.send(item).await.is_err() {
            break;
        }
        if last {
            return;
        }
    }
    // The driver is done. Dropping the stream now would cancel it, perhaps before the last frame has left.
    let drained = async { while let Some(Ok(_)) = inbound.next().await {} };
    let _ = timeout(LINGER, drained).await;
}

fn ended(status: &Status) -> Error {
    Error::Channel(match status.code() {
        Code::Unknown | Code::Cancelled | Code::Unavailable if status.message().is_empty() => {
            CLOSED.into()
        }
        code => format!(
            "the peer ended the session ({code:?}): {}",
            status.message()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(idle: Duration) -> (tokio::runtime::Runtime, GrpcChannel, Sender<Item>) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (to_peer, peer) = outbound();
        // An echo: what is sent comes back.
        let (inject, injected) = outbound();
        let handle = runtime.handle().clone();
        let channel = runtime
            .block_on(async { GrpcChannel::new(handle, to_peer, peer.merge(injected), idle) });
        (runtime, channel, inject)
    }

    #[test]
    fn frames_pass_and_are_counted() {
        let (_runtime, mut channel, _inject) = ends(Duration::from_secs(5));
        let frame = Frame {
            tag: 0x1234,
            payload: vec![7; 1000],
        };
        channel.send(frame.clone()).unwrap();
        assert_eq!(channel.recv().unwrap(), frame);
        // 5 of gRPC, 9 of the tag, 3 of the payload's field header.
        assert_eq!(channel.meter().n_bytes_sent(), 1017);
        assert_eq!(channel.meter().n_bytes_received(), 1017);
    }

    #[test]
    fn silence_and_a_full_queue_end_after_the_idle_timeout() {
        let (_runtime, mut channel, _inject) = ends(Duration::from_millis(20));
        let error = channel.recv().unwrap_err().to_string();
        assert!(error.contains("silent"), "{error}");
        let frame = Frame {
            tag: 1,
            payload: vec![],
        };
        // The echo fills the queue back to us, which nobody empties.
        let error = (0..100).find_map(|_| channel.send(frame.clone()).err());
        assert!(matches!(error, Some(Error::Channel(_))), "{error:?}");
    }

    #[test]
    fn expected_bytes_are_taken_in_while_waiting_to_send() {
        let (_runtime, mut channel, _inject) = ends(Duration::from_millis(200));
        assert!(!channel.is_ready());
        channel.expect(90 * 5000);
        let frame = |i: u64| Frame {
            tag: i,
            payload: vec![7; 5000],
        };
        // More than both queues hold, and every frame comes back.
        for i in 0..90 {
            channel.send(frame(i)).unwrap();
        }
        for i in 0..90 {
            assert_eq!(channel.recv().unwrap(), frame(i));
        }
        assert!(!channel.is_ready());
        // What was not announced is not taken in.
        channel.expect(0);
        assert!((0..90).any(|i| channel.send(frame(i)).is_err()));
    }

    #[test]
    fn a_peer_that_sends_instead_of_reading_is_given_up() {
        let open = v1::Frame {
            open: Some(v1::Open::default()),
            ..Default::default()
        };
        for (n_empty, flood) in [(0, open), (usize::MAX, v1::Frame::default())] {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let (to_peer, _unread) = outbound();
            let (handle, idle) = (runtime.handle().clone(), Duration::from_millis(200));
            let endless = tokio_stream::iter(std::iter::repeat_with(move || Ok(flood.clone())));
            let mut channel =
                runtime.block_on(async { GrpcChannel::new(handle, to_peer, endless, idle) });
            channel.expect(1 << 20);
            let frame = Frame {
                tag: 1,
                payload: vec![],
            };
            let error = (0..100).find_map(|_| channel.send(frame.clone()).err());
            match error {
                Some(Error::Peer { .. }) => assert_eq!(n_empty, 0),
                Some(Error::Channel(text)) => assert!(text.contains("has read nothing"), "{text}"),
                other => panic!("{other:?}"),
            }
            assert!(channel.backlog.len() <= 2 * (1 << 20) / FRAME_OVERHEAD);
        }
    }

    #[test]
    fn a_status_of_the_peer_reaches_the_driver() {
        let (runtime, mut channel, inject) = ends(Duration::from_secs(5));
        runtime
            .block_on(inject.send(Err(Status::resource_exhausted("full"))))
            .unwrap();
        let error = channel.recv().unwrap_err().to_string();
        assert!(
            error.contains("full") && error.contains("ResourceExhausted"),
            "{error}"
        );
    }

    #[test]
    fn a_send_after_the_end_says_why_it_ended() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (to_peer, peer) = outbound();
        let (inject, injected) = outbound();
        let (handle, idle) = (runtime.handle().clone(), Duration::from_secs(5));
        let mut channel = GrpcChannel::new(handle, to_peer, injected, idle);
        runtime
            .block_on(inject.send(Err(Status::unavailable("stopping"))))
            .unwrap();
        drop(peer);
        let frame = Frame {
            tag: 1,
            payload: vec![],
        };
        let error = channel.send(frame).unwrap_err().to_string();
        assert!(error.contains("stopping"), "{error}");
        let farewell = channel.farewell_status();
        assert_eq!(farewell.get().unwrap().code(), Code::Unavailable);
    }

    #[test]
    fn a_second_open_or_an_oversized_payload_is_the_peers_fault() {
        for frame in [
            v1::Frame {
                open: Some(v1::Open::default()),
                ..Default::default()
            },
            v1::Frame {
                payload: vec![0; MAX_FRAME_BYTES + 1].into(),
                ..Default::default()
            },
        ] {
            let (runtime, mut channel, inject) = ends(Duration::from_secs(5));
            runtime.block_on(inject.send(Ok(frame))).unwrap();
            assert!(matches!(channel.recv(), Err(Error::Peer { .. })));
        }
    }
}
