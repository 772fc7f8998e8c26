//! Waiting for the client's futures on a Python thread: the interpreter's lock is released, and signals are looked at.

use std::pin::pin;
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::Runtime;

/// How long Ctrl-C may go unnoticed.
const TICK: Duration = Duration::from_millis(50);

/// Runs `work` to its end, or drops it when a signal handler of Python raises. Other threads may wait in the same runtime.
///
/// # Errors
/// What the signal handler raised; `KeyboardInterrupt` as a rule.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    runtime: &Runtime,
    work: impl Future<Output = T> + Send,
) -> PyResult<T> {
    let mut work = pin!(work);
    loop {
        let outcome = py
            .detach(|| runtime.block_on(async { tokio::time::timeout(TICK, work.as_mut()).await }));
        if let Ok(value) = outcome {
            return Ok(value);
        }
        py.check_signals()?;
    }
}
