//! Who is connected to the gRPC port: how many in all and from each address, and when a connection is of no more use.
//!
//! A connection has [`ConnectionLimits::first_call`] from its first packet to its first call, handshake and preface included,
//! and [`ConnectionLimits::idle`] after its last call where no session runs on it. Where there is no room for one more, one that
//! has not called yet makes room, chosen at random among those of its address if that has its share, else among all; then one
//! without a session; if there is none, the new one is closed.
//!
//! Security: chance, so that a flood of silent connections cannot know which honest handshake it will push out; an address is that of an
//! IPv4 host or of an IPv6 network of 64 bits. File descriptors are kept back, so that the admin port, models and the store find
//! theirs ([`within_descriptors`]).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rand::Rng as _;
use tokio::sync::oneshot;
use tracing::debug;

use crate::options::ConnectionLimits;

/// What is known of one connection's calls.
#[derive(Debug)]
pub struct Life {
    opened: Instant,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    last: Option<Instant>,
    n_sessions: usize,
}

/// A session that keeps its connection open until it is dropped.
#[derive(Debug)]
pub struct Busy(Arc<Life>);

impl Default for Life {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            calls: Mutex::default(),
        }
    }
}

impl Life {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call has come.
    pub fn called(&self) {
        self.calls().last = Some(Instant::now());
    }

    /// A session runs.
    #[must_use]
    pub fn session(self: &Arc<Self>) -> Busy {
        self.calls().n_sessions += 1;
        Busy(Arc::clone(self))
    }

    /// When the connection is of no more use; none while a session runs.
    #[must_use]
    pub fn deadline(&self, limits: &ConnectionLimits) -> Option<Instant> {
        let calls = self.calls();
        match calls.last {
            _ if calls.n_sessions > 0 => None,
            Some(last) => Some(last + limits.idle),
            None => Some(self.opened + limits.first_call),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut calls = self.0.calls();
        calls.n_sessions -= 1;
        calls.last = Some(Instant::now());
    }
}

/// `limits` with no more connections than half of the files that this process may open.
#[must_use]
pub fn within_descriptors(limits: ConnectionLimits) -> ConnectionLimits {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Max open files"));
    let soft = line.and_then(|l| l.split_whitespace().next()?.parse::<usize>().ok());
    let most = soft.map_or(limits.total, |n| n / 2);
    ConnectionLimits {
        total: limits.total.min(most).max(1),
        ..limits
    }
}

/// The connections of one port.
pub struct Door {
    limits: ConnectionLimits,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    n_seen: u64,
    open: HashMap<u64, Guest>,
    by_address: HashMap<IpAddr, usize>,
}

struct Guest {
    address: IpAddr,
    life: Arc<Life>,
    /// Closes it when sent or dropped.
    _close: oneshot::Sender<()>,
}

/// A place inside, free again when this is dropped.
pub struct Place {
    door: Arc<Door>,
    number: u64,
    /// The connection's calls.
    pub life: Arc<Life>,
    /// Ends when the place is given to another.
    pub closed: oneshot::Receiver<()>,
}

impl Door {
    /// A door with these limits.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            inside: Mutex::default(),
        }
    }

    /// What it was made with.
    #[must_use]
    pub const fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`, if there is one or one can be made.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = host(address);
        let mut inside = self.inside();
        let of_address = inside.by_address.get(&address).copied().unwrap_or(0);
        let made = if of_address >= self.limits.per_address {
            inside.make_room(|guest| guest.address == address)
        } else if inside.open.len() >= self.limits.total {
            inside.make_room(|_| true)
        } else {
            true
        };
        if !made {
            debug!(%address, "no place for another connection");
            return None;
        }
        inside.n_seen += 1;
        let number = inside.n_seen;
        let life = Arc::new(Life::default());
        let (close, closed) = oneshot::channel();
        let guest = Guest {
            address,
            life: Arc::clone(&life),
            _close: close,
        };
        inside.open.insert(number, guest);
        *inside.by_address.entry(address).or_default() += 1;
        Some(Place {
            door: Arc::clone(self),
            number,
            life,
            closed,
        })
    }
}

impl Inside {
    /// Closes one of those that `may` go: who has not called yet, else who has no session.
    fn make_room(&mut self, may: impl Fn(&Guest) -> bool) -> bool {
        let of = |silent: bool| -> Vec<u64> {
            let guests = self.open.iter().filter(|(_, guest)| may(guest));
            let free = guests.filter(|(_, guest)| {
                let calls = guest.life.calls();
                calls.n_sessions == 0 && (calls.last.is_none() || !silent)
            });
            free.map(|(number, _)| *number).collect()
        };
        let mut candidates = of(true);
        if candidates.is_empty() {
            candidates = of(false);
        }
        if candidates.is_empty() {
            return false;
        }
        let chosen = candidates[rand::rng().random_range(0..candidates.len())];
        self.leave(chosen);
        true
    }

    fn leave(&mut self, number: u64) {
        let Some(guest) = self.open.remove(&number) else {
            return;
        };
        if let Some(n) = self.by_address.get_mut(&guest.address) {
            *n -= 1;
            if *n == 0 {
                self.by_address.remove(&guest.address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.inside().leave(self.number);
    }
}

/// What counts as one address: whoever has an IPv6 address has 2^64 of them.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn door(total: usize, per_address: usize) -> Arc<Door> {
        Arc::new(Door::new(ConnectionLimits {
            total,
            per_address,
            ..ConnectionLimits::default()
        }))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_open(place: &mut Place) -> bool {
        place.closed.try_recv() == Err(oneshot::error::TryRecvError::Empty)
    }

    #[test]
    fn an_address_that_has_its_share_makes_room_for_itself_and_pushes_nobody_else_out() {
        let door = door(8, 3);
        let mut other = door.enter(address("10.0.0.1")).unwrap();
        let mut flood: Vec<Place> = vec![];
        for _ in 0..100 {
            flood.push(door.enter(address("10.0.0.2")).unwrap());
        }
        assert!(is_open(&mut other));
        assert_eq!(
            flood
                .iter_mut()
                .filter_map(|p| is_open(p).then_some(()))
                .count(),
            3
        );
        drop(flood);
        assert_eq!(door.inside().by_address.len(), 1);
    }

    #[test]
    fn who_has_called_goes_after_the_silent_and_who_has_a_session_never() {
        let door = door(3, 3);
        let mut silent = door.enter(address("10.0.0.1")).unwrap();
        let mut called = door.enter(address("10.0.0.2")).unwrap();
        called.life.called();
        let busy = door.enter(address("10.0.0.3")).unwrap();
        let session = busy.life.session();
        let more = door.enter(address("10.0.0.4")).unwrap();
        assert!(!is_open(&mut silent) && is_open(&mut called));
        let _more = (more.life.session(), more);
        let last = door.enter(address("10.0.0.5")).unwrap();
        assert!(!is_open(&mut called));
        let _last = (last.life.session(), last);
        assert!(door.enter(address("10.0.0.6")).is_none());
        drop(session);
        assert!(door.enter(address("10.0.0.6")).is_some());
    }

    #[test]
    fn a_connection_lasts_until_its_first_call_then_until_it_is_idle_and_for_its_sessions() {
        let limits = ConnectionLimits {
            first_call: Duration::from_secs(5),
            idle: Duration::from_secs(50),
            ..ConnectionLimits::default()
        };
        let life = Arc::new(Life::default());
        let left = |life: &Life| {
            let deadline = life.deadline(&limits)?;
            Some(deadline.saturating_duration_since(Instant::now()).as_secs())
        };
        assert_eq!(left(&life), Some(4));
        life.called();
        assert_eq!(left(&life), Some(49));
        let session = life.session();
        assert_eq!(left(&life), None);
        drop(session);
        assert_eq!(left(&life), Some(49));
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        assert_eq!(host(address("2001:db8::1")), host(address("2001:db8::2")));
        assert_ne!(
            host(address("2001:db8::1")),
            host(address("2001:db8:0:1::1"))
        );
        assert_eq!(host(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }
}
