//! The stop: from serving to draining to cut, and how many sessions are still there.
//!
//! While draining, no session begins and nothing is prepared; a step that runs may finish, and what a session has prepared may be used. After the cut nothing is waited for, so
//! that a client that stays silent cannot keep the server.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;
use tonic::Status;

/// How far the stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// No stop yet.
    Serving,
    /// Nothing new begins.
    Draining,
    /// What still runs is ended.
    Cut,
}

/// One server's stop.
#[derive(Debug)]
pub struct Drain {
    stage: watch::Sender<Stage>,
    n_active: watch::Sender<usize>,
}

/// A session's place; the stop waits until all are dropped.
#[derive(Debug)]
pub struct Place(Arc<Drain>);

impl Default for Drain {
    fn default() -> Self {
        Self {
            stage: watch::Sender::new(Stage::Serving),
            n_active: watch::Sender::new(0),
        }
    }
}

impl Drain {
    /// How far the stop has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// A place for one more session.
    ///
    /// # Errors
    /// UNAVAILABLE once the server drains.
    pub fn enter(self: &Arc<Self>) -> Result<Place, Status> {
        // Counted first: whoever drains then either sees this place or has been seen here.
        self.n_active.send_modify(|n| *n += 1);
        let place = Place(Arc::clone(self));
        match self.stage() {
            Stage::Serving => Ok(place),
            _ => Err(stopping()),
        }
    }

    /// Lets nothing new begin.
    pub fn begin(&self) {
        self.advance(Stage::Draining);
    }

    /// Ends what still runs.
    pub fn cut(&self) {
        self.advance(Stage::Cut);
    }

    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let later = *stage < to;
            *stage = to.max(*stage);
            later
        });
    }

    /// Waits until the stop has come to `stage`.
    pub async fn reached(&self, stage: Stage) {
        // An error means that the sender is gone, and it is ours.
        let _ = self.stage.subscribe().wait_for(|s| *s >= stage).await;
    }

    /// Waits until no session is left.
    pub async fn finished(&self) {
        let _ = self.n_active.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Sessions that are there.
    #[must_use]
    pub fn n_active(&self) -> usize {
        *self.n_active.borrow()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.n_active.send_modify(|n| *n -= 1);
    }
}

/// What a client is told while the server drains.
#[must_use]
pub fn stopping() -> Status {
    Status::unavailable(
        "this server is stopping and begins nothing new; connect again, to another one if there is one",
    )
}

/// How long the network may take to carry the last words to clients that listen.
pub const GRACE: std::time::Duration = pi_proto::channel::LINGER;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;
    use tonic::Code;

    #[tokio::test]
    async fn a_drain_waits_for_places_and_gives_none() {
        let drain = Arc::new(Drain::default());
        let place = drain.enter().unwrap();
        timeout(Duration::from_millis(20), drain.finished())
            .await
            .unwrap_err();
        drain.begin();
        assert_eq!(drain.enter().unwrap_err().code(), Code::Unavailable);
        assert_eq!(drain.n_active(), 1);
        let waiting = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.finished().await }
        });
        drop(place);
        timeout(Duration::from_secs(5), waiting)
            .await
            .unwrap()
            .unwrap();
        drain.cut();
        drain.begin();
        assert_eq!(drain.stage(), Stage::Cut);
        timeout(Duration::from_secs(5), drain.reached(Stage::Draining))
            .await
            .unwrap();
    }
}
