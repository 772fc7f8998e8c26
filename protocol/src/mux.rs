//! The correlated OTs in which the client is the sender and the server the receiver: of k bits behind the multiplexer, or,
//! where the client garbles, a label for each bit of the server's shares.
//!
//! Set up once for a session, as batch 0, and extended for each batch; where the client garbles, set up anew for each batch, so that
//! its `Delta` serves no other. The server's choice bits are its output masks m, which the extension
//! makes. Cost: 31 bits down for each surviving ReLU, or with silent OT a few thousand OTs' worth and a reply up; the k-bit
//! corrections travel with the layer's other messages.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::block::{Block, Delta};
use crate::error::{Error, Result};
use crate::ot::correlated::{receiver_pads, sender_pads};
use crate::ot::mode::{OtMode, Receiver, Sender};
use crate::ot::softspoken::{ReceiverSetup, SenderSetup};
use crate::ot::{CotReceiver as _, CotSender as _, Extended, unpack_bits};
use crate::prg::{Seed, public_seed};
use crate::session::Nonce;
use crate::sizes;

/// Bits of a pad; layers take the low bits of it that their ring has.
const PAD_BITS: u32 = 62;

/// Where pads are hashed from: public, fixed by both nonces.
fn start(client: &Nonce, server: &Nonce) -> Block {
    let seed = public_seed("multiplexer hash", client, server, &[]);
    Block::from_le_bytes(*seed.first_chunk().unwrap_or(&[0; 16]))
}

/// R_0 and R_1 of each OT.
pub type Pads = [Zeroizing<Vec<u64>>; 2];

/// The client's half, the OT sender.
pub struct ClientMux {
    sender: Sender,
    start: Block,
    n_used: u64,
}

impl ClientMux {
    /// Answers the server's first message; [`Self::finish`] takes what comes back.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] where the message is no point.
    pub fn answer(
        client: &Nonce,
        server: &Nonce,
        batch: u32,
        point: &[u8],
        seed: &Seed,
    ) -> Result<(SenderSetup, Vec<u8>)> {
        let mut rng = seed.stream("multiplexer OT", &[batch.into()]);
        let delta = Delta::random(&mut rng);
        SenderSetup::new(
            sizes::ot_session("multiplexer", client, server, batch),
            delta,
            point,
            &mut rng,
        )
    }

    /// Takes the server's trees. `roots` is a seed for the extension in silent mode.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] on a wrong length or a failed check.
    pub fn finish(
        setup: SenderSetup,
        client: &Nonce,
        server: &Nonce,
        batch: u32,
        trees: &[u8],
        ot: OtMode,
        roots: Seed,
    ) -> Result<Self> {
        let session = sizes::ot_session("multiplexer", client, server, batch);
        Ok(Self {
            sender: ot.sender(setup.finish(trees)?, session, roots),
            start: start(client, server),
            n_used: 0,
        })
    }

    /// R_0 and R_1 of the next `n` OTs, and the reply to the server, empty unless OTs are silent.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] where the message fails its check.
    pub fn extend(&mut self, n: usize, message: &[u8]) -> Result<(Pads, Vec<u8>)> {
        let q = self.sender.extend(n, message)?;
        let first = self.n_used;
        self.n_used += n as u64;
        let pads = sender_pads(self.start, first, &q, self.sender.delta(), PAD_BITS)?;
        Ok((pads, self.sender.reply()))
    }
}

/// The sender's blocks and the reply to the server.
pub type Sent = (Zeroizing<Vec<Block>>, Vec<u8>);

impl ClientMux {
    /// The blocks of the next `n` OTs themselves, and the reply to the server.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] where the message fails its check.
    pub fn extend_labels(&mut self, n: usize, message: &[u8]) -> Result<Sent> {
        let q = self.sender.extend(n, message)?;
        self.n_used += n as u64;
        Ok((q, self.sender.reply()))
    }

    /// The correlation, for prepared inferences.
    ///
    /// # Errors
    /// None that can happen: a correlation has its colour.
    pub fn delta(&self) -> Result<Arc<Delta>> {
        let delta = Delta::from_block(self.sender.delta().block());
        let delta =
            delta.ok_or_else(|| Error::Misuse("a correlation without its colour".into()))?;
        Ok(Arc::new(delta))
    }
}

/// The server's half, the OT receiver.
pub struct ServerMux {
    receiver: Receiver,
    start: Block,
    n_used: u64,
}

/// The server's choice bits, one byte each, and its blocks.
pub type LabelChoices = (Zeroizing<Vec<u8>>, Zeroizing<Vec<Block>>);

/// The server's choice bits m, one byte each, and R_m.
pub type Choices = (Zeroizing<Vec<u8>>, Zeroizing<Vec<u64>>);

impl ServerMux {
    /// The first message of the set-up, to the client.
    pub fn begin(
        client: &Nonce,
        server: &Nonce,
        batch: u32,
        seed: &Seed,
    ) -> (ReceiverSetup, [u8; 32]) {
        let session = sizes::ot_session("multiplexer", client, server, batch);
        ReceiverSetup::new(session, &mut seed.stream("multiplexer OT", &[batch.into()]))
    }

    /// Takes the client's answer; the trees go back to it.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] on a wrong length or bytes that are no points.
    pub fn finish(
        setup: ReceiverSetup,
        client: &Nonce,
        server: &Nonce,
        batch: u32,
        answer: &[u8],
        ot: OtMode,
    ) -> Result<(Self, Vec<u8>)> {
        let (receiver, trees) = setup.finish(answer)?;
        let session = sizes::ot_session("multiplexer", client, server, batch);
        Ok((
            Self {
                receiver: ot.receiver(receiver, session),
                start: start(client, server),
                n_used: 0,
            },
            trees,
        ))
    }

    /// Begins the next `n` OTs; [`Self::complete`] takes what the client answers.
    ///
    /// # Errors
    /// [`crate::Error::Misuse`] where the generator is exhausted.
    pub fn extend(&mut self, n: usize) -> Result<Extended> {
        self.receiver.extend(n)
    }

    /// The choices and blocks of the OTs that [`Self::extend`] began.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] where the reply fails its check.
    pub fn complete_labels(
        &mut self,
        n: usize,
        mut extended: Extended,
        reply: &[u8],
    ) -> Result<LabelChoices> {
        self.receiver.finish(n, &mut extended, reply)?;
        self.n_used += n as u64;
        let choices = Zeroizing::new(unpack_bits(&extended.choices, n));
        Ok((choices, extended.blocks))
    }

    /// The OTs that [`Self::extend`] began; the client's reply is empty unless OTs are silent.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] where the reply fails its check.
    pub fn complete(&mut self, n: usize, mut extended: Extended, reply: &[u8]) -> Result<Choices> {
        self.receiver.finish(n, &mut extended, reply)?;
        let first = self.n_used;
        self.n_used += n as u64;
        let pads = receiver_pads(self.start, first, &extended.blocks, PAD_BITS)?;
        Ok((Zeroizing::new(unpack_bits(&extended.choices, n)), pads))
    }
}
