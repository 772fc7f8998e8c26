//! Telling somebody of every step that a session has finished: what it cost the server, and nothing of what went in or out.

use super::ServerSession;
use crate::error::Result;
use crate::wire::Phase;
use crate::wire::channel::Channel;
use crate::wire::ledger::Ledger;
use crate::wire::record::{Party, StepRecord};

/// Called on the session's thread after every finished step: the client waits for it when it asks for the next one.
pub type Observer = Box<dyn FnMut(StepRecord) + Send>;

impl<C: Channel> ServerSession<C> {
    /// Tells `observer` of set-up now, and from now on of every batch and every inference when it is finished.
    pub fn observe(&mut self, mut observer: Observer) {
        let ledger = &self.wire.ledger;
        observer(StepRecord {
            seconds: self.setup_s,
            ..StepRecord::new(ledger, Phase::Setup, Party::Server)
        });
        self.observer = Some(observer);
    }

    /// Runs one step and tells the observer of it, if there is one and the step was finished.
    pub(super) fn observed(
        &mut self,
        phase: Phase,
        batch: u32,
        index: Option<u16>,
        step: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let Some(mut observer) = self.observer.take() else {
            return step(self);
        };
        let ledger = &self.wire.ledger;
        let (before, start_s) = (ledger.mark(), ledger.now_s());
        step(self)?;
        let ledger: &Ledger = &self.wire.ledger;
        observer(StepRecord {
            batch,
            index,
            start_s,
            seconds: ledger.now_s() - start_s,
            ..StepRecord::new(&ledger.since(&before), phase, Party::Server)
        });
        self.observer = Some(observer);
        Ok(())
    }
}
