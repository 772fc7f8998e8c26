//! What the server says of itself: the lines of `pi-server serve --ledger`, read as they come.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use pi_protocol::record::StepRecord;
use serde::Deserialize;

use crate::error::{BenchError, failed};

/// A line; what this program does not use is left out.
#[derive(Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Line {
    Start {},
    Step(Box<StepRecord>),
}

/// The file of one running server.
pub struct ServerLedger {
    path: PathBuf,
    lines: BufReader<File>,
    /// The begin of a line that is not whole yet.
    begun: String,
}

impl ServerLedger {
    /// Whether the program `server` can write a ledger; another build's perhaps cannot.
    #[must_use]
    pub fn is_known_to(server: &Path) -> bool {
        let help = Command::new(server).args(["serve", "--help"]).output();
        help.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("--ledger"))
    }

    /// Makes an empty file for a server to append to.
    ///
    /// # Errors
    /// [`BenchError::File`].
    pub fn create(path: &Path) -> Result<Self, BenchError> {
        File::create(path).map_err(BenchError::file(path))?;
        Ok(Self {
            path: path.to_owned(),
            lines: BufReader::new(File::open(path).map_err(BenchError::file(path))?),
            begun: String::new(),
        })
    }

    /// The next finished step, if the server has written one.
    ///
    /// # Errors
    /// [`BenchError::File`], and [`BenchError::Process`] for a line that is none.
    pub fn poll(&mut self) -> Result<Option<StepRecord>, BenchError> {
        loop {
            let read = self.lines.read_line(&mut self.begun);
            read.map_err(BenchError::file(&self.path))?;
            if !self.begun.ends_with('\n') {
                return Ok(None);
            }
            let line = serde_json::from_str(&std::mem::take(&mut self.begun));
            match line.map_err(|e| failed("server's ledger", e))? {
                Line::Start {} => {}
                Line::Step(step) => return Ok(Some(*step)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pi_protocol::ledger::{Ledger, Phase};
    use pi_protocol::record::Party;
    use std::io::Write as _;

    #[test]
    fn steps_are_read_as_their_lines_become_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let mut ledger = ServerLedger::create(&path).unwrap();
        let mut file = File::options().append(true).open(&path).unwrap();
        writeln!(file, "{{\"record\":\"start\",\"version\":1}}").unwrap();
        assert!(ledger.poll().unwrap().is_none());
        let step = StepRecord::new(&Ledger::default(), Phase::Offline, Party::Server);
        let mut line = serde_json::to_value(&step).unwrap();
        line["record"] = "step".into();
        line["session"] = 3.into();
        let line = line.to_string();
        let (a, b) = line.split_at(30);
        write!(file, "{a}").unwrap();
        assert!(ledger.poll().unwrap().is_none());
        write!(file, "{b}\n{line}\n").unwrap();
        assert_eq!(ledger.poll().unwrap().unwrap(), step);
        assert_eq!(ledger.poll().unwrap().unwrap(), step);
        assert!(ledger.poll().unwrap().is_none());
        writeln!(file, "no").unwrap();
        assert!(matches!(ledger.poll(), Err(BenchError::Process { .. })));
    }
}
