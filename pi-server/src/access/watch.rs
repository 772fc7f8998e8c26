//! Files that an operator replaces while the server runs: whether they have changed since they were last read.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

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

    /// The stamps now, where one differs from those that were accepted. What cannot be used is not accepted, and looked at
    /// again the next time: a certificate may become valid, a file readable, without being written.
    #[must_use]
    pub fn changed(&self) -> Option<Vec<Stamp>> {
        let now: Vec<Stamp> = self.paths.iter().map(|p| stamp(p)).collect();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (*seen != now).then_some(now)
    }

    /// Takes what [`Self::changed`] returned for read.
    pub fn accept(&self, stamps: Vec<Stamp>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps;
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
    fn a_change_is_seen_until_it_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let watched = Watched::new([path.clone()]);
        assert_eq!(watched.changed(), None);
        for content in ["a", "bb"] {
            std::fs::write(&path, content).unwrap();
            assert!(watched.changed().is_some());
            watched.accept(watched.changed().unwrap());
            assert_eq!(watched.changed(), None);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(watched.changed(), Some(vec![None]));
    }
}
