//! A slow network in user space: a TCP proxy that paces and delays both directions of every connection.
//!
//! Each direction is one queue. A chunk departs when the bytes before it have left at the link's rate, and arrives one
//! one-way delay later; chunks overlap on the way as on a wire. All connections of one proxy share its two links. The
//! rate counts 66 bytes of Ethernet, IP and TCP headers for each 1448 bytes, as a segment of a 1500-byte MTU has them.
//! Loss, jitter and TCP's slow start over the delay are not imitated.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::network::{HEADERS, NetworkInfo};

const CHUNK_BYTES: usize = 16 << 10;

/// One direction, shared by all connections.
struct Link {
    bytes_per_s: Option<f64>,
    delay: Duration,
    free_at: Mutex<Instant>,
}

impl Link {
    fn new(bit_s: Option<f64>, delay: Duration) -> Arc<Self> {
        Arc::new(Self {
            bytes_per_s: bit_s.map(|b| b / 8.0),
            delay,
            free_at: Mutex::new(Instant::now()),
        })
    }

    /// When `n_bytes` that are handed over now arrive.
    fn arrival(&self, n_bytes: usize) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.bytes_per_s else {
            return now + self.delay;
        };
        // An instant is whole at any time.
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = Duration::from_secs_f64(n_bytes as f64 * HEADERS / rate);
        *free_at = (*free_at).max(now) + pace;
        *free_at + self.delay
    }

    /// Chunks that may be on the way: what fits the wire, and a buffer of 256 kB before it.
    fn n_chunks(&self) -> usize {
        let wire = self.bytes_per_s.unwrap_or(1e9) * self.delay.as_secs_f64();
        (wire as usize + (256 << 10)).div_ceil(CHUNK_BYTES)
    }
}

/// Forwards every connection to `target` over the given network, on threads of its own. Returns its own address.
///
/// The listening thread lives as long as the process.
///
/// # Errors
/// [`BenchError::Process`] when no port can be had.
pub fn start(network: &NetworkInfo, target: SocketAddr) -> Result<SocketAddr, BenchError> {
    let failed = |e: std::io::Error| BenchError::Process {
        who: "proxy",
        reason: e.to_string(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let up = Link::new(network.up_bit_s, network.one_way());
    let down = Link::new(network.down_bit_s, network.one_way());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // A connection that cannot be made is closed, and the client says so.
            let _ = forward(client, target, &up, &down);
        }
    });
    Ok(address)
}

fn forward(
    client: TcpStream,
    target: SocketAddr,
    up: &Arc<Link>,
    down: &Arc<Link>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    for (from, to, link) in [
        (client.try_clone()?, server.try_clone()?, up),
        (server, client, down),
    ] {
        let (queue, queued) = sync_channel(link.n_chunks());
        let link = Arc::clone(link);
        std::thread::spawn(move || read(from, &link, &queue));
        std::thread::spawn(move || write(to, &queued));
    }
    Ok(())
}

fn read(mut from: TcpStream, link: &Link, queue: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if queue.send((link.arrival(n), buffer[..n].to_vec())).is_err() {
            return;
        }
    }
}

fn write(mut to: TcpStream, queued: &Receiver<(Instant, Vec<u8>)>) {
    // The kernel wakes sleepers up to 50 us late unless asked not to; a refusal only makes the delay that much longer.
    let _ = nix::sys::prctl::set_timerslack(1);
    for (arrival, chunk) in queued {
        let wait = arrival.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        if to.write_all(&chunk).is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends back one byte for every 1 MiB.
    fn sink() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 1 << 20];
            while stream.read_exact(&mut buffer).is_ok() {
                stream.write_all(&[1]).unwrap();
            }
        });
        address
    }

    #[test]
    fn delay_and_rate_are_at_least_what_was_asked_for() {
        let mut network = NetworkInfo::find("wan").unwrap();
        network.round_trip_ms = 20.0;
        network.up_bit_s = Some(200e6);
        let mut stream = TcpStream::connect(start(&network, sink()).unwrap()).unwrap();
        stream.set_nodelay(true).unwrap();
        let started = Instant::now();
        stream.write_all(&vec![7; 1 << 20]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let least = 0.020 + (1 << 20) as f64 * 8.0 * HEADERS / 200e6;
        let took = started.elapsed().as_secs_f64();
        // Never faster than the link. How much slower depends on the machine; ten times would be another fault.
        assert!(
            took >= least - 1e-3 && took < 10.0 * least,
            "{took} s, {least} s"
        );
    }
}
