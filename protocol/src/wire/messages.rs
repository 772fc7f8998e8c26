//! What a sub-protocol sends: the one list that reading, the predicted cost and the tests take lengths from.

use super::step::Step;

/// The messages of one sub-protocol for one session, batch, layer or inference, as (kind, bytes), in the order in which they
/// are sent. A message that is left out in some mode is listed with zero bytes or not at all: neither is sent.
#[derive(Clone, Debug, Default)]
pub struct Messages(Vec<(Step, usize)>);

impl Messages {
    /// Bytes of the message of this kind; zero if there is none.
    pub fn n_bytes(&self, step: Step) -> usize {
        let of_kind = self.0.iter().find(|(listed, _)| *listed == step);
        of_kind.map_or(0, |(_, n_bytes)| *n_bytes)
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
