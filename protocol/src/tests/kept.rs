//! Kept inferences: through bytes and other sessions, once, for the same plan and weights only, whatever the bytes are.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pi_model::Model;
use pi_model::plan::{Plan, PublicPlan};
use pi_model::random::RandomModel;
use pi_model::spec::OutputMode;
use zeroize::Zeroizing;

use super::hostile::{Fault, Spoiled};
use super::{inputs, small};
use crate::client::{ClientSession, Output, Prepared};
use crate::cost::Cost;
use crate::error::{Error, Result};
use crate::kept::{ItemId, KeepError, Keeper, Kept};
use crate::server::{self, ServerSession};
use crate::session::GarblingMode;
use crate::session::OtMode;
use crate::session::SessionOptions;
use crate::wire::Phase;
use crate::wire::Step;
use crate::wire::channel::{MemoryChannel, pair};
use crate::wire::ledger::Ledger;

type Items = Arc<Mutex<HashMap<ItemId, Vec<u8>>>>;

/// A keeper in memory, which may refuse.
#[derive(Clone, Default)]
pub(super) struct Memory {
    pub(super) items: Items,
    refuses: Option<KeepError>,
    n_admitted: Arc<Mutex<Vec<usize>>>,
}

impl Keeper for Memory {
    fn admit(&mut self, n_items: usize, item_bytes: usize) -> Kept<()> {
        self.n_admitted.lock().unwrap().push(item_bytes);
        match self.refuses {
            Some(KeepError::Full) => Err(KeepError::Full),
            _ if n_items > 0 => Ok(()),
            _ => panic!("nothing to keep"),
        }
    }

    fn put(&mut self, items: Vec<(ItemId, Zeroizing<Vec<u8>>)>) -> Kept<()> {
        if let Some(why) = self.refuses {
            return Err(why);
        }
        for (id, bytes) in items {
            assert!(
                self.items
                    .lock()
                    .unwrap()
                    .insert(id, bytes.to_vec())
                    .is_none()
            );
        }
        Ok(())
    }

    fn take(&mut self, id: &ItemId) -> Kept<Zeroizing<Vec<u8>>> {
        let taken = self.items.lock().unwrap().remove(id);
        taken.map(Zeroizing::new).ok_or(KeepError::NotThere)
    }
}

type Served = std::thread::JoinHandle<Result<Ledger>>;

fn serve(plan: &Arc<Plan>, keeper: Option<&Memory>) -> (MemoryChannel, Served) {
    let (to_server, to_client) = pair();
    let (plan, keeper) = (Arc::clone(plan), keeper.cloned());
    let served = std::thread::spawn(move || {
        let mut session = ServerSession::accept(to_client, plan)?;
        if let Some(keeper) = keeper {
            session.keep_with(Box::new(keeper));
        }
        session.serve()?;
        Ok(session.ledger().clone())
    });
    (to_server, served)
}

/// Prepares a batch in a session of its own; the client's halves as bytes.
fn prepared(plan: &Arc<Plan>, keeper: &Memory, options: SessionOptions) -> Vec<Vec<u8>> {
    let (channel, served) = serve(plan, Some(keeper));
    let public = plan.public().clone();
    let mut client = ClientSession::connect_with(channel, public.clone(), options).unwrap();
    let prepared = client.prepare_kept().unwrap();
    let ledgers = [client.close().unwrap(), served.join().unwrap().unwrap()];
    let cost = Cost::with_options(&public, options).unwrap();
    for ledger in &ledgers {
        // Without labels no answer ends the offline phase but the keeper's.
        let last = |s| matches!(s, Step::HashKey | Step::LabelReply);
        let silent = !cost.bytes_by_step().any(|(s, ..)| last(s));
        let due = cost.round_trips(Phase::Offline) + u64::from(silent);
        assert_eq!(ledger.round_trips(Phase::Offline), due);
        let predicted = cost
            .bytes_by_step()
            .filter(|(s, ..)| s.phase() == Phase::Offline);
        let predicted: u64 = predicted.map(|(.., n)| n).sum();
        // What the prediction leaves out: one byte for the batch.
        assert_eq!(ledger.total_bytes(Phase::Offline), predicted + 1);
    }
    let due = crate::kept::server::kept_bytes(&public, options).unwrap();
    // Written down values are packed, in memory they are words.
    assert!(due <= server::SessionMemory::of(plan, options).unwrap().prepared + 256);
    assert!(
        keeper
            .items
            .lock()
            .unwrap()
            .values()
            .all(|b| b.len() == due)
    );
    assert!(keeper.n_admitted.lock().unwrap().iter().all(|&n| n == due));
    let bytes = prepared.into_iter().map(|p| {
        assert!(
            keeper
                .items
                .lock()
                .unwrap()
                .contains_key(p.kept_id().unwrap())
        );
        p.into_secret_bytes(&public).unwrap().to_vec()
    });
    let bytes: Vec<Vec<u8>> = bytes.collect();
    let due = crate::kept::client::kept_bytes(&public, options).unwrap();
    assert!(bytes.iter().all(|b| b.len() == due));
    bytes
}

fn load(bytes: &[u8], plan: &Plan) -> Result<Prepared> {
    Prepared::from_secret_bytes(bytes, plan.public())
}

fn why(outcome: Result<Output>) -> KeepError {
    match outcome {
        Err(Error::Kept(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Logits within the error of the truncations, or the same class.
fn assert_right(model: &Model, input: &[i64], output: &Output) {
    let clear = pi_model::executor::run(model, input).unwrap();
    let bits = model.public().graph().layers.last().unwrap().fraction_bits;
    match output {
        Output::Logits(logits) => {
            for (got, want) in logits.iter().zip(&clear.logits) {
                let error = (got - want) as f64 / f64::from(bits).exp2();
                assert!(error.abs() < 0.25, "{got} for {want}");
            }
        }
        Output::Class(class) => {
            let best = clear.logits.iter().max().unwrap();
            let short = (best - clear.logits[*class]) as f64 / f64::from(bits).exp2();
            assert!(short < 0.5, "class {class} is {short} short");
        }
    }
}

#[test]
fn another_session_gives_the_answer_once() {
    for (mode, relus, ot, garbling) in [
        (OutputMode::Logits, 150, OtMode::SoftSpoken, 0),
        (OutputMode::Argmax, 60, OtMode::Silent, 1),
        (OutputMode::Argmax, 0, OtMode::SoftSpoken, 0),
        (OutputMode::Logits, 0, OtMode::SoftSpoken, 0),
        (OutputMode::Logits, 150, OtMode::SoftSpoken, 2),
        (OutputMode::Logits, 0, OtMode::SoftSpoken, 2),
        (OutputMode::Argmax, 0, OtMode::SoftSpoken, 2),
        (OutputMode::Argmax, 60, OtMode::Silent, 2),
    ] {
        let model = small(relus, mode);
        let images = inputs([3, 8, 8], 2);
        let plan = Arc::new(Plan::new(model.clone(), 2).unwrap());
        let keeper = Memory::default();
        let garbling = GarblingMode::ALL[garbling];
        let options = SessionOptions { ot, garbling };
        let halves = prepared(&plan, &keeper, options);
        let (channel, served) = serve(&plan, Some(&keeper));
        let public = plan.public().clone();
        let mut client = ClientSession::connect_online(channel, public.clone()).unwrap();
        for (half, image) in halves.iter().zip(&images).rev() {
            let output = client.infer(load(half, &plan).unwrap(), image).unwrap();
            assert_right(&model, image, &output);
        }
        assert!(keeper.items.lock().unwrap().is_empty());
        // A copy of a half is refused, and the session goes on.
        for half in &halves {
            let twice = client.infer(load(half, &plan).unwrap(), &images[0]);
            assert_eq!(why(twice), KeepError::NotThere);
        }
        let cost = Cost::with_options(&public, options).unwrap();
        for ledger in [client.close().unwrap(), served.join().unwrap().unwrap()] {
            assert_eq!(ledger.round_trips(Phase::Setup), 1);
            assert_eq!(ledger.total_bytes(Phase::Offline), 0);
            let due = 2 * cost.round_trips(Phase::Online);
            assert_eq!(ledger.round_trips(Phase::Online), due + 2, "two misses");
            // What the prediction leaves out: a byte for each answer. A miss costs the input and that byte.
            for (step, layer, n) in cost.bytes_by_step() {
                let n_times = match step {
                    Step::Input => 4,
                    _ => 2,
                };
                if step.phase() == Phase::Online {
                    let sent = ledger.traffic().find(|(s, l, _)| (*s, *l) == (step, layer));
                    assert_eq!(sent.unwrap().2.n_bytes, n_times * n, "{}", step.name());
                }
            }
            let found = ledger.traffic().find(|(s, ..)| *s == Step::Found);
            assert_eq!(found.unwrap().2.n_bytes, 4);
        }
    }
}

#[test]
fn a_session_uses_what_it_keeps_and_what_it_does_not() {
    let model = small(40, OutputMode::Logits);
    let image = &inputs([3, 8, 8], 1)[0];
    let plan = Arc::new(Plan::new(model.clone(), 1).unwrap());
    let keeper = Memory::default();
    let (channel, served) = serve(&plan, Some(&keeper));
    let mut client = ClientSession::connect(channel, plan.public().clone()).unwrap();
    let kept = client.prepare_kept().unwrap().remove(0);
    let own = client.prepare().unwrap().remove(0);
    let later = client.prepare_kept().unwrap().remove(0);
    assert!(own.kept_id().is_none() && kept.kept_id() != later.kept_id());
    for prepared in [later, own, kept] {
        assert_right(&model, image, &client.infer(prepared, image).unwrap());
    }
    let own = client.prepare().unwrap().remove(0);
    let misuse = own.into_secret_bytes(plan.public()).unwrap_err();
    assert!(misuse.to_string().contains("prepare_kept"), "{misuse}");
    client.close().unwrap();
    served.join().unwrap().unwrap();
}

#[test]
fn a_refusing_keeper_is_heard_and_the_session_goes_on_or_ends() {
    let model = small(40, OutputMode::Logits);
    let image = &inputs([3, 8, 8], 1)[0];
    let plan = Arc::new(Plan::new(model, 1).unwrap());
    let mut keeper = Memory {
        refuses: Some(KeepError::Unavailable),
        ..Memory::default()
    };
    let (channel, served) = serve(&plan, Some(&keeper));
    let mut client = ClientSession::connect(channel, plan.public().clone()).unwrap();
    let refused = client.prepare_kept().unwrap_err();
    assert!(matches!(refused, Error::Kept(KeepError::Unavailable)));
    let own = client.prepare().unwrap().remove(0);
    client.infer(own, image).unwrap();
    client.close().unwrap();
    served.join().unwrap().unwrap();

    keeper.refuses = Some(KeepError::Full);
    for keeper in [Some(&keeper), None] {
        let (channel, served) = serve(&plan, keeper);
        let mut client = ClientSession::connect(channel, plan.public().clone()).unwrap();
        client.prepare_kept().unwrap_err();
        let said = served.join().unwrap().unwrap_err();
        assert!(matches!(
            (keeper, said),
            (Some(_), Error::Kept(KeepError::Full)) | (None, Error::Refused(_))
        ));
    }
}

#[test]
fn a_session_for_kept_inferences_cannot_prepare() {
    let plan = Arc::new(Plan::new(small(10, OutputMode::Logits), 1).unwrap());
    let (channel, served) = serve(&plan, None);
    let mut client = ClientSession::connect_online(channel, plan.public().clone()).unwrap();
    assert!(matches!(client.prepare(), Err(Error::Misuse(_))));
    // A client that asks all the same.
    let request = crate::session::Request::Prepare { batch: 1 };
    let (tag, payload) = request.encode();
    client.wire.send(tag, &payload).unwrap();
    let said = served.join().unwrap().unwrap_err().to_string();
    assert!(said.contains("kept inference"), "{said}");
}

fn tiny(mode: OutputMode, seed: u64) -> Arc<Model> {
    let mut net = RandomModel::new("tiny", [1, 4, 4], seed);
    net.conv("a", "input", 2, 3, 1, 1).relu("a.relu", "a", 9);
    Arc::new(net.classifier("fc", "a.relu", 3).finish(mode, 4).unwrap())
}

/// The same public model with other weights.
fn retrained(model: &Model) -> Arc<Model> {
    let (spec, graph) = (model.public().spec().clone(), model.public().graph());
    let convs = graph.layers.iter().flat_map(|l| &l.convs);
    let weights = convs.map(|conv| {
        let mut weights = model.weights(conv).clone();
        weights.weight[0] ^= 1;
        (conv.op.clone(), weights)
    });
    let masks = graph.layers.iter().filter_map(|l| {
        let relu = l.relu.clone()?;
        Some((l.name.clone(), relu))
    });
    let masks = masks.collect();
    Arc::new(Model::new(spec, masks, weights.collect()).unwrap())
}

#[test]
fn other_weights_and_other_plans_are_refused() {
    let model = tiny(OutputMode::Logits, 5);
    let plan = Arc::new(Plan::new(model.clone(), 1).unwrap());
    let keeper = Memory::default();
    let halves = prepared(&plan, &keeper, SessionOptions::default());
    let reloaded = Arc::new(Plan::new(retrained(&model), 1).unwrap());
    assert_eq!(reloaded.public().hash(), plan.public().hash());
    let (channel, served) = serve(&reloaded, Some(&keeper));
    let mut client = ClientSession::connect_online(channel, plan.public().clone()).unwrap();
    let refused = client.infer(load(&halves[0], &plan).unwrap(), &[100; 16]);
    assert_eq!(why(refused), KeepError::OtherModel);
    // It is used up all the same.
    assert!(keeper.items.lock().unwrap().is_empty());
    client.close().unwrap();
    served.join().unwrap().unwrap();

    let other = Plan::new(tiny(OutputMode::Argmax, 5), 1).unwrap();
    let refused = load(&halves[0], &other).unwrap_err();
    assert!(matches!(refused, Error::Kept(KeepError::OtherModel)));
    let kept = load(&halves[0], &plan).unwrap();
    let refused = kept.into_secret_bytes(other.public()).unwrap_err();
    assert!(matches!(refused, Error::Misuse(_)));
    let (channel, served) = serve(&Arc::new(other), None);
    let public = PublicPlan::new(tiny(OutputMode::Argmax, 5).public(), 1).unwrap();
    let mut client = ClientSession::connect_online(channel, Arc::new(public)).unwrap();
    let refused = client.infer(load(&halves[0], &plan).unwrap(), &[100; 16]);
    assert!(refused.unwrap_err().to_string().contains("another plan"));
    client.close().unwrap();
    served.join().unwrap().unwrap();
}

#[test]
fn spoiled_bytes_never_panic() {
    for (mode, garbling) in [
        (OutputMode::Logits, GarblingMode::HalfGates),
        (OutputMode::Argmax, GarblingMode::HalfGates),
        (OutputMode::Logits, GarblingMode::ClientDigits),
    ] {
        let plan = Arc::new(Plan::new(tiny(mode, 5), 1).unwrap());
        let keeper = Memory::default();
        let options = SessionOptions {
            garbling,
            ..SessionOptions::default()
        };
        let half = prepared(&plan, &keeper, options).remove(0);
        let items = keeper.items.lock().unwrap();
        let theirs = items.values().next().unwrap();
        let client = |bytes: &[u8]| load(bytes, &plan).is_ok();
        let server = |bytes: &[u8]| crate::kept::server::loads(bytes, &plan);
        type Loads<'a> = &'a dyn Fn(&[u8]) -> bool;
        let sides = [(&half, &client as Loads<'_>), (theirs, &server)];
        for (bytes, loads) in sides {
            assert!(loads(bytes));
            for n in 0..bytes.len() {
                assert!(!loads(&bytes[..n]), "{n} of {} bytes", bytes.len());
            }
            assert!(!loads(&[&bytes[..], &[0]].concat()));
            for at in 0..bytes.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut spoiled = bytes.to_vec();
                    spoiled[at] ^= flip;
                    let loaded = loads(&spoiled);
                    // Format, side and plan are checked; the rest is whatever it is.
                    assert!(!(loaded && matches!(at, 0 | 1 | 3..35)), "byte {at}");
                }
            }
        }
        assert!(!client(theirs) && !server(&half));
    }
}

#[test]
fn items_of_a_batch_are_not_exchanged() {
    let plan = Arc::new(Plan::new(tiny(OutputMode::Logits, 5), 2).unwrap());
    let keeper = Memory::default();
    let halves = prepared(&plan, &keeper, SessionOptions::default());
    // The second half under the name of the first.
    let mut mixed = halves[1].clone();
    mixed[35..67].copy_from_slice(&halves[0][35..67]);
    let (channel, served) = serve(&plan, Some(&keeper));
    let mut client = ClientSession::connect_online(channel, plan.public().clone()).unwrap();
    let refused = client.infer(load(&mixed, &plan).unwrap(), &[100; 16]);
    assert_eq!(why(refused), KeepError::OtherModel);
    client
        .infer(load(&halves[1], &plan).unwrap(), &[100; 16])
        .unwrap();
    client.close().unwrap();
    served.join().unwrap().unwrap();
}

/// A batch that is kept and used in one session, with a fault in one of the frames of one side. What each side says, and
/// what is left at the keeper.
fn spoiled(plan: &Arc<Plan>, by_client: bool, at: (usize, Fault)) -> (Result<Output>, Result<()>) {
    let keeper = Memory::default();
    let (mut to_server, mut to_client) = pair();
    (to_server.timeout, to_client.timeout) = (Duration::from_secs(4), Duration::from_secs(4));
    let channel = |inner, spoils: bool| Spoiled {
        inner,
        at: spoils.then_some(at),
        sent: Arc::<AtomicUsize>::default(),
    };
    let (to_server, to_client) = (
        channel(to_server, by_client),
        channel(to_client, !by_client),
    );
    let (served, items) = (Arc::clone(plan), keeper.items.clone());
    let server = std::thread::spawn(move || {
        let mut session = ServerSession::accept(to_client, served)?;
        session.keep_with(Box::new(keeper));
        session.serve()
    });
    let client = || -> Result<Output> {
        let mut session = ClientSession::connect(to_server, plan.public().clone())?;
        let prepared = session.prepare_kept()?.remove(0);
        let output = session.infer(prepared, &[100; 16])?;
        session.close()?;
        Ok(output)
    };
    let client = client();
    let server = server.join().expect("the server panicked");
    if client.is_ok() {
        assert!(items.lock().unwrap().is_empty());
    }
    (client, server)
}

/// The frames that the usual flow does not have; it is spoiled elsewhere.
#[test]
fn every_spoiled_message_of_a_kept_inference_ends_in_a_typed_error() {
    let plan = Arc::new(Plan::new(tiny(OutputMode::Logits, 5), 1).unwrap());
    // Of the client: the request to keep, the request to infer. Of the server: Kept, Found.
    let n_client = 3;
    let faults = [
        Fault::Truncated,
        Fault::Extended,
        Fault::Emptied,
        Fault::Enlarged,
        Fault::OtherStep,
        Fault::OtherBatch,
        Fault::OtherInference,
        Fault::Dropped,
        Fault::CutOff,
        Fault::Garbage,
        Fault::Ones,
    ];
    let (client, server) = spoiled(&plan, true, (usize::MAX, Fault::Dropped));
    assert!(client.is_ok() && server.is_ok());
    let cost = Cost::of(plan.public()).unwrap();
    let n_of = |phase, down: bool| {
        let steps = cost.bytes_by_step();
        let is_down = |s: Step| s.direction() == crate::wire::Direction::Down;
        steps
            .filter(|(s, ..)| s.phase() == phase && is_down(*s) == down)
            .count()
    };
    let kept = n_of(Phase::Setup, true) + n_of(Phase::Offline, true);
    let infer = n_client + 1 + n_of(Phase::Offline, false);
    std::thread::scope(|scope| {
        for (by_client, number) in [
            (true, n_client),
            (true, infer),
            (false, kept),
            (false, kept + 1),
        ] {
            let plan = &plan;
            scope.spawn(move || {
                for fault in faults {
                    let (client, server) = spoiled(plan, by_client, (number, fault));
                    let context = format!("{fault:?} in {number}: {client:?}, {server:?}");
                    assert!(client.is_err() || server.is_err(), "{context}");
                }
            });
        }
    });
}
