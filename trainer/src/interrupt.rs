//! An interrupt (Ctrl-C, or a termination) asks a training run to save and stop; the second one, or one
//! while nothing trains, ends the process at once.

use crate::error::{Result, io_error};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static HEEDED: AtomicBool = AtomicBool::new(false);

/// While it lives, a run looks at [`requested`] and has something to save.
pub struct Heeded(());

/// Says that a run looks at [`requested`] from now on.
pub fn heed() -> Heeded {
    HEEDED.store(true, Ordering::Relaxed);
    Heeded(())
}

impl Drop for Heeded {
    fn drop(&mut self) {
        HEEDED.store(false, Ordering::Relaxed);
    }
}

/// Signals this soon after the first are that one once more.
const ECHO: Duration = Duration::from_secs(1);

/// True once an interrupt has come.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Starts to listen. Without this an interrupt ends the process as usual.
pub fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io_error("signals"))?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let mut first: Option<Instant> = None;
            loop {
                if wait().await.is_err() {
                    return;
                }
                // Such as `timeout` sends its signal: to the program, then to its group.
                if first.is_some_and(|at| at.elapsed() < ECHO) {
                    continue;
                }
                first = first.or(Some(Instant::now()));
                let again = REQUESTED.swap(true, Ordering::Relaxed);
                if again || !HEEDED.load(Ordering::Relaxed) {
                    // Without C++ destructors, under which kernels of other threads would go on.
                    signal_hook::low_level::exit(130);
                }
                eprintln!("stopping: saving a checkpoint (once more to stop at once)");
            }
        });
    });
    Ok(())
}

#[cfg(unix)]
async fn wait() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn wait() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
