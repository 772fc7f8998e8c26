//! The two processes of a measurement: pi-server, and this program as the client. Both die with the value that holds them;
//! the server also stops by itself when this process is gone, because its standard input closes then.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use pi_protocol::ledger::Phase;
use pi_protocol::record::StepRecord;
use pi_protocol::session::GarblingMode;
use pi_protocol::session::OtMode;
use pi_protocol::session::SessionOptions;

use crate::error::{BenchError, failed};
use crate::host;
use crate::network::{NetworkInfo, Shaping};
use crate::server_ledger::ServerLedger;
use crate::shaper;
use crate::subject::Subject;
use crate::worker::{Answer, Order, Sample};

/// Set by Ctrl-C; looked at wherever this program waits.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Longest time for one order: all ReLUs of ResNet-18 over the slowest network fit.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Longest time from a client's end of a step to the server's: the last messages' time on the wire.
const FINISH_PATIENCE: Duration = Duration::from_secs(120);

/// Makes Ctrl-C and SIGTERM set [`INTERRUPTED`] in place of ending the process.
pub fn watch_signals() {
    std::thread::spawn(|| {
        use tokio::signal::unix::{SignalKind, signal};
        // Without this thread Ctrl-C ends the process at once, and the last saved report stands.
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        else {
            return;
        };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ) else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            INTERRUPTED.store(true, Ordering::SeqCst);
        });
    });
}

/// The two programs of a measurement, of one build.
#[derive(Clone, Debug)]
pub struct Build {
    /// pi-server.
    pub server: PathBuf,
    /// pi-bench, for the client and the proxy between namespaces.
    pub bench: PathBuf,
}

impl Build {
    /// This program, and the pi-server beside it; that is built now if it is not there.
    ///
    /// # Errors
    /// [`BenchError::Process`] when it is not there and cannot be built.
    pub fn here() -> Result<Self, BenchError> {
        let bench = std::env::current_exe().map_err(|e| failed("server", e))?;
        let server = bench.with_file_name("pi-server");
        if !server.exists() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.args(["build", "-q", "-p", "pi-server"]);
            if !cfg!(debug_assertions) {
                command.arg("--release");
            }
            // A failure shows in the file that is still not there.
            let _ = command.status();
        }
        if server.exists() {
            return Ok(Self { server, bench });
        }
        Err(failed(
            "server",
            "pi-server is not beside pi-bench and could not be built; run cargo build -p pi-server",
        ))
    }

    /// Another build's programs, in `folder`.
    ///
    /// # Errors
    /// [`BenchError::Process`] when one of them is not there.
    pub fn in_folder(folder: &Path) -> Result<Self, BenchError> {
        let program = |name: &str| {
            let path = folder.join(name);
            let there = path.is_file().then_some(path);
            there.ok_or_else(|| {
                failed(
                    "baseline",
                    format!(
                        "{} has no {name}; it needs another build's pi-server and pi-bench",
                        folder.display()
                    ),
                )
            })
        };
        Ok(Self {
            server: program("pi-server")?,
            bench: program("pi-bench")?,
        })
    }
}

/// A child that is killed and waited for.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `program`, inside the namespace of the given party if the network has any.
fn command(network: &NetworkInfo, party: &str, program: &Path) -> Command {
    if network.shaping != Shaping::Namespaces {
        return Command::new(program);
    }
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &format!("pi-bench-{party}")])
        .arg(program);
    command
}

/// Starts `command` and reads the address of its first line, "listening on ADDRESS".
fn start_listening(mut command: Command, log: &Path) -> Result<(Owned, SocketAddr), BenchError> {
    let file = std::fs::File::create(log).map_err(BenchError::file(log))?;
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .map_err(|e| failed("server", e))?;
    let mut child = Owned(child);
    let mut line = String::new();
    if let Some(stdout) = child.0.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(|e| failed("server", e))?;
    }
    let address = line
        .trim()
        .strip_prefix("listening on ")
        .and_then(|a| a.parse().ok());
    match address {
        Some(address) => Ok((child, address)),
        None => {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            Err(failed(
                "server",
                format!("it did not start: {}", said.trim()),
            ))
        }
    }
}

/// A running pi-server, and the network in front of it.
pub struct Server {
    child: Owned,
    proxy: Option<Owned>,
    /// None where the build's server knows no ledger.
    ledger: Option<ServerLedger>,
    /// Where clients connect.
    pub address: SocketAddr,
}

impl Server {
    /// Starts pi-server with one model behind `network`; its log goes to `log`, its ledger beside it.
    ///
    /// # Errors
    /// [`BenchError::Process`] with what the server said.
    pub fn start(
        build: &Build,
        subject: &Subject,
        network: &NetworkInfo,
        max_batch: usize,
        max_sessions: usize,
        log: &Path,
    ) -> Result<Self, BenchError> {
        let mut server = command(network, "server", &build.server);
        let listen = if network.shaping == Shaping::Namespaces {
            "10.77.0.1:0"
        } else {
            "127.0.0.1:0"
        };
        // Sessions that take their samples in turn are silent for long.
        server.args([
            "serve",
            "--stop-at-eof",
            "--idle-timeout",
            "1800s",
            "--listen",
            listen,
        ]);
        server.args(["--max-batch", &max_batch.to_string()]);
        server.args(["--max-sessions", &max_sessions.to_string()]);
        server.arg("--model").arg(&subject.dir);
        if subject.options.ot == OtMode::Silent {
            server.arg("--silent-ot");
        }
        let mut ledger = None;
        if ServerLedger::is_known_to(&build.server) {
            let path = log.with_extension("ledger.jsonl");
            ledger = Some(ServerLedger::create(&path)?);
            server.arg("--ledger").arg(path);
        }
        let (child, server_address) = start_listening(server, log)?;
        let (address, proxy) = match network.shaping {
            Shaping::Loopback => (server_address, None),
            Shaping::Proxy => (shaper::start(network, server_address)?, None),
            Shaping::Namespaces => {
                let mut proxy = command(network, "client", &build.bench);
                proxy.args([
                    "delay",
                    "--network",
                    &network.name,
                    "--to",
                    &server_address.to_string(),
                ]);
                let (proxy, address) = start_listening(proxy, &log.with_extension("proxy.log"))?;
                (address, Some(proxy))
            }
        };
        Ok(Self {
            child,
            proxy,
            ledger,
            address,
        })
    }

    /// Waits until the server has finished the step of `phase` that a client has just done, and returns what it has
    /// measured of it; none where it knows no ledger.
    ///
    /// # Errors
    /// [`BenchError::Process`] when it says nothing, [`BenchError::Interrupted`].
    pub fn finished(&mut self, phase: Phase) -> Result<Option<StepRecord>, BenchError> {
        let Some(ledger) = &mut self.ledger else {
            return Ok(None);
        };
        let started = Instant::now();
        loop {
            match ledger.poll()? {
                Some(step) if step.phase == phase => return Ok(Some(step)),
                Some(_) => continue,
                None => {}
            }
            if INTERRUPTED.load(Ordering::SeqCst) {
                return Err(BenchError::Interrupted);
            }
            let ended = self.child.0.try_wait().map_err(|e| failed("server", e))?;
            if let Some(status) = ended {
                return Err(failed("server", format!("it ended: {status}")));
            }
            if started.elapsed() > FINISH_PATIENCE {
                return Err(failed(
                    "server",
                    format!("its ledger has no line after {FINISH_PATIENCE:?}"),
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// CPU seconds so far.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        host::cpu_seconds(self.child.0.id())
    }

    /// CPU seconds of the proxy, where it is a process of its own.
    #[must_use]
    pub fn proxy_cpu_seconds(&self) -> f64 {
        self.proxy
            .as_ref()
            .map_or(0.0, |p| host::cpu_seconds(p.0.id()))
    }

    /// Peak resident memory so far.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        host::peak_memory(self.child.0.id())
    }
}

/// A running client.
pub struct Client {
    child: Owned,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Client {
    /// Starts pi-bench as a client of the server at `address`.
    ///
    /// # Errors
    /// [`BenchError::Process`].
    pub fn start(
        build: &Build,
        network: &NetworkInfo,
        address: SocketAddr,
        subject: &Subject,
        batch: usize,
    ) -> Result<Self, BenchError> {
        let mut client = command(network, "client", &build.bench);
        client
            .args(["client-worker", "--url", &format!("http://{address}")])
            .args(["--batch", &batch.to_string()])
            .arg("--model")
            .arg(&subject.dir);
        // Another build may not know an argument; the defaults need none.
        let SessionOptions { ot, garbling } = subject.options;
        if ot != OtMode::default() {
            client.args(["--ot", ot.name()]);
        }
        if garbling != GarblingMode::default() {
            client.args(["--garbling", garbling.name()]);
        }
        let mut child = client
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map(Owned)
            .map_err(|e| failed("client", e))?;
        let pipes = child.0.stdin.take().zip(child.0.stdout.take());
        let (orders, stdout) = pipes.ok_or_else(|| failed("client", "no pipes"))?;
        let (to_us, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if to_us.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            orders,
            answers,
        })
    }

    /// Sends an order and waits for its sample.
    ///
    /// # Errors
    /// [`BenchError::Process`] with what the client said, [`BenchError::Interrupted`].
    pub fn obey(&mut self, order: Order) -> Result<Sample, BenchError> {
        self.tell(order)?;
        self.answer()
    }

    /// Sends an order.
    ///
    /// # Errors
    /// [`BenchError::Process`] when the client is gone.
    pub fn tell(&mut self, order: Order) -> Result<(), BenchError> {
        let line = serde_json::to_string(&order).map_err(|e| failed("client", e))?;
        // A client that is gone has said why; `answer` reads it.
        let _ = writeln!(self.orders, "{line}");
        Ok(())
    }

    /// Waits for the sample of the last order.
    ///
    /// # Errors
    /// [`BenchError::Process`] with what the client said, [`BenchError::Interrupted`].
    pub fn answer(&mut self) -> Result<Sample, BenchError> {
        let started = Instant::now();
        loop {
            if INTERRUPTED.load(Ordering::SeqCst) {
                return Err(BenchError::Interrupted);
            }
            match self.answers.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    return match serde_json::from_str(&line).map_err(|e| failed("client", e))? {
                        Answer::Done(sample) => Ok(*sample),
                        Answer::Failed(reason) => Err(failed("client", reason)),
                    };
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed("client", "it ended without an answer"));
                }
                Err(RecvTimeoutError::Timeout) if started.elapsed() > PATIENCE => {
                    return Err(failed("client", format!("no answer for {PATIENCE:?}")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// CPU seconds so far.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        host::cpu_seconds(self.child.0.id())
    }
}
