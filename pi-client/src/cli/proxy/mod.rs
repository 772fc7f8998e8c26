//! The command `proxy`: the Open Inference Protocol, version 2 (KServe, Triton), on loopback, answered by private inference. An
//! ordinary client of that protocol needs no change; its images stay on this machine.
//!
//! REST and gRPC share one port. Inferences are kept prepared, so that a query pays the online phase only; the cost of each
//! stands in the parameters of its answer.
//!
//! Security: images arrive here in the clear, so the proxy listens on loopback unless told otherwise. A web page in a browser on this
//! machine must not use it: see `guard`, which stands around the whole server.

mod grpc;
mod guard;
mod rest;
mod service;
mod tensor;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::middleware;
use clap::Args;
use pi_client::{Client, ClientError, Config, Sizing};
use pi_model::text::shown;
use pi_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use self::service::{MAX_REQUEST_BYTES, Proxy};
use super::args::{ServerArgs, SessionArgs};
use super::out;

/// How often it looks whether preparing goes well.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The server, if --server is not given.
    #[arg(value_name = "URL", conflicts_with = "server")]
    url: Option<String>,
    /// Name of the model; the server's first one if not given.
    #[arg(long)]
    model: Option<String>,
    /// Address to listen at, for REST and gRPC; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Keep so many inferences prepared.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(0..=1024))]
    keep: u16,
    #[command(flatten)]
    session: SessionArgs,
    /// Refuse images of another size than the model's instead of resizing them.
    #[arg(long)]
    exact_size: bool,
    /// Listen at an address that other machines reach. Images travel to it in the clear.
    #[arg(long)]
    allow_remote: bool,
}

/// Runs the command until it is told to stop.
pub(crate) fn run(args: &ProxyArgs) -> anyhow::Result<()> {
    let is_local = args.listen.ip().is_loopback();
    if !is_local && !args.allow_remote {
        return Err(ClientError::Usage(format!(
            "{} is not a loopback address: other machines would send images to it in the clear. Take 127.0.0.1, or add --allow-remote",
            args.listen
        ))
        .into());
    }
    let config = Config {
        model: args.model.clone(),
        keep_prepared: args.keep.into(),
        sizing: if args.exact_size {
            Sizing::Exact
        } else {
            Sizing::Resize
        },
        // What it does goes on behind; trouble is told when it lasts.
        observer: Arc::new(()),
        ..args.session.config(&args.server, args.url.as_deref())?
    };
    tokio::runtime::Runtime::new()?.block_on(serve(args, config, is_local))
}

async fn serve(args: &ProxyArgs, config: Config, is_local: bool) -> anyhow::Result<()> {
    let stop = stopped()?;
    tokio::pin!(stop);
    let client = tokio::select! {
        client = Client::connect(config) => client?,
        () = &mut stop => return Ok(()),
    };
    if let Some(batch) = args.session.batch {
        let most = client.description().largest_batch(args.session.options());
        pi_client::session::check_batch(batch, most)?;
    }
    let proxy = Arc::new(Proxy {
        client,
        is_local,
        told: Mutex::default(),
    });
    let incoming = TcpIncoming::bind(args.listen)
        .map_err(|e| ClientError::Usage(format!("cannot listen at {}: {e}", args.listen)))?;
    let incoming = incoming.with_nodelay(Some(true));
    out::line(&format!("listening on {}", incoming.local_addr()?))?;
    let service = GrpcInferenceServiceServer::new(grpc::Service(Arc::clone(&proxy)))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let routes = Routes::from(rest::router(Arc::clone(&proxy))).add_service(service);
    // Last, so that it stands around everything there is, what no path was found for included.
    let guard = middleware::from_fn_with_state(Arc::clone(&proxy), guard::no_browsers);
    let guarded = routes.into_axum_router().layer(guard);
    let served = Server::builder()
        .accept_http1(true)
        .add_routes(Routes::from(guarded))
        .serve_with_incoming(incoming);
    tokio::select! {
        outcome = served => outcome?,
        () = tell_trouble(&proxy) => {}
        () = stop => {}
    }
    if let Ok(proxy) = Arc::try_unwrap(proxy).map_err(|_| ()) {
        // Not longer than a user waits after Ctrl-C; what the server holds for us ends with the connection anyway.
        let _ = tokio::time::timeout(Duration::from_millis(500), proxy.client.close()).await;
    }
    Ok(())
}

/// Says on standard error when this proxy is not ready, why, and when it is again. Never ends.
async fn tell_trouble(proxy: &Proxy) {
    let mut told = None;
    loop {
        let trouble = proxy.client.trouble();
        if trouble != told {
            match &trouble {
                Some(trouble) => eprintln!("not ready: {}", shown(trouble)),
                None => eprintln!("ready again"),
            }
            told = trouble;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Ctrl-C, or the request of a service manager to stop.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    })
}
