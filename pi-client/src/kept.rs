//! A client's way to the inferences on its disk ([`crate::store`]): which of them a session can use, when the server is not asked for
//! its halves, and what the user is told.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pi_model::PublicPlan;
use pi_protocol::client::Prepared;

use crate::error::ClientError;
use crate::observer::Note;
use crate::store::{Store, Waiting};

/// A description of this age still holds when a session is opened.
const FRESH: Duration = Duration::from_secs(1);

/// Where the inferences for one model of one server lie.
#[derive(Debug)]
pub(crate) struct Place {
    /// Folder of all of them.
    pub(crate) dir: PathBuf,
    pub(crate) url: String,
    pub(crate) model: String,
}

/// What this client knows of them.
pub(crate) struct Kept {
    place: Option<Place>,
    state: Mutex<State>,
}

struct State {
    store: Option<Arc<Store>>,
    /// How long the server keeps its halves; zero if it does not.
    kept_for: Duration,
    /// When it said so.
    said_at: Instant,
    was_told_unused: bool,
    was_told_elsewhere: bool,
}

impl Kept {
    /// `kept_for` is what the server has just said.
    pub(crate) fn new(place: Option<Place>, kept_for: Duration) -> Self {
        let state = State {
            store: None,
            kept_for,
            said_at: Instant::now(),
            was_told_unused: false,
            was_told_elsewhere: false,
        };
        Self {
            place,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store, if anything was ever kept.
    fn store(&self) -> Result<Option<Arc<Store>>, ClientError> {
        let mut state = self.state();
        if let (None, Some(place)) = (&state.store, &self.place) {
            let store = Store::open_if_there(&place.dir, &place.url, &place.model)?;
            state.store = store.map(Arc::new);
        }
        Ok(state.store.clone())
    }

    /// To be called before a session is opened. A server that was started again since `describe` was last asked may have lost its
    /// store; if anything waits, it is asked for how long it keeps.
    pub(crate) fn refresh(
        &self,
        describe: impl FnOnce() -> Result<Duration, ClientError>,
    ) -> Result<(), ClientError> {
        if self.state().said_at.elapsed() < FRESH || self.n_waiting()? == 0 {
            return Ok(());
        }
        let kept_for = describe()?;
        let mut state = self.state();
        (state.kept_for, state.said_at) = (kept_for, Instant::now());
        Ok(())
    }

    /// How many wait.
    pub(crate) fn n_waiting(&self) -> Result<usize, ClientError> {
        self.store()?.map_or(Ok(0), |store| store.n_waiting())
    }

    /// Those that the server may be asked for now, in a session for batches that `fits`.
    pub(crate) fn usable(
        &self,
        fits: impl Fn(usize) -> bool,
        tell: &mut dyn FnMut(Note),
    ) -> Result<Option<Waiting>, ClientError> {
        let Some(store) = self.store()? else {
            return Ok(None);
        };
        if store.n_waiting()? == 0 {
            self.tell_elsewhere(tell);
            return Ok(None);
        }
        if store.is_paused() {
            return Ok(None);
        }
        if self.state().kept_for.is_zero() {
            // Asking would cost them all: a server that keeps nothing answers as one does that lacks the half.
            let n = store.n_waiting()?;
            if n > 0 && !std::mem::replace(&mut self.state().was_told_unused, true) {
                tell(Note::KeptUnused { n });
            }
            return Ok(None);
        }
        store.waiting(fits)
    }

    /// Others of this model, by the addresses that they wait under.
    pub(crate) fn elsewhere(&self) -> Vec<(String, usize)> {
        let place = self.place.as_ref();
        place.map_or_else(Vec::new, |place| {
            Store::elsewhere(&place.dir, &place.url, &place.model)
        })
    }

    fn tell_elsewhere(&self, tell: &mut dyn FnMut(Note)) {
        if std::mem::replace(&mut self.state().was_told_elsewhere, true) {
            return;
        }
        for (url, n) in self.elsewhere() {
            tell(Note::KeptElsewhere { n, url });
        }
    }

    /// Takes the next one for this plan off the disk, for good.
    pub(crate) fn take(
        &self,
        plan: &PublicPlan,
        tell: &mut dyn FnMut(Note),
    ) -> Result<Option<Prepared>, ClientError> {
        let Some(store) = self.store()? else {
            return Ok(None);
        };
        let taken = store.take(plan)?;
        if taken.n_unusable > 0 {
            tell(Note::KeptUnreadable {
                n: taken.n_unusable,
            });
        }
        Ok(taken.prepared)
    }

    /// Settles what becomes of the others after `error`; see [`Store::settle`]. Whether the image is to be answered with another one.
    pub(crate) fn settle(
        &self,
        error: &ClientError,
        tell: &mut dyn FnMut(Note),
    ) -> Result<bool, ClientError> {
        let Some(store) = self.store()? else {
            return Ok(false);
        };
        let note = store.settle(error)?;
        Ok(note.map(tell).is_some())
    }

    /// The server had its half of one and ran it.
    pub(crate) fn works(&self) {
        if let Some(store) = &self.state().store {
            store.resume();
        }
    }

    /// The store to write new ones to, and how long the server keeps its halves from now on.
    pub(crate) fn to_write(&self) -> Result<(Arc<Store>, Duration), ClientError> {
        let kept_for = self.state().kept_for;
        if kept_for.is_zero() {
            return Err(ClientError::Refused {
                code: tonic::Code::PermissionDenied,
                message: "it keeps no prepared inferences beyond a session; its operator can allow it with `pi-server serve --store`".into(),
                retry_after: None,
            });
        }
        let place = self.place.as_ref().ok_or_else(|| {
            ClientError::Usage("saving needs a store in the client's configuration".into())
        })?;
        let store = Arc::new(Store::open(&place.dir, &place.url, &place.model)?);
        Ok((Arc::clone(self.state().store.insert(store)), kept_for))
    }
}

#[cfg(test)]
mod tests {
    use pi_protocol::kept::KeepError;

    use super::*;

    #[test]
    fn a_server_that_keeps_nothing_or_cannot_look_is_not_asked() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path(), "http://a", "m").unwrap();
        let mut folders = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap());
        let folder = folders.find(|entry| entry.path().is_dir()).unwrap().path();
        for label in ["aa", "bb"] {
            std::fs::write(folder.join(format!("9000000000-4-{label}.kept")), "sealed").unwrap();
        }
        let place = || {
            Some(Place {
                dir: dir.path().to_owned(),
                url: "http://a".into(),
                model: "m".into(),
            })
        };
        let mut told = Vec::new();
        let mut tell = |note: Note| told.push(note);
        let forgetful = Kept::new(place(), Duration::ZERO);
        for _ in 0..2 {
            assert_eq!(forgetful.usable(|_| true, &mut tell).unwrap(), None);
        }
        assert!(forgetful.to_write().is_err());
        let kept = Kept::new(place(), Duration::from_secs(60));
        let waiting = Some(Waiting { n: 2, batch: 4 });
        assert_eq!(kept.usable(|_| true, &mut tell).unwrap(), waiting);
        assert_eq!(kept.usable(|batch| batch < 4, &mut tell).unwrap(), None);
        let broken = ClientError::from(pi_protocol::Error::Kept(KeepError::Unavailable));
        assert!(kept.settle(&broken, &mut tell).unwrap());
        assert_eq!(kept.usable(|_| true, &mut tell).unwrap(), None);
        assert_eq!(kept.n_waiting().unwrap(), 2);
        // Nor by the next program: each try would cost one.
        let next = Kept::new(place(), Duration::from_secs(60));
        assert_eq!(next.usable(|_| true, &mut tell).unwrap(), None);
        next.works();
        assert_eq!(next.usable(|_| true, &mut tell).unwrap(), waiting);
        assert!(!kept.settle(&ClientError::Closed, &mut tell).unwrap());
        let both = [Note::KeptUnused { n: 2 }, Note::KeptNotLookedFor];
        assert_eq!(told, both, "each told once");
    }
}
