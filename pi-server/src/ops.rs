//! What an operator sees and sets: health, counters, log, spans, the admin port, and the tasks beside the service.

pub mod admin;
pub mod beside;
pub mod health;
pub mod ledger_file;
pub mod log;
pub mod metrics;
pub mod probe;
pub mod process;
pub mod telemetry;
