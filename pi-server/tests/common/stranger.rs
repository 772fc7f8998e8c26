//! A connection that speaks HTTP/2 by hand, and as much of it as it likes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Much longer than anything takes here, and shorter than what an idle connection may have.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kinds of frames.
pub const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_OF_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = &(payload.len() as u32).to_be_bytes()[1..];
    [length, &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection that speaks HTTP/2 by hand.
pub struct Stranger(TcpStream);

impl Stranger {
    pub fn silent(server: SocketAddr) -> Self {
        Self::over(TcpStream::connect(server).unwrap())
    }

    /// On a connection of one's own making.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn new(server: SocketAddr) -> Self {
        Self::silent(server).greet()
    }

    pub fn greet(self) -> Self {
        let mut stranger = self;
        stranger.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        stranger.send(&frame(SETTINGS, 0, 0, &[]));
        stranger
    }

    pub fn send(&mut self, bytes: &[u8]) {
        assert!(self.try_send(bytes));
    }

    /// Whether the server still takes it.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    pub fn is_open(&mut self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let read = self.0.read(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        read.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    }

    /// Begins a call, whose message does not come yet.
    pub fn call(&mut self, path: &str) {
        self.call_on(1, path);
    }

    /// The same on a stream of that number, which is odd.
    pub fn call_on(&mut self, stream: u32, path: &str) {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let mut block = vec![];
        for (name, value) in fields {
            block.extend([0, name.len() as u8]);
            block.extend(name.bytes());
            block.push(value.len() as u8);
            block.extend(value.bytes());
        }
        self.send(&frame(HEADERS, END_OF_HEADERS, stream, &block));
    }

    /// Waits for an answer to the call, or for the end of the connection.
    pub fn is_answered(&mut self) -> bool {
        loop {
            let mut head = [0; 9];
            if self.0.read_exact(&mut head).is_err() {
                return false;
            }
            let n = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; n];
            self.0.read_exact(&mut payload).unwrap();
            if head[3] == HEADERS {
                return true;
            }
        }
    }

    /// Waits for the end of the connection.
    pub fn ends(&mut self) -> bool {
        let since = Instant::now();
        // What comes first are frames of the server's.
        let ended = std::io::copy(&mut self.0, &mut std::io::sink());
        let reset = ended.is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
        !reset && since.elapsed() < PATIENCE
    }
}
