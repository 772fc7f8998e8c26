//! What a call does: the services, the thread of a session, the gate before it, and the stop.

pub mod drain;
pub mod entrance;
pub mod gate;
pub mod kserve;
pub mod service;
pub mod session;
pub mod shared;
