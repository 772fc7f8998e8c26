//! A server inside the test's process, and images for it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of several test programs"
)]

use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pi_model::Model;
use pi_model::random::residual_network;
use pi_model::spec::{ModelSpec, OutputMode};
use pi_server::{Limits, ServeOptions, Server};

/// A server inside this process that lives as long as the test program.
pub fn server(dir: &Path, max_sessions: usize) -> String {
    serve(dir, max_sessions, 150)
}

/// The same with a model of at most so many ReLUs.
pub fn serve(dir: &Path, max_sessions: usize, n_relus: usize) -> String {
    serve_with(dir, max_sessions, n_relus, |_| {})
}

pub fn serve_with(
    dir: &Path,
    max_sessions: usize,
    n_relus: usize,
    change: impl FnOnce(&mut ServeOptions),
) -> String {
    let (shape, widths) = ([3, 8, 8], [4, 8]);
    let model = residual_network("small", shape, &widths, 1, 5, n_relus, OutputMode::Logits);
    model.unwrap().save(dir).unwrap();
    let mut options = ServeOptions {
        models: vec![dir.to_owned()],
        listen: ([127, 0, 0, 1], 0).into(),
        max_batch: 4,
        packing_bandwidth: 100_000_000,
        limits: Limits {
            max_sessions,
            idle_timeout: Duration::from_secs(20),
            session_bytes: 1 << 30,
            silent_ot: true,
            ..Limits::default()
        },
        drain_timeout: Duration::ZERO,
        ..ServeOptions::default()
    };
    change(&mut options);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let server = Server::bind(options).unwrap();
            tell.send(server.local_addr()).unwrap();
            server.run(std::future::pending()).await.unwrap();
        });
    });
    format!("http://{}", told.recv().unwrap())
}

/// Saves the model of `dir` to `to`, with another specification or other weights.
pub fn rebuild(
    dir: &Path,
    to: &Path,
    change: impl FnOnce(&mut ModelSpec),
    weight: impl Fn(i32) -> i32,
) {
    let model = Model::load(dir).unwrap();
    let layers = &model.public().graph().layers;
    let weights = layers.iter().flat_map(|layer| &layer.convs).map(|conv| {
        let mut weights = model.weights(conv).clone();
        for value in &mut weights.weight {
            *value = weight(*value);
        }
        (conv.op.clone(), weights)
    });
    let masks = layers
        .iter()
        .filter_map(|layer| Some((layer.name.clone(), layer.relu.clone()?)));
    let mut spec = model.public().spec().clone();
    change(&mut spec);
    let other = Model::new(spec, masks.collect(), weights.collect());
    other.unwrap().save(to).unwrap();
}

pub fn png(dir: &Path, name: &str, side: u32) -> PathBuf {
    let path = dir.join(name);
    image::RgbImage::from_fn(side, side, |x, y| {
        image::Rgb([(x * 31) as u8, (y * 31) as u8, 90])
    })
    .save(&path)
    .unwrap();
    path
}

/// One address, behind which the server changes, as when it is started again with other settings.
pub struct Switch {
    pub url: String,
    target: Arc<Mutex<String>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Switch {
    pub fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let switch = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            target: Arc::new(Mutex::new(url.to_owned())),
            open: Arc::default(),
        };
        let (target, open) = (Arc::clone(&switch.target), Arc::clone(&switch.open));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let target = target.lock().unwrap();
                let far = TcpStream::connect(target.strip_prefix("http://").unwrap()).unwrap();
                open.lock()
                    .unwrap()
                    .extend([&near, &far].map(|s| s.try_clone().unwrap()));
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        switch
    }

    /// Cuts all connections; new ones reach another server.
    pub fn restart_as(&self, url: &str) {
        let mut target = self.target.lock().unwrap();
        url.clone_into(&mut target);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
