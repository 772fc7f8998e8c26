//! Connections of strangers, by raw HTTP/2: those that say nothing, half a message, or nobody's name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::TestServer;
use pi_model::spec::OutputMode;
use pi_server::ConnectionLimits;

const SHORT: Duration = Duration::from_millis(400);
/// Much longer than anything takes here, and shorter than what an idle connection may have.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_OF_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = &(payload.len() as u32).to_be_bytes()[1..];
    [length, &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection that speaks HTTP/2 by hand.
struct Stranger(TcpStream);

impl Stranger {
    fn silent(server: &TestServer) -> Self {
        let stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn new(server: &TestServer) -> Self {
        let mut stranger = Self::silent(server);
        stranger.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        stranger.send(&frame(SETTINGS, 0, 0, &[]));
        stranger
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Begins a call, whose message does not come yet.
    fn call(&mut self, path: &str) {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let mut block = vec![];
        for (name, value) in fields {
            block.extend([0, name.len() as u8]);
            block.extend(name.bytes());
            block.push(value.len() as u8);
            block.extend(value.bytes());
        }
        self.send(&frame(HEADERS, END_OF_HEADERS, 1, &block));
    }

    /// Waits for an answer to the call, or for the end of the connection.
    fn is_answered(&mut self) -> bool {
        loop {
            let mut head = [0; 9];
            if self.0.read_exact(&mut head).is_err() {
                return false;
            }
            let n = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; n];
            self.0.read_exact(&mut payload).unwrap();
            if head[3] == HEADERS {
                return true;
            }
        }
    }

    /// Waits for the end of the connection.
    fn ends(&mut self) -> bool {
        let since = Instant::now();
        // What comes first are frames of the server's.
        let ended = std::io::copy(&mut self.0, &mut std::io::sink());
        let reset = ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        !reset && since.elapsed() < PATIENCE
    }
}

fn server(change: impl FnOnce(&mut ConnectionLimits)) -> TestServer {
    TestServer::with(OutputMode::Logits, |options| {
        change(&mut options.connections);
    })
}

#[test]
fn connections_without_a_call_are_closed() {
    let server = server(|c| (c.first_call, c.idle) = (SHORT, SHORT));
    let mut silent = Stranger::silent(&server);
    let mut greeted = Stranger::new(&server);
    let mut called = Stranger::new(&server);
    called.call("/inference.GRPCInferenceService/ServerLive");
    called.send(&frame(DATA, 1, 1, &[0; 5]));
    assert!(called.is_answered());
    for stranger in [&mut silent, &mut greeted, &mut called] {
        assert!(stranger.ends());
    }
    server.assert_serves();
}

#[test]
fn a_session_keeps_its_connection() {
    let server = server(|c| (c.first_call, c.idle) = (SHORT, SHORT));
    let client = server.connect();
    let mut session = client.session(&client.describe(None).unwrap(), 1).unwrap();
    std::thread::sleep(3 * SHORT);
    session.infer(&common::image(&server.model, 1)).unwrap();
    session.close().unwrap();
}

#[test]
fn who_must_be_known_is_refused_before_a_byte_of_the_message() {
    let dir = tempfile::tempdir().unwrap();
    let (_, line) = pi_server::identity::new_token("alice").unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, line).unwrap();
    let server = TestServer::with(OutputMode::Logits, |o| o.tokens = Some(tokens));
    for path in [
        "/pi.v1.PrivateInference/Describe",
        "/pi.v1.PrivateInference/ListModels",
        "/pi.v1.PrivateInference/Session",
        "/inference.GRPCInferenceService/ModelMetadata",
        "/inference.GRPCInferenceService/ModelInfer",
    ] {
        let mut stranger = Stranger::new(&server);
        stranger.call(path);
        assert!(stranger.is_answered(), "{path}");
    }
}

#[test]
fn a_message_that_is_announced_too_large_or_never_comes_is_refused() {
    let server = server(|c| c.call = SHORT);
    for path in [
        "/grpc.health.v1.Health/Check",
        "/inference.GRPCInferenceService/ModelReady",
        "/pi.v1.PrivateInference/Describe",
    ] {
        for announced in [10u32, 4 << 20] {
            let mut stranger = Stranger::new(&server);
            stranger.call(path);
            let half = [&[0][..], &announced.to_be_bytes(), &[10, 1]].concat();
            stranger.send(&frame(DATA, 0, 1, &half));
            assert!(stranger.is_answered(), "{path}, {announced} bytes");
        }
    }
    server.assert_serves();
}

/// A flood from one address: it pushes itself out, at random.
#[test]
fn an_address_has_its_share_of_connections() {
    let server = server(|c| c.per_address = 16);
    let flood: Vec<_> = (0..200).map(|_| Stranger::silent(&server)).collect();
    server.assert_serves();
    let mut n_open = 0;
    for stranger in &flood {
        stranger.0.set_nonblocking(true).unwrap();
        let read = (&stranger.0).read(&mut [0]);
        n_open += usize::from(read.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock));
    }
    assert!(n_open <= 16, "{n_open}");
}

#[test]
fn services_describe_themselves_only_if_told_to() {
    let server = TestServer::start();
    let mut stranger = Stranger::new(&server);
    stranger.call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    // Unimplemented at once, and no stream that waits for questions.
    assert!(stranger.is_answered());
}
