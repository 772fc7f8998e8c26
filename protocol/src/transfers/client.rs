//! The client's ends of the OTs: receiver of its labels (or products), sender of the server's products (or labels).

use std::ops::Range;
use std::sync::Arc;

use pi_model::bits::pack;
use zeroize::Zeroizing;

use super::ranges::Purpose;
use super::{Extensions, PAD_BITS, pads_start, setup_messages};
use crate::block::{Block, Delta};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::ot::correlated::sender_pads;
use crate::ot::mode::{Receiver, Sender};
use crate::ot::softspoken::{ReceiverSetup, SenderSetup};
use crate::ot::{CotReceiver as _, CotSender as _, Extended, unpack_bits};
use crate::wire::channel::Channel;
use crate::wire::ledger::Work;
use crate::wire::{Batch, Item, Phase, Step, Wire};

/// What the client carries from batch to batch for the OTs in which the server receives.
pub(crate) enum Sending {
    /// There are none.
    Nothing,
    /// The extension behind the multiplexer.
    Pads(PadSender),
    /// Where the client garbles: the server's first message of the next batch's base OTs. Taken when it is answered: a second
    /// answer to it, under another `Delta`, would serve one base OT twice.
    Labels(Option<[u8; 32]>),
}

/// One extension for the session, and how many of its OTs are used: no hash of a pad has the number of another.
pub(crate) struct PadSender {
    sender: Sender,
    start: Block,
    n_used: u64,
}

impl Sending {
    /// What follows the server's `point` in the set-up, where something does.
    pub(crate) fn set_up<C: Channel>(
        wire: &mut Wire<C>,
        setup: &Batch<'_>,
        layout: &Layout,
        point: [u8; 32],
    ) -> Result<Self> {
        match layout.server_receives() {
            None => return Ok(Self::Nothing),
            Some(Purpose::Labels) => return Ok(Self::Labels(Some(point))),
            Some(Purpose::Pads) => {}
        }
        let (base, answer) = wire
            .ledger
            .time(Phase::Setup, "OT", || answer_base(setup, &point))?;
        wire.send(setup.tag(Step::MuxBase, 0), &answer)?;
        let trees = wire.receive(setup.tag(Step::MuxTrees, 0), &setup_messages(layout))?;
        let roots = setup.seed.derive("multiplexer silent OT", &[]);
        let session = setup.ot_session("multiplexer");
        Ok(Self::Pads(PadSender {
            sender: layout
                .options()
                .ot
                .sender(base.finish(&trees)?, session, roots),
            start: pads_start(&setup.nonces),
            n_used: 0,
        }))
    }
}

/// The client's answer to the server's first message of the base OTs of the multiplexer or of digits.
fn answer_base(batch: &Batch<'_>, point: &[u8]) -> Result<(SenderSetup, Vec<u8>)> {
    let mut rng = batch.stream("multiplexer OT", &[]);
    let delta = Delta::random(&mut rng);
    SenderSetup::new(batch.ot_session("multiplexer"), delta, point, &mut rng)
}

/// What the client has begun in flight 1.
pub(crate) struct Begun {
    labels: Option<ReceiverSetup>,
    digits: Option<SenderSetup>,
}

/// Flight 1: the client's first message of its labels' base OTs, and its answer for those of the server's digits.
pub(crate) fn begin<C: Channel>(
    wire: &mut Wire<C>,
    batch: &Batch<'_>,
    extensions: &Extensions,
    sending: &mut Sending,
) -> Result<Begun> {
    let labels = if extensions.n_to_client == 0 {
        None
    } else {
        let mut rng = batch.stream("label base OT", &[]);
        let (base, point) = ReceiverSetup::new(batch.ot_session("labels"), &mut rng);
        wire.send(batch.tag(Step::LabelBase, 0), &point)?;
        Some(base)
    };
    let digits = if let Sending::Labels(point) = sending {
        let point = point.take().ok_or_else(|| {
            Error::Misuse("the base OTs of this session are used up; start a new one".into())
        })?;
        let (base, answer) = wire
            .ledger
            .time(Phase::Offline, "OT", || answer_base(batch, &point))?;
        wire.send(batch.tag(Step::DigitBase, 0), &answer)?;
        Some(base)
    } else {
        None
    };
    Ok(Begun { labels, digits })
}

/// The client's half of the OTs of a batch.
pub(crate) struct Transfers {
    /// Its random choices, one byte each.
    choices: Zeroizing<Vec<u8>>,
    /// The extension in which it receives, whose blocks are complete after the server's reply.
    receiving: Option<(Receiver, Extended)>,
    /// The OTs in which it sends.
    pub(crate) sent: Sent,
}

/// What the client knows of the OTs in which the server receives.
pub(crate) enum Sent {
    /// R_0 and R_1 of each; empty where there are none.
    Pads([Zeroizing<Vec<u64>>; 2]),
    /// The correlation of the batch, and the block of choice 0 of each.
    Labels(Arc<Delta>, Zeroizing<Vec<Block>>),
}

impl Transfers {
    /// The client's random choices in these OTs.
    pub(crate) fn choices(&self, range: Range<usize>) -> &[u8] {
        &self.choices[range]
    }

    /// Flight 4: the server's reply, and with it the blocks of the OTs in which the client receives.
    pub(crate) fn complete<C: Channel>(
        self,
        wire: &mut Wire<C>,
        batch: &Batch<'_>,
        extensions: &Extensions,
    ) -> Result<Zeroizing<Vec<Block>>> {
        let Some((mut receiver, mut extended)) = self.receiving else {
            return Ok(Zeroizing::default());
        };
        let reply = wire.receive(batch.tag(Step::LabelReply, 0), &extensions.messages)?;
        wire.ledger.time(Phase::Offline, "OT", || {
            receiver.finish(self.choices.len(), &mut extended, &reply)
        })?;
        Ok(extended.blocks)
    }
}

/// Flights 2 and 3: takes the server's base-OT answers and its extension; sends the client's.
pub(crate) fn extend<C: Channel>(
    wire: &mut Wire<C>,
    batch: &Batch<'_>,
    extensions: &Extensions,
    sending: &mut Sending,
    begun: Begun,
) -> Result<Transfers> {
    let reply = match &begun.labels {
        Some(_) => wire.receive(batch.tag(Step::LabelBaseReply, 0), &extensions.messages)?,
        None => vec![],
    };
    let sent = send(wire, batch, extensions, sending, begun.digits)?;
    let mut transfers = Transfers {
        choices: Zeroizing::default(),
        receiving: None,
        sent,
    };
    if let Some(base) = begun.labels {
        let n_labels = extensions.n_to_client;
        let session = batch.ot_session("labels");
        let (trees, receiver, extended) =
            wire.ledger.time(Phase::Offline, "OT", || -> Result<_> {
                let (base, trees) = base.finish(&reply)?;
                let mut receiver = extensions.ot.receiver(base, session);
                let extended = receiver.extend(n_labels)?;
                Ok((trees, receiver, extended))
            })?;
        wire.send(batch.tag(Step::LabelTrees, 0), &trees)?;
        wire.send(batch.tag(Step::LabelExtension, 0), &extended.message)?;
        transfers.choices = Zeroizing::new(unpack_bits(&extended.choices, n_labels));
        transfers.receiving = Some((receiver, extended));
    }
    Ok(transfers)
}

/// Serves the server's extension, after setting up a new one where it belongs to the batch.
fn send<C: Channel>(
    wire: &mut Wire<C>,
    batch: &Batch<'_>,
    extensions: &Extensions,
    sending: &mut Sending,
    base: Option<SenderSetup>,
) -> Result<Sent> {
    let (n, messages) = (extensions.n_to_server, &extensions.messages);
    let (sent, reply) = match sending {
        Sending::Nothing => return Ok(Sent::Pads(Default::default())),
        Sending::Pads(pads) => {
            let message = wire.receive(batch.tag(Step::MuxExtension, 0), messages)?;
            wire.ledger.time(Phase::Offline, "OT", || -> Result<_> {
                // Fails here if the server's extension fails its check; nothing that depends on it has been sent.
                let q = pads.sender.extend(n, &message)?;
                let first = pads.n_used;
                pads.n_used += n as u64;
                let both = sender_pads(pads.start, first, &q, pads.sender.delta(), PAD_BITS)?;
                Ok((Sent::Pads(both), pads.sender.reply()))
            })?
        }
        Sending::Labels(point) => {
            let base = base.ok_or_else(|| Error::Misuse("no base OTs were begun".into()))?;
            let trees = wire.receive(batch.tag(Step::DigitTrees, 0), messages)?;
            let next = wire.receive(batch.tag(Step::DigitPoint, 0), messages)?;
            *point = next.first_chunk().copied();
            let (session, roots) = (
                batch.ot_session("multiplexer"),
                batch.derive("digit silent OT"),
            );
            let mut sender = wire.ledger.time(Phase::Offline, "OT", || -> Result<_> {
                let base = base.finish(&trees)?;
                Ok(extensions.ot.sender(base, session, roots))
            })?;
            let message = wire.receive(batch.tag(Step::MuxExtension, 0), messages)?;
            wire.ledger.time(Phase::Offline, "OT", || -> Result<_> {
                // As above.
                let blocks = sender.extend(n, &message)?;
                let reply = sender.reply();
                Ok((Sent::Labels(Arc::new(sender.into_delta()), blocks), reply))
            })?
        }
    };
    wire.send(batch.tag(Step::MuxReply, 0), &reply)?;
    Ok(sent)
}

/// Flight 3: the derandomisation bits of the client's labels of one layer, for the bits `inputs` of its shares.
///
/// What travels is input xor choice: the choices are uniform and serve once, so it tells nothing of the inputs.
pub(crate) fn send_choices<C: Channel>(
    wire: &mut Wire<C>,
    item: Item,
    layer: usize,
    inputs: &[u8],
    choices: &[u8],
) -> Result<()> {
    let bits: Vec<u64> = inputs
        .iter()
        .zip(choices)
        .map(|(input, choice)| u64::from(input ^ choice))
        .collect();
    let n_ots = inputs.len() as u64;
    wire.ledger.work(
        layer,
        Work {
            n_ots,
            ..Work::default()
        },
    );
    wire.send(item.tag(Step::LabelBits, layer), &pack(&bits, 1))
}
