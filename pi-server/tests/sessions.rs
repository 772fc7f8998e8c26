//! Sessions over loopback: whole inferences, and every way in which a client can be wrong, malicious or gone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{TestServer, assert_close, image};
use pi_client::ClientError;
use pi_model::spec::OutputMode;
use pi_model::{Plan, PublicPlan};
use pi_proto::limits::MAX_MESSAGE_BYTES;
use pi_proto::v1::private_inference_client::PrivateInferenceClient;
use pi_proto::v1::{Frame, Open};
use pi_protocol::channel::pair;
use pi_protocol::client::{ClientSession, Output};
use pi_protocol::ledger::{Direction, Phase};
use pi_protocol::server::ServerSession;
use pi_protocol::session::SessionOptions;
use pi_protocol::session::{GarblingMode, OtMode};
use pi_protocol::wire::{MAX_FRAME_BYTES, PROTOCOL_VERSION};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

fn open(server: &TestServer, batch: u32) -> Open {
    let plan = PublicPlan::new(server.model.public(), batch.clamp(1, 4) as usize).unwrap();
    Open {
        model: "small".into(),
        batch,
        plan_hash: plan.hash().to_vec().into(),
        protocol_version: PROTOCOL_VERSION,
    }
}

fn opening(open: Open) -> Frame {
    Frame {
        open: Some(open),
        ..Frame::default()
    }
}

/// Sends `frames`, keeps the stream open, and returns how the server ends it.
fn send_raw(server: &TestServer, frames: Vec<Frame>) -> Result<(), Status> {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let stub = PrivateInferenceClient::connect(server.url.clone()).await;
        let mut stub = stub.unwrap().max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (keep_open, queue) = tokio::sync::mpsc::channel(frames.len());
        for frame in frames {
            keep_open.send(frame).await.unwrap();
        }
        let stream = tokio_stream::wrappers::ReceiverStream::new(queue);
        let mut answers = stub.session(stream).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    })
}

fn refused(outcome: Result<(), Status>) -> (Code, String) {
    let status = outcome.unwrap_err();
    (status.code(), status.message().to_owned())
}

#[test]
fn an_inference_over_the_network_costs_and_says_what_it_does_in_memory() {
    let server = TestServer::start();
    let client = server.connect();
    assert_eq!(client.models().unwrap(), ["small"]);
    let description = client.describe(Some("small")).unwrap();
    let mut session = client.session(&description, 2).unwrap();

    let (here, there) = pair();
    let plan = Arc::new(Plan::new(Arc::clone(&server.model), 2).unwrap());
    let public = Arc::clone(plan.public());
    let serving =
        std::thread::spawn(move || ServerSession::accept(there, plan).unwrap().serve().unwrap());
    let mut memory = ClientSession::connect(here, public).unwrap();
    let mut prepared = memory.prepare().unwrap();
    for seed in 0..2 {
        let input = image(&server.model, seed);
        let over_network = session.infer(&input).unwrap().output;
        let in_memory = memory.infer(prepared.remove(0), &input).unwrap();
        assert_close(&server.model, &input, &over_network);
        assert_close(&server.model, &input, &in_memory);
    }
    let ledger = memory.close().unwrap();
    serving.join().unwrap();
    let report = session.close().unwrap();
    for (phase, measured) in [
        (Phase::Setup, report.setup),
        (Phase::Offline, report.offline),
        (Phase::Online, report.online),
    ] {
        assert_eq!(
            measured.bytes_up,
            ledger.bytes(phase, Direction::Up),
            "{phase:?}"
        );
        assert_eq!(
            measured.bytes_down,
            ledger.bytes(phase, Direction::Down),
            "{phase:?}"
        );
        assert_eq!(measured.round_trips, ledger.round_trips(phase), "{phase:?}");
    }
    let payload = report.setup.bytes() + report.offline.bytes() + report.online.bytes();
    assert!(report.wire_bytes > payload && report.wire_bytes < payload + payload / 50 + 4096);
    assert_eq!((report.n_prepared, report.n_inferences), (2, 2));
}

#[test]
fn a_served_argmax_opens_the_class_only() {
    let server = TestServer::with(OutputMode::Argmax, |_| {});
    let client = server.connect();
    let mut session = client.session(&client.describe(None).unwrap(), 1).unwrap();
    for seed in 0..2 {
        let input = image(&server.model, seed);
        let output = session.infer(&input).unwrap().output;
        assert!(matches!(output, Output::Class(_)));
        assert_close(&server.model, &input, &output);
    }
    assert_eq!(session.close().unwrap().n_prepared, 2);
}

#[test]
fn what_does_not_fit_our_plan_is_refused_before_any_work() {
    let server = TestServer::start();
    let good = open(&server, 1);
    let cases = [
        (
            Open {
                plan_hash: vec![7; 32].into(),
                ..good.clone()
            },
            Code::FailedPrecondition,
            "plans differ",
        ),
        (
            Open {
                plan_hash: vec![].into(),
                ..good.clone()
            },
            Code::FailedPrecondition,
            "plans differ",
        ),
        // The hash of the plan for another batch.
        (
            Open {
                batch: 2,
                ..good.clone()
            },
            Code::FailedPrecondition,
            "plans differ",
        ),
        (
            Open {
                protocol_version: PROTOCOL_VERSION + 1,
                ..good.clone()
            },
            Code::FailedPrecondition,
            "same release",
        ),
        (
            Open {
                model: "other".into(),
                ..good.clone()
            },
            Code::NotFound,
            "small",
        ),
        (
            Open {
                batch: 0,
                ..good.clone()
            },
            Code::InvalidArgument,
            "1 to 4",
        ),
        (
            Open {
                batch: u32::MAX,
                ..good.clone()
            },
            Code::InvalidArgument,
            "1 to 4",
        ),
    ];
    for (open, code, text) in cases {
        let (got, message) = refused(send_raw(&server, vec![opening(open)]));
        assert_eq!(got, code, "{message}");
        assert!(message.contains(text), "{message}");
    }
    let (code, message) = refused(send_raw(&server, vec![Frame::default()]));
    assert_eq!(code, Code::InvalidArgument, "{message}");
    server.assert_serves();
}

#[test]
fn garbage_ends_its_own_session_and_no_other() {
    let server = TestServer::start();
    let hello = 1u64;
    let garbage = [
        Frame {
            tag: hello,
            payload: vec![0xff; 68].into(),
            open: None,
        },
        Frame {
            tag: hello,
            payload: vec![0; 67].into(),
            open: None,
        },
        Frame {
            tag: hello,
            payload: vec![].into(),
            open: None,
        },
        Frame {
            tag: u64::MAX,
            payload: vec![1; 68].into(),
            open: None,
        },
        Frame {
            tag: 0,
            payload: vec![1; MAX_FRAME_BYTES].into(),
            open: None,
        },
        opening(open(&server, 1)),
    ];
    for frame in garbage {
        let text = format!("tag {:x}, {} bytes", frame.tag, frame.payload.len());
        let (code, message) = refused(send_raw(&server, vec![opening(open(&server, 1)), frame]));
        assert_eq!(code, Code::InvalidArgument, "{text}: {message}");
    }
    server.assert_serves();
}

#[test]
fn a_frame_over_the_limit_is_refused_by_the_network_layer() {
    let server = TestServer::start();
    let oversized = Frame {
        tag: 1,
        payload: vec![0; MAX_MESSAGE_BYTES + 1].into(),
        open: None,
    };
    let (code, message) = refused(send_raw(
        &server,
        vec![opening(open(&server, 1)), oversized],
    ));
    assert!(
        matches!(
            code,
            Code::Aborted | Code::OutOfRange | Code::ResourceExhausted
        ),
        "{code:?}: {message}"
    );
    server.assert_serves();
}

#[test]
fn silent_ots_are_refused_unless_the_operator_allows_them() {
    for allowed in [false, true] {
        let server = TestServer::with(OutputMode::Logits, |o| o.limits.silent_ot = allowed);
        let client = server.connect();
        let description = client.describe(None).unwrap();
        let session = client.session_with(
            &description,
            1,
            SessionOptions {
                ot: OtMode::Silent,
                ..SessionOptions::default()
            },
        );
        let error = session.and_then(|mut s| s.prepare()).err();
        let refused = |e: &ClientError| e.to_string().contains("--silent-ot");
        assert_eq!(error.is_some(), !allowed, "{error:?}");
        assert!(error.iter().all(refused), "{error:?}");
        server.assert_serves();
    }
}

#[test]
fn ways_to_garble_are_the_operators_to_allow() {
    let allowed = |name: &str| pi_server::GarblingModes::named(&[name.to_owned()]).unwrap();
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.limits.garbling = allowed("half-gates");
    });
    let client = server.connect();
    let description = client.describe(None).unwrap();
    for garbling in GarblingMode::ALL {
        let options = SessionOptions {
            garbling,
            ..SessionOptions::default()
        };
        let session = client.session_with(&description, 1, options);
        let error = session.and_then(|mut s| s.prepare()).err();
        let says = error.map(|e| e.to_string());
        match garbling {
            GarblingMode::HalfGates => assert_eq!(says, None),
            _ => assert!(says.unwrap().contains("garbles by half-gates alone")),
        }
    }
}

#[test]
fn a_client_that_vanishes_gives_its_place_back() {
    let server = TestServer::with(OutputMode::Logits, |o| o.limits.max_sessions = 1);
    let client = server.connect();
    let description = client.describe(None).unwrap();
    let mut session = client.session(&description, 1).unwrap();
    session.prepare().unwrap();
    let full = client.session(&description, 1).err().unwrap();
    assert!(
        matches!(
            &full,
            ClientError::Refused {
                code: Code::ResourceExhausted,
                ..
            }
        ),
        "{full}"
    );
    // Neither the session nor the connection ends in good order.
    drop(session);
    drop(client);
    let patience = Instant::now() + Duration::from_secs(10);
    while let Err(error) = server.connect().session(&description, 1) {
        assert!(Instant::now() < patience, "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_silent_client_is_ended_after_the_idle_timeout() {
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.limits.idle_timeout = Duration::from_millis(100);
    });
    let (code, message) = refused(send_raw(&server, vec![opening(open(&server, 1))]));
    assert_eq!(code, Code::Aborted);
    assert!(message.contains("silent"), "{message}");
}

#[test]
fn a_stop_ends_although_a_session_is_open() {
    let mut server = TestServer::start();
    let client = server.connect();
    let mut session = client.session(&client.describe(None).unwrap(), 1).unwrap();
    let started = Instant::now();
    server.stop();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(session.infer(&image(&server.model, 0)).is_err());
    let again = client.describe(None).unwrap_err();
    assert!(matches!(again, ClientError::Unreachable { .. }), "{again}");
}
