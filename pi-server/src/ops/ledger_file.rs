//! The file of `serve --ledger`: one line of JSON for every step of a session that is finished, for whoever wants to know
//! where the server's time goes.
//!
//! The first line of a start is a record `start`, each other one a record `step`: session, model, and a
//! [`StepRecord`]. Lines of several starts follow one another in the file.
//!
//! Security: sizes, counts and times only; nothing of an input, of an output or of the weights. Times of a session tell
//! when somebody asked, so keep the file as you keep the log.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use pi_protocol::record::StepRecord;
use serde::Serialize;
use tracing::warn;

use crate::error::ServeError;

/// Version of the lines.
pub const LEDGER_VERSION: u32 = 1;

/// One line.
#[derive(Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Line<'a> {
    Start {
        version: u32,
        server_version: &'static str,
        pid: u32,
        unix_s: f64,
    },
    Step {
        session: u64,
        model: &'a str,
        #[serde(flatten)]
        step: &'a StepRecord,
    },
}

/// A file that all sessions append to.
pub struct LedgerFile {
    path: PathBuf,
    out: Mutex<Out>,
}

struct Out {
    file: Box<dyn Write + Send>,
    /// The last write failed, perhaps in the middle of a line.
    torn: bool,
    /// The operator was told.
    warned: bool,
}

impl LedgerFile {
    /// Opens the file, or makes it, and appends the line of this start: what cannot be written is found now and not at the
    /// first session.
    ///
    /// # Errors
    /// [`ServeError::Ledger`].
    pub fn open(path: &Path) -> Result<Self, ServeError> {
        let fail = |source| ServeError::Ledger {
            path: path.to_owned(),
            source,
        };
        let mut options = File::options();
        let file = options.append(true).create(true).open(path).map_err(fail)?;
        let ledger = Self::new(path, Box::new(file));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let start = Line::Start {
            version: LEDGER_VERSION,
            server_version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            unix_s: now.map_or(0.0, |d| d.as_secs_f64()),
        };
        ledger.out().append(&start).map_err(fail)?;
        Ok(ledger)
    }

    fn new(path: &Path, file: Box<dyn Write + Send>) -> Self {
        Self {
            path: path.to_owned(),
            out: Mutex::new(Out {
                file,
                torn: false,
                warned: false,
            }),
        }
    }

    /// Appends a finished step. A failure is warned of once; the session goes on, and later steps are tried again.
    pub fn append(&self, session: u64, model: &str, step: &StepRecord) {
        let line = Line::Step {
            session,
            model,
            step,
        };
        let mut out = self.out();
        let Err(error) = out.append(&line) else {
            return;
        };
        if !std::mem::replace(&mut out.warned, true) {
            warn!(
                path = %self.path.display(), %error,
                "the ledger cannot be written: steps will be missing there, sessions go on"
            );
        }
    }

    fn out(&self) -> std::sync::MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Out {
    /// Writes a line in one call, so that lines of two servers on one file do not mix.
    fn append(&mut self, line: &Line<'_>) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        if self.torn {
            bytes.push(b'\n');
        }
        serde_json::to_writer(&mut bytes, line)?;
        bytes.push(b'\n');
        let written = self.file.write_all(&bytes).and_then(|()| self.file.flush());
        self.torn = written.is_err();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pi_protocol::ledger::{Ledger, Phase};
    use pi_protocol::record::Party;
    use std::sync::Arc;

    /// A disk that is full for some writes, which it takes by half.
    struct Disk {
        written: Arc<Mutex<Vec<u8>>>,
        n_writes: usize,
        full: std::ops::Range<usize>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.n_writes += 1;
            let mut written = self.written.lock().unwrap();
            if self.full.contains(&self.n_writes) {
                written.extend(&bytes[..bytes.len() / 2]);
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            written.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_fills_up_loses_lines_and_nothing_else() {
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let disk = Disk {
            written: Arc::clone(&written),
            n_writes: 0,
            full: 2..4,
        };
        let ledger = LedgerFile::new(Path::new("full"), Box::new(disk));
        let step = StepRecord::new(&Ledger::default(), Phase::Online, Party::Server);
        for session in 1..=5 {
            ledger.append(session, "small", &step);
        }
        assert!(ledger.out().warned);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let whole = text.lines().filter_map(|l| serde_json::from_str(l).ok());
        let sessions: Vec<u64> = whole
            .map(|v: serde_json::Value| v["session"].as_u64().unwrap())
            .collect();
        assert_eq!(sessions, [1, 4, 5]);
    }
}
