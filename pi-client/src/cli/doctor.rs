//! The command `doctor`: from the name of the server to a session, step by step, and what a query will take.
//!
//! It spends nothing that can be used once, and counts as some calls and one session of the client's quota.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pi_client::blocking::{Client, Session};
use pi_client::connect::Way;
use pi_client::error::HOLDING;
use pi_client::{ClientError, ConnectOptions, Description};
use pi_model::PublicPlan;
use pi_model::text::shown;
use pi_protocol::cost::Cost;
use pi_protocol::ledger::{Direction, Phase as Part};
use pi_protocol::session::SessionOptions;

use super::args::ServerArgs;
use super::interrupt::{self, Doing};
use super::out;

/// More than this between the clocks makes certificates and tokens fail.
const MAX_SKEW_S: i64 = 60;
/// How often to look whether a session that is held is still there.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The server, if --server is not given.
    #[arg(value_name = "URL", conflicts_with = "server")]
    url: Option<String>,
    /// Name of the model whose latency is predicted; the server's first one if not given.
    #[arg(long)]
    model: Option<String>,
    /// Hold the session open for so many seconds, to see whether something in between cuts long streams.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    hold: u64,
}

fn line(mark: &str, what: &str, text: &str) -> anyhow::Result<()> {
    // It may hold the server's words.
    out::line(&format!("{mark:5}{what:12}{}", shown(text)))
}

fn good(what: &str, text: &str) -> anyhow::Result<()> {
    line("ok", what, text)
}

fn bad(what: &str, text: &str) -> anyhow::Result<()> {
    line("!!", what, text)
}

/// Passes a result on, and prints its error beside the step that it belongs to.
fn step<T>(what: &str, outcome: Result<T, ClientError>) -> anyhow::Result<T> {
    if outcome.is_err() {
        bad(what, "failed, see below")?;
    }
    // This is the doctor: who reads it need not be sent there.
    Ok(outcome.map_err(|error| match error {
        ClientError::Lost {
            url,
            during,
            reason,
            ..
        } => ClientError::Unreachable {
            url,
            reason: format!("{reason} while {during}; something in between may cut streams"),
            tls: false,
        },
        other => other,
    })?)
}

/// Connects and asks once: with TLS, a server tells only then whether it takes this client's certificate.
fn connect(options: ConnectOptions) -> Result<(Client, Duration), ClientError> {
    let started = Instant::now();
    let client = Client::connect(options)?;
    let connected = started.elapsed();
    match client.models() {
        Err(error @ ClientError::Unreachable { .. }) => Err(error),
        // What a server refuses is told at the step that it belongs to.
        _ => Ok((client, connected)),
    }
}

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let _phase = interrupt::during(Doing::Connecting);
    let options = args.server.options(args.url.as_deref())?;
    let url = options.url.clone();
    let rtt = step("TCP", reach(&url, options.connect_timeout))?;
    let tls = url.starts_with("https://");
    let what = if tls { "TLS" } else { "HTTP/2" };
    let (client, connected) = step(what, connect(options))?;
    let seconds = connected.as_secs_f64();
    match tls {
        true => good(
            "TLS",
            &format!("certificate and name are good; connected in {seconds:.3} s"),
        )?,
        false => bad(
            "TLS",
            "none: fine on one machine and in a test, not across a network",
        )?,
    }
    let started = Instant::now();
    let description = step("version", client.describe(args.model.as_deref()))?;
    let described = started.elapsed();
    good(
        "version",
        &format!(
            "server {}, client {}, the same protocol",
            description.server_version,
            env!("CARGO_PKG_VERSION")
        ),
    )?;
    clock(&client)?;
    let rtt = step("round trip", round_trip(&client, rtt))?;
    good("round trip", &format!("{:.1} ms", rtt.as_secs_f64() * 1e3))?;
    let n_bytes = description.model.to_json().len();
    let down = rate(n_bytes, described, rtt);
    let (batch, options) = (1, SessionOptions::default());
    let plan = PublicPlan::with_goal(&description.model, batch, description.packing)?;
    let cost = Cost::with_options(&plan, options)?;
    let started = Instant::now();
    let session = step("session", client.session_with(&description, batch, options))?;
    let setup = started.elapsed();
    let up = rate(
        cost.bytes(Part::Setup, Direction::Up) as usize,
        setup,
        rtt * 2,
    );
    good(
        "session",
        &format!("set up in {:.3} s", setup.as_secs_f64()),
    )?;
    if args.hold > 0 {
        hold(&session, Duration::from_secs(args.hold), &description, &url)?;
    }
    // The checks are done; a server that is gone now changes nothing of them.
    let _ = session.close();
    good(
        "bandwidth",
        &format!(
            "at least {} down, {} up (from {} and {} bytes; computing included)",
            mbit(down),
            mbit(up),
            n_bytes,
            cost.bytes(Part::Setup, Direction::Up)
        ),
    )?;
    prediction(&description, &cost, rtt, [up, down])
}

/// Holds a session open for so long, or until something closes it, and says what became of it.
fn hold(
    session: &Session,
    time: Duration,
    description: &Description,
    url: &str,
) -> anyhow::Result<()> {
    let seconds = watch(session, time)?.as_secs();
    let allowed = description.idle_timeout.as_secs();
    if session.is_alive() {
        return good("stream", &format!("still open after {seconds} s"));
    }
    // The server counts whole seconds, from its last frame on.
    if seconds + 1 >= allowed {
        return bad(
            "stream",
            &format!("closed after {seconds} s; the server allows {allowed} s of silence"),
        );
    }
    bad("stream", &format!("cut after {seconds} s"))?;
    Err(ClientError::Lost {
        url: url.to_owned(),
        during: HOLDING,
        cut: true,
        reason: format!(
            "cut after {seconds} s; something in between closed it, the server allows {allowed} s of silence"
        ),
    }
    .into())
}

/// Waits until the session is over, or for so long, and says how long that was. A terminal sees it go on.
fn watch(session: &Session, time: Duration) -> anyhow::Result<Duration> {
    let bar = ProgressBar::new(time.as_secs()).with_style(
        ProgressStyle::with_template("{msg} {bar:30} {pos} of {len} s")?.progress_chars("=> "),
    );
    bar.set_message("holding a silent stream");
    let started = Instant::now();
    while session.is_alive() && started.elapsed() < time {
        bar.set_position(started.elapsed().as_secs());
        std::thread::sleep(LOOK.min(time.saturating_sub(started.elapsed())));
    }
    bar.finish_and_clear();
    Ok(started.elapsed())
}

/// Connects on the way that a client takes, and measures how long that takes.
fn reach(url: &str, limit: Duration) -> Result<Duration, ClientError> {
    let proxy = match Way::to(url)? {
        Way::Proxied(proxy) => proxy,
        Way::Direct { unused } => {
            if let Some(variable) = unused {
                let why = "is set; this server is reached directly, as is all on this machine, without TLS, or in NO_PROXY";
                let _ = line("--", "proxy", &format!("{variable} {why}"));
            }
            return reach_directly(url, limit);
        }
    };
    let _ = good("proxy", &format!("the way is through {proxy}"));
    let rtt = proxy.reach(url, limit)?;
    let ms = rtt.as_secs_f64() * 1e3;
    let _ = good("TCP", &format!("a tunnel to {url} in {ms:.1} ms"));
    Ok(rtt)
}

/// Resolves the name and connects, and measures how long that takes.
fn reach_directly(url: &str, limit: Duration) -> Result<Duration, ClientError> {
    let address = || ClientError::Address {
        url: url.to_owned(),
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(address)?;
    let authority = rest.split('/').next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let target = match (has_port, scheme) {
        (true, _) => authority.to_owned(),
        (false, "https") => format!("{authority}:443"),
        (false, "http") => format!("{authority}:80"),
        _ => return Err(address()),
    };
    let failed = |e: std::io::Error| ClientError::unreachable(url, &e);
    let started = Instant::now();
    let found: Vec<_> = match target.to_socket_addrs() {
        Ok(found) => found.collect(),
        Err(e) => {
            return Err(ClientError::Unreachable {
                url: url.to_owned(),
                reason: format!("this host name is not known ({e})"),
                tls: false,
            });
        }
    };
    let addresses: Vec<String> = found.iter().map(|a| a.ip().to_string()).collect();
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let _ = good("DNS", &format!("{} in {ms:.1} ms", addresses.join(", ")));
    let mut last = None;
    for address in &found {
        let started = Instant::now();
        match TcpStream::connect_timeout(address, limit.min(Duration::from_secs(5))) {
            Ok(_) => {
                let rtt = started.elapsed();
                let ms = rtt.as_secs_f64() * 1e3;
                let _ = good("TCP", &format!("{address} in {ms:.1} ms"));
                return Ok(rtt);
            }
            Err(e) => last = Some(e),
        }
    }
    Err(last.map_or_else(address, failed))
}

/// The least of some calls, and of the connection before.
fn round_trip(client: &Client, tcp: Duration) -> Result<Duration, ClientError> {
    let mut least = tcp;
    for _ in 0..3 {
        let started = Instant::now();
        client.models()?;
        least = least.min(started.elapsed());
    }
    Ok(least)
}

fn clock(client: &Client) -> anyhow::Result<()> {
    let Some(theirs) = client.server_time()? else {
        return line("--", "clock", "the server does not tell its time");
    };
    let seconds = |t: SystemTime| {
        let since = t.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |d| d.as_secs() as i64)
    };
    let skew = seconds(SystemTime::now()) - seconds(theirs);
    match skew.abs() <= MAX_SKEW_S {
        true => good(
            "clock",
            &format!("within {} s of the server's", skew.abs().max(1)),
        ),
        false => bad(
            "clock",
            &format!(
                "{} s {} the server's: one of them is wrong, and certificates will seem expired or too new",
                skew.abs(),
                if skew > 0 { "ahead of" } else { "behind" }
            ),
        ),
    }
}

/// Bytes a second, delay aside.
fn rate(n_bytes: usize, time: Duration, delay: Duration) -> f64 {
    n_bytes as f64 / time.saturating_sub(delay).as_secs_f64().max(1e-6)
}

fn mbit(bytes_per_second: f64) -> String {
    format!("{:.0} Mbit/s", (bytes_per_second * 8e-6).max(1.0))
}

/// Delay and bytes of the plan; computing comes on top and is not known before it is tried.
fn prediction(
    description: &Description,
    cost: &Cost,
    rtt: Duration,
    [up, down]: [f64; 2],
) -> anyhow::Result<()> {
    let seconds = |phase| {
        rtt.as_secs_f64() * cost.round_trips(phase) as f64
            + cost.bytes(phase, Direction::Up) as f64 / up
            + cost.bytes(phase, Direction::Down) as f64 / down
    };
    let n_bytes = |phase| cost.bytes(phase, Direction::Up) + cost.bytes(phase, Direction::Down);
    let part = |phase| {
        format!(
            "{:.2} s ({} round trips, {})",
            seconds(phase),
            cost.round_trips(phase),
            out::bytes(n_bytes(phase))
        )
    };
    good(
        "a query",
        &format!(
            "of {} spends at most about {} of network online, and {} before; computing comes on top: `pi-client bench` measures it",
            description.model.spec().name,
            part(Part::Online),
            part(Part::Offline)
        ),
    )
}
