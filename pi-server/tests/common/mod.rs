//! A small model with random weights, and a server inside this process.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod stranger;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pi_client::ConnectOptions;
use pi_client::blocking::Client;
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;
use pi_model::{Model, executor};
use pi_protocol::client::Output;
use pi_server::{Limits, ServeOptions, Server, TlsFiles};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// Most by which a logit may differ from the plaintext executor's, in units of the logits.
pub const LOGIT_TOLERANCE: f64 = 0.25;

/// A residual network on 8 x 8 images.
pub fn model(name: &str, mode: OutputMode) -> Model {
    residual_network(name, [3, 8, 8], &[4, 8], 1, 5, 150, mode).unwrap()
}

/// Options for the model in `dir` on any free port.
pub fn options(dir: &Path) -> ServeOptions {
    ServeOptions {
        models: vec![dir.to_owned()],
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        max_batch: 4,
        packing_bandwidth: 100_000_000,
        limits: Limits {
            max_sessions: 4,
            idle_timeout: Duration::from_secs(20),
            session_bytes: 1 << 30,
            silent_ot: true,
            ..Limits::default()
        },
        drain_timeout: Duration::from_millis(300),
        ..ServeOptions::default()
    }
}

/// A server inside this process, stopped on drop.
pub struct TestServer {
    pub url: String,
    pub model: Arc<Model>,
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    stopped: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl TestServer {
    pub fn start() -> Self {
        Self::with(OutputMode::Logits, |_| {})
    }

    pub fn with(mode: OutputMode, change: impl FnOnce(&mut ServeOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = model("small", mode);
        model.save(dir.path()).unwrap();
        let mut options = options(dir.path());
        change(&mut options);
        let scheme = if options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let (stop, stopping) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let stopped = std::thread::spawn(move || {
            let runtime = Runtime::new().unwrap();
            runtime.block_on(async {
                let server = Server::bind(options).unwrap();
                tell.send((server.local_addr(), server.admin_addr()))
                    .unwrap();
                let stop = async {
                    let _ = stopping.await;
                };
                server.run(stop).await.unwrap();
            });
            runtime.shutdown_background();
        });
        let (address, admin) = told.recv().unwrap();
        Self {
            url: format!("{scheme}://localhost:{}", address.port()),
            model: Arc::new(model),
            address,
            admin,
            stop: Some(stop),
            stopped: Some(stopped),
            _dir: dir,
        }
    }

    pub fn connect(&self) -> Client {
        Client::connect(ConnectOptions::new(&self.url)).unwrap()
    }

    /// Tells the server to stop and does not wait.
    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops the server and waits until it has stopped.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(stopped) = self.stopped.take() {
            stopped.join().unwrap();
        }
    }

    /// One whole inference, to see that the server still serves.
    pub fn assert_serves(&self) {
        let client = self.connect();
        let description = client.describe(None).unwrap();
        let mut session = client.session(&description, 1).unwrap();
        let input = image(&self.model, 1);
        let answer = session.infer(&input).unwrap();
        assert_close(&self.model, &input, &answer.output);
        session.close().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An image that depends on `seed`.
pub fn image(model: &Model, seed: usize) -> Vec<i64> {
    let input = &model.public().spec().input;
    let pixels: Vec<u8> = (0..input.n_values())
        .map(|i| ((i * 37 + seed * 101) % 256) as u8)
        .collect();
    model
        .public()
        .quantise(&pixels, input.width, input.height)
        .unwrap()
}

/// Compares with the plaintext executor.
pub fn assert_close(model: &Model, input: &[i64], output: &Output) {
    let clear = executor::run(model, input).unwrap();
    assert_eq!(
        clear.n_range_violations, 0,
        "the test's image is out of range"
    );
    let bits = model.public().graph().layers.last().unwrap().fraction_bits;
    let tolerance = (LOGIT_TOLERANCE * f64::from(bits).exp2()) as i64;
    match output {
        Output::Logits(logits) => {
            for (got, due) in logits.iter().zip(&clear.logits) {
                assert!((got - due).abs() <= tolerance, "{got} instead of {due}");
            }
        }
        Output::Class(class) => {
            let best = clear.logits.iter().max().unwrap();
            let got = clear.logits[*class];
            assert!(
                best - got <= 2 * tolerance,
                "class {class} has {got}, the best {best}"
            );
        }
    }
}

/// A development certificate.
pub fn certificate(dir: &Path) -> TlsFiles {
    pi_server::certificate::make(dir, &["localhost".into()]).unwrap()
}

/// One request to the admin port: the code and the body.
pub fn http(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}
