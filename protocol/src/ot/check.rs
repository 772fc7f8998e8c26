//! The consistency check of the extension: a universal hash of every column.
//!
//! Roy, CRYPTO 2022, section 4: for a challenge drawn after the receiver's corrections, the receiver opens the hash of its
//! choice vector and of the columns; the sender knows each column up to `Delta_bit * choice vector` and verifies linearly.
//! The hash is POLYVAL (GF(2^128), RFC 8452): two different vectors of `b` blocks collide with probability b / 2^128. The vectors
//! end in 128 rows that serve no OT: a uniform last block makes the opened hash independent of the others.
//!
//! Instead of 128 column hashes their BLAKE3 hash travels: the sender can compute what it must be. The challenge is a BLAKE3 hash
//! of session, all messages of the set-up, position, count and corrections (Fiat-Shamir), so that the trees are fixed before it. A receiver that is inconsistent in some columns passes only by guessing the bits of
//! `Delta` there, and is caught otherwise: with 4 bits to a tree, each try of g trees passes with probability 16^-g and then
//! reveals them, the usual leakage of checked extensions. False acceptance otherwise: at most b * C(32, 2) / 2^128 for
//! each hash evaluation, about 2^-103 for eight million OTs.

use polyval::Polyval;
use polyval::universal_hash::{KeyInit, UniversalHash};
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::block::{Block, Delta, mask};

/// Bytes of the check: hash of the choice vector, and hash of the column hashes.
pub(super) const CHECK_BYTES: usize = 16 + 32;
const BATCH: usize = 64;

/// The challenge for corrections `message`, bound to the session (and with its name to the set-up) and to the position in its generators.
pub(super) fn challenge(session: &[u8; 32], position: u64, n: usize, message: &[u8]) -> Block {
    let mut hasher = blake3::Hasher::new_derive_key("pi-protocol v1 OT extension challenge");
    hasher.update(session).update(&position.to_le_bytes());
    hasher.update(&(n as u64).to_le_bytes()).update(message);
    let mut key = [0; 16];
    hasher.finalize_xof().fill(&mut key);
    Block::from_le_bytes(key)
}

/// POLYVAL of a vector of blocks.
pub(super) fn hash_vector(key: Block, vector: impl Iterator<Item = Block>) -> Block {
    let mut hash = Polyval::new(&key.to_le_bytes().into());
    let mut batch = [polyval::Block::default(); BATCH];
    let mut vector = vector.peekable();
    while vector.peek().is_some() {
        let mut n = 0;
        for (slot, block) in batch.iter_mut().zip(vector.by_ref()) {
            *slot = block.to_le_bytes().into();
            n += 1;
            if n == BATCH {
                break;
            }
        }
        hash.update(&batch[..n]);
    }
    Block::from_le_bytes(hash.finalize().into())
}

/// POLYVAL of each of the 128 columns of a sequence of tiles.
pub(super) fn hash_columns(key: Block, tiles: &[[Block; 128]]) -> Zeroizing<Vec<Block>> {
    let column = |i| hash_vector(key, tiles.iter().map(move |tile: &[Block; 128]| tile[i]));
    Zeroizing::new((0..128usize).into_par_iter().map(column).collect())
}

/// Removes `Delta_bit * choices` from each column hash of the sender.
pub(super) fn subtract(columns: &mut [Block], delta: &Delta, choices: Block) {
    for (i, column) in columns.iter_mut().enumerate() {
        column.0 ^= choices.0 & mask(delta.block().bit(i));
    }
}

/// The 32 bytes that stand for the column hashes.
pub(super) fn digest(session: &[u8; 32], challenge: Block, columns: &[Block]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("pi-protocol v1 OT extension check");
    hasher.update(session).update(&challenge.to_le_bytes());
    for column in columns {
        hasher.update(&column.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}
