//! The one meter: bytes, messages, rounds and seconds by (phase, layer, step), as one party sees them.
//!
//! Bytes are the payloads of messages. A *round trip* is one change of direction from the client's messages to the
//! server's, unless what the client goes on with waits for no answer. The latest events are kept in order as well, for a
//! time line; they hold what the totals hold, and no values.
//! The time of day of the first event is kept, so that two processes of one machine can lay their time lines side by side.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::step::Step;
pub use super::step::{Direction, Phase};

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
    /// Computes the named operation, of one layer where it belongs to one.
    Compute(Phase, &'static str, Option<u16>),
    /// Waits for the peer.
    Wait(Phase),
    /// Sends a message of a layer, or has received one whole.
    Message(Step, u16, u64),
}

/// What one party has measured.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    epoch: Option<(Instant, SystemTime)>,
    events: VecDeque<Event>,
    /// Events so far, forgotten ones too.
    n_events: u64,
    traffic: BTreeMap<(Step, u16), Traffic>,
    work: BTreeMap<u16, Work>,
    seconds: BTreeMap<(Phase, &'static str, Option<u16>), f64>,
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
        // The first flights of the offline phase overlap on the wire: a response is followed by the next source. What
        // counts is who waits for whom, and no source waits for a response.
        let overlaps = matches!(
            step,
            Step::HeNoise | Step::HeCorrections | Step::LabelBase | Step::DigitBase
        ) && self.last == Some((Phase::Offline, Direction::Down));
        if now.1 == Direction::Down && self.last.is_none_or(|last| last.1 == Direction::Up) {
            *self.round_trips.entry(now.0).or_default() += 1;
        }
        if !overlaps {
            self.last = Some(now);
        }
        self.event(
            Instant::now(),
            Duration::ZERO,
            Activity::Message(step, layer, n_bytes as u64),
        );
    }

    fn event(&mut self, end: Instant, duration: Duration, activity: Activity) {
        let start = end.checked_sub(duration).unwrap_or(end);
        let (epoch, _) = *self.epoch.get_or_insert_with(|| {
            let day = SystemTime::now();
            (start, day.checked_sub(start.elapsed()).unwrap_or(day))
        });
        self.n_events += 1;
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
        self.book(phase, operation, None, body)
    }

    /// As [`Self::time`], for an operation of one layer.
    pub fn time_of_layer<T>(
        &mut self,
        phase: Phase,
        operation: &'static str,
        layer: usize,
        body: impl FnOnce() -> T,
    ) -> T {
        self.book(phase, operation, Some(layer as u16), body)
    }

    fn book<T>(
        &mut self,
        phase: Phase,
        operation: &'static str,
        layer: Option<u16>,
        body: impl FnOnce() -> T,
    ) -> T {
        let started = Instant::now();
        let result = body();
        let end = Instant::now();
        let taken = end - started;
        let entry = self.seconds.entry((phase, operation, layer)).or_default();
        *entry += taken.as_secs_f64();
        self.event(end, taken, Activity::Compute(phase, operation, layer));
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

    /// Events that [`Self::events`] no longer has.
    #[must_use]
    pub fn n_forgotten(&self) -> u64 {
        self.n_events - self.events.len() as u64
    }

    /// Seconds from 1970 to the first event, by the machine's clock at that event; zero before it.
    #[must_use]
    pub fn epoch_unix_s(&self) -> f64 {
        let since = |(_, day): (_, SystemTime)| day.duration_since(SystemTime::UNIX_EPOCH).ok();
        self.epoch.and_then(since).map_or(0.0, |d| d.as_secs_f64())
    }

    /// Seconds from the first event to now; zero before it.
    #[must_use]
    pub fn now_s(&self) -> f64 {
        self.epoch
            .map_or(0.0, |(first, _)| first.elapsed().as_secs_f64())
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
    pub fn seconds(&self) -> impl Iterator<Item = (Phase, &'static str, f64)> + use<> {
        let mut sums: BTreeMap<(Phase, &'static str), f64> = BTreeMap::new();
        for (&(phase, operation, _), s) in &self.seconds {
            *sums.entry((phase, operation)).or_default() += s;
        }
        sums.into_iter()
            .map(|((phase, operation), s)| (phase, operation, s))
    }

    /// Seconds of computation by (phase, operation, layer), without operations that belong to no layer.
    pub fn seconds_by_layer(&self) -> impl Iterator<Item = (Phase, &'static str, u16, f64)> + '_ {
        self.seconds
            .iter()
            .filter_map(|(&(phase, operation, layer), &s)| Some((phase, operation, layer?, s)))
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

    /// The totals so far without the events: what [`Self::since`] needs, and cheap to take.
    #[must_use]
    pub fn mark(&self) -> Self {
        Self {
            epoch: self.epoch,
            events: VecDeque::new(),
            n_events: self.n_events,
            traffic: self.traffic.clone(),
            work: self.work.clone(),
            seconds: self.seconds.clone(),
            waited: self.waited.clone(),
            round_trips: self.round_trips.clone(),
            last: self.last,
        }
    }

    /// What was measured since `earlier`, a clone or a mark of this ledger. The clock is this ledger's.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut rest = self.clone();
        rest.n_events -= earlier.n_events;
        let n_older = (rest.events.len() as u64).saturating_sub(rest.n_events);
        rest.events.drain(..n_older as usize);
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
        assert_eq!(ledger.n_forgotten(), 4);
    }

    #[test]
    fn since_has_what_came_later_and_keeps_the_clock() {
        let mut ledger = Ledger::default();
        ledger.time_of_layer(Phase::Offline, "garble", 1, || ());
        ledger.message(Step::Tables, 1, 32);
        let mark = ledger.mark();
        let between = ledger.now_s();
        ledger.time_of_layer(Phase::Online, "linear", 2, || {
            std::thread::sleep(Duration::from_millis(2));
        });
        ledger.time(Phase::Online, "linear", || ());
        for earlier in [mark, ledger.since(&Ledger::default())] {
            let n = ledger.n_events - earlier.n_events;
            let step = ledger.since(&earlier);
            assert_eq!((step.events().count() as u64, step.n_forgotten()), (n, 0));
            assert_eq!(step.traffic().count(), 0);
            assert_eq!(step.epoch_unix_s(), ledger.epoch_unix_s());
        }
        let all = ledger.since(&Ledger::default());
        assert_eq!(all.events().count(), 4);
        let later: Vec<f64> = all.events().map(|e| e.start_s).skip(2).collect();
        assert!(later[0] >= between, "{later:?} {between}");
        let layers: Vec<_> = all.seconds_by_layer().map(|(.., l, _)| l).collect();
        assert_eq!(layers, [1, 2]);
        let sums: Vec<_> = all.seconds().map(|(_, what, s)| (what, s)).collect();
        assert_eq!(sums.len(), 2);
        assert!(sums[1].1 >= 2e-3, "{sums:?}");
        assert!(ledger.epoch_unix_s() > 1.7e9 && ledger.now_s() >= 2e-3);
    }
}
