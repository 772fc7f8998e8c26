//! Connections of the gRPC port as they come: accepted, and after their TLS handshake where there is one.
//!
//! Security: a handshake has [`HANDSHAKE_TIMEOUT`], and at most [`MAX_HANDSHAKES`] run at once: one more ends the oldest, so
//! that connections that say nothing cost little and keep nobody out.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::debug;

use crate::access::certificate;
use crate::access::tls::Tls;

/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at the same time; one more ends the oldest.
pub const MAX_HANDSHAKES: usize = 256;
/// How long to wait after a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end, as far as TLS knows; an extension of every request.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The name in the client's certificate, where one is asked for.
    pub certificate: Option<Arc<str>>,
}

/// A connection, with TLS or without.
pub enum Connection {
    /// Without.
    Plain(TcpStream),
    /// With, after the handshake.
    Tls(Box<TlsStream<TcpStream>>, Peer),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Plain(_) => Peer::default(),
            Self::Tls(_, peer) => peer.clone(),
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
    handshakes: JoinSet<Option<Connection>>,
    /// To end them by, the oldest first; some have ended.
    by_age: VecDeque<AbortHandle>,
    /// After an error that will come again at once, as when there are no more files.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// The connections of `listener`.
    #[must_use]
    pub fn new(listener: TcpListener, tls: Option<Arc<Tls>>) -> Self {
        Self {
            listener,
            tls,
            handshakes: JoinSet::new(),
            by_age: VecDeque::new(),
            pause: None,
        }
    }
}

impl Incoming {
    fn shake_hands(&mut self, acceptor: TlsAcceptor, stream: TcpStream) {
        if self.handshakes.len() >= MAX_HANDSHAKES {
            self.by_age.retain(|handshake| !handshake.is_finished());
            if let Some(oldest) = self.by_age.pop_front() {
                debug!("a TLS handshake made room for a newer one");
                oldest.abort();
            }
        }
        let handshake = self.handshakes.spawn(handshake(acceptor, stream));
        self.by_age.push_back(handshake);
        if self.by_age.len() > 2 * MAX_HANDSHAKES {
            self.by_age.retain(|handshake| !handshake.is_finished());
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
            let Ok((stream, _)) = ready!(this.listener.poll_accept(cx)) else {
                this.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                continue;
            };
            // A connection that cannot be set to send at once only waits a little.
            let _ = stream.set_nodelay(true);
            match &this.tls {
                None => return Poll::Ready(Some(Ok(Connection::Plain(stream)))),
                Some(tls) => this.shake_hands(tls.acceptor(), stream),
            }
        }
    }
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> Option<Connection> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate = certificates.and_then(<[_]>::first);
            let certificate = certificate.map(|c| certificate::name(c).into());
            Some(Connection::Tls(Box::new(stream), Peer { certificate }))
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
