//! Every message of a session spoiled in every way: both sides end with a typed error, neither panics nor hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pi_model::Model;
use pi_model::plan::Plan;
use pi_model::random::RandomModel;
use pi_model::spec::OutputMode;

use crate::client::{ClientSession, Output};
use crate::cost::Cost;
use crate::error::{Error, Result};
use crate::server::ServerSession;
use crate::session::GarblingMode;
use crate::session::Request;
use crate::session::SessionOptions;
use crate::wire::channel::{Channel, MemoryChannel, pair};
use crate::wire::{Direction, Frame, Item, MAX_FRAME_BYTES, Step};

/// What happens to one frame on its way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Truncated,
    Extended,
    Emptied,
    Enlarged,
    OtherStep,
    OtherLayer,
    OtherBatch,
    OtherInference,
    UnknownTag,
    Twice,
    Dropped,
    Garbage,
    Zeros,
    Ones,
    CutOff,
}

/// One fault of each kind for frame `number`; those of a kind take turns from frame to frame.
fn faults(number: usize) -> [Fault; 7] {
    let turn = |faults: &[Fault]| faults[number % faults.len()];
    [
        Fault::Truncated,
        Fault::Extended,
        turn(&[Fault::Emptied, Fault::Enlarged]),
        turn(&[
            Fault::OtherStep,
            Fault::OtherLayer,
            Fault::OtherBatch,
            Fault::OtherInference,
            Fault::UnknownTag,
        ]),
        Fault::Twice,
        turn(&[Fault::Dropped, Fault::CutOff]),
        turn(&[Fault::Garbage, Fault::Zeros, Fault::Ones]),
    ]
}

/// A channel that spoils frame number `at` of those that it sends.
pub(super) struct Spoiled {
    pub(super) inner: MemoryChannel,
    pub(super) at: Option<(usize, Fault)>,
    pub(super) sent: Arc<AtomicUsize>,
}

impl Channel for Spoiled {
    fn send(&mut self, frame: Frame) -> Result<()> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let Some((_, fault)) = self.at.filter(|(at, _)| *at == number) else {
            return self.inner.send(frame);
        };
        let Frame { tag, mut payload } = frame;
        let mut sent = tag;
        match fault {
            Fault::Truncated => payload.truncate(payload.len() - 1),
            Fault::Extended => payload.push(0),
            Fault::Emptied => payload.clear(),
            Fault::Enlarged => payload.resize(MAX_FRAME_BYTES + 1, 7),
            Fault::OtherStep => sent ^= 3,
            Fault::OtherLayer => sent ^= 1 << 8,
            Fault::OtherBatch => sent ^= 1 << 24,
            Fault::OtherInference => sent ^= 1 << 56,
            Fault::UnknownTag => sent = u64::MAX,
            Fault::Garbage => payload
                .iter_mut()
                .enumerate()
                .for_each(|(i, b)| *b ^= (i * 151 + 43) as u8 | 1),
            Fault::Zeros => payload.fill(0),
            Fault::Ones => payload.fill(0xff),
            Fault::Twice => self.inner.send(Frame {
                tag,
                payload: payload.clone(),
            })?,
            Fault::Dropped => return Ok(()),
            Fault::CutOff => return Err(Error::Channel("cut off".into())),
        }
        self.inner.send(Frame { tag: sent, payload })
    }

    fn recv(&mut self) -> Result<Frame> {
        self.inner.recv()
    }

    fn is_ready(&mut self) -> bool {
        self.inner.is_ready()
    }

    fn expect(&mut self, n_bytes: usize) {
        self.inner.expect(n_bytes);
    }
}

fn tiny(mode: OutputMode) -> Arc<Model> {
    let mut net = RandomModel::new("tiny", [1, 4, 4], 5);
    net.conv("a", "input", 2, 3, 1, 1)
        .relu("a.relu", "a", 9)
        .conv("b", "a.relu", 2, 3, 2, 1)
        .relu("b.relu", "b", 3);
    Arc::new(net.classifier("fc", "b.relu", 3).finish(mode, 4).unwrap())
}

/// One session with a fault on one side: both results, and how many frames each side sent.
fn session(
    model: &Arc<Model>,
    garbling: GarblingMode,
    client_fault: Option<(usize, Fault)>,
    server_fault: Option<(usize, Fault)>,
) -> (Result<Output>, Result<()>, [usize; 2]) {
    let plan = Arc::new(Plan::new(model.clone(), 1).unwrap());
    let public = plan.public().clone();
    let (mut to_server, mut to_client) = pair();
    // A silent peer ends a session by its time-out; both wait longer than any honest step takes here.
    (to_server.timeout, to_client.timeout) = (Duration::from_secs(4), Duration::from_secs(4));
    let counts = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let to_server = Spoiled {
        inner: to_server,
        at: client_fault,
        sent: counts[0].clone(),
    };
    let to_client = Spoiled {
        inner: to_client,
        at: server_fault,
        sent: counts[1].clone(),
    };
    let server = std::thread::spawn(move || ServerSession::accept(to_client, plan)?.serve());
    let client = || -> Result<Output> {
        let options = SessionOptions {
            garbling,
            ..SessionOptions::default()
        };
        let mut session = ClientSession::connect_with(to_server, public, options)?;
        let prepared = session
            .prepare()?
            .pop()
            .ok_or_else(|| Error::Misuse("nothing prepared".into()))?;
        let output = session.infer(prepared, &[100; 16])?;
        session.close()?;
        Ok(output)
    };
    let client = client();
    let server = server.join().expect("the server panicked");
    (client, server, counts.map(|c| c.load(Ordering::Relaxed)))
}

#[test]
fn every_spoiled_message_ends_in_a_typed_error() {
    let mode = GarblingMode::default();
    let model = tiny(OutputMode::Argmax);
    spoil_all(&model, mode);
    // The one message that the other output mode has instead.
    let model = tiny(OutputMode::Logits);
    let (_, _, [from_client, from_server]) = session(&model, mode, None, None);
    spoil(
        &model,
        mode,
        &[(from_server - 1, false)],
        [from_client, from_server],
    );
}

#[test]
fn every_spoiled_message_to_or_from_a_client_that_garbles_ends_in_a_typed_error() {
    for mode in [OutputMode::Logits, OutputMode::Argmax] {
        spoil_all(&tiny(mode), GarblingMode::ClientDigits);
    }
}

/// Spoils every message of either side.
fn spoil_all(model: &Arc<Model>, garbling: GarblingMode) {
    let (honest, server, [from_client, from_server]) = session(model, garbling, None, None);
    assert!(server.is_ok() && honest.is_ok());
    assert_eq!([from_client, from_server], listed(model, garbling));
    let cases = (0..from_client)
        .map(|n| (n, true))
        .chain((0..from_server).map(|n| (n, false)));
    spoil(
        model,
        garbling,
        &cases.collect::<Vec<_>>(),
        [from_client, from_server],
    );
}

/// Frames that each side sends by the rooms' lists of messages, which are what is spoiled: a message in none of them would
/// have no stated length. The client's requests to prepare, to infer and to end come on top.
fn listed(model: &Arc<Model>, garbling: GarblingMode) -> [usize; 2] {
    let plan = Plan::new(model.clone(), 1).unwrap();
    let options = SessionOptions {
        garbling,
        ..SessionOptions::default()
    };
    let cost = Cost::with_options(plan.public(), options).unwrap();
    let n = |direction| {
        let steps = cost.bytes_by_step();
        steps.filter(|(s, ..)| s.direction() == direction).count()
    };
    [n(Direction::Up) + 3, n(Direction::Down)]
}

fn spoil(
    model: &Arc<Model>,
    garbling: GarblingMode,
    cases: &[(usize, bool)],
    n_frames: [usize; 2],
) {
    let last = n_frames.map(|n| n - 1);
    std::thread::scope(|scope| {
        for part in cases.chunks(cases.len().div_ceil(4)) {
            scope.spawn(move || {
                for &(number, by_client) in part {
                    for fault in faults(number) {
                        let at = Some((number, fault));
                        let (client, server, _) = if by_client {
                            session(model, garbling, at, None)
                        } else {
                            session(model, garbling, None, at)
                        };
                        check(
                            &client,
                            &server,
                            fault,
                            by_client,
                            number == last[usize::from(!by_client)],
                        );
                    }
                }
            });
        }
    });
}

fn check(
    client: &Result<Output>,
    server: &Result<()>,
    fault: Fault,
    by_client: bool,
    is_last: bool,
) {
    let context = format!(
        "{fault:?} by the {}: client {client:?}, server {server:?}",
        if by_client { "client" } else { "server" }
    );
    let receiver_fails = |f: &dyn Fn(&Error) -> bool| {
        if by_client {
            server.as_ref().is_err_and(f)
        } else {
            client.as_ref().is_err_and(f)
        }
    };
    match fault {
        // Shares and labels are random to whoever receives them: other bytes are other shares. Where a check or an encoding
        // exists it must be a typed error; elsewhere the prediction is spoiled, which semi-honest security allows.
        Fault::Garbage | Fault::Zeros | Fault::Ones => {}
        // A message that is not needed any more may stay unread.
        Fault::Twice if is_last => {}
        Fault::Twice => assert!(
            receiver_fails(&|e| matches!(e, Error::Peer { .. })),
            "{context}"
        ),
        Fault::Dropped | Fault::CutOff => assert!(client.is_err() || server.is_err(), "{context}"),
        _ => assert!(
            receiver_fails(&|e| matches!(e, Error::Peer { .. })),
            "{context}"
        ),
    }
}

#[test]
fn prepared_material_serves_once() {
    let model = tiny(OutputMode::Logits);
    for (batch, index) in [(1, 0), (1, 1), (2, 0), (0, 0)] {
        let plan = Arc::new(Plan::new(model.clone(), 1).unwrap());
        let public = plan.public().clone();
        let (to_server, to_client) = pair();
        let server = std::thread::spawn(move || ServerSession::accept(to_client, plan)?.serve());
        let mut client = ClientSession::connect(to_server, public).unwrap();
        let prepared = client.prepare().unwrap().pop().unwrap();
        client.infer(prepared, &[50; 16]).unwrap();
        // The material of (1, 0) is used; the others never were.
        let (request_tag, request) = Request::Infer { batch, index }.encode();
        client.wire.send(request_tag, &request).unwrap();
        let error = server.join().unwrap().unwrap_err();
        assert!(
            matches!(&error, Error::Peer { .. }) && error.to_string().contains("not used"),
            "{error}"
        );
        let late = client
            .wire
            .recv(Item { batch: 1, index: 0 }.tag(Step::Labels, 0), 16);
        assert!(
            matches!(late, Err(Error::Channel(_))),
            "the server still answers"
        );
    }
}

#[test]
fn material_of_another_session_or_an_input_of_another_size_is_misuse() {
    let model = tiny(OutputMode::Logits);
    let connect = || {
        let plan = Arc::new(Plan::new(model.clone(), 1).unwrap());
        let public = plan.public().clone();
        let (to_server, to_client) = pair();
        std::thread::spawn(move || ServerSession::accept(to_client, plan)?.serve());
        ClientSession::connect(to_server, public).unwrap()
    };
    let (mut one, mut other) = (connect(), connect());
    let prepared = one.prepare().unwrap().pop().unwrap();
    assert!(matches!(
        other.infer(prepared, &[0; 16]),
        Err(Error::Misuse(_))
    ));
    for input in [vec![0; 15], vec![i64::MAX; 16]] {
        let prepared = one.prepare().unwrap().pop().unwrap();
        assert!(
            matches!(one.infer(prepared, &input), Err(Error::Misuse(_))),
            "{} values",
            input.len()
        );
    }
}

#[test]
fn a_server_refuses_more_material_than_it_may_keep() {
    let plan = Arc::new(Plan::new(tiny(OutputMode::Logits), 2).unwrap());
    let public = plan.public().clone();
    let (to_server, to_client) = pair();
    let server = std::thread::spawn(move || {
        let mut session = ServerSession::accept(to_client, plan)?;
        session.max_prepared = 3;
        session.serve()
    });
    let mut client = ClientSession::connect(to_server, public).unwrap();
    let kept = client.prepare().unwrap();
    assert!(client.prepare().is_err());
    assert!(
        server
            .join()
            .unwrap()
            .unwrap_err()
            .to_string()
            .contains("at most 3")
    );
    drop(kept);
}

#[test]
fn another_plan_is_refused() {
    let (to_server, to_client) = pair();
    let plan = Arc::new(Plan::new(tiny(OutputMode::Logits), 1).unwrap());
    let server = std::thread::spawn(move || ServerSession::accept(to_client, plan).map(|_| ()));
    let other = Plan::new(tiny(OutputMode::Argmax), 1).unwrap();
    assert!(ClientSession::connect(to_server, other.public().clone()).is_err());
    assert!(
        server
            .join()
            .unwrap()
            .unwrap_err()
            .to_string()
            .contains("another hash")
    );
}

#[test]
fn nothing_secret_is_printed() {
    let model = tiny(OutputMode::Logits);
    let plan = Arc::new(Plan::new(model, 1).unwrap());
    let public = plan.public().clone();
    let (to_server, to_client) = pair();
    std::thread::spawn(move || ServerSession::accept(to_client, plan)?.serve());
    let mut client = ClientSession::connect(to_server, public).unwrap();
    let prepared = client.prepare().unwrap();
    assert_eq!(format!("{prepared:?}"), "[Prepared(batch 1, inference 0)]");
}

/// A channel whose own end fails, once, in the middle of a step, with an error that blames neither the peer nor the network.
struct FailsOnce {
    inner: MemoryChannel,
    n_before: usize,
}

impl Channel for FailsOnce {
    fn send(&mut self, frame: Frame) -> Result<()> {
        if self.n_before == 0 {
            self.n_before = usize::MAX;
            return Err(Error::Misuse("in the middle".into()));
        }
        self.n_before -= 1;
        self.inner.send(frame)
    }

    fn recv(&mut self) -> Result<Frame> {
        self.inner.recv()
    }

    fn is_ready(&mut self) -> bool {
        self.inner.is_ready()
    }

    fn expect(&mut self, n_bytes: usize) {
        self.inner.expect(n_bytes);
    }
}

/// After any error in the middle of a batch, nothing more is sent: counters and one-time values have moved.
#[test]
fn a_session_that_failed_in_the_middle_is_over() {
    for garbling in [GarblingMode::HalfGates, GarblingMode::ClientDigits] {
        for n_before in [3, 5, 8] {
            let plan = Arc::new(Plan::new(tiny(OutputMode::Logits), 1).unwrap());
            let public = plan.public().clone();
            let (inner, to_client) = pair();
            let server =
                std::thread::spawn(move || ServerSession::accept(to_client, plan)?.serve());
            let options = SessionOptions {
                garbling,
                ..SessionOptions::default()
            };
            let channel = FailsOnce { inner, n_before };
            let mut client = ClientSession::connect_with(channel, public, options).unwrap();
            let failed = client.prepare().unwrap_err().to_string();
            assert!(failed.contains("in the middle"), "{failed}");
            let refused = client.prepare().unwrap_err().to_string();
            assert!(refused.contains("ended with an error"), "{refused}");
            drop(client);
            assert!(server.join().unwrap().is_err());
        }
    }
}
