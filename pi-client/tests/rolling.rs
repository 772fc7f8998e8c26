//! A rolling update: replicas behind one address stop and start again, one after the other, and nobody sees an error.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use pi_client::{Client, Config, ConnectOptions, Image, blocking};
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;
use pi_server::{Limits, ServeOptions, Server};
use tokio::sync::oneshot;

const N_CLIENTS: usize = 10;

/// A server that stops as a rolling update has it stop: what runs may finish.
struct Replica {
    address: String,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Replica {
    fn start(model: &Path) -> Self {
        let options = ServeOptions {
            models: vec![model.to_owned()],
            listen: ([127, 0, 0, 1], 0).into(),
            max_batch: 4,
            packing_bandwidth: 100_000_000,
            limits: Limits {
                max_sessions: 4 * N_CLIENTS,
                session_bytes: 8 << 30,
                ..Limits::default()
            },
            ..ServeOptions::default()
        };
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let server = Server::bind(options).unwrap();
                tell.send(server.local_addr()).unwrap();
                let stopped = async { stopped.await.unwrap() };
                server.run(stopped).await.unwrap();
            });
        });
        Self {
            address: told.recv().unwrap().to_string(),
            stop,
            thread,
        }
    }
}

/// Passes each connection on to the next of those that are ready.
#[derive(Clone, Default)]
struct Balancer {
    ready: Arc<Mutex<Vec<String>>>,
}

impl Balancer {
    fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let ready = Arc::clone(&self.ready);
        std::thread::spawn(move || {
            for (n, near) in listener.incoming().enumerate() {
                let near = near.unwrap();
                let ready = ready.lock().unwrap().clone();
                let Ok(far) = TcpStream::connect(&ready[n % ready.len()]) else {
                    continue;
                };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        url
    }

    fn add(&self, replica: &Replica) {
        self.ready.lock().unwrap().push(replica.address.clone());
    }

    fn remove(&self, address: &str) {
        self.ready.lock().unwrap().retain(|a| a != address);
    }
}

/// A session at this replica with an inference that is prepared and not used.
fn slow_client(address: &str) -> (blocking::Client, blocking::Session) {
    let options = ConnectOptions::new(format!("http://{address}"));
    let client = blocking::Client::connect(options).unwrap();
    let description = client.describe(None).unwrap();
    let mut session = client.session(&description, 1).unwrap();
    session.prepare().unwrap();
    (client, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_replaced_one_by_one_fail_no_query() {
    let dir = tempfile::tempdir().unwrap();
    let model = residual_network("small", [3, 8, 8], &[4, 8], 1, 5, 150, OutputMode::Logits);
    model.unwrap().save(dir.path()).unwrap();
    let balancer = Balancer::default();
    let mut replicas = [Replica::start(dir.path()), Replica::start(dir.path())];
    for replica in &replicas {
        balancer.add(replica);
    }
    let url = balancer.start();
    let is_over = Arc::new(AtomicBool::new(false));
    let n_answered: Arc<[AtomicUsize]> = (0..N_CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    let clients = (0..N_CLIENTS).map(|me| {
        // Some keep inferences prepared in the background, some prepare in batches, some find nothing prepared each time.
        let config = Config::new(&url).keep_prepared([0, 0, 2][me % 3]);
        let (is_over, n_answered) = (Arc::clone(&is_over), Arc::clone(&n_answered));
        tokio::spawn(async move {
            let image = Image::from_pixels(8, 8, 3, vec![me as u8; 192]).unwrap();
            let client = Client::connect(config).await.unwrap();
            let mut classes = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let mut series = client.series(1 + me % 2 * 3);
                for _ in 0..1 + me % 2 * 3 {
                    let answer = series.infer(&image).await;
                    classes.push(answer.unwrap_or_else(|e| panic!("client {me}: {e}")).class);
                    n_answered[me].fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(classes.windows(2).all(|pair| pair[0] == pair[1]));
            client.close().await;
        })
    });
    let clients: Vec<_> = clients.collect();
    let all_get = async |n: usize| {
        let goals = n_answered
            .iter()
            .map(|n_before| n_before.load(Ordering::Relaxed) + n);
        for (me, goal) in goals.collect::<Vec<_>>().into_iter().enumerate() {
            while n_answered[me].load(Ordering::Relaxed) < goal && !clients[me].is_finished() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    for replica in &mut replicas {
        all_get(2).await;
        let next = Replica::start(dir.path());
        let Replica {
            address,
            stop,
            thread,
        } = std::mem::replace(replica, next);
        // Somebody who takes time holds the stop up; the others must not wait for it on the connections that they have.
        let slow = tokio::task::spawn_blocking({
            let address = address.clone();
            move || slow_client(&address)
        });
        let slow = slow.await.unwrap();
        stop.send(()).unwrap();
        // Those who pass connections on hear of it a moment later.
        tokio::time::sleep(Duration::from_millis(200)).await;
        balancer.remove(&address);
        tokio::task::spawn_blocking(move || thread.join().unwrap())
            .await
            .unwrap();
        balancer.add(replica);
        drop(slow);
    }
    all_get(2).await;
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}
