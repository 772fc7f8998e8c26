//! Many clients at once, each a process of its own, on one server.
//!
//! Prepared in advance is the load of people who wait for an answer; not prepared is the load of a queue, MLPerf's Offline
//! scenario (Reddi et al., ISCA 2020): all requests are there at the start.

use std::path::Path;
use std::time::Instant;

use crate::error::BenchError;
use crate::network::NetworkInfo;
use crate::process::{Build, Client, Server};
use crate::result::ScaleRun;
use crate::stats::quantile;
use crate::subject::Subject;
use crate::worker::Order;

/// What is asked of the server.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many clients.
    pub clients: usize,
    /// Whether inferences are prepared before the clock starts.
    pub prepared: bool,
    /// Requests of each client.
    pub requests: usize,
    /// Inferences prepared together.
    pub batch: usize,
}

/// Measures one load. Beside it the CPU seconds that its processes have used in all.
///
/// # Errors
/// [`BenchError::Process`] when any of the processes fails, [`BenchError::Interrupted`].
pub fn run(
    build: &Build,
    subject: &Subject,
    network: &NetworkInfo,
    load: &Load,
    temporary: &Path,
) -> Result<(ScaleRun, f64), BenchError> {
    let log = temporary.join("scale.log");
    let server = Server::start(build, subject, network, load.batch, load.clients + 1, &log)?;
    let mut clients = (0..load.clients)
        .map(|_| Client::start(build, network, server.address, subject, load.batch))
        .collect::<Result<Vec<_>, _>>()?;
    let all = |clients: &mut [Client], order: Order| {
        clients.iter_mut().try_for_each(|c| c.tell(order))?;
        clients
            .iter_mut()
            .map(Client::answer)
            .collect::<Result<Vec<_>, _>>()
    };
    all(&mut clients, Order::Open)?;
    // One inference for each client warms both processes up.
    all(&mut clients, Order::Burst(load.batch))?;
    if load.prepared {
        for _ in 0..load.requests.div_ceil(load.batch) {
            all(&mut clients, Order::Prepare)?;
        }
    }
    let before = server.cpu_seconds();
    let started = Instant::now();
    let answers = all(&mut clients, Order::Burst(load.requests))?;
    let seconds = started.elapsed().as_secs_f64();
    let latencies: Vec<f64> = answers.into_iter().flat_map(|s| s.burst).collect();
    let run = ScaleRun {
        model: subject.info.clone(),
        network: network.clone(),
        batch: load.batch,
        ot: subject.options.ot,
        garbling: subject.options.garbling,
        clients: load.clients,
        prepared: load.prepared,
        requests: latencies.len(),
        seconds,
        requests_per_s: latencies.len() as f64 / seconds,
        p50_s: quantile(&latencies, 0.5),
        p90_s: quantile(&latencies, 0.9),
        p99_s: quantile(&latencies, 0.99),
        cpu_s_server: server.cpu_seconds() - before,
        server_peak_bytes: server.peak_memory(),
        foreign_cpu_share: 0.0,
    };
    let all = clients.iter().map(Client::cpu_seconds).sum::<f64>();
    let children_s = all + server.cpu_seconds() + server.proxy_cpu_seconds();
    Ok((run, children_s))
}

/// One line about a load, for the terminal.
#[must_use]
pub fn line(run: &ScaleRun) -> String {
    format!(
        "{:<22} {:>2} clients, {:<12} {:>8.2} requests/s  p50 {:.1} ms  p90 {:.1} ms  p99 {:.1} ms",
        run.model.name,
        run.clients,
        if run.prepared {
            "prepared"
        } else {
            "not prepared"
        },
        run.requests_per_s,
        1e3 * run.p50_s,
        1e3 * run.p90_s,
        1e3 * run.p99_s
    )
}
