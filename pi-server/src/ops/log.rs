//! The program's log, on the standard error, and its filter, which can be changed while the server runs.
//!
//! Security: whoever can change the filter can fill a disk, and no more: no event at any level carries a secret
//! (`tests/log.rs` scans a whole run at its most talkative).

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

/// What is logged unless `RUST_LOG` says otherwise.
pub const DEFAULT_FILTER: &str = "info";

static FILTER: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Why a filter is not in use.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It is none.
    #[error(
        "'{filter}' is no filter of the log: {reason}. Write a level like debug, or levels by module like info,pi_server=debug"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The log is somebody else's.
    #[error("this program does not own its log, so the filter cannot be changed")]
    NotOurs,
}

/// Logs to the standard error from now on, by the filter in `RUST_LOG`. Does nothing where a log is set up already.
pub fn init() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let ours = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    if ours.is_ok() {
        // Only the first call gets here.
        let _ = FILTER.set(handle);
    }
}

/// The filter in use, if the log is ours.
#[must_use]
pub fn filter() -> Option<String> {
    FILTER.get()?.with_current(ToString::to_string).ok()
}

/// Logs by `filter` from now on.
///
/// # Errors
/// [`LogError`]; the old filter stays.
pub fn set(filter: &str) -> Result<(), LogError> {
    let filter = filter.trim();
    let parsed = EnvFilter::builder()
        .parse(filter)
        .map_err(|e| LogError::Filter {
            filter: filter.chars().take(100).collect(),
            reason: e.to_string(),
        })?;
    let handle = FILTER.get().ok_or(LogError::NotOurs)?;
    handle.reload(parsed).map_err(|_| LogError::NotOurs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_changed_and_a_broken_one_changes_nothing() {
        assert!(matches!(set("debug"), Err(LogError::NotOurs)));
        init();
        set(" warn,pi_server=trace\n").unwrap();
        let now = filter().unwrap();
        assert!(now.contains("pi_server=trace"), "{now}");
        let said = set("pi_server=loud").unwrap_err().to_string();
        assert!(said.contains("pi_server=loud"), "{said}");
        assert_eq!(filter().unwrap(), now);
    }
}
