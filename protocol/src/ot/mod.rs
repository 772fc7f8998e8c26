//! Oblivious transfer: base OTs over Ristretto, their extension to millions of correlated OTs, and k-bit correlations.
//!
//! A correlated OT on blocks: the sender holds `Delta` and gets `q`, the receiver gets a random bit `c` and
//! `t = q ^ c Delta`. Callers know only [`CotSender`] and [`CotReceiver`]; one message, receiver to sender, serves any number, and
//! a silent extension has a reply besides. The receiver knows its choices before the reply, its blocks after it.
//! Sender and receiver are roles of this module; either party may play either.

pub mod base;
mod check;
pub mod correlated;
#[cfg(any(test, feature = "testing"))]
pub mod ideal;
pub mod mode;
mod pprf;
pub mod silent;
pub mod softspoken;
mod transpose;

use zeroize::Zeroizing;

use crate::block::{Block, Delta};
use crate::error::Result;

/// The party with `Delta`.
pub trait CotSender {
    /// The correlation.
    fn delta(&self) -> &Delta;

    /// Bytes of the message for `n` OTs: a function of `n` alone.
    fn message_bytes(&self, n: usize) -> usize;

    /// The next `n` OTs: the blocks `q_i`.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] where the message has the wrong length or fails the check; the sender is then spent, and every
    /// further call is [`crate::Error::Misuse`].
    fn extend(&mut self, n: usize, message: &[u8]) -> Result<Zeroizing<Vec<Block>>>;

    /// Bytes of the reply for `n` OTs: a function of `n` alone. None unless the extension is silent.
    fn reply_bytes(&self, _n: usize) -> usize {
        0
    }

    /// The reply to the last [`Self::extend`], to send; it is handed out once.
    fn reply(&mut self) -> Vec<u8> {
        vec![]
    }
}

/// The party with choice bits.
pub trait CotReceiver {
    /// Bytes of the message for `n` OTs: a function of `n` alone.
    fn message_bytes(&self, n: usize) -> usize;

    /// The next `n` OTs.
    ///
    /// # Errors
    /// [`crate::Error::Misuse`] where the generator is exhausted (2^63 OTs).
    fn extend(&mut self, n: usize) -> Result<Extended>;

    /// Bytes of the sender's reply for `n` OTs: a function of `n` alone. None unless the extension is silent.
    fn reply_bytes(&self, _n: usize) -> usize {
        0
    }

    /// Takes the reply and completes the blocks of `extended`, which came from `extend(n)`; in the order of the extensions.
    /// Nothing to do where there is no reply.
    ///
    /// # Errors
    /// [`crate::Error::Peer`] where the reply has the wrong length or fails the check; the receiver is then spent, and every
    /// further call is [`crate::Error::Misuse`].
    fn finish(&mut self, _n: usize, _extended: &mut Extended, reply: &[u8]) -> Result<()> {
        if reply.is_empty() {
            Ok(())
        } else {
            Err(crate::Error::peer(
                "OT extension",
                0,
                "no reply",
                reply.len(),
            ))
        }
    }
}

/// What the receiver gets out of an extension.
pub struct Extended {
    /// To send.
    pub message: Vec<u8>,
    /// To keep: `n` random choice bits `c_i`, eight in a byte, lowest bit first, unused bits zero.
    pub choices: Zeroizing<Vec<u8>>,
    /// To keep: the blocks `t_i = q_i ^ c_i Delta`; empty until the reply of a silent extension.
    pub blocks: Zeroizing<Vec<Block>>,
}

/// Bit `i` of packed bits, 0 or 1; `i` is below `8 * packed.len()`, which is never the peer's to choose.
#[inline(always)]
pub fn packed_bit(packed: &[u8], i: usize) -> u8 {
    packed[i / 8] >> (i % 8) & 1
}

/// `n` packed bits as one byte each.
pub fn unpack_bits(packed: &[u8], n: usize) -> Vec<u8> {
    (0..n).map(|i| packed_bit(packed, i)).collect()
}

/// Bits, one byte each, packed eight in a byte.
#[cfg(test)]
pub fn pack_bits(bits: &[u8]) -> Vec<u8> {
    let pack = |byte: &[u8]| byte.iter().rev().fold(0, |acc, bit| acc << 1 | (bit & 1));
    bits.chunks(8).map(pack).collect()
}
