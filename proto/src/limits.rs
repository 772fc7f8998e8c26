//! Sizes and times that both ends of a connection agree on, in bytes and seconds.

use std::time::Duration;

use pi_protocol::wire::MAX_FRAME_BYTES;

/// Frames waiting between a driver and the network, each way. With frames of 1 MiB this bounds a session's queues to
/// 32 MiB.
pub const QUEUE_FRAMES: usize = 16;

/// Largest gRPC message accepted in a session: a full frame with its tag and its framing.
pub const MAX_MESSAGE_BYTES: usize = MAX_FRAME_BYTES + 1024;

/// Largest description of a model that a client accepts.
pub const MAX_DESCRIPTION_BYTES: usize = 64 << 20;

/// HTTP/2 window of one stream: more than the delay of a transatlantic line times 1 Gbit/s.
pub const STREAM_WINDOW_BYTES: u32 = 16 << 20;

/// HTTP/2 window of one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// What a session may hold in queues at each end: frames both ways, and what the peer may send before anybody reads it.
pub const SESSION_QUEUE_BYTES: usize =
    2 * QUEUE_FRAMES * MAX_FRAME_BYTES + STREAM_WINDOW_BYTES as usize;

/// How often a quiet connection is probed, so that a peer that vanished is noticed.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// How long a probe may stay unanswered.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
