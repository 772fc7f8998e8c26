//! Lanes: one model over one network with one build each, whose two processes live while others take their samples in turn.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pi_protocol::ledger::Phase;

use crate::collect::{Samples, Taken};
use crate::error::{BenchError, failed};
use crate::network::NetworkInfo;
use crate::process::{Build, Client, Server};
use crate::subject::Subject;
use crate::worker::Order;

/// Pause after a batch is prepared, in which a server that does not say so itself ends its part; the time of the bytes on
/// the wire comes on top.
const SETTLE: Duration = Duration::from_millis(100);

/// One model over one network with one build: what takes its samples in turn with others.
#[derive(Clone, Copy)]
pub struct Lane<'a> {
    /// What runs.
    pub subject: &'a Subject,
    /// Between the processes.
    pub network: &'a NetworkInfo,
    /// Whose programs.
    pub build: &'a Build,
    /// Whether the build is the other one.
    pub is_baseline: bool,
}

/// Two processes with a session, and their samples.
pub struct Pair {
    /// The server and its network.
    pub server: Server,
    /// The client.
    pub client: Client,
    /// What was measured.
    pub samples: Samples,
}

impl std::fmt::Display for Lane<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whose = if self.is_baseline { "baseline: " } else { "" };
        let (model, network) = (&self.subject.info.name, &self.network.name);
        write!(f, "{whose}{model} over {network}")
    }
}

impl Lane<'_> {
    /// The error with a hint where the other build may not fit.
    pub fn because(&self, error: &BenchError) -> BenchError {
        if !self.is_baseline {
            return failed("run", error);
        }
        failed(
            "baseline",
            format!(
                "{error} (if its pi-server and pi-bench take other arguments or speak another worker protocol than this \
                 build, they cannot be compared in one run: run each alone and use `pi-bench compare`)"
            ),
        )
    }

    /// Where the server's log goes.
    #[must_use]
    pub fn log(&self, temporary: &Path) -> PathBuf {
        let whose = if self.is_baseline { "baseline-" } else { "" };
        let (model, network) = (&self.subject.info.name, &self.network.name);
        temporary.join(format!("{whose}{model}-{network}.log"))
    }
}

/// A name for a build of which only the program is known.
///
/// # Errors
/// [`BenchError::File`].
pub fn build_name(program: &Path) -> Result<String, BenchError> {
    let bytes = std::fs::read(program).map_err(BenchError::file(program))?;
    let hash = blake3::hash(&bytes).to_hex();
    Ok(format!("another build ({})", &hash[..12]))
}

impl Pair {
    /// Starts both.
    ///
    /// # Errors
    /// [`BenchError::Process`] with what the server said.
    pub fn start(lane: &Lane<'_>, batch: usize, temporary: &Path) -> Result<Self, BenchError> {
        let (build, subject, network) = (lane.build, lane.subject, lane.network);
        let server = Server::start(build, subject, network, batch, 2, &lane.log(temporary))?;
        let client = Client::start(build, network, server.address, subject, batch)?;
        Ok(Self {
            server,
            client,
            samples: Samples::default(),
        })
    }

    /// Obeys one order, and keeps the sample if it counts.
    ///
    /// # Errors
    /// [`BenchError::Process`] with what the client said, [`BenchError::Interrupted`].
    pub fn step(
        &mut self,
        order: Order,
        counts: bool,
        network: &NetworkInfo,
    ) -> Result<(), BenchError> {
        let before = self.server.cpu_seconds();
        let client = self.client.obey(order)?;
        let phase = match order {
            Order::Open => Some(Phase::Setup),
            Order::Prepare => Some(Phase::Offline),
            Order::Infer => Some(Phase::Online),
            Order::Burst(_) => None,
        };
        // Nothing acknowledges the client's last offline messages. They would still be on their way when the inference
        // starts, and it would pay for them: the server says when it has them.
        let server = phase.map(|phase| self.server.finished(phase)).transpose()?;
        let server = server.flatten();
        if server.is_none() && matches!(order, Order::Prepare) {
            let up = client.traffic.iter().filter(|e| e.direction == "c2s");
            let wire = network.wire_seconds(up.map(|e| e.bytes).sum(), 0, 1);
            std::thread::sleep(SETTLE + Duration::from_secs_f64(1.1 * wire));
        }
        let cpu_s_server = self.server.cpu_seconds() - before;
        if counts {
            let taken = Taken {
                client,
                server,
                cpu_s_server,
            };
            self.samples.add(order, taken);
        }
        Ok(())
    }

    /// The error with the last words of the server.
    pub fn because(&self, error: &BenchError, temporary: &Path, lane: &Lane<'_>) -> BenchError {
        let said = std::fs::read_to_string(lane.log(temporary)).unwrap_or_default();
        match said.lines().last() {
            Some(last) => failed("run", format!("{error}; the server's last words: {last}")),
            None => failed("run", error),
        }
    }
}
