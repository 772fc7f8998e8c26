//! Connections of strangers, by raw HTTP/2: those that say nothing, half a message, or nobody's name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::TestServer;
use common::stranger::{DATA, Stranger, frame};
use pi_model::spec::OutputMode;
use pi_server::ConnectionLimits;

const SHORT: Duration = Duration::from_millis(400);
fn server(change: impl FnOnce(&mut ConnectionLimits)) -> TestServer {
    TestServer::with(OutputMode::Logits, |options| {
        change(&mut options.connections);
    })
}

#[test]
fn connections_without_a_call_are_closed() {
    let server = server(|c| (c.first_call, c.idle) = (SHORT, SHORT));
    let mut silent = Stranger::silent(server.address);
    let mut greeted = Stranger::new(server.address);
    let mut called = Stranger::new(server.address);
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
        let mut stranger = Stranger::new(server.address);
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
            let mut stranger = Stranger::new(server.address);
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
    let mut flood: Vec<_> = (0..200).map(|_| Stranger::silent(server.address)).collect();
    server.assert_serves();
    let mut n_open = 0;
    for stranger in &mut flood {
        n_open += usize::from(stranger.is_open());
    }
    assert!(n_open <= 16, "{n_open}");
}

#[test]
fn services_describe_themselves_only_if_told_to() {
    let server = TestServer::start();
    let mut stranger = Stranger::new(server.address);
    stranger.call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    // Unimplemented at once, and no stream that waits for questions.
    assert!(stranger.is_answered());
}
