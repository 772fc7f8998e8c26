//! The server's ends of the OTs: sender of the client's labels (or products), receiver of its own products (or labels).
//!
//! The server's choice bits are its output masks m, which the extension makes, or the masks of its digits.

use std::ops::Range;
use std::sync::Arc;

use pi_model::bits::unpack;
use zeroize::Zeroizing;

use super::ranges::{Purpose, Ranges};
use super::{Extensions, PAD_BITS, pads_start, setup_messages};
use crate::block::{Block, Delta, ZeroLabel};
use crate::error::Result;
use crate::gc::CircuitParams;
use crate::layout::Layout;
use crate::ot::correlated::receiver_pads;
use crate::ot::mode::Receiver;
use crate::ot::softspoken::{ReceiverSetup, SenderSetup};
use crate::ot::{CotReceiver as _, CotSender as _, unpack_bits};
use crate::prg::Seed;
use crate::wire::channel::Channel;
use crate::wire::{Batch, Item, Messages, Phase, Step, Wire, malformed};

/// What the server carries from batch to batch for the OTs in which it receives.
pub(crate) enum Receiving {
    /// There are none.
    Nothing,
    /// The extension behind the multiplexer.
    Pads(PadReceiver),
    /// Where the client garbles: the base OTs of the next batch, begun.
    Labels(ReceiverSetup),
}

/// One extension for the session, and how many of its OTs are used: no hash of a pad has the number of another.
pub(crate) struct PadReceiver {
    receiver: Receiver,
    start: Block,
    n_used: u64,
}

/// The first message of the base OTs behind the extension in which the server receives, for `batch`: the set-up's, or of digits.
fn begin(batch: &Batch<'_>) -> (ReceiverSetup, [u8; 32]) {
    let mut rng = batch.stream("multiplexer OT", &[]);
    ReceiverSetup::new(batch.ot_session("multiplexer"), &mut rng)
}

impl Receiving {
    /// The point that goes with the server's hello: of the set-up, or already of batch 1 if each has its own.
    pub(crate) fn begin(setup: &Batch<'_>, layout: &Layout) -> (ReceiverSetup, [u8; 32]) {
        let number = u32::from(layout.server_receives() == Some(Purpose::Labels));
        begin(&Batch { number, ..*setup })
    }

    /// What follows in the set-up, where something does.
    pub(crate) fn set_up<C: Channel>(
        wire: &mut Wire<C>,
        setup: &Batch<'_>,
        layout: &Layout,
        base: ReceiverSetup,
    ) -> Result<Self> {
        match layout.server_receives() {
            None => return Ok(Self::Nothing),
            Some(Purpose::Labels) => return Ok(Self::Labels(base)),
            Some(Purpose::Pads) => {}
        }
        let answer = wire.receive(setup.tag(Step::MuxBase, 0), &setup_messages(layout))?;
        let session = setup.ot_session("multiplexer");
        let (receiver, trees) = wire
            .ledger
            .time(Phase::Setup, "OT", || base.finish(&answer))?;
        wire.send(setup.tag(Step::MuxTrees, 0), &trees)?;
        Ok(Self::Pads(PadReceiver {
            receiver: layout.options().ot.receiver(receiver, session),
            start: pads_start(&setup.nonces),
            n_used: 0,
        }))
    }
}

/// What the client has sent in flight 1; empty where there is nothing.
pub(crate) struct Begun {
    point: Vec<u8>,
    answer: Vec<u8>,
}

/// Flight 1: the client's first message of its labels' base OTs, and its answer for those of the server's digits.
pub(crate) fn receive_base<C: Channel>(
    wire: &mut Wire<C>,
    batch: &Batch<'_>,
    extensions: &Extensions,
) -> Result<Begun> {
    let messages = &extensions.messages;
    Ok(Begun {
        point: wire.receive(batch.tag(Step::LabelBase, 0), messages)?,
        answer: wire.receive(batch.tag(Step::DigitBase, 0), messages)?,
    })
}

/// The server's half of the OTs of a batch.
pub(crate) struct Transfers {
    /// The correlation of the OTs in which the client receives.
    pub(crate) delta: Arc<Delta>,
    /// Their blocks.
    pub(crate) blocks: Zeroizing<Vec<Block>>,
    /// What the client still needs for its own; empty unless OTs are silent.
    reply: Vec<u8>,
    /// The server's random choices where it receives, one byte each.
    choices: Zeroizing<Vec<u8>>,
    /// And what it received.
    pub(crate) received: Received,
}

/// What the server received in the OTs of a batch.
pub(crate) enum Received {
    /// R_m of each; empty where there are none.
    Pads(Zeroizing<Vec<u64>>),
    /// The block of each.
    Labels(Zeroizing<Vec<Block>>),
}

impl Transfers {
    /// The server's random choices in these OTs.
    pub(crate) fn choices(&self, range: Range<usize>) -> &[u8] {
        &self.choices[range]
    }

    /// Flight 4: what completes the OTs in which the client receives.
    pub(crate) fn send_reply<C: Channel>(
        &self,
        wire: &mut Wire<C>,
        batch: &Batch<'_>,
    ) -> Result<()> {
        wire.send(batch.tag(Step::LabelReply, 0), &self.reply)
    }

    /// Zero-labels of the client's inputs from these OTs and its derandomisation bits.
    pub(crate) fn zero_labels(
        &self,
        range: Range<usize>,
        bits: &[u8],
    ) -> Zeroizing<Vec<ZeroLabel>> {
        let pairs = self.blocks[range].iter().zip(bits);
        let zeros = pairs.map(|(&q, &d)| ZeroLabel::from_cot(q, d, &self.delta));
        Zeroizing::new(zeros.collect())
    }
}

/// What the server garbles a batch with.
pub(crate) struct Garbler<'a> {
    /// Scheme and public start of the hash keys, drawn for this batch.
    pub(crate) circuits: CircuitParams,
    /// Seed of the labels of its own inputs.
    pub(crate) labels: Seed,
    /// The OTs of the batch.
    pub(crate) transfers: &'a Transfers,
    /// Whose OTs are where.
    pub(crate) ots: &'a Ranges,
}

/// Flights 2 and 3: answers the client's base OTs, sends the server's extension, serves the client's.
pub(crate) fn extend<C: Channel>(
    wire: &mut Wire<C>,
    batch: &Batch<'_>,
    extensions: &Extensions,
    receiving: &mut Receiving,
    begun: Begun,
) -> Result<Transfers> {
    let messages = &extensions.messages;
    let mut rng = batch.stream("label OT", &[]);
    // Stays only where there is no OT in which the client receives, and then correlates nothing.
    let mut delta = Delta::random(&mut rng);
    let mut setup = None;
    if !begun.point.is_empty() {
        let fresh = Delta::random(&mut rng);
        let (base, reply) = wire.ledger.time(Phase::Offline, "OT", || {
            SenderSetup::new(batch.ot_session("labels"), fresh, &begun.point, &mut rng)
        })?;
        wire.send(batch.tag(Step::LabelBaseReply, 0), &reply)?;
        setup = Some(base);
    }
    let (choices, received) = receive(wire, batch, extensions, receiving, &begun.answer)?;
    let (mut blocks, mut reply) = (Zeroizing::default(), vec![]);
    if let Some(setup) = setup {
        let trees = wire.receive(batch.tag(Step::LabelTrees, 0), messages)?;
        let extension = wire.receive(batch.tag(Step::LabelExtension, 0), messages)?;
        let session = batch.ot_session("labels");
        let roots = batch.derive("label silent OT");
        (delta, blocks, reply) = wire.ledger.time(Phase::Offline, "OT", || -> Result<_> {
            let base = setup.finish(&trees)?;
            let mut sender = extensions.ot.sender(base, session, roots);
            // Fails here if the client's extension fails its check; nothing that depends on it has been sent.
            let blocks = sender.extend(extensions.n_to_client, &extension)?;
            let reply = sender.reply();
            Ok((sender.into_delta(), blocks, reply))
        })?;
    }
    Ok(Transfers {
        delta: Arc::new(delta),
        blocks,
        reply,
        choices,
        received,
    })
}

/// Receives from the client, after setting up a new extension where it belongs to the batch.
fn receive<C: Channel>(
    wire: &mut Wire<C>,
    batch: &Batch<'_>,
    extensions: &Extensions,
    receiving: &mut Receiving,
    answer: &[u8],
) -> Result<(Zeroizing<Vec<u8>>, Received)> {
    let (n, messages) = (extensions.n_to_server, &extensions.messages);
    let mut of_batch = None;
    if let Receiving::Labels(begun) = receiving {
        let next = Batch {
            number: batch.number.saturating_add(1),
            ..*batch
        };
        let (receiver, trees, point) =
            wire.ledger.time(Phase::Offline, "OT", || -> Result<_> {
                let (next, point) = begin(&next);
                let base = std::mem::replace(begun, next);
                let (receiver, trees) = base.finish(answer)?;
                Ok((receiver, trees, point))
            })?;
        wire.send(batch.tag(Step::DigitTrees, 0), &trees)?;
        wire.send(batch.tag(Step::DigitPoint, 0), &point)?;
        let session = batch.ot_session("multiplexer");
        of_batch = Some(extensions.ot.receiver(receiver, session));
    }
    let (receiver, pads) = match (&mut of_batch, receiving) {
        (Some(receiver), _) => (receiver, None),
        (None, Receiving::Pads(pads)) => (&mut pads.receiver, Some((pads.start, &mut pads.n_used))),
        (None, _) => return Ok((Zeroizing::default(), Received::Pads(Zeroizing::default()))),
    };
    let mut extended = wire
        .ledger
        .time(Phase::Offline, "OT", || receiver.extend(n))?;
    wire.send(batch.tag(Step::MuxExtension, 0), &extended.message)?;
    let reply = wire.receive(batch.tag(Step::MuxReply, 0), messages)?;
    wire.ledger.time(Phase::Offline, "OT", || -> Result<_> {
        receiver.finish(n, &mut extended, &reply)?;
        let choices = Zeroizing::new(unpack_bits(&extended.choices, n));
        let Some((start, n_used)) = pads else {
            return Ok((choices, Received::Labels(extended.blocks)));
        };
        let first = *n_used;
        *n_used += n as u64;
        let received = receiver_pads(start, first, &extended.blocks, PAD_BITS)?;
        Ok((choices, Received::Pads(received)))
    })
}

/// Flight 3: the derandomisation bits of `n` of the client's labels.
pub(crate) fn receive_choices<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    layer: usize,
    n: usize,
    messages: &Messages,
) -> Result<Vec<u8>> {
    let tag = item.tag(Step::LabelBits, layer);
    let message = wire.receive(tag, messages)?;
    wire.ledger
        .time_of_layer(Phase::Offline, "unpack", layer, || {
            let bits = unpack(&message, n, 1).map_err(|e| malformed(tag, &e))?;
            Ok(bits.into_iter().map(|b| b as u8).collect())
        })
}
