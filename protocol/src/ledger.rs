//! The one meter: bytes, messages, rounds and seconds by (phase, layer, step), as one party sees them.
//!
//! Bytes are the payloads of messages. A *round trip* is one change of direction from the client's messages to the
//! server's. The latest events are kept in order as well, for a time line; they hold what the totals hold, and no values.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::wire::Step;

/// The three phases of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Once for a session.
    Setup,
    /// Once for a batch of inferences, before their inputs are known.
    Offline,
    /// Once for an inference.
    Online,
}

/// Who sends: up is client to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

/// Traffic of one kind of message of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Payload bytes.
    pub n_bytes: u64,
    /// Messages.
    pub n_messages: u64,
}

/// Counts of cryptographic work, which a plan predicts exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// AND gates garbled or evaluated.
    pub n_and_gates: u64,
    /// Oblivious transfers used, in either direction.
    pub n_ots: u64,
    /// Ciphertext polynomials sent, in either direction.
    pub n_ciphertexts: u64,
}

/// Events that a ledger keeps; older ones are forgotten.
pub const MAX_EVENTS: usize = 1024;

/// Something that one party did, at its place on the time line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Seconds from the ledger's first event to this one's start.
    pub start_s: f64,
    /// How long it took; zero for a message, whose end is meant.
    pub seconds: f64,
    /// What it was.
    pub activity: Activity,
}

/// What a party does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Computes the named operation.
    Compute(Phase, &'static str),
    /// Waits for the peer.
    Wait(Phase),
    /// Sends a message of a layer, or has received one whole.
    Message(Step, u16, u64),
}

/// What one party has measured.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    epoch: Option<Instant>,
    events: VecDeque<Event>,
    traffic: BTreeMap<(Step, u16), Traffic>,
    work: BTreeMap<u16, Work>,
    seconds: BTreeMap<(Phase, &'static str), f64>,
    waited: BTreeMap<Phase, f64>,
    round_trips: BTreeMap<Phase, u64>,
    last: Option<(Phase, Direction)>,
}

impl Ledger {
    /// Records one message.
    pub fn message(&mut self, step: Step, layer: u16, n_bytes: usize) {
        let entry = self.traffic.entry((step, layer)).or_default();
        entry.n_bytes += n_bytes as u64;
        entry.n_messages += 1;
        let now = (step.phase(), step.direction());
        if now.1 == Direction::Down && self.last.is_none_or(|last| last.1 == Direction::Up) {
            *self.round_trips.entry(now.0).or_default() += 1;
        }
        self.last = Some(now);
        self.event(
            Instant::now(),
            Duration::ZERO,
            Activity::Message(step, layer, n_bytes as u64),
        );
    }

    fn event(&mut self, end: Instant, duration: Duration, activity: Activity) {
        let start = end.checked_sub(duration).unwrap_or(end);
        let epoch = *self.epoch.get_or_insert(start);
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            start_s: start.saturating_duration_since(epoch).as_secs_f64(),
            seconds: duration.as_secs_f64(),
            activity,
        });
    }

    /// Records cryptographic work of a layer.
    pub fn work(&mut self, layer: usize, work: Work) {
        let entry = self.work.entry(layer as u16).or_default();
        entry.n_and_gates += work.n_and_gates;
        entry.n_ots += work.n_ots;
        entry.n_ciphertexts += work.n_ciphertexts;
    }

    /// Runs `body` and books its time under `operation`.
    pub fn time<T>(
        &mut self,
        phase: Phase,
        operation: &'static str,
        body: impl FnOnce() -> T,
    ) -> T {
        let started = Instant::now();
        let result = body();
        let end = Instant::now();
        let taken = end - started;
        *self.seconds.entry((phase, operation)).or_default() += taken.as_secs_f64();
        self.event(end, taken, Activity::Compute(phase, operation));
        result
    }

    /// Records time spent waiting for the peer.
    pub fn waited(&mut self, phase: Phase, time: Duration) {
        *self.waited.entry(phase).or_default() += time.as_secs_f64();
        self.event(Instant::now(), time, Activity::Wait(phase));
    }

    /// The latest [`MAX_EVENTS`] events, the oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// Traffic of every (step, layer) so far.
    pub fn traffic(&self) -> impl Iterator<Item = (Step, u16, Traffic)> + '_ {
        self.traffic
            .iter()
            .map(|(&(step, layer), &t)| (step, layer, t))
    }

    /// Work of every layer so far.
    pub fn work_by_layer(&self) -> impl Iterator<Item = (u16, Work)> + '_ {
        self.work.iter().map(|(&layer, &w)| (layer, w))
    }

    /// Seconds of computation by (phase, operation).
    pub fn seconds(&self) -> impl Iterator<Item = (Phase, &'static str, f64)> + '_ {
        self.seconds
            .iter()
            .map(|(&(phase, operation), &s)| (phase, operation, s))
    }

    /// Seconds spent waiting for the peer in `phase`.
    #[must_use]
    pub fn seconds_waited(&self, phase: Phase) -> f64 {
        self.waited.get(&phase).copied().unwrap_or(0.0)
    }

    /// Payload bytes of `phase` in one direction.
    #[must_use]
    pub fn bytes(&self, phase: Phase, direction: Direction) -> u64 {
        self.traffic()
            .filter(|(step, ..)| step.phase() == phase && step.direction() == direction)
            .map(|(.., t)| t.n_bytes)
            .sum()
    }

    /// Payload bytes of `phase`, both directions.
    #[must_use]
    pub fn total_bytes(&self, phase: Phase) -> u64 {
        self.bytes(phase, Direction::Up) + self.bytes(phase, Direction::Down)
    }

    /// Round trips of `phase`.
    #[must_use]
    pub fn round_trips(&self, phase: Phase) -> u64 {
        self.round_trips.get(&phase).copied().unwrap_or(0)
    }

    /// What was measured since `earlier`, a clone of this ledger.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut rest = self.clone();
        for (key, t) in &earlier.traffic {
            if let Some(entry) = rest.traffic.get_mut(key) {
                entry.n_bytes -= t.n_bytes;
                entry.n_messages -= t.n_messages;
            }
        }
        rest.traffic.retain(|_, t| t.n_messages > 0);
        for (key, w) in &earlier.work {
            if let Some(entry) = rest.work.get_mut(key) {
                entry.n_and_gates -= w.n_and_gates;
                entry.n_ots -= w.n_ots;
                entry.n_ciphertexts -= w.n_ciphertexts;
            }
        }
        for (key, s) in &earlier.seconds {
            if let Some(entry) = rest.seconds.get_mut(key) {
                *entry -= s;
            }
        }
        for (key, s) in &earlier.waited {
            if let Some(entry) = rest.waited.get_mut(key) {
                *entry -= s;
            }
        }
        for (key, n) in &earlier.round_trips {
            if let Some(entry) = rest.round_trips.get_mut(key) {
                *entry -= n;
            }
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_kept_in_order_and_bounded() {
        let mut ledger = Ledger::default();
        for layer in 0..MAX_EVENTS as u16 + 3 {
            ledger.message(Step::Labels, layer, 5);
        }
        ledger.time(Phase::Online, "evaluate", || ());
        assert_eq!(ledger.events().count(), MAX_EVENTS);
        let first = ledger.events().next().unwrap().activity;
        assert_eq!(first, Activity::Message(Step::Labels, 4, 5));
        let starts: Vec<f64> = ledger.events().map(|e| e.start_s).collect();
        assert!(starts.is_sorted(), "{starts:?}");
    }
}
