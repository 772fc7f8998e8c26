//! Single-point correlated OTs, one for each error: punctured trees whose leaves add up to `Delta`.
//!
//! Half-tree (Guo, Yang, Wang, Zhang, Xie, Liu, Zhao, Eurocrypt 2023): the children of a node `s` are `H(s)` and
//! `s ^ H(s)`, the two roots add up to `Delta`, hence so does every level. For each level the sender has a base correlated OT
//! `(q, q ^ Delta)`, the receiver `t = q ^ b Delta` with `b` random; the path's bit at that level is `1 - b`. Sender -> receiver:
//! `q ^ (sum of left nodes)`, from which the receiver gets the sum of the side that its path leaves. It ends with all leaves
//! but number `a`, and puts the sum of the others there: `w_a = v_a ^ Delta`. `H(x) = pi(sigma(x)) ^ sigma(x)`, circular
//! correlation robust for a random permutation (Guo, Katz, Wang, Yu, S&P 2020, section 7.3), AES-128 under a key for each tree, so
//! that at most `depth + 1 <= 14` hashes that involve `Delta` share a key: about 123 of its 127 bits remain.
//!
//! Check (Boyle, Couteau, Gilboa, Ishai, Kohl, Rindal, Scholl, CCS 2019; Roy, CRYPTO 2022, section 6): each leaf yields 32
//! bytes more, `pi'(s) ^ s` under two other keys; the sender sends their sum and a hash of them all. The receiver completes its
//! missing one and compares. If two paths accept, they hold the same leaves (collisions cost 2^128), and as the paths part
//! somewhere, the leaves add up to `Delta`. So a deviating sender can only guess a set that holds the path, and is caught if wrong.
//! What the receiver learns of the missing leaf is a hash of `w_a ^ Delta`, which correlation robustness covers.
//!
//! Cost for each leaf: 3 AES calls and 32 bytes of BLAKE3. The receiver touches all nodes alike, whatever its path.

use aes::Aes128Enc;
use aes::cipher::{BlockEncrypt, KeyInit};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::params::CHECK_BYTES;
use crate::block::{Block, mask};

/// Nodes with AES calls in flight.
const BATCH: usize = 8;

/// The permutations of one tree. Their keys are public.
pub(super) struct Hashes {
    child: Aes128Enc,
    check: [Aes128Enc; 2],
}

impl Hashes {
    /// Those of tree number `tree` of a chunk.
    pub fn new(chunk: &[u8; 32], tree: usize) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("pi-protocol v1 silent OT trees");
        hasher.update(chunk).update(&(tree as u64).to_le_bytes());
        let mut keys = [[0u8; 16]; 3];
        hasher.finalize_xof().fill(keys.as_flattened_mut());
        let [child, left, right] = keys.map(|key| Aes128Enc::new(&key.into()));
        Self {
            child,
            check: [left, right],
        }
    }

    /// `H` of each node.
    #[inline]
    fn children(&self, nodes: &[Block; BATCH]) -> [Block; BATCH] {
        let sigma = nodes.map(|x| Block((x.0 << 64 ^ x.0 & HIGH) | x.0 >> 64));
        feed_forward(&self.child, &sigma)
    }
}

const HIGH: u128 = !0 << 64;

#[inline]
fn feed_forward(cipher: &Aes128Enc, x: &[Block; BATCH]) -> [Block; BATCH] {
    let mut blocks = x.map(|x| aes::Block::from(x.to_le_bytes()));
    cipher.encrypt_blocks(&mut blocks);
    std::array::from_fn(|i| Block::from_le_bytes(blocks[i].into()) ^ x[i])
}

/// The children of the first `n` nodes, in place; returns the sum of the left ones, and of left and right ones together.
fn expand_level(hashes: &Hashes, nodes: &mut [Block], n: usize) -> (Block, Block) {
    let (mut of_left, mut of_all) = (Block::ZERO, Block::ZERO);
    for first in (0..n).step_by(BATCH).rev() {
        let width = BATCH.min(n - first);
        let mut parents = [Block::ZERO; BATCH];
        parents[..width].copy_from_slice(&nodes[first..first + width]);
        let left = hashes.children(&parents);
        let pairs = nodes[2 * first..].as_chunks_mut::<2>().0;
        for (pair, (left, parent)) in pairs.iter_mut().zip(left.iter().zip(&parents[..width])) {
            *pair = [*left, *left ^ *parent];
            of_left ^= *left;
            of_all ^= *parent;
        }
    }
    (of_left, of_all)
}

/// The check bytes of all leaves, and their sum.
struct Check {
    values: Zeroizing<Vec<[Block; 2]>>,
    sum: [Block; 2],
}

impl Check {
    fn of(hashes: &Hashes, leaves: &[Block]) -> Self {
        let mut values = Zeroizing::new(vec![[Block::ZERO; 2]; leaves.len()]);
        let mut sum = [Block::ZERO; 2];
        for (leaves, values) in leaves.chunks(BATCH).zip(values.chunks_mut(BATCH)) {
            let mut x = [Block::ZERO; BATCH];
            x[..leaves.len()].copy_from_slice(leaves);
            let [a, b] = [0, 1].map(|i| feed_forward(&hashes.check[i], &x));
            for (i, value) in values.iter_mut().enumerate() {
                *value = [a[i], b[i]];
                sum = [sum[0] ^ a[i], sum[1] ^ b[i]];
            }
        }
        Self { values, sum }
    }

    fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("pi-protocol v1 silent OT leaves");
        let mut bytes = Zeroizing::new([0u8; 128 * CHECK_BYTES]);
        for values in self.values.chunks(128) {
            for (bytes, block) in bytes
                .as_chunks_mut()
                .0
                .iter_mut()
                .zip(values.as_flattened())
            {
                *bytes = block.to_le_bytes();
            }
            hasher.update(&bytes[..values.len() * CHECK_BYTES]);
        }
        let hash = *hasher.finalize().as_bytes();
        hasher.zeroize();
        hash
    }
}

/// All leaves of one tree from its first root, its part of the reply, and the hash of its check.
pub(super) fn plant(
    hashes: &Hashes,
    delta: Block,
    root: Block,
    q: &[Block],
    leaves: &mut [Block],
    reply: &mut [u8],
) -> [u8; 32] {
    let (corrections, check) = reply.as_chunks_mut::<16>().0.split_at_mut(q.len());
    leaves[0] = root;
    leaves[1] = root ^ delta;
    corrections[0] = (q[0] ^ root).to_le_bytes();
    for (level, correction) in corrections.iter_mut().enumerate().skip(1) {
        let (sum, _) = expand_level(hashes, leaves, 1 << level);
        *correction = (q[level] ^ sum).to_le_bytes();
    }
    let values = Check::of(hashes, leaves);
    for (bytes, sum) in check.iter_mut().zip(values.sum) {
        *bytes = sum.to_le_bytes();
    }
    values.hash()
}

/// As [`plant`] for the party that punctures at `path`: all leaves but that one, which becomes their sum. `t` are its base OTs.
pub(super) fn puncture(
    hashes: &Hashes,
    path: usize,
    t: &[Block],
    leaves: &mut [Block],
    reply: &[u8],
) -> [u8; 32] {
    let (corrections, check) = reply.as_chunks::<16>().0.split_at(t.len());
    let depth = t.len();
    // The node on the path is held as zero; its children are known constants, which the sums leave out again.
    let [of_zero, ..] = hashes.children(&[Block::ZERO; BATCH]);
    leaves[..2].fill(Block::ZERO);
    for (level, correction) in corrections.iter().enumerate() {
        let bit = (path >> (depth - 1 - level)) as u8 & 1;
        // The sum of the known nodes on the side that the path leaves, the left one if `bit` is 1.
        let known = match level {
            0 => Block::ZERO,
            _ => {
                let (left, all) = expand_level(hashes, leaves, 1 << level);
                (left ^ of_zero).xor_if(1 - bit, all)
            }
        };
        let sibling = Block::from_le_bytes(*correction) ^ t[level] ^ known;
        let at = path >> (depth - 1 - level);
        for (i, pair) in leaves[..2 << level]
            .as_chunks_mut::<2>()
            .0
            .iter_mut()
            .enumerate()
        {
            let here = Block(equal(i, at >> 1));
            let (left, right) = (sibling.0 & mask(bit), sibling.0 & mask(1 - bit));
            pair[0].0 = pair[0].0 & !here.0 | left & here.0;
            pair[1].0 = pair[1].0 & !here.0 | right & here.0;
        }
    }
    let mut values = Check::of(hashes, leaves);
    let [a, b] = [0, 1].map(|i| feed_forward(&hashes.check[i], &[Block::ZERO; BATCH])[0]);
    let mut missing = [values.sum[0] ^ a, values.sum[1] ^ b];
    for (missing, sent) in missing.iter_mut().zip(check) {
        *missing ^= Block::from_le_bytes(*sent);
    }
    let sum = leaves.iter().fold(Block::ZERO, |sum, leaf| sum ^ *leaf);
    for (i, (leaf, value)) in leaves.iter_mut().zip(values.values.iter_mut()).enumerate() {
        let here = equal(i, path);
        leaf.0 |= sum.0 & here;
        value[0].0 = value[0].0 & !here | missing[0].0 & here;
        value[1].0 = value[1].0 & !here | missing[1].0 & here;
    }
    values.hash()
}

/// All ones where `a == b`, zero elsewhere, without a branch.
#[inline(always)]
fn equal(a: usize, b: usize) -> u128 {
    let differ = (a ^ b) as u64;
    mask(((differ.wrapping_sub(1) & !differ) >> 63) as u8)
}

/// The hash over a chunk's trees that closes its part of the reply.
pub(super) fn close(chunk: &[u8; 32], hashes: &[[u8; 32]]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key("pi-protocol v1 silent OT check");
    hasher.update(chunk).update(hashes.as_flattened());
    *hasher.finalize().as_bytes()
}

/// Whether both parties closed a chunk alike.
pub(super) fn agrees(ours: &[u8; CHECK_BYTES], theirs: &[u8]) -> bool {
    ours.ct_eq(theirs).into()
}
