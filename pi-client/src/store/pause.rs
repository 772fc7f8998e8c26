//! How long kept inferences are left alone once the server could not look for its half: each try costs one.
//!
//! The pause lies beside them on the disk, because each call of `pi-client infer` is a new process. It doubles with each try that fails,
//! up to an hour, and ends when the server has its half again.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::now_s;

const FIRST_S: u64 = 60;
const LONGEST_S: u64 = 3600;

pub(super) struct Pause {
    path: PathBuf,
    /// For a disk that is full.
    here: Mutex<Option<Until>>,
}

/// Seconds: from 1970, and of the pause.
#[derive(Clone, Copy)]
struct Until {
    until_s: u64,
    pause_s: u64,
}

impl Until {
    fn parse(text: &str) -> Option<Self> {
        let (until_s, pause_s) = text.trim().split_once(' ')?;
        Some(Self {
            until_s: until_s.parse().ok()?,
            pause_s: pause_s.parse().ok()?,
        })
    }

    /// Not from a clock that was wrong.
    fn is_sound(&self, now_s: u64) -> bool {
        self.pause_s <= LONGEST_S && self.until_s <= now_s.saturating_add(LONGEST_S)
    }
}

impl Pause {
    pub(super) fn at(path: PathBuf) -> Self {
        Self {
            path,
            here: Mutex::default(),
        }
    }

    fn last(&self) -> Option<Until> {
        let on_disk = fs::read_to_string(&self.path).ok();
        let on_disk = on_disk.and_then(|text| Until::parse(&text));
        let here = *self.here.lock().unwrap_or_else(PoisonError::into_inner);
        on_disk.or(here).filter(|last| last.is_sound(now_s()))
    }

    pub(super) fn is_on(&self) -> bool {
        self.last().is_some_and(|last| now_s() < last.until_s)
    }

    pub(super) fn begin(&self) {
        let now_s = now_s();
        let recent = self
            .last()
            .filter(|last| now_s < last.until_s.saturating_add(LONGEST_S));
        let pause_s = recent.map_or(FIRST_S, |last| {
            last.pause_s.saturating_mul(2).min(LONGEST_S)
        });
        let until_s = now_s.saturating_add(pause_s);
        *self.here.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Until { until_s, pause_s });
        // Where that fails this process knows it all the same.
        let _ = fs::write(&self.path, format!("{until_s} {pause_s}\n"));
    }

    pub(super) fn end(&self) {
        *self.here.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // It is seldom there.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_an_hour_and_a_clock_that_was_wrong_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("paused");
        let pause = Pause::at(path.clone());
        assert!(!pause.is_on());
        for expected in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            pause.begin();
            assert!(pause.is_on() && Pause::at(path.clone()).is_on());
            assert_eq!(pause.last().unwrap().pause_s, expected);
        }
        pause.end();
        assert!(!pause.is_on() && !path.exists());
        for wrong in ["", "x", "9000000000 60", "1 60"] {
            fs::write(&path, wrong).unwrap();
            assert!(!pause.is_on(), "{wrong}");
        }
        // After long it begins anew.
        pause.begin();
        assert_eq!(pause.last().unwrap().pause_s, 60);
    }

    #[test]
    fn a_disk_that_takes_nothing_does_not_end_a_pause_in_this_process() {
        let dir = tempfile::tempdir().unwrap();
        let pause = Pause::at(dir.path().join("missing").join("paused"));
        pause.begin();
        assert!(pause.is_on());
    }
}
