//! One-time material for one inference, as the client holds it.

use crate::argmax;
use crate::block::Block;
use crate::gc::CircuitParams;
use crate::kept::ItemId;
use crate::relu;
use crate::ring::ClientShare;
use crate::session::options::SessionOptions;
use crate::wire::Item;
use crate::wire::batch::Nonce;

/// One-time material for one inference: consumed by [`super::ClientSession::infer`], never copied.
///
/// It holds tables, the client's active labels, its truncated shares, u_c and the masks of its answers. Used for two images it
/// would tell the server their difference.
pub struct Prepared {
    pub(crate) origin: Origin,
    /// Of the session that prepared it.
    pub(crate) options: SessionOptions,
    pub(crate) item: Item,
    /// Where the hashes of the server's circuits start; zero if there are none.
    pub(crate) start_key: Block,
    /// r of the input.
    pub(crate) input_mask: ClientShare,
    pub(crate) relus: relu::client::Material,
    /// The client's share of the logits.
    pub(crate) output: ClientShare,
    pub(crate) argmax: Option<argmax::client::Material>,
}

/// Where the server has its half.
pub(crate) enum Origin {
    /// In the session with this nonce of ours.
    Session(Nonce),
    /// In its store, under this name, for any session with this plan.
    Kept { id: ItemId, plan_hash: [u8; 32] },
}

impl Prepared {
    /// The name of this inference at the server, if it is kept there.
    #[must_use]
    pub const fn kept_id(&self) -> Option<&ItemId> {
        match &self.origin {
            Origin::Session(_) => None,
            Origin::Kept { id, .. } => Some(id),
        }
    }

    /// How its circuits were garbled.
    pub(crate) const fn circuits(&self) -> CircuitParams {
        CircuitParams {
            scheme: self.options.garbling.scheme(),
            start_key: self.start_key,
        }
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Item { batch, index } = self.item;
        write!(f, "Prepared(batch {batch}, inference {index})")
    }
}
