//! Correlated OTs on blocks, hashed to k-bit pads: the sender gets `R_0, R_1`, the receiver `R_c` for its random bit `c`.
//!
//! `R_0 = H(q)`, `R_1 = H(q ^ Delta)`, `R_c = H(t)` with the TCCR hash of [`crate::hash`] in a domain of its own. Each OT has a number,
//! unique under its `start` (`first` counts on through all extensions that share one); `start` is public, fixed by both parties' nonces. Local: no bytes.

use zeroize::Zeroizing;

use crate::block::{Block, Delta};
use crate::error::Result;
use crate::hash::{Domain, TweakBase, hash_to_bits};

fn hash(
    start: Block,
    first: u64,
    blocks: impl ExactSizeIterator<Item = Block>,
    bits: u32,
) -> Result<Zeroizing<Vec<u64>>> {
    let base = TweakBase::new(0, 0)?;
    hash_to_bits(start, Domain::CorrelatedOt, base, first, blocks, bits).map(Zeroizing::new)
}

/// The sender's `[R_0, R_1]`, one of `bits` bits for each block `q`.
///
/// # Errors
/// [`crate::Error::Misuse`] unless `1 <= bits <= 64`.
pub fn sender_pads(
    start: Block,
    first: u64,
    q: &[Block],
    delta: &Delta,
    bits: u32,
) -> Result<[Zeroizing<Vec<u64>>; 2]> {
    let r0 = hash(start, first, q.iter().copied(), bits)?;
    let r1 = hash(start, first, q.iter().map(|q| *q ^ delta.block()), bits)?;
    Ok([r0, r1])
}

/// The receiver's `R_c`, one of `bits` bits for each block `t`.
///
/// # Errors
/// [`crate::Error::Misuse`] unless `1 <= bits <= 64`.
pub fn receiver_pads(
    start: Block,
    first: u64,
    t: &[Block],
    bits: u32,
) -> Result<Zeroizing<Vec<u64>>> {
    hash(start, first, t.iter().copied(), bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ot::{CotReceiver, CotSender, ideal, pack_bits, packed_bit, unpack_bits};

    #[test]
    fn receiver_holds_the_pad_of_its_choice() {
        let (mut sender, mut receiver) = ideal::pair(&[3; 32]);
        let n = 200;
        let got = receiver.extend(n).unwrap();
        let q = sender.extend(n, &got.message).unwrap();
        for bits in [1, 24, 52, 62] {
            let pads = sender_pads(Block(1), 70, &q, sender.delta(), bits).unwrap();
            let chosen = receiver_pads(Block(1), 70, &got.blocks, bits).unwrap();
            for i in 0..n {
                let c = packed_bit(&got.choices, i);
                assert_eq!(chosen[i], pads[usize::from(c)][i]);
                assert!(bits < 24 || chosen[i] != pads[usize::from(1 - c)][i]);
            }
        }
        assert_eq!(pack_bits(&unpack_bits(&got.choices, n)), got.choices[..]);
    }
}
