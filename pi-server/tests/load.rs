//! A server under load, as a process of its own: clients that take all they may, beside strangers that hold connections, half-sent
//! messages and a flood. What the clients ask for is answered, health is told, and memory stays within what was set.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use common::stranger::{DATA, Stranger, frame};
use pi_client::blocking::Client;
use pi_client::{ConnectOptions, Token};
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;
use pi_protocol::session::SessionOptions;

const CLIENTS: usize = 4;
/// `--prepared-memory`, in MiB.
const MEMORY: u64 = 600;
/// What the process takes beside it: itself, one model, its connections, and what the allocator has not given back.
const BESIDE: u64 = 80;

struct Process {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Process {
    fn start(args: &[&str]) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = free.local_addr().unwrap();
        drop(free);
        let mut child = Command::new(env!("CARGO_BIN_EXE_pi-server"))
            .args(["serve", "--listen", "127.0.0.1:0", "--stop-at-eof"])
            .args(["--admin-listen", &admin.to_string()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        let address = address.parse().unwrap();
        Self {
            child,
            address,
            admin,
        }
    }

    /// The most memory that it ever had, in MiB; none where the system does not tell.
    fn peak(&self) -> Option<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib >> 10)
    }

    fn is_live(&self) -> bool {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        let host = self.admin;
        write!(
            stream,
            "GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 200")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection from another address of this machine; none where it has no other.
fn from_elsewhere(runtime: &tokio::runtime::Runtime, to: SocketAddr) -> Option<TcpStream> {
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().ok()?;
        let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        socket.bind(SocketAddr::new(elsewhere, 0)).ok()?;
        let stream = socket.connect(to).await.ok()?.into_std().ok()?;
        stream.set_nonblocking(false).ok()?;
        Some(stream)
    })
}

/// 128 calls on one connection, each with most of a message of 4 MiB, which never ends.
fn half_sent(stream: TcpStream, path: &str) -> Stranger {
    let mut stranger = Stranger::over(stream).greet();
    let announced = (4u32 << 20).to_be_bytes();
    let begun = [&[0][..], &announced, &[10; 400]].concat();
    for call in 0..128 {
        stranger.call_on(2 * call + 1, path);
        if !stranger.try_send(&frame(DATA, 0, 2 * call + 1, &begun)) {
            break;
        }
    }
    stranger
}

#[test]
fn clients_that_take_all_they_may_and_strangers_stay_within_what_was_set() {
    let dir = tempfile::tempdir().unwrap();
    let model = residual_network(
        "load",
        [3, 32, 32],
        &[8, 16],
        1,
        6,
        6_000,
        OutputMode::Logits,
    );
    let model = Arc::new(model.unwrap());
    model.save(dir.path()).unwrap();
    let (token, line) = pi_server::identity::new_token("clients").unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, line).unwrap();
    let memory = MEMORY.to_string();
    let server = Process::start(&[
        "--model",
        dir.path().to_str().unwrap(),
        "--token-file",
        tokens.to_str().unwrap(),
        "--prepared-memory",
        &memory,
        "--max-sessions",
        &CLIENTS.to_string(),
    ]);
    let address = server.address;

    let over = Arc::new(AtomicBool::new(false));
    let strangers = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let connect = || from_elsewhere(&runtime, address);
            let mut held: Vec<Stranger> = vec![];
            for path in [
                "/pi.v1.PrivateInference/Session",
                "/grpc.health.v1.Health/Check",
            ] {
                held.extend(connect().map(|stream| half_sent(stream, path)));
            }
            let mut n = held.len();
            while !over.load(Ordering::Relaxed) {
                // The older ones are held: a flood of those that say nothing.
                held.extend(connect().map(Stranger::over));
                held.truncate(600);
                n += 1;
            }
            n
        })
    };
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            let (model, barrier) = (Arc::clone(&model), Arc::clone(&barrier));
            let token = Token::new(&token).unwrap();
            std::thread::spawn(move || {
                let mut options = ConnectOptions::new(format!("http://{address}"));
                options.token = Some(token);
                let client = Client::connect(options).unwrap();
                let description = client.describe(None).unwrap();
                let batch = description.largest_batch(SessionOptions::default());
                let mut session = client.session(&description, batch).unwrap();
                while session.check_room(batch).is_ok() {
                    session.prepare().unwrap();
                }
                // All of them hold all they may at once.
                barrier.wait();
                let grey = vec![120 + seed as u8; 3 * 32 * 32];
                let input = model.public().quantise(&grey, 32, 32).unwrap();
                let answer = session.infer(&input).unwrap();
                common::assert_close(&model, &input, &answer.output);
                let n = session.n_prepared();
                session.close().unwrap();
                n
            })
        })
        .collect();
    let n_prepared: usize = clients.into_iter().map(|c| c.join().unwrap()).sum();
    assert!(server.is_live());
    over.store(true, Ordering::Relaxed);
    let n_strangers = strangers.join().unwrap();
    let peak = server.peak();
    println!("{n_prepared} prepared, {n_strangers} connections of strangers, at most {peak:?} MiB");
    assert!(n_prepared >= 2 * CLIENTS);
    if let Some(peak) = peak {
        assert!(
            peak <= MEMORY + BESIDE,
            "{peak} MiB where {MEMORY} were set"
        );
    }
}
