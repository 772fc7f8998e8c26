//! The hash of labels: tweakable, circular-correlation robust (TCCR), from AES-128.
//!
//! TMMO of Guo, Katz, Wang, Yu (IEEE S&P 2020, section 7.4): `H(x, i) = pi(pi(x) ^ i) ^ pi(x)`, TCCR for a random permutation
//! `pi`. `pi` is AES-128 under a key that changes after each small group of hashes: a public start value, random for each
//! `Delta`, plus the number of the group (Guo, Katz, Wang, Xie, Yu, CRYPTO 2020: with one fixed key the security falls with
//! *all* hashes under one `Delta`, with fresh keys only with those under one key).
//!
//! The bits that remain are about `128 - log2(hashes under one key)`. A group is 8 instances in lockstep; for the sign test of
//! up to 16 AND gates that is 8 * 16 * 4 = 512 hashes by the garbler: **about 119 bits** (127 - 9 counting the fixed colour bit
//! of `Delta`: 118). An argmax over 100 classes of 24 bits, 7,123 gates, has 2^18 hashes: about 110 bits. Three-halves garbling
//! takes six hashes a gate instead of four, hence 0.6 bits of both numbers. Label and OT hashes take at most 128 a key.
//!
//! A key is never shared: it encodes domain, inference, layer and group; below it, the tweak is lane, gate and the hash's place in the gate.

mod aesni;
pub(crate) mod path;
mod portable;
pub(crate) mod simd;
mod vaes;

use zeroize::Zeroizing;

use self::path::Path;
use self::simd::{KEYS, Kernel, LANE_NUMBERS, Row, Simd};
use crate::block::Block;
use crate::error::{Error, Result};

pub use simd::LANES;
/// Blocks under one key in [`hash_to_bits`].
const FLAT_GROUP: u64 = 64;

/// What a hash is for. No two domains share a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Domain {
    /// Half-gates.
    Gate = 1,
    /// Gates of three-halves garbling.
    SlicedGate = 4,
    /// Output label to k bits, for the multiplexer's ciphertext.
    Output = 2,
    /// Correlated-OT block to k bits.
    CorrelatedOt = 3,
    /// Rows of radix-16 digits.
    Digit = 5,
}

/// Where a hash belongs under one start value (hence one `Delta`): inference within the batch, and layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TweakBase {
    inference: u32,
    layer: u16,
}

impl TweakBase {
    /// Inference and layer, by index.
    ///
    /// # Errors
    /// [`Error::Misuse`] above 2^32 inferences or 2^16 layers.
    pub fn new(inference: usize, layer: usize) -> Result<Self> {
        let too_large = |_| Error::Misuse("inference or layer index does not fit a tweak".into());
        Ok(Self {
            inference: u32::try_from(inference).map_err(too_large)?,
            layer: u16::try_from(layer).map_err(too_large)?,
        })
    }

    /// The inference's index within the batch.
    pub fn inference(self) -> u64 {
        u64::from(self.inference)
    }

    /// The layer's index.
    pub fn layer(self) -> usize {
        usize::from(self.layer)
    }
}

/// The key of `group` in `domain`: `start + (domain, inference, layer, group)`.
pub(crate) fn group_key(start: Block, domain: Domain, base: TweakBase, group: u64) -> u128 {
    let number = (domain as u128) << 120
        | u128::from(base.inference) << 88
        | u128::from(base.layer) << 64
        | u128::from(group);
    start.0.wrapping_add(number)
}

/// The low `bits` of the hash of every block; block `i` has the unique number `first + i` in (start, domain, base).
///
/// # Errors
/// [`Error::Misuse`] unless `1 <= bits <= 64`.
pub fn hash_to_bits(
    start: Block,
    domain: Domain,
    base: TweakBase,
    first: u64,
    blocks: impl ExactSizeIterator<Item = Block>,
    bits: u32,
) -> Result<Vec<u64>> {
    if !(1..=64).contains(&bits) {
        return Err(Error::Misuse(format!(
            "a hash of {bits} bits was asked for; 1 to 64 exist"
        )));
    }
    let keep = u64::MAX >> (64 - bits);
    let mut out = Vec::with_capacity(blocks.len());
    let key = |group| group_key(start, domain, base, group);
    hash_flat(Path::best(), key, first, blocks, |x| {
        out.push(x.0 as u64 & keep)
    });
    Ok(out)
}

/// Blocks whose keys are expanded together.
const FLAT_BATCH: usize = KEYS * FLAT_GROUP as usize;

/// The hashes of `blocks`, in order, to `give`: the block of number `i` under the key of group `i / 64` with tweak `i % 64`.
fn hash_flat(
    path: Path,
    key: impl Fn(u64) -> u128,
    first: u64,
    mut blocks: impl ExactSizeIterator<Item = Block>,
    mut give: impl FnMut(Block),
) {
    let mut rows = Zeroizing::new([Row::default(); FLAT_BATCH / LANES]);
    let mut number = first;
    while blocks.len() > 0 {
        let skipped = (number % FLAT_BATCH as u64) as usize;
        let range = skipped..FLAT_BATCH.min(skipped + blocks.len());
        for (i, block) in range.clone().zip(blocks.by_ref()) {
            rows[i / LANES].0[i % LANES] = block;
        }
        let first_group = number / FLAT_BATCH as u64 * KEYS as u64;
        path.run(FlatBatch {
            keys: std::array::from_fn(|i| key(first_group + i as u64)),
            rows: &mut rows,
            used: range.start / LANES..range.end.div_ceil(LANES),
        });
        number += range.len() as u64;
        for i in range {
            give(rows[i / LANES].0[i % LANES]);
        }
    }
}

/// Hashes four flat groups in place; only the rows around `used` count.
struct FlatBatch<'a> {
    keys: [u128; KEYS],
    rows: &'a mut [Row; FLAT_BATCH / LANES],
    used: std::ops::Range<usize>,
}

impl Kernel for FlatBatch<'_> {
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "one index for rows, blocks and tweaks"
    )]
    fn run<S: Simd>(self, s: S) {
        const IN_FLIGHT: usize = 4;
        let keys = s.expand(&self.keys);
        let lanes = s.load(&LANE_NUMBERS);
        let rows_of_key = FLAT_GROUP as usize / LANES;
        for (at, rows) in (0..).step_by(IN_FLIGHT).zip(self.rows.as_chunks_mut().0) {
            if at + IN_FLIGHT <= self.used.start || at >= self.used.end {
                continue;
            }
            let mut x = [[lanes; IN_FLIGHT]];
            let mut tweaks = [lanes; IN_FLIGHT];
            for i in 0..IN_FLIGHT {
                x[0][i] = s.load(&rows[i]);
                let row = (at + i) % rows_of_key;
                tweaks[i] = s.xor(lanes, s.splat((row * LANES) as u128));
            }
            s.tmmo(&keys, at / rows_of_key, &mut x, &tweaks);
            let rows: &mut [Row; IN_FLIGHT] = rows;
            for i in 0..IN_FLIGHT {
                s.store(x[0][i], &mut rows[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes::Aes128Enc;
    use aes::cipher::{BlockEncrypt, KeyInit};

    fn base() -> TweakBase {
        TweakBase::new(0, 0).unwrap()
    }

    /// The permutation of a key, one block at a time, by the library.
    fn permute(key: u128, x: u128) -> u128 {
        let mut block: aes::Block = x.to_le_bytes().into();
        Aes128Enc::new(&key.to_le_bytes().into()).encrypt_block(&mut block);
        u128::from_le_bytes(block.into())
    }

    /// FIPS-197, appendix C.1.
    #[test]
    fn cipher_is_aes_128() {
        let key = u128::from_le_bytes(std::array::from_fn(|i| i as u8));
        let block = u128::from_le_bytes(std::array::from_fn(|i| (i * 0x11) as u8));
        assert_eq!(
            permute(key, block).swap_bytes(),
            0x69c4e0d86a7b0430d8cdb78070b4c55a
        );
    }

    #[test]
    fn every_path_is_tmmo_for_any_number_of_blocks() {
        for start in [
            0,
            99,
            u128::MAX - 3,
            0x0123_4567_89ab_cdef_0011_2233_4455_6677,
        ] {
            let key = |group| group_key(Block(start), Domain::Output, base(), group);
            for (name, path) in Path::all() {
                for n in [0, 1, 3, 8, 16, 21, 32, 37, 64, 255, 256, 300, 700] {
                    for first in [0u64, 5, 63, 250, 1000] {
                        let inputs: Vec<Block> =
                            (0..n).map(|i| Block((i + 1) << (3 * (i % 40)))).collect();
                        let mut hashed = vec![];
                        hash_flat(path, key, first, inputs.iter().copied(), |x| hashed.push(x));
                        assert_eq!(hashed.len(), inputs.len());
                        for ((number, input), hash) in (first..).zip(&inputs).zip(hashed) {
                            let key = key(number / 64);
                            let once = permute(key, input.0);
                            let want = permute(key, once ^ u128::from(number % 64)) ^ once;
                            assert_eq!(hash.0, want, "{name}: {number} of {n} from {first}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn keys_and_tweaks_separate() {
        let hash = |domain, inference, layer, group: u64, tweak: u64| {
            let base = TweakBase::new(inference, layer).unwrap();
            let key = |group| group_key(Block(7), domain, base, group);
            let mut hash = Block::ZERO;
            let blocks = std::iter::once(Block(42));
            hash_flat(Path::best(), key, 64 * group + tweak, blocks, |x| hash = x);
            hash.0
        };
        let all = [
            hash(Domain::Gate, 0, 0, 0, 0),
            hash(Domain::Output, 0, 0, 0, 0),
            hash(Domain::CorrelatedOt, 0, 0, 0, 0),
            hash(Domain::Gate, 1, 0, 0, 0),
            hash(Domain::Gate, 0, 1, 0, 0),
            hash(Domain::Gate, 0, 0, 1, 0),
            hash(Domain::Gate, 0, 0, 0, 1),
        ];
        for i in 0..all.len() {
            assert!(!all[..i].contains(&all[i]), "hash {i} repeats");
        }
        assert!(TweakBase::new(0, 1 << 16).is_err());
    }

    #[test]
    fn flat_hashes_do_not_depend_on_the_cut() {
        let blocks: Vec<Block> = (0..300u128).map(|i| Block(i * i + 1)).collect();
        let hash = |first, blocks: &[Block]| {
            let blocks = blocks.iter().copied();
            hash_to_bits(Block(3), Domain::CorrelatedOt, base(), first, blocks, 52).unwrap()
        };
        let whole = hash(10, &blocks);
        assert_eq!(whole[..77], hash(10, &blocks[..77]));
        assert_eq!(whole[77..], hash(87, &blocks[77..]));
        assert!(whole.iter().all(|h| *h < 1 << 52));
        assert!(whole.iter().any(|h| *h >= 1 << 51));
        assert!(hash(0, &[]).is_empty());
        let none = std::iter::empty();
        assert!(hash_to_bits(Block(3), Domain::Output, base(), 0, none, 65).is_err());
    }
}
