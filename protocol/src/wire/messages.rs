//! What a sub-protocol sends: the one list that reading, the predicted cost and the tests take lengths from.

use super::step::Step;

/// The messages of one sub-protocol for one session, batch, layer or inference, as (kind, bytes). A message that is left out in
/// some mode is listed with zero bytes: it is not sent.
#[derive(Clone, Debug, Default)]
pub struct Messages(Vec<(Step, usize)>);

impl Messages {
    /// Bytes of the message of this kind; zero if there is none.
    pub fn n_bytes(&self, step: Step) -> usize {
        self.listed(step).unwrap_or_default()
    }

    /// Bytes of the message of this kind, if it is listed.
    pub fn listed(&self, step: Step) -> Option<usize> {
        let of_kind = self.0.iter().find(|(listed, _)| *listed == step);
        of_kind.map(|(_, n_bytes)| *n_bytes)
    }

    /// Every message.
    pub fn iter(&self) -> impl Iterator<Item = (Step, usize)> + '_ {
        self.0.iter().copied()
    }

    /// Adds what another list has, behind what is here.
    pub fn extend(&mut self, more: impl IntoIterator<Item = (Step, usize)>) {
        self.0.extend(more);
    }
}

impl<const N: usize> From<[(Step, usize); N]> for Messages {
    fn from(list: [(Step, usize); N]) -> Self {
        Self(list.into())
    }
}
