//! What an observer of the server is told: every step once, with all of its operations, and what the client saw of it.

use std::sync::{Arc, Mutex};

use pi_model::plan::Plan;
use pi_model::spec::OutputMode;

use super::{inputs, small};
use crate::client::ClientSession;
use crate::server::ServerSession;
use crate::wire::Phase;
use crate::wire::channel::pair;
use crate::wire::record::{Party, StepRecord};

/// Runs a whole batch; what the server's observer was told, and what the client has measured of the last inference.
fn observed(relus: usize, mode: OutputMode) -> (Vec<StepRecord>, StepRecord) {
    let model = small(relus, mode);
    let images = inputs([3, 8, 8], 2);
    let plan = Arc::new(Plan::new(model, images.len()).unwrap());
    let public = plan.public().clone();
    let (to_server, to_client) = pair();
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = Arc::clone(&told);
    let server = std::thread::spawn(move || {
        let mut session = ServerSession::accept(to_client, plan).unwrap();
        session.observe(Box::new(move |step| teller.lock().unwrap().push(step)));
        session.serve().unwrap();
    });
    let mut client = ClientSession::connect(to_server, public).unwrap();
    let mut before = client.ledger().mark();
    for (prepared, image) in client.prepare().unwrap().into_iter().zip(&images) {
        before = client.ledger().mark();
        client.infer(prepared, image).unwrap();
    }
    let step = client.ledger().since(&before);
    let last = StepRecord::new(&step, Phase::Online, Party::Client);
    client.close().unwrap();
    server.join().unwrap();
    let told = told.lock().unwrap().clone();
    (told, last)
}

#[test]
fn every_step_is_told_once_and_adds_up() {
    for mode in [OutputMode::Logits, OutputMode::Argmax] {
        let (steps, client) = observed(100, mode);
        let kinds: Vec<_> = steps.iter().map(|s| (s.phase, s.batch, s.index)).collect();
        let expected = [
            (Phase::Setup, 0, None),
            (Phase::Offline, 1, None),
            (Phase::Online, 1, Some(0)),
            (Phase::Online, 1, Some(1)),
        ];
        assert_eq!(kinds, expected);
        for step in &steps {
            let computed: f64 = step.operations_s.values().sum();
            let of_layers: f64 = step.layers_s.iter().map(|l| l.seconds).sum();
            assert!(of_layers <= computed + 1e-9, "{step:?}");
            assert!(computed + step.waited_s <= step.seconds + 1e-9, "{step:?}");
            assert!(step.events.iter().all(|e| e.start_s >= step.start_s - 1e-9));
            assert_eq!(step.party, Party::Server);
        }
        assert!(
            steps
                .windows(2)
                .all(|w| w[0].start_s + w[0].seconds <= w[1].start_s)
        );
        let names = |i: usize| steps[i].operations_s.keys().map(String::as_str);
        assert_eq!(names(0).collect::<Vec<_>>(), ["OT", "keys"]);
        let offline = [
            "OT",
            "garble",
            "masks",
            "multiplex",
            "respond",
            "transform",
            "unpack",
        ];
        assert_eq!(names(1).collect::<Vec<_>>(), offline);
        let mut online = vec!["input", "labels", "linear", "multiplex", "truncate"];
        if mode == OutputMode::Logits {
            online.insert(4, "output");
        }
        assert_eq!(names(3).collect::<Vec<_>>(), online);
        // Both parties saw the same messages, each from its end.
        assert_eq!(steps[3].traffic, client.traffic);
        let messages = |s: &StepRecord, kind: &str| {
            let of_kind = s.events.iter().filter(|e| e.kind == kind);
            of_kind
                .map(|e| (e.what.clone(), e.layer, e.bytes))
                .collect::<Vec<_>>()
        };
        assert_eq!(messages(&steps[3], "sent"), messages(&client, "received"));
        let sent = messages(&client, "sent");
        assert_eq!(
            messages(&steps[3], "received"),
            sent[1..],
            "less the request"
        );
        assert!((steps[3].epoch_unix_s - client.epoch_unix_s).abs() < 600.0);
    }
}

#[test]
fn a_network_without_relus_has_linear_operations_only() {
    let (steps, _) = observed(0, OutputMode::Logits);
    assert_eq!(steps.len(), 4);
    let names: Vec<_> = steps[2].operations_s.keys().collect();
    assert_eq!(names, ["input", "linear", "output", "truncate"]);
    assert!(
        !steps[1].operations_s.contains_key("garble"),
        "{:?}",
        steps[1]
    );
}
