//! What this machine does in a second: the few rates from which [`crate::predict`] computes times.
//!
//! Each is the best of a few short runs of the same public functions that the protocol calls, on all cores where the
//! protocol uses all cores. The whole takes one to two seconds.

use std::path::{Path, PathBuf};
use std::time::Instant;

use pi_model::kernel::{Conv2d, Shape};
use pi_model::packing::{ConvGeometry, SourcePacking, SourceSpec, choose};
use pi_protocol::block::{ActiveLabel, Block, Delta, ZeroLabel};
use pi_protocol::gc::{evaluate, garble, sign_circuit};
use pi_protocol::he::{self, ClientSource, DEGREE, RlweParams, SecretKey, ServerSource};
use pi_protocol::layout::instances;
use pi_protocol::ot::{CotReceiver as _, CotSender as _, softspoken};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use serde::{Deserialize, Serialize};

use crate::error::{BenchError, failed};
use crate::host::Host;

/// Seconds of each kind of work, both parties apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// CPU that they belong to.
    pub cpu: String,
    /// Garbling one AND gate.
    pub garble_and_s: f64,
    /// Evaluating one AND gate.
    pub evaluate_and_s: f64,
    /// Everything of one OT by extension, both parties.
    pub ot_s: f64,
    /// One set of base OTs, both parties.
    pub base_ot_s: f64,
    /// One multiply-add of the integer convolution.
    pub multiply_add_s: f64,
    /// Encrypting one polynomial at the client and rebuilding it at the server.
    pub encrypt_s: f64,
    /// Transforming one polynomial of weights.
    pub weight_transform_s: f64,
    /// Multiplying one ciphertext and adding it.
    pub product_s: f64,
    /// Blinding and rounding one response at the server and decrypting it at the client.
    pub response_s: f64,
    /// Sending one byte over TCP on this machine.
    pub byte_s: f64,
    /// One round trip of a small message on this machine, over TCP and through a queue on either side.
    pub round_trip_s: f64,
}

/// Best of `n` runs of `body`, in seconds.
fn best<T>(n: usize, mut body: impl FnMut() -> T) -> f64 {
    (0..n)
        .map(|_| {
            let started = Instant::now();
            std::hint::black_box(body());
            started.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

impl Rates {
    /// Measures this machine.
    ///
    /// # Errors
    /// [`BenchError::Protocol`] or [`BenchError::Process`], which would be bugs.
    pub fn measure() -> Result<Self, BenchError> {
        let mut rates = Self {
            cpu: Host::here().cpu,
            byte_s: tcp_byte_seconds().map_err(|e| failed("calibration", e))?,
            round_trip_s: round_trip_seconds().map_err(|e| failed("calibration", e))?,
            ..Self::default()
        };
        rates.circuits()?;
        rates.transfers()?;
        rates.convolution()?;
        rates.encryption()?;
        Ok(rates)
    }

    fn circuits(&mut self) -> Result<(), BenchError> {
        const N: usize = 1 << 14;
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let circuit = sign_circuit(14)?;
        let signs = instances(&circuit, N, Block::random(&mut rng), 0, 0)?;
        let delta = Delta::random(&mut rng);
        let zero: Vec<ZeroLabel> = (0..signs.n_evaluator_labels())
            .map(|_| ZeroLabel::from_cot(Block::random(&mut rng), 0, &delta))
            .collect();
        let seed = pi_protocol::prg::os_seed()?;
        let n_gates = (N * circuit.n_and()) as f64;
        self.garble_and_s = best(3, || {
            garble(&signs, &delta, &seed, &zero, Some(&vec![0; N]))
        }) / n_gates;
        let garbled = garble(&signs, &delta, &seed, &zero, Some(&vec![0; N]))?;
        let own: Vec<ActiveLabel> = zero.iter().map(|z| z.active(0, &delta)).collect();
        let active: Vec<ActiveLabel> = garbled
            .garbler_zero
            .iter()
            .map(|z| z.active(0, &delta))
            .collect();
        self.evaluate_and_s =
            best(3, || evaluate(&signs, &garbled.tables, &active, &own)) / n_gates;
        Ok(())
    }

    fn transfers(&mut self) -> Result<(), BenchError> {
        const N: usize = 1 << 17;
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let started = Instant::now();
        let (receiver, first) = softspoken::ReceiverSetup::new([7; 32], &mut rng);
        let delta = Delta::random(&mut rng);
        let (sender, answer) = softspoken::SenderSetup::new([7; 32], delta, &first, &mut rng)?;
        let (mut receiver, trees) = receiver.finish(&answer)?;
        let mut sender = sender.finish(&trees)?;
        self.base_ot_s = started.elapsed().as_secs_f64();
        let seconds = best(3, || -> Result<_, pi_protocol::Error> {
            let extended = receiver.extend(N)?;
            sender.extend(N, &extended.message)
        });
        self.ot_s = seconds / N as f64;
        Ok(())
    }

    fn convolution(&mut self) -> Result<(), BenchError> {
        let mut n = 0.0;
        let mut seconds = 0.0;
        for (channels, size) in [(16, 32), (64, 32), (256, 8)] {
            let shape = square(channels, size);
            let conv = Conv2d::new(shape, &small_weights(shape.n_weights()), 44)
                .map_err(|e| failed("calibration", e))?;
            let x: Vec<u64> = (0..shape.n_inputs() as u64)
                .map(|i| i * 0x9e37_79b9 % (1 << 44))
                .collect();
            seconds += best(3, || conv.apply(&x));
            n += shape.n_multiply_adds() as f64;
        }
        self.multiply_add_s = seconds / n;
        Ok(())
    }

    /// Three convolutions: one with few products for each response, one with many, and the same for eight images, which
    /// share its weight transforms. In seconds: transform, product and finish are the unknowns.
    fn encryption(&mut self) -> Result<(), BenchError> {
        let few = Tile::measure(1, 8, 1)?;
        let many = Tile::measure(64, 64, 1)?;
        let eight = Tile::measure(64, 64, 8)?;
        self.encrypt_s = many.encrypt_s / many.n_inputs;
        let decrypt_s = many.decrypt_s / many.n_responses;
        let each = |t: &Tile| (t.n_products / t.n_responses, t.respond_s / t.n_responses);
        let ((p1, s1), (p2, s2)) = (each(&few), each(&many));
        let both = if p2 > p1 {
            ((s2 - s1) / (p2 - p1)).max(0.0)
        } else {
            s2 / p2
        };
        let finish_s = (s2 - both * p2).max(0.0);
        let more = eight.respond_s - many.respond_s;
        let n_more = eight.n_responses - many.n_responses;
        self.product_s = ((more / n_more - finish_s) / p2).clamp(0.0, both);
        self.weight_transform_s = both - self.product_s;
        self.response_s = finish_s + decrypt_s;
        Ok(())
    }

    /// The file that is used when none is named.
    #[must_use]
    pub fn default_path() -> PathBuf {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
        cache
            .unwrap_or_else(std::env::temp_dir)
            .join("pi-bench")
            .join("calibration.json")
    }

    /// Stores the rates.
    ///
    /// # Errors
    /// [`BenchError::File`].
    pub fn save(&self, path: &Path) -> Result<(), BenchError> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(BenchError::file(dir))?;
        }
        let json = serde_json::to_vec_pretty(self).unwrap_or_default();
        crate::result::write_whole(path, &json)
    }

    /// Reads stored rates of this machine; none if there are none, or if they are of another CPU or release.
    #[must_use]
    pub fn load(path: &Path) -> Option<Self> {
        let rates: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (rates.cpu == Host::here().cpu).then_some(rates)
    }
}

impl std::fmt::Display for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ns = |s: f64| s * 1e9;
        writeln!(f, "{}", self.cpu)?;
        writeln!(
            f,
            "garble one AND gate            {:>10.2} ns",
            ns(self.garble_and_s)
        )?;
        writeln!(
            f,
            "evaluate one AND gate          {:>10.2} ns",
            ns(self.evaluate_and_s)
        )?;
        writeln!(
            f,
            "one extended OT                {:>10.2} ns",
            ns(self.ot_s)
        )?;
        writeln!(
            f,
            "one set of base OTs            {:>10.2} ms",
            self.base_ot_s * 1e3
        )?;
        writeln!(
            f,
            "integer multiply-adds          {:>10.2} G/s",
            1e-9 / self.multiply_add_s
        )?;
        writeln!(
            f,
            "encrypt and rebuild            {:>10.2} us",
            self.encrypt_s * 1e6
        )?;
        writeln!(
            f,
            "transform weights              {:>10.2} us",
            self.weight_transform_s * 1e6
        )?;
        writeln!(
            f,
            "ciphertext product             {:>10.2} us",
            self.product_s * 1e6
        )?;
        writeln!(
            f,
            "finish and decrypt a response  {:>10.2} us",
            self.response_s * 1e6
        )?;
        writeln!(
            f,
            "round trip of a small message  {:>10.2} us",
            self.round_trip_s * 1e6
        )?;
        write!(
            f,
            "bytes over local TCP           {:>10.2} GB/s",
            1e-9 / self.byte_s
        )
    }
}

fn square(channels: usize, size: usize) -> Shape {
    Shape {
        in_channels: channels,
        height: size,
        width: size,
        out_channels: channels,
        kernel_h: 3,
        kernel_w: 3,
        stride: 1,
        padding: 1,
    }
}

fn small_weights(n: usize) -> Vec<i32> {
    (0..n).map(|i| (i * 31 % 255) as i32 - 127).collect()
}

/// One convolution under encryption.
struct Tile {
    n_inputs: f64,
    n_responses: f64,
    n_products: f64,
    encrypt_s: f64,
    respond_s: f64,
    decrypt_s: f64,
}

impl Tile {
    /// 3 x 3 on maps of 16 x 16, with the packing that is best for one image.
    fn measure(channels: usize, filters: usize, batch: usize) -> Result<Self, BenchError> {
        let bug = |e: &dyn std::fmt::Display| failed("calibration", e);
        let params = RlweParams::new(52, 20, 6, 16)?;
        let one = SourceSpec {
            guests: vec![],
            batch: 1,
            channels,
            height: 16,
            width: 16,
            stride: 1,
            consumers: vec![ConvGeometry {
                out_channels: filters,
                kernel_h: 3,
                kernel_w: 3,
                padding: 1,
            }],
        };
        let (k, up, down) = (params.k_bits(), params.up_bits(), params.down_bits());
        let choice = choose(&one, DEGREE, k, up, down).map_err(|e| bug(&e))?;
        let spec = SourceSpec { batch, ..one };
        let packing = SourcePacking::new(&spec, DEGREE, &choice).map_err(|e| bug(&e))?;
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let (key, message) = SecretKey::generate(&[1; 32], &mut rng);
        let public = he::PublicKey::from_message(&[1; 32], 0, &message)?;
        let response = &packing.responses()[0];
        let weights = small_weights(response.n_weights());
        let (_, sent) = ClientSource::new(&key, &params, &packing, &[2; 32], &mut rng)?;
        let rebuild = || {
            ServerSource::new(
                &params,
                &packing,
                &[2; 32],
                0,
                &sent.noise,
                &sent.corrections,
            )
        };
        let server = rebuild()?;
        let answer = server.respond(&public, response, &weights, &mut rng)?;
        Ok(Self {
            n_inputs: packing.n_polys() as f64,
            n_responses: response.n_polys() as f64,
            n_products: response.n_products() as f64,
            encrypt_s: best(3, || {
                ClientSource::new(&key, &params, &packing, &[2; 32], &mut rng)
            }) + best(3, rebuild),
            respond_s: best(3, || server.respond(&public, response, &weights, &mut rng)),
            decrypt_s: best(3, || {
                he::decrypt(&key, &params, response, 0, &answer.message)
            }),
        })
    }
}

fn tcp_byte_seconds() -> std::io::Result<f64> {
    use std::io::{Read as _, Write as _};
    const N: usize = 64 << 20;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = std::net::TcpStream::connect(address)?;
        let block = vec![1; 1 << 20];
        for _ in 0..N >> 20 {
            stream.write_all(&block)?;
        }
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 1 << 20];
    let started = Instant::now();
    while stream.read(&mut buffer)? > 0 {}
    let seconds = started.elapsed().as_secs_f64();
    // A sender that failed has sent less, and the rate would be a lie.
    match sender.join() {
        Ok(Ok(())) => Ok(seconds / N as f64),
        _ => Err(std::io::ErrorKind::BrokenPipe.into()),
    }
}

/// Median round trip of 16 bytes between two ends that each have a thread for the network and one that computes, as the
/// two programs have.
fn round_trip_seconds() -> std::io::Result<f64> {
    use std::io::{Read as _, Write as _};
    use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
    const N: usize = 300;
    type Ends = (SyncSender<[u8; 16]>, Receiver<[u8; 16]>);
    /// Bytes that come in go through a queue, bytes that go out through another.
    fn end(stream: std::net::TcpStream) -> std::io::Result<Ends> {
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = (stream.try_clone()?, stream);
        let (to_peer, outgoing) = sync_channel::<[u8; 16]>(4);
        let (incoming, from_peer) = channel();
        std::thread::spawn(move || {
            for message in outgoing {
                if writer.write_all(&message).is_err() {
                    break;
                }
            }
            // The peer's reader ends with the connection; it may have ended already.
            let _ = writer.shutdown(std::net::Shutdown::Write);
        });
        std::thread::spawn(move || {
            let mut message = [0; 16];
            while reader.read_exact(&mut message).is_ok() && incoming.send(message).is_ok() {}
        });
        Ok((to_peer, from_peer))
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let client = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (to_client, from_client) = end(listener.accept()?.0)?;
    std::thread::spawn(move || {
        for message in from_client {
            if to_client.send(message).is_err() {
                return;
            }
        }
    });
    let (to_server, from_server) = end(client)?;
    let mut samples = Vec::with_capacity(N);
    for _ in 0..N {
        let started = Instant::now();
        let lost = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        to_server.send([1; 16]).map_err(lost)?;
        from_server
            .recv()
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        samples.push(started.elapsed().as_secs_f64());
    }
    Ok(crate::stats::median(&samples))
}
