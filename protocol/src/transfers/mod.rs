//! The correlated OTs of a batch, in both directions: which there are, which of them belong to whom, and what they send.
//!
//! | direction | for circuits and the multiplexer | where the client garbles | set up |
//! |---|---|---|---|
//! | the client receives | a label for each bit of its shares | a k-bit product for each ReLU (labels for an argmax) | for each batch |
//! | the server receives | a k-bit product for each ReLU ([`Purpose::Pads`]) | a label for each bit of its shares ([`Purpose::Labels`]) | once for the session, or for each batch |
//!
//! All OTs of a batch in one direction are one long vector, made by one extension. [`ranges::Ranges`] alone says which part of it is
//! whose: an OT that served two layers or two inferences would give both parties' values away.
//!
//! Where the client garbles, its `Delta` opens the server's digits, so the OTs behind them are set up anew for each batch and
//! its `Delta` serves no other. Where the server garbles, the OTs in which it receives carry the products behind the
//! multiplexer; one set-up serves the session, and their hashes count on through all of its batches.
//!
//! Cost: 31 bits for each OT from receiver to sender, or with silent OT a few thousand OTs' worth and a reply the other way.

pub(crate) mod client;
pub(crate) mod ranges;
pub(crate) mod server;

use ranges::Purpose;

use crate::block::Block;
use crate::layout::Layout;
use crate::ot::mode::OtMode;
use crate::ot::softspoken;
use crate::wire::{Messages, Nonces, Step};

/// Bits of a pad behind the multiplexer; layers take the low bits of it that their ring has.
const PAD_BITS: u32 = 62;

/// Where the pads behind the multiplexer are hashed from: public, fixed by both nonces, one for the session.
fn pads_start(nonces: &Nonces) -> Block {
    nonces.hash_start("multiplexer hash", &[])
}

/// What is sent in the set-up.
pub(crate) fn setup_messages(layout: &Layout) -> Messages {
    let for_session = layout.server_receives() == Some(Purpose::Pads);
    let if_pads = |n_bytes: usize| if for_session { n_bytes } else { 0 };
    [
        (Step::MuxBase, if_pads(softspoken::BASE_RECEIVER_BYTES)),
        (Step::MuxTrees, if_pads(softspoken::TREES_BYTES)),
    ]
    .into()
}

/// The two extensions of one batch: how many OTs each makes, and what both send.
pub(crate) struct Extensions {
    ot: OtMode,
    n_to_client: usize,
    n_to_server: usize,
    /// What is sent for the whole batch, in no layer.
    pub(crate) messages: Messages,
}

impl Extensions {
    /// For `n` inferences.
    pub(crate) fn new(layout: &Layout, n: usize) -> Self {
        let (ots, ot) = (layout.ots(), layout.options().ot);
        let [n_to_client, n_to_server] = [n * ots.n_to_client(), n * ots.n_to_server()];
        let per_batch = layout.server_receives() == Some(Purpose::Labels);
        let if_any = |n: usize, n_bytes: usize| if n > 0 { n_bytes } else { 0 };
        let if_labels = |n_bytes: usize| if per_batch { n_bytes } else { 0 };
        let (n, m) = (n_to_client, n_to_server);
        let messages = [
            (Step::LabelBase, if_any(n, softspoken::BASE_SENDER_BYTES)),
            (Step::DigitBase, if_labels(softspoken::BASE_RECEIVER_BYTES)),
            (
                Step::LabelBaseReply,
                if_any(n, softspoken::BASE_RECEIVER_BYTES),
            ),
            (Step::DigitTrees, if_labels(softspoken::TREES_BYTES)),
            (Step::DigitPoint, if_labels(softspoken::BASE_SENDER_BYTES)),
            (Step::MuxExtension, if_any(m, ot.message_bytes(m))),
            (Step::MuxReply, if_any(m, ot.reply_bytes(m))),
            (Step::LabelTrees, if_any(n, softspoken::TREES_BYTES)),
            (Step::LabelExtension, if_any(n, ot.message_bytes(n))),
            (Step::LabelReply, if_any(n, ot.reply_bytes(n))),
        ];
        let messages = messages.into();
        Self {
            ot,
            n_to_client,
            n_to_server,
            messages,
        }
    }
}
