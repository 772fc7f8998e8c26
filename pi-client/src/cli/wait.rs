//! Waiting for the library's futures, whose work is done by its own threads.

/// Runs `work` to its end on this thread.
pub(crate) fn wait<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(work))
}
