//! The ideal correlated OT: a dealer inside one process, for tests alone. It hides nothing and sends nothing.

use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

use super::{CotReceiver, CotSender, Extended, packed_bit};
use crate::block::{Block, Delta};
use crate::error::{Error, Result};
use crate::prg::stream;

/// The sender's end.
pub struct IdealSender(Dealer);

/// The receiver's end.
pub struct IdealReceiver(Dealer);

struct Dealer {
    delta: Delta,
    rng: ChaCha20Rng,
}

/// Both ends of an ideal correlated OT.
pub fn pair(seed: &[u8; 32]) -> (IdealSender, IdealReceiver) {
    let dealer = || {
        let mut rng = stream(seed, "ideal correlated OT", &[]);
        Dealer {
            delta: Delta::random(&mut rng),
            rng,
        }
    };
    (IdealSender(dealer()), IdealReceiver(dealer()))
}

impl Dealer {
    fn deal(&mut self, n: usize) -> (Vec<u8>, Vec<Block>) {
        let mut choices = vec![0; n.div_ceil(8)];
        self.rng.fill_bytes(&mut choices);
        if let (Some(last), 1..) = (choices.last_mut(), n % 8) {
            *last &= (1 << (n % 8)) - 1;
        }
        (
            choices,
            (0..n).map(|_| Block::random(&mut self.rng)).collect(),
        )
    }
}

impl CotSender for IdealSender {
    fn delta(&self) -> &Delta {
        &self.0.delta
    }

    fn message_bytes(&self, _n: usize) -> usize {
        0
    }

    fn extend(&mut self, n: usize, message: &[u8]) -> Result<Zeroizing<Vec<Block>>> {
        if !message.is_empty() {
            return Err(Error::peer("ideal OT", 0, "no bytes", message.len()));
        }
        Ok(Zeroizing::new(self.0.deal(n).1))
    }
}

impl CotReceiver for IdealReceiver {
    fn message_bytes(&self, _n: usize) -> usize {
        0
    }

    fn extend(&mut self, n: usize) -> Result<Extended> {
        let (choices, q) = self.0.deal(n);
        let delta = self.0.delta.block();
        let t = q
            .iter()
            .enumerate()
            .map(|(i, q)| q.xor_if(packed_bit(&choices, i), delta));
        let blocks = Zeroizing::new(t.collect());
        Ok(Extended {
            message: Vec::new(),
            choices: Zeroizing::new(choices),
            blocks,
        })
    }
}
