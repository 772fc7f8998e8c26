//! What an operator grants and where things are: settings that several wings read. Nothing of this crate is used here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use pi_proto::limits::SESSION_QUEUE_BYTES;
use pi_protocol::server::SessionMemory;
use pi_protocol::session::GarblingMode;
use serde::{Deserialize, Serialize};

/// What one server grants to its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions at the same time. Each has a thread, and holds its prepared material in memory.
    pub max_sessions: usize,
    /// A session that is silent for longer is ended.
    pub idle_timeout: Duration,
    /// A step of a session that takes longer is ended, however busy the client is.
    pub phase_timeout: Duration,
    /// Bytes of memory for all sessions together, what is prepared, in work and queued; each session has an equal part.
    pub session_bytes: usize,
    /// Whether clients may make OTs silently, which rests on the hardness of LPN for this server, too.
    pub silent_ot: bool,
    /// How clients may have ReLUs garbled.
    pub garbling: GarblingModes,
    /// How long a session may wait for a place before it is refused; zero refuses it at once.
    pub queue_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 8,
            idle_timeout: Duration::from_secs(60),
            phase_timeout: Duration::from_secs(3600),
            session_bytes: 8 << 30,
            silent_ot: false,
            garbling: GarblingModes::default(),
            queue_timeout: Duration::ZERO,
        }
    }
}

impl Limits {
    /// Inferences that one session may have prepared at the same time, if it prepares them in batches of `batch`: so many that they, one
    /// batch in work and the queues fit its part of the memory. Where even one whole batch does not fit, the largest smaller one.
    #[must_use]
    pub fn max_prepared(&self, memory: SessionMemory, batch: usize) -> usize {
        let share = self.session_bytes / self.max_sessions.max(1);
        let room = share.saturating_sub(SESSION_QUEUE_BYTES);
        let beside_work = room.saturating_sub(batch * memory.in_work) / memory.prepared.max(1);
        if beside_work >= batch {
            beside_work
        } else {
            room / (memory.prepared + memory.in_work).max(1)
        }
    }
}

/// Ways to garble, of all that there are; every one unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GarblingModes([bool; GarblingMode::ALL.len()]);

impl Default for GarblingModes {
    fn default() -> Self {
        Self([true; GarblingMode::ALL.len()])
    }
}

impl GarblingModes {
    /// Those with these names.
    ///
    /// # Errors
    /// A sentence, when a name is none of a mode, or there is no name.
    pub fn named(names: &[String]) -> Result<Self, String> {
        let modes: Result<Vec<GarblingMode>, _> = names.iter().map(|n| n.parse()).collect();
        let modes = modes.map_err(|e| e.to_string())?;
        if modes.is_empty() {
            return Err("it needs at least one mode: half-gates is what clients choose".into());
        }
        Ok(Self(GarblingMode::ALL.map(|mode| modes.contains(&mode))))
    }

    /// Whether `mode` is among them.
    #[must_use]
    pub fn contains(self, mode: GarblingMode) -> bool {
        self.iter().any(|m| m == mode)
    }

    /// Their names.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        self.iter().map(|mode| mode.name().to_owned()).collect()
    }

    fn iter(self) -> impl Iterator<Item = GarblingMode> {
        let all = GarblingMode::ALL.into_iter().zip(self.0);
        all.filter_map(|(mode, is_in)| is_in.then_some(mode))
    }
}

/// How connections are bounded, before anybody is known.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at the same time; never more than half of the files that the process may open.
    pub total: usize,
    /// Of one IPv4 address, or one IPv6 network of 64 bits.
    pub per_address: usize,
    /// From the first packet to the first call, handshakes included.
    pub first_call: Duration,
    /// A connection that has had no call for so long, and has no session, is closed.
    pub idle: Duration,
    /// A connection that is older gets no new calls: its client is told to open another.
    pub age: Duration,
    /// How long a call may take that is no session.
    pub call: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            total: 1024,
            per_address: 256,
            first_call: Duration::from_secs(20),
            idle: Duration::from_secs(300),
            age: Duration::from_secs(3600),
            call: Duration::from_secs(20),
        }
    }
}

/// Certificate chain, private key and authorities of clients, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// With it, clients must have a certificate from one of the authorities in this file.
    pub client_ca: Option<PathBuf>,
}

/// Where the admin port is unless an operator says.
pub const DEFAULT_ADMIN_ADDRESS: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// Where the admin port listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum AdminListen {
    /// Nowhere.
    Off,
    /// There, or the server does not start.
    At(SocketAddr),
    /// There if nobody else is; otherwise nowhere, with a warning.
    IfFree(SocketAddr),
}

impl FromStr for AdminListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .map(Self::At)
                .map_err(|_| format!("'{text}' is neither an address like 127.0.0.1:9090 nor off")),
        }
    }
}

impl TryFrom<String> for AdminListen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<AdminListen> for String {
    fn from(listen: AdminListen) -> Self {
        match listen {
            AdminListen::Off => "off".into(),
            AdminListen::At(address) | AdminListen::IfFree(address) => address.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_prepared_and_in_work_fits_a_sessions_part() {
        let memory = SessionMemory {
            prepared: 10 << 20,
            in_work: 15 << 20,
        };
        for mib in (0..3000).step_by(50) {
            let limits = Limits {
                max_sessions: 2,
                session_bytes: (2 * mib) << 20,
                ..Limits::default()
            };
            for batch in [1, 4, 16] {
                let most = limits.max_prepared(memory, batch);
                let in_work = batch.min(most) * memory.in_work;
                let queues = if most == 0 { 0 } else { SESSION_QUEUE_BYTES };
                assert!(most * memory.prepared + in_work + queues <= mib << 20);
                // One more would not fit.
                let more = (most + 1) * memory.prepared + batch.min(most + 1) * memory.in_work;
                assert!(more + SESSION_QUEUE_BYTES > mib << 20);
            }
        }
    }
}
