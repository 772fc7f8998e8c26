//! What the product's transport costs on this machine: gRPC frames between two processes, through the same channel, queues,
//! windows and threads as a session's.
//!
//! *Messages* are what the online phase does: the client sends a little, the server answers with one message, and nothing
//! else happens meanwhile. *Stream* is what the offline phase does: many large messages in one direction.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pi_proto::GrpcChannel;
use pi_proto::channel::outbound;
use pi_proto::limits::{CONNECTION_WINDOW_BYTES, MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES};
use pi_proto::v1::private_inference_client::PrivateInferenceClient;
use pi_protocol::wire::{Step, Tag, Wire};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use tonic::transport::Endpoint;

use super::Rates;
use super::fit::fit;
use super::peer::{REQUEST, encode};
use crate::error::{BenchError, failed};

/// Longest silence that either end bears.
pub(super) const IDLE: Duration = Duration::from_secs(60);

const fn tag(step: Step) -> Tag {
    Tag {
        step,
        layer: 1,
        batch: 1,
        index: 0,
    }
}

/// Messages of the client.
pub(super) const UP: Tag = tag(Step::ReluResults);
/// Messages of the peer.
pub(super) const DOWN: Tag = tag(Step::Labels);

/// Bytes of the messages from which the costs of a round trip and of a byte are told apart: a layer's labels have 60 kB to
/// 4 MB.
const MESSAGES: [usize; 5] = [16, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
const STREAM_MESSAGE: usize = 4 << 20;
const N_STREAM: usize = 8;

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The near end. Fields are dropped in their order: the channel before the runtime, the runtime before the peer.
struct Link {
    wire: Wire<GrpcChannel>,
    _runtime: Runtime,
    _peer: Peer,
}

impl Link {
    fn open() -> Result<Self, BenchError> {
        let bug = |e: &dyn std::fmt::Display| failed("transport", e);
        let me = std::env::current_exe().map_err(|e| bug(&e))?;
        let child = Command::new(me)
            .arg("transport-peer")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| bug(&e))?;
        let mut peer = Peer(child);
        let mut line = String::new();
        if let Some(stdout) = peer.0.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(|e| bug(&e))?;
        }
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .ok_or_else(|| bug(&"its peer did not start"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| bug(&e))?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| bug(&e))?
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (to_peer, stream) = outbound();
        let inbound = runtime.block_on(async {
            let connected = endpoint.connect().await.map_err(|e| bug(&e))?;
            let mut stub =
                PrivateInferenceClient::new(connected).max_decoding_message_size(MAX_MESSAGE_BYTES);
            let answer = stub.session(stream.map_while(Result::ok)).await;
            answer.map_err(|e| bug(&e))
        })?;
        let inside = runtime.enter();
        let handle = runtime.handle().clone();
        let channel = GrpcChannel::new(handle, to_peer, inbound.into_inner(), IDLE);
        drop(inside);
        Ok(Self {
            wire: Wire::new(channel),
            _runtime: runtime,
            _peer: peer,
        })
    }

    /// Seconds of each of `n` exchanges of `up` bytes for `down` bytes.
    fn exchange(
        &mut self,
        up: usize,
        down: usize,
        n: usize,
    ) -> Result<Vec<f64>, pi_protocol::Error> {
        self.wire.send(REQUEST, &encode(up, down, n))?;
        let message = vec![7; up];
        let mut seconds = Vec::with_capacity(n);
        for _ in 0..n {
            let started = Instant::now();
            self.wire.send(UP, &message)?;
            std::hint::black_box(self.wire.recv(DOWN, down)?);
            seconds.push(started.elapsed().as_secs_f64());
        }
        self.wire.recv(REQUEST, 1)?;
        Ok(seconds)
    }

    /// Seconds for each byte of a stream in one direction.
    fn stream(&mut self, up: usize, down: usize) -> Result<f64, pi_protocol::Error> {
        let started = Instant::now();
        self.exchange(up, down, N_STREAM)?;
        Ok(started.elapsed().as_secs_f64() / (N_STREAM * (up + down)) as f64)
    }
}

impl Rates {
    /// Measures round trip, message byte and stream byte.
    pub(super) fn transport(&mut self) -> Result<(), BenchError> {
        let mut link = Link::open()?;
        link.exchange(16, MESSAGES[4], 2)?;
        let mut rows = Vec::new();
        for n_bytes in MESSAGES {
            let n = if n_bytes < 1 << 20 { 41 } else { 9 };
            let seconds = crate::stats::median(&link.exchange(16, n_bytes, n)?);
            rows.push(([1.0, n_bytes as f64], seconds));
        }
        [self.round_trip_s, self.message_byte_s] = fit(&rows);
        let mut bytes_s = Vec::new();
        for _ in 0..3 {
            bytes_s.push(link.stream(STREAM_MESSAGE, 0)?);
            bytes_s.push(link.stream(0, STREAM_MESSAGE)?);
        }
        self.stream_byte_s = crate::stats::median(&bytes_s);
        Ok(())
    }
}
