//! The far end of the transport that is calibrated: a process of its own that answers over the product's gRPC service, with
//! the product's channel, windows and threads, but computes nothing.
//!
//! A request of 12 bytes says how many bytes to expect, how many to send back, and how often.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use pi_proto::GrpcChannel;
use pi_proto::channel::{Item, outbound};
use pi_proto::limits::{CONNECTION_WINDOW_BYTES, MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES};
use pi_proto::v1::private_inference_server::{PrivateInference, PrivateInferenceServer};
use pi_proto::v1::{
    DescribeRequest, DescribeResponse, Frame, ListModelsRequest, ListModelsResponse,
};
use pi_protocol::wire::{Step, Tag, Wire};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::transport::{DOWN, IDLE, UP};

/// What the client asks for: bytes up, bytes down, how often.
pub(super) fn encode(up: usize, down: usize, n: usize) -> [u8; 12] {
    let mut request = [0; 12];
    for (bytes, value) in request.chunks_exact_mut(4).zip([up, down, n]) {
        bytes.copy_from_slice(&(value as u32).to_le_bytes());
    }
    request
}

fn decode(request: &[u8]) -> Option<[usize; 3]> {
    let (words, rest) = request.as_chunks::<4>();
    let words: [[u8; 4]; 3] = words.try_into().ok()?;
    rest.is_empty()
        .then(|| words.map(|w| u32::from_le_bytes(w) as usize))
}

/// The tag of requests.
pub(super) const REQUEST: Tag = Tag {
    step: Step::Request,
    layer: 0,
    batch: 0,
    index: 0,
};

/// Serves until the standard input ends.
///
/// # Errors
/// When no port can be had.
pub fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let incoming = {
        let _inside = runtime.enter();
        TcpIncoming::bind(address)
            .context("no port for the transport")?
            .with_nodelay(Some(true))
    };
    println!("listening on {}", incoming.local_addr()?);
    let service = PrivateInferenceServer::new(Peer).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let serving = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(service)
        .serve_with_incoming(incoming);
    runtime.spawn(serving);
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    runtime.shutdown_background();
    Ok(())
}

struct Peer;

#[tonic::async_trait]
impl PrivateInference for Peer {
    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Err(Status::unimplemented("this peer has no models"))
    }

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Err(Status::unimplemented("this peer has no models"))
    }

    type SessionStream = ReceiverStream<Item>;

    async fn session(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (to_client, stream) = outbound();
        let runtime = tokio::runtime::Handle::current();
        let channel = GrpcChannel::new(runtime, to_client, request.into_inner(), IDLE);
        // The session ends with an error when the client goes, and nothing depends on it.
        std::thread::spawn(move || answer(Wire::new(channel)));
        Ok(Response::new(stream))
    }
}

fn answer(mut wire: Wire<GrpcChannel>) -> pi_protocol::Result<()> {
    loop {
        let request = wire.recv_frame()?;
        let Some([up, down, n]) = decode(&request.payload) else {
            return Ok(());
        };
        let message = vec![7; down];
        for _ in 0..n {
            wire.recv(UP, up)?;
            wire.send(DOWN, &message)?;
        }
        // Whoever only sends learns from this that all has been read.
        wire.send(REQUEST, &[1])?;
    }
}
