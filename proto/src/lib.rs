//! The gRPC service `pi.v1` and what we show of the Open Inference Protocol: generated code, the adapter between a blocking driver and a stream of frames, and the one
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

/// Messages and service of package `inference`, the Open Inference Protocol, generated from `proto/inference/v2.proto`.
pub mod inference {
    #![allow(missing_docs, clippy::pedantic, reason = "generated code")]
    tonic::include_proto!("inference");
}

/// The description of both packages, for `grpc.reflection`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
