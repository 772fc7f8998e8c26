//! What one party measured in one step of a session, as plain data: to write down, to send, and to lay beside the other
//! party's. Step by step: set-up, one offline batch, one inference.
//!
//! Security: counts, sizes, times and names of operations, all of which the peer or an observer of the wire could know or
//! time as well; no value, no share, no key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ledger::{Activity, Event, Ledger};
use super::step::{Direction, Phase, Step};

/// Whose clock, whose computations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// It has the input.
    #[default]
    Client,
    /// It has the model.
    Server,
}

/// One finished step of one party.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Who measured.
    pub party: Party,
    /// What kind of step: set-up, a batch, an inference.
    pub phase: Phase,
    /// The batch, from 1; zero for set-up.
    pub batch: u32,
    /// The inference in its batch; none for other steps.
    pub index: Option<u16>,
    /// Time of day, in seconds from 1970, of the zero of every `start_s` here.
    pub epoch_unix_s: f64,
    /// When the step began.
    pub start_s: f64,
    /// From its begin to its end: computation, waiting, and the rest, which is mostly handing messages over.
    pub seconds: f64,
    /// Waiting for the peer's messages.
    pub waited_s: f64,
    /// Computation by operation.
    pub operations_s: BTreeMap<String, f64>,
    /// The part of it that belongs to single layers.
    pub layers_s: Vec<LayerSeconds>,
    /// Changes of direction from client to server.
    pub round_trips: u64,
    /// Messages by kind and layer.
    pub traffic: Vec<TrafficRecord>,
    /// What happened, in order.
    pub events: Vec<EventRecord>,
    /// Older events of this step, which were forgotten.
    pub events_forgotten: u64,
}

/// Computation for one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSeconds {
    /// Index of the layer.
    pub layer: u16,
    /// Name of the operation.
    pub operation: String,
    /// Its time.
    pub seconds: f64,
}

/// Messages of one kind of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficRecord {
    /// Name of the kind of message.
    pub step: String,
    /// Index of the layer; zero where there is none.
    pub layer: u16,
    /// `c2s` or `s2c`.
    pub direction: String,
    /// Payload.
    pub bytes: u64,
    /// How many.
    pub messages: u64,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// compute, wait, sent or received.
    pub kind: String,
    /// Operation or kind of message; empty for a wait.
    pub what: String,
    /// Index of the layer, where there is one.
    pub layer: Option<u16>,
    /// Payload of a message.
    pub bytes: u64,
    /// When it began.
    pub start_s: f64,
    /// How long it took; zero for messages, which are noted when they are handed over and when they are whole.
    pub seconds: f64,
}

impl StepRecord {
    /// What `ledger`, which holds one step alone, has of `phase`. Place and duration of the step are left at zero.
    #[must_use]
    pub fn new(ledger: &Ledger, phase: Phase, party: Party) -> Self {
        let seconds = ledger.seconds().filter(|(p, ..)| *p == phase);
        let by_layer = ledger.seconds_by_layer().filter(|(p, ..)| *p == phase);
        let traffic = ledger.traffic();
        let traffic = traffic.filter(|(step, ..)| step.phase() == phase && *step != Step::Request);
        Self {
            party,
            phase,
            batch: 0,
            index: None,
            epoch_unix_s: ledger.epoch_unix_s(),
            start_s: 0.0,
            seconds: 0.0,
            waited_s: ledger.seconds_waited(phase),
            operations_s: seconds.map(|(_, what, s)| (what.to_owned(), s)).collect(),
            layers_s: by_layer
                .map(|(_, operation, layer, seconds)| LayerSeconds {
                    layer,
                    operation: operation.to_owned(),
                    seconds,
                })
                .collect(),
            round_trips: ledger.round_trips(phase),
            traffic: traffic
                .map(|(step, layer, traffic)| TrafficRecord {
                    step: step.name().to_owned(),
                    layer,
                    direction: match step.direction() {
                        Direction::Up => "c2s",
                        Direction::Down => "s2c",
                    }
                    .to_owned(),
                    bytes: traffic.n_bytes,
                    messages: traffic.n_messages,
                })
                .collect(),
            events: ledger
                .events()
                .map(|e| EventRecord::new(e, party))
                .collect(),
            events_forgotten: ledger.n_forgotten(),
        }
    }
}

impl EventRecord {
    fn new(event: &Event, party: Party) -> Self {
        let (kind, what, layer, bytes) = match event.activity {
            Activity::Compute(_, operation, layer) => ("compute", operation, layer, 0),
            Activity::Wait(_) => ("wait", "", None, 0),
            Activity::Message(step, layer, bytes) => {
                let sender = match step.direction() {
                    Direction::Up => Party::Client,
                    Direction::Down => Party::Server,
                };
                let kind = if sender == party { "sent" } else { "received" };
                (kind, step.name(), Some(layer), bytes)
            }
        };
        Self {
            kind: kind.to_owned(),
            what: what.to_owned(),
            layer,
            bytes,
            start_s: event.start_s,
            seconds: event.seconds,
        }
    }
}
