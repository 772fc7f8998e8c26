//! Who may connect and call, and how much: certificates, connections, tokens, quotas.

pub mod certificate;
pub mod connection;
pub mod door;
pub mod identity;
pub mod limits;
pub mod tls;
pub mod watch;
