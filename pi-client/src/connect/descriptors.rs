//! Whether this process may open what a connection needs.

use crate::error::ClientError;

/// Two descriptors each: what two runtimes and a connection take, and some to spare.
const N_PIPES: usize = 6;

/// Opens as many descriptors as a connection needs, and closes them again. To be asked before a runtime is made: where there are
/// none for its signals, tokio panics instead of saying so.
///
/// # Errors
/// [`ClientError::Usage`] with the way out.
pub fn check_descriptors() -> Result<(), ClientError> {
    let mut held = Vec::with_capacity(N_PIPES);
    for _ in 0..N_PIPES {
        held.push(std::io::pipe().map_err(|e| {
            ClientError::Usage(format!(
                "this process may open too few files for a connection ({e}): raise the limit, for example by `ulimit -n 256`"
            ))
        })?);
    }
    Ok(())
}
