//! Files that an operator replaces while the server runs: whether they have changed since they were last read.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How often files are looked at.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// What tells one content of a file from the next; none for a file that is not there.
pub type Stamp = Option<(SystemTime, u64)>;

/// The stamp of `path` now, through links.
#[must_use]
pub fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Some files and their last stamps.
#[derive(Debug)]
pub struct Watched {
    paths: Vec<PathBuf>,
    seen: Mutex<Vec<Stamp>>,
}

impl Watched {
    /// Takes the stamps now; call it before the files are read, so that a change in between is noticed.
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        let seen = Mutex::new(paths.iter().map(|p| stamp(p)).collect());
        Self { paths, seen }
    }

    /// Whether a stamp differs from the last time.
    #[must_use]
    pub fn changed(&self) -> bool {
        let now: Vec<Stamp> = self.paths.iter().map(|p| stamp(p)).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *seen != now;
        *seen = now;
        changed
    }

    /// The first file.
    #[must_use]
    pub fn first(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let watched = Watched::new([path.clone()]);
        assert!(!watched.changed());
        std::fs::write(&path, "a").unwrap();
        assert!(watched.changed() && !watched.changed());
        std::fs::write(&path, "bb").unwrap();
        assert!(watched.changed() && !watched.changed());
        std::fs::remove_file(&path).unwrap();
        assert!(watched.changed() && !watched.changed());
    }
}
