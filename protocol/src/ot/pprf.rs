//! 32 trees of 16 leaves, all of which one party knows and all but one the other.
//!
//! GGM trees whose punctured form is transferred by four base OTs each (Roy, CRYPTO 2022, section 6, after Boyle, Couteau,
//! Gilboa, Ishai, Kohl, Scholl 2019). Below the first level, whose two nodes are the base OT's keys themselves, the sums of
//! all left and of all right nodes travel, each masked by a base OT key. The receiver's choice bits are the bits of its puncture.
//!
//! Sender -> receiver, once: [`MESSAGE_BYTES`] = 32 trees * (3 levels * 32 + 32) + 32 = 4,128 bytes.
//! The last part makes a deviating sender harmless (same section, consistency check): each leaf also yields 32 check bytes; the
//! sender sends their sum and the hash of all of them, the receiver completes its missing one from the sum and compares. So
//! every receiver that accepts holds the same leaves; a sender may guess bits of the puncture, and is caught where it guesses wrong.
//! The receiver's arrays are ordered by (leaf xor puncture): the unknown leaf is number 0 and no secret is an address.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::block::{Block, mask};
use crate::error::{Error, Result};
use crate::prg::{Expander, expand};

/// Levels of a tree: the parameter k of SoftSpokenOT.
pub(super) const DEPTH: usize = 4;
/// Leaves of a tree.
pub(super) const N_LEAVES: usize = 1 << DEPTH;
/// Trees.
pub(super) const N_TREES: usize = 128 / DEPTH;
const CHECK_BYTES: usize = 32;
const TREE_BYTES: usize = (DEPTH - 1) * 2 * Block::BYTES + CHECK_BYTES;
/// Bytes of the sender's message.
pub(super) const MESSAGE_BYTES: usize = N_TREES * TREE_BYTES + CHECK_BYTES;

/// The generators at the leaves; the receiver's number 0 is a dummy.
pub(super) type Leaves = [Expander; N_LEAVES];

/// Index of the base OT for `level` (0 at the root) of `tree`; its choice is that bit of Delta.
fn base_index(tree: usize, level: usize) -> usize {
    tree * DEPTH + DEPTH - 1 - level
}

fn children(node: Block) -> [Block; 2] {
    let mut bytes = Zeroizing::new([0; 32]);
    expand(node, &mut *bytes);
    let mut blocks = [Block::ZERO; 2];
    for (block, bytes) in blocks.iter_mut().zip(bytes.as_chunks::<16>().0) {
        *block = Block::from_le_bytes(*bytes);
    }
    blocks
}

/// A leaf's generator and check bytes.
fn open_leaf(leaf: Block) -> (Expander, [u8; CHECK_BYTES]) {
    let mut bytes = Zeroizing::new([0; 48]);
    expand(leaf, &mut *bytes);
    let (mut seed, mut check) = (Zeroizing::new([0; 16]), [0; CHECK_BYTES]);
    seed.copy_from_slice(&bytes[..16]);
    check.copy_from_slice(&bytes[16..]);
    (Expander::new(Block::from_le_bytes(*seed)), check)
}

fn xor_bytes(into: &mut [u8; CHECK_BYTES], other: &[u8; CHECK_BYTES]) {
    into.iter_mut().zip(other).for_each(|(a, b)| *a ^= b);
}

fn check_hasher(session: &[u8; 32]) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_derive_key("pi-protocol v1 punctured trees");
    hasher.update(session);
    hasher
}

/// All leaves of all trees, and the message to the other party. `keys` are those of the base OT's sender.
pub(super) fn plant(session: &[u8; 32], keys: &[[Block; 2]]) -> Result<(Vec<Leaves>, Vec<u8>)> {
    if keys.len() != N_TREES * DEPTH {
        return Err(Error::Misuse(format!(
            "128 base OTs are due, got {}",
            keys.len()
        )));
    }
    let mut hasher = check_hasher(session);
    let mut message = Vec::with_capacity(MESSAGE_BYTES);
    let mut trees = Vec::with_capacity(N_TREES);
    for tree in 0..N_TREES {
        // A base OT's key for choice c opens the side 1 - c.
        let [right, left] = keys[base_index(tree, 0)];
        let mut nodes = Zeroizing::new(vec![left, right]);
        for level in 1..DEPTH {
            nodes = Zeroizing::new(nodes.iter().flat_map(|node| children(*node)).collect());
            for (choice, key) in keys[base_index(tree, level)].iter().enumerate() {
                let masked = nodes
                    .iter()
                    .skip(1 - choice)
                    .step_by(2)
                    .fold(*key, |a, b| a ^ *b);
                message.extend_from_slice(&masked.to_le_bytes());
            }
        }
        let mut sum = [0; CHECK_BYTES];
        trees.push(std::array::from_fn(|i| {
            let (leaf, mut check) = open_leaf(nodes[i]);
            xor_bytes(&mut sum, &check);
            hasher.update(&check);
            check.zeroize();
            leaf
        }));
        message.extend_from_slice(&sum);
    }
    message.extend_from_slice(hasher.finalize().as_bytes());
    Ok((trees, message))
}

/// All leaves but one of each tree. `keys` are those of the base OT's receiver, whose choices were the bits of `puncture`.
pub(super) fn puncture(
    session: &[u8; 32],
    keys: &[Block],
    puncture: Block,
    message: &[u8],
) -> Result<Vec<Leaves>> {
    const STEP: &str = "OT set-up";
    if keys.len() != N_TREES * DEPTH {
        return Err(Error::Misuse(format!(
            "128 base OTs are due, got {}",
            keys.len()
        )));
    }
    if message.len() != MESSAGE_BYTES {
        let expected = format!("{MESSAGE_BYTES} bytes");
        return Err(Error::peer(STEP, 0, expected, message.len()));
    }
    let (parts, hash) = message.split_at(N_TREES * TREE_BYTES);
    let mut hasher = check_hasher(session);
    let mut trees = Vec::with_capacity(N_TREES);
    for (tree, part) in parts.as_chunks::<TREE_BYTES>().0.iter().enumerate() {
        let mut sums = part.as_chunks::<16>().0.iter();
        let mut nodes = Zeroizing::new(vec![Block::ZERO, keys[base_index(tree, 0)]]);
        for level in 1..DEPTH {
            let bit = puncture.bit(base_index(tree, level));
            let mut next = Zeroizing::new(Vec::with_capacity(2 * nodes.len()));
            for node in nodes.iter() {
                let [left, right] = children(*node);
                let swap = Block((left ^ right).0 & mask(bit));
                next.extend([left ^ swap, right ^ swap]);
            }
            // Odd positions hold the side 1 - bit, whose sum the base OT's key unmasks.
            let sums: [Block; 2] = [(); 2].map(|()| {
                sums.next()
                    .map_or(Block::ZERO, |b| Block::from_le_bytes(*b))
            });
            let sum = sums[0].xor_if(bit, sums[0] ^ sums[1]) ^ keys[base_index(tree, level)];
            let known = next.iter().skip(3).step_by(2);
            next[1] = known.fold(sum, |a, b| a ^ *b);
            next[0] = Block::ZERO;
            nodes = next;
        }
        let mut checks = Zeroizing::new([[0; CHECK_BYTES]; N_LEAVES]);
        let leaves = std::array::from_fn(|i| {
            let (leaf, check) = open_leaf(nodes[i]);
            checks[i] = check;
            leaf
        });
        checks[0].copy_from_slice(&part[TREE_BYTES - CHECK_BYTES..]);
        for i in 1..N_LEAVES {
            let other = checks[i];
            xor_bytes(&mut checks[0], &other);
        }
        reorder(&mut checks, tree, puncture);
        hasher.update(checks.as_flattened());
        trees.push(leaves);
    }
    if !bool::from(hasher.finalize().as_bytes().ct_eq(hash)) {
        return Err(Error::peer(STEP, 0, "consistent trees", "a failed check"));
    }
    Ok(trees)
}

/// From the order (leaf xor puncture) to the order of leaves: exchanges at each level where the bit is set.
fn reorder(checks: &mut [[u8; CHECK_BYTES]; N_LEAVES], tree: usize, puncture: Block) {
    for t in 0..DEPTH {
        let keep = mask(puncture.bit(tree * DEPTH + t)) as u8;
        for i in (0..N_LEAVES).filter(|i| i >> t & 1 == 0) {
            let (low, high) = checks.split_at_mut(i | 1 << t);
            for (a, b) in low[i].iter_mut().zip(&mut high[0]) {
                let differ = (*a ^ *b) & keep;
                *a ^= differ;
                *b ^= differ;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn first(leaf: &Expander) -> Block {
        let mut block = [Block::ZERO];
        leaf.fill(0, &mut block);
        block[0]
    }

    #[test]
    fn all_leaves_agree_but_the_punctured() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let delta = Block::random(&mut rng);
        let keys: Vec<[Block; 2]> = (0..128)
            .map(|_| [(); 2].map(|()| Block::random(&mut rng)))
            .collect();
        let chosen: Vec<Block> = (0..128).map(|i| keys[i][delta.bit(i) as usize]).collect();
        let (all, message) = plant(&[1; 32], &keys).unwrap();
        assert_eq!(message.len(), MESSAGE_BYTES);
        let some = puncture(&[1; 32], &chosen, delta, &message).unwrap();
        for tree in 0..N_TREES {
            let hole = (delta.0 >> (DEPTH * tree)) as usize % N_LEAVES;
            for x in 0..N_LEAVES {
                let same = first(&all[tree][x]) == first(&some[tree][x ^ hole]);
                assert_eq!(same, x != hole, "tree {tree}, leaf {x}");
            }
        }
        assert!(puncture(&[2; 32], &chosen, delta, &message).is_err());
        for at in (0..MESSAGE_BYTES).step_by(97) {
            let mut bad = message.clone();
            bad[at] ^= 4;
            // A wrong sum of the side that this receiver does not open passes: that is the guess the check allows.
            let in_sums = at < N_TREES * TREE_BYTES && at % TREE_BYTES < TREE_BYTES - CHECK_BYTES;
            let result = puncture(&[1; 32], &chosen, delta, &bad);
            let ignored = in_sums && {
                let (tree, sum) = (at / TREE_BYTES, at % TREE_BYTES / 16);
                usize::from(delta.bit(base_index(tree, 1 + sum / 2))) != sum % 2
            };
            assert_eq!(result.is_ok(), ignored, "byte {at}");
        }
    }
}
