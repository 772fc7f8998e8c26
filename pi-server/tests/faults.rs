//! Links that break, alter, stall and drip; many sessions on few cores; models that change under load. A session may be lost,
//! which its client is told; the server never is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{TestServer, http, image};
use pi_client::blocking::Client;
use pi_client::{ClientError, ConnectOptions};
use pi_model::spec::OutputMode;
use pi_server::{AdminListen, Mode, RootOptions};

/// Times matter here, so that each test has the machine to itself.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a link does to the bytes of one direction once `after` of them have passed.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Closes both directions.
    Drop { after: usize },
    /// Alters one bit, once.
    Flip { after: usize },
    /// Passes nothing more and stays open.
    Silence { after: usize },
    /// Passes all, a little at a time.
    Drip,
}

/// A link to `server` with a fault in the direction up or down; ends with the process.
fn link(server: SocketAddr, up: bool, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let far = TcpStream::connect(server).unwrap();
            for (faulty, from, to) in [(up, &near, &far), (!up, &far, &near)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || pass(from, to, faulty.then_some(fault)));
            }
        }
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, fault: Option<Fault>) {
    let mut buffer = [0; 4096];
    let mut n_passed = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(n) if n > 0 => n,
            _ => break,
        };
        let bytes = &mut buffer[..n];
        let here = |after: usize| (n_passed..n_passed + n).contains(&after);
        match fault {
            Some(Fault::Drop { after }) if here(after) => break,
            Some(Fault::Flip { after }) if here(after) => bytes[after - n_passed] ^= 4,
            Some(Fault::Silence { after }) if n_passed + n > after => {
                n_passed += n;
                continue;
            }
            Some(Fault::Drip) => std::thread::sleep(Duration::from_micros(500)),
            _ => {}
        }
        n_passed += n;
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    // Either end may be gone already.
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn once(server: &TestServer, options: ConnectOptions) -> Result<(), ClientError> {
    let client = Client::connect(options)?;
    let mut session = client.session(&client.describe(None)?, 1)?;
    session.infer(&image(&server.model, 1))?;
    session.close().map(drop)
}

fn admin() -> AdminListen {
    AdminListen::At(([127, 0, 0, 1], 0).into())
}

/// The value of a line of `/metrics`.
fn metric(server: &TestServer, line: &str) -> u64 {
    let (_, text) = http(server.admin.unwrap(), "GET", "/metrics");
    let found = text
        .lines()
        .find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("{line} is not in\n{text}"))
}

/// Offsets in the greeting, in set-up, and in the offline and online phases of a session of 0.39 MB up and 0.26 MB down.
const OFFSETS: [usize; 5] = [30, 3000, 60_000, 150_000, 240_000];

#[test]
fn a_link_that_breaks_or_alters_ends_its_session_with_an_error_and_no_other() {
    let _alone = alone();
    let tls = tempfile::tempdir().unwrap();
    let tls = common::certificate(tls.path());
    let protected = TestServer::with(OutputMode::Logits, |o| {
        o.tls = Some(tls.clone());
        o.limits.idle_timeout = Duration::from_secs(3);
    });
    let plain = TestServer::with(OutputMode::Logits, |o| {
        o.admin = admin();
        o.limits.idle_timeout = Duration::from_secs(3);
    });
    let mut n_lost = 0;
    for after in OFFSETS {
        for up in [true, false] {
            // Under TLS no alteration passes.
            for fault in [Fault::Drop { after }, Fault::Flip { after }] {
                let port = link(protected.address, up, fault).port();
                let options = ConnectOptions {
                    idle_timeout: Duration::from_secs(4),
                    ..ConnectOptions::new(format!("https://localhost:{port}"))
                };
                let outcome = once(&protected, options.with_ca(&tls.certificate));
                let error = outcome.expect_err(&format!("{fault:?}"));
                assert!(!error.to_string().is_empty());
            }
            // Without it the altered bit reaches the decoders: an error or another answer, and never a panic.
            let port = link(plain.address, up, Fault::Flip { after }).port();
            let options = ConnectOptions {
                idle_timeout: Duration::from_secs(4),
                ..ConnectOptions::new(format!("http://localhost:{port}"))
            };
            n_lost += usize::from(once(&plain, options).is_err());
        }
    }
    assert!(n_lost > 0, "no alteration was noticed");
    assert_eq!(metric(&plain, "pi_sessions_total{outcome=\"panicked\"}"), 0);
    plain.assert_serves();
    let options = ConnectOptions::new(&protected.url).with_ca(&tls.certificate);
    once(&protected, options).unwrap();
}

#[test]
fn a_link_that_goes_silent_costs_the_idle_timeout_and_one_that_drips_only_time() {
    let _alone = alone();
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.limits.max_sessions = 1;
        o.limits.idle_timeout = Duration::from_secs(2);
        o.limits.queue_timeout = Duration::from_secs(15);
    });
    let through = |up, fault| {
        let port = link(server.address, up, fault).port();
        let options = ConnectOptions {
            idle_timeout: Duration::from_secs(3),
            ..ConnectOptions::new(format!("http://localhost:{port}"))
        };
        once(&server, options)
    };
    for up in [true, false] {
        through(up, Fault::Silence { after: 60_000 }).unwrap_err();
        // There is one place; the next session gets it, for which it may wait.
        through(up, Fault::Drip).unwrap();
    }
}

#[test]
fn who_waits_for_a_place_gets_it_and_no_more_wait_than_may_run() {
    let _alone = alone();
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.limits.max_sessions = 1;
        o.limits.queue_timeout = Duration::from_secs(20);
        o.admin = admin();
    });
    let client = server.connect();
    let description = client.describe(None).unwrap();
    let first = client.session(&description, 1).unwrap();
    let (waited, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let session = server.connect().session(&description, 1);
            waited.send(()).unwrap();
            session.map(drop)
        });
        let patience = Instant::now() + Duration::from_secs(10);
        while metric(&server, "pi_sessions_waiting") == 0 {
            assert!(Instant::now() < patience);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(metric(&server, "pi_sessions_active"), 1);
        // One may wait, because one may run; the next is refused at once.
        let refused = server.connect().session(&description, 1).map(drop);
        assert!(refused.unwrap_err().to_string().contains("in use"));
        assert!(told.try_recv().is_err());
        first.close().unwrap();
        waits.join().unwrap().unwrap();
    });
    assert!(metric(&server, "pi_queue_seconds_count") >= 3);
}

#[test]
fn sixty_four_sessions_at_once_all_make_progress() {
    let _alone = alone();
    const SESSIONS: usize = 64;
    const EACH: usize = 3;
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.limits.max_sessions = SESSIONS;
        // Each has 48 MiB for queues alone, which it is not going to use.
        o.limits.session_bytes = 8 << 30;
        o.limits.idle_timeout = Duration::from_secs(60);
        o.admin = admin();
    });
    let clients: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    let description = clients[0].describe(None).unwrap();
    let (open, done) = (Barrier::new(SESSIONS), AtomicBool::new(false));
    let progress: Vec<AtomicUsize> = (0..SESSIONS).map(|_| AtomicUsize::new(0)).collect();
    let slowest = || {
        progress
            .iter()
            .map(|n| n.load(Ordering::Relaxed))
            .min()
            .unwrap()
    };
    std::thread::scope(|scope| {
        for (i, mine) in progress.iter().enumerate() {
            let (client, description, server) = (&clients[i % 4], &description, &server);
            let (open, done, slowest) = (&open, &done, &slowest);
            scope.spawn(move || {
                let mut session = client.session(description, 1).unwrap();
                open.wait();
                while !done.load(Ordering::Relaxed) {
                    session.infer(&image(&server.model, i)).unwrap();
                    mine.fetch_add(1, Ordering::Relaxed);
                    if slowest() >= EACH {
                        done.store(true, Ordering::Relaxed);
                    }
                }
                session.close().unwrap();
            });
        }
    });
    let fastest = progress
        .iter()
        .map(|n| n.load(Ordering::Relaxed))
        .max()
        .unwrap();
    assert!(
        fastest <= 20 * EACH,
        "{fastest} inferences while another session made {EACH}"
    );
    assert_eq!(metric(&server, "pi_sessions_total{outcome=\"failed\"}"), 0);
    // Client and server together: what a session holds is bounded, and 64 hold 64 times that.
    let resident = metric(&server, "process_resident_memory_bytes");
    assert!(resident < 1 << 30, "{resident} bytes are resident");
}

#[test]
fn models_that_change_under_load_lose_no_session() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model = common::model("small", OutputMode::Logits);
    model.save(&dir.path().join("small/1")).unwrap();
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.models.clear();
        o.limits.max_sessions = 8;
        o.admin = admin();
        o.repository = Some(RootOptions {
            path: dir.path().to_owned(),
            mode: Mode::Poll,
            interval: Duration::from_millis(20),
            load: vec![],
            versions: Default::default(),
        });
    });
    let done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut n = 0;
                    while !done.load(Ordering::Relaxed) {
                        once(&server, ConnectOptions::new(&server.url)).unwrap();
                        n += 1;
                    }
                    n
                })
            })
            .collect();
        for version in 2..=6 {
            let copied = dir.path().join("copied");
            model.save(&copied).unwrap();
            std::fs::rename(&copied, dir.path().join(format!("small/{version}"))).unwrap();
            let patience = Instant::now() + Duration::from_secs(20);
            let serving = format!("\"version\":{version}");
            while !http(server.admin.unwrap(), "GET", "/readyz")
                .1
                .contains(&serving)
            {
                assert!(
                    Instant::now() < patience,
                    "version {version} does not serve"
                );
                std::thread::sleep(Duration::from_millis(10));
            }
            let old = dir.path().join(format!("small/{}", version - 1));
            std::fs::remove_dir_all(old).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for load in load {
            assert!(load.join().unwrap() > 0);
        }
    });
    assert_eq!(metric(&server, "pi_sessions_total{outcome=\"failed\"}"), 0);
}
