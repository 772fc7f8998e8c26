//! What `pi-server health` does: one plain HTTP request to the admin port of a server on this machine, for container images
//! that have no other program to ask with.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Asks `address` for `path` and returns the code and the body. An address that stands for all of a machine's is asked
/// on loopback. Connecting, writing and each reading may take `patience`.
///
/// # Errors
/// What the network said, or `InvalidData` for an answer that is no HTTP.
pub fn get(address: SocketAddr, path: &str, patience: Duration) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = vec![];
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let code = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        Some((code, body.to_owned()))
    });
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP/1.1"))
}

fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    fn answered(answer: &'static str) -> io::Result<(u16, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let request = BufReader::new(stream.try_clone().unwrap()).lines();
            let _: Vec<_> = request
                .map_while(|line| line.ok().filter(|l| !l.is_empty()))
                .collect();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let all = SocketAddr::from(([0, 0, 0, 0], port));
        let got = get(all, "/readyz", Duration::from_secs(5));
        server.join().unwrap();
        got
    }

    #[test]
    fn an_answer_is_read_and_nonsense_is_an_error() {
        let good = answered("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nbusy").unwrap();
        assert_eq!(good, (503, "busy".into()));
        for nonsense in ["", "SSH-2.0", "HTTP/1.1 \u{fffd}\r\n\r\n"] {
            assert!(answered(nonsense).is_err());
        }
    }
}
