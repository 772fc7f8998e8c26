//! The correlated OTs of k bits behind the multiplexer: the client is the sender, the server the receiver.
//!
//! Set up once for a session; each batch extends it. The server's choice bits are its output masks m, which the extension
//! makes. Cost: 31 bits down for each surviving ReLU; the k-bit corrections travel with the layer's other messages.

use zeroize::Zeroizing;

use crate::block::{Block, Delta};
use crate::error::Result;
use crate::ot::correlated::{receiver_pads, sender_pads};
use crate::ot::softspoken::{Receiver, ReceiverSetup, Sender, SenderSetup};
use crate::ot::{CotReceiver as _, CotSender as _, unpack_bits};
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
        point: &[u8],
        seed: &Seed,
    ) -> Result<(SenderSetup, Vec<u8>)> {
        let mut rng = seed.stream("multiplexer OT", &[]);
        let delta = Delta::random(&mut rng);
        SenderSetup::new(
            sizes::ot_session("multiplexer", client, server, 0),
            delta,
            point,
            &mut rng,
        )
    }

    /// Takes the server's trees.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] on a wrong length or a failed check.
    pub fn finish(
        setup: SenderSetup,
        client: &Nonce,
        server: &Nonce,
        trees: &[u8],
    ) -> Result<Self> {
        Ok(Self {
            sender: setup.finish(trees)?,
            start: start(client, server),
            n_used: 0,
        })
    }

    /// R_0 and R_1 of the next `n` OTs.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] where the message fails its check.
    pub fn extend(&mut self, n: usize, message: &[u8]) -> Result<[Zeroizing<Vec<u64>>; 2]> {
        let q = self.sender.extend(n, message)?;
        let first = self.n_used;
        self.n_used += n as u64;
        sender_pads(self.start, first, &q, self.sender.delta(), PAD_BITS)
    }
}

/// The server's half, the OT receiver.
pub struct ServerMux {
    receiver: Receiver,
    start: Block,
    n_used: u64,
}

/// The server's extension message, its choice bits m, one byte each, and R_m.
pub type Extension = (Vec<u8>, Zeroizing<Vec<u8>>, Zeroizing<Vec<u64>>);

impl ServerMux {
    /// The first message of the set-up, to the client.
    pub fn begin(client: &Nonce, server: &Nonce, seed: &Seed) -> (ReceiverSetup, [u8; 32]) {
        let session = sizes::ot_session("multiplexer", client, server, 0);
        ReceiverSetup::new(session, &mut seed.stream("multiplexer OT", &[]))
    }

    /// Takes the client's answer; the trees go back to it.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] on a wrong length or bytes that are no points.
    pub fn finish(
        setup: ReceiverSetup,
        client: &Nonce,
        server: &Nonce,
        answer: &[u8],
    ) -> Result<(Self, Vec<u8>)> {
        let (receiver, trees) = setup.finish(answer)?;
        Ok((
            Self {
                receiver,
                start: start(client, server),
                n_used: 0,
            },
            trees,
        ))
    }

    /// The next `n` OTs.
    ///
    /// # Errors
    /// [`crate::Error::Misuse`] where the generator is exhausted.
    pub fn extend(&mut self, n: usize) -> Result<Extension> {
        let extended = self.receiver.extend(n)?;
        let first = self.n_used;
        self.n_used += n as u64;
        let pads = receiver_pads(self.start, first, &extended.blocks, PAD_BITS)?;
        Ok((
            extended.message,
            Zeroizing::new(unpack_bits(&extended.choices, n)),
            pads,
        ))
    }
}
