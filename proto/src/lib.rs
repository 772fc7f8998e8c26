//! The gRPC service `pi.v1`: generated code, the adapter between a blocking driver and a stream of frames, and the one
//! place where errors become gRPC status codes.

pub mod channel;
pub mod limits;
pub mod status;

pub use channel::{GrpcChannel, WireMeter};

/// Messages and service of package `pi.v1`, generated from `proto/pi/v1/pi.proto`.
pub mod v1 {
    #![allow(missing_docs, clippy::pedantic, reason = "generated code")]
    tonic::include_proto!("pi.v1");
}
