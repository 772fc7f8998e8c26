//! What a port speaks that does not speak HTTP/2 in clear.
//!
//! Such a port answers and closes at once, and whether the transport reads the answer first or the end is a matter of chance. After a
//! connection that broke before its first answer, one more asks for the first bytes alone: an alert of TLS, or words of HTTP/1.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// How HTTP/2 begins: the preface, and an empty SETTINGS frame (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The longest wait for an address, and for its answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the server at `url`, which is `http://`, answers in something else than HTTP/2. Not knowing is no.
pub(super) fn speaks_something_else(url: &str, limit: Duration) -> bool {
    first_bytes(url, limit.min(PATIENCE)).is_ok_and(|bytes| is_something_else(&bytes))
}

/// A record of TLS that holds an alert, or the version of HTTP/1.
fn is_something_else(bytes: &[u8; 5]) -> bool {
    bytes == b"HTTP/" || bytes.starts_with(&[0x15, 3])
}

fn first_bytes(url: &str, limit: Duration) -> std::io::Result<[u8; 5]> {
    let authority = url.trim_start_matches("http://").trim_end_matches('/');
    let port = authority.rsplit_once(':').map(|(_, port)| port.parse());
    let mut found = match port {
        Some(Ok::<u16, _>(_)) => authority.to_socket_addrs()?,
        _ => format!("{authority}:80").to_socket_addrs()?,
    };
    let address = found.next().ok_or(std::io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(PREFACE)?;
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_and_words_are_told_from_frames() {
        assert!(is_something_else(b"HTTP/"));
        assert!(is_something_else(&[0x15, 3, 3, 0, 2]));
        // The lengths and the kind of a SETTINGS frame.
        assert!(!is_something_else(&[0, 0, 0x18, 4, 0]));
    }
}
