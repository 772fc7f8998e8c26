//! Ctrl-C: one line that says what it cost, and exit code 130, at once and in every phase.
//!
//! The process ends without unwinding. Nothing secret is on disk in the clear at any time, and what the server holds for this client's
//! session ends with the connection.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// The exit code of a program that was interrupted: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// What the program is doing.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Doing {
    Idle,
    Connecting,
    SettingUp,
    Preparing,
    Inferring,
    Keeping,
}

static PHASE: AtomicU8 = AtomicU8::new(Doing::Idle as u8);
static ANSWERED: AtomicUsize = AtomicUsize::new(0);

/// Ends the phase when dropped.
#[derive(Debug)]
pub(crate) struct During(u8);

impl Drop for During {
    fn drop(&mut self) {
        PHASE.store(self.0, Ordering::Relaxed);
    }
}

/// Notes what the program does until the result is dropped.
#[must_use]
pub(crate) fn during(doing: Doing) -> During {
    During(PHASE.swap(doing as u8, Ordering::Relaxed))
}

/// Notes that one more image was answered.
pub(crate) fn answered() {
    ANSWERED.fetch_add(1, Ordering::Relaxed);
}

fn consequence(phase: u8, n_answered: usize) -> String {
    let before = match n_answered {
        0 => "",
        1 => "; 1 image was answered before",
        n => return format!("{}; {n} images were answered before", of_phase(phase)),
    };
    of_phase(phase).to_owned() + before
}

const fn of_phase(phase: u8) -> &'static str {
    match phase {
        1 => "interrupted while connecting: nothing was spent",
        2 => "interrupted while setting up: nothing of the next image was sent",
        3 => {
            "interrupted while preparing: nothing of the next image was sent, and what was prepared in this session is gone"
        }
        4 => {
            "interrupted while inferring: this inference is used up; of the image the server has seen masked values alone"
        }
        5 => "interrupted while preparing: finished batches are kept, this one is gone",
        _ => "interrupted",
    }
}

/// Makes a file beyond the limit of its size (`ulimit -f`) an error of the write that is told, instead of the end of the process.
#[cfg(unix)]
pub(crate) fn outlive_file_limit() {
    // The system ends a process that leaves this signal alone. With any handler the write fails, and is reported like others.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// Listens on a thread of its own.
pub(crate) fn watch() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build();
        // Without it Ctrl-C ends the program all the same, by the system's default.
        let Ok(runtime) = runtime else { return };
        if runtime.block_on(tokio::signal::ctrl_c()).is_err() {
            return;
        }
        // A bar may stand in this line.
        let clear = match std::io::stderr().is_terminal() {
            true => "\r\x1b[2K",
            false => "",
        };
        let n_answered = ANSWERED.load(Ordering::Relaxed);
        let said = consequence(PHASE.load(Ordering::Relaxed), n_answered);
        eprintln!("{clear}{said}");
        std::process::exit(INTERRUPTED);
    });
}
