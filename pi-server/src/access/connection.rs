//! Connections of the gRPC port as they come: accepted through the door, and after their TLS handshake where there is one.
//!
//! Security: a handshake has [`HANDSHAKE_TIMEOUT`]. A connection that its place inside is taken from, or that is of no more use,
//! fails at its next turn, whatever it waits for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::debug;

use crate::access::certificate;
use crate::access::door::{Door, Life, Place};
use crate::access::tls::Tls;
use crate::options::ConnectionLimits;

/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end, as far as TLS knows; an extension of every request.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The name in the client's certificate, where one is asked for.
    pub certificate: Option<Arc<str>>,
    /// The connection's calls.
    pub life: Arc<Life>,
}

/// A TCP connection that ends when it is of no more use.
pub struct Guarded {
    stream: TcpStream,
    place: Place,
    limits: ConnectionLimits,
    timer: Pin<Box<Sleep>>,
    is_over: bool,
}

impl Guarded {
    fn new(stream: TcpStream, place: Place, limits: ConnectionLimits) -> Self {
        let timer = Box::pin(tokio::time::sleep(limits.first_call));
        Self {
            stream,
            place,
            limits,
            timer,
            is_over: false,
        }
    }

    /// Fails if the connection is over; else its task is woken when it will be.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.is_over {
            if Pin::new(&mut self.place.closed).poll(cx).is_ready() {
                self.is_over = true;
            } else if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            } else {
                let now = Instant::now();
                match self.place.life.deadline(&self.limits) {
                    Some(at) if Instant::from_std(at) <= now => self.is_over = true,
                    Some(at) => self.timer.as_mut().reset(Instant::from_std(at)),
                    // A session runs; its own limits end it.
                    None => self.timer.as_mut().reset(now + self.limits.idle),
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Passes a call on to the stream, once the connection was checked.
macro_rules! checked {
    ($self:ident, $cx:ident, $call:ident $(, $argument:expr)*) => {{
        let this = $self.get_mut();
        match this.check($cx) {
            Ok(()) => Pin::new(&mut this.stream).$call($cx $(, $argument)*),
            Err(over) => Poll::Ready(Err(over)),
        }
    }};
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        checked!(self, cx, poll_read, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        checked!(self, cx, poll_write, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        checked!(self, cx, poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        checked!(self, cx, poll_write_vectored, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A connection, with TLS or without.
pub enum Connection {
    /// Without.
    Plain(Guarded),
    /// With, after the handshake; and whose certificate the client has.
    Tls(Box<TlsStream<Guarded>>, Option<Arc<str>>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let (guarded, certificate) = match self {
            Self::Plain(guarded) => (guarded, None),
            Self::Tls(stream, certificate) => (stream.get_ref().0, certificate.clone()),
        };
        Peer {
            certificate,
            life: Arc::clone(&guarded.place.life),
        }
    }
}

macro_rules! inner {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Connection::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Connection::Tls(stream, _) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inner!(self, s => s.poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        inner!(self, s => s.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, s => s.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, s => s.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, s => s.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream, _) => stream.is_write_vectored(),
        }
    }
}

/// Connections as they come, after their handshakes. Dropping it closes the listener and breaks handshakes off.
pub struct Incoming {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    door: Arc<Door>,
    handshakes: JoinSet<Option<Connection>>,
    /// After an error that will come again at once, as when there are no more files.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// The connections of `listener`, within `limits`.
    #[must_use]
    pub fn new(listener: TcpListener, tls: Option<Arc<Tls>>, limits: ConnectionLimits) -> Self {
        Self {
            listener,
            tls,
            door: Arc::new(Door::new(limits)),
            handshakes: JoinSet::new(),
            pause: None,
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match this.handshakes.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Some(connection)))) => {
                    return Poll::Ready(Some(Ok(connection)));
                }
                Poll::Ready(Some(_)) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            let Ok((stream, address)) = ready!(this.listener.poll_accept(cx)) else {
                this.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                continue;
            };
            let Some(place) = this.door.enter(address.ip()) else {
                continue;
            };
            // A connection that cannot be set to send at once only waits a little.
            let _ = stream.set_nodelay(true);
            let guarded = Guarded::new(stream, place, *this.door.limits());
            match &this.tls {
                None => return Poll::Ready(Some(Ok(Connection::Plain(guarded)))),
                Some(tls) => {
                    this.handshakes.spawn(handshake(tls.acceptor(), guarded));
                }
            }
        }
    }
}

async fn handshake(acceptor: TlsAcceptor, stream: Guarded) -> Option<Connection> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate = certificates.and_then(<[_]>::first);
            let certificate = certificate.map(|c| certificate::name(c).into());
            Some(Connection::Tls(Box::new(stream), certificate))
        }
        Ok(Err(error)) => {
            debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!("TLS handshake took too long");
            None
        }
    }
}
