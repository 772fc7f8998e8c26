//! The hash of labels: tweakable, circular-correlation robust (TCCR), from AES-128.
//!
//! TMMO of Guo, Katz, Wang, Yu (IEEE S&P 2020, section 7.4): `H(x, i) = pi(pi(x) ^ i) ^ pi(x)`, TCCR for a random permutation
//! `pi`. `pi` is AES-128 under a key that changes after each small group of hashes: a public start value, random for each
//! `Delta`, plus the number of the group (Guo, Katz, Wang, Xie, Yu, CRYPTO 2020: with one fixed key the security falls with
//! *all* hashes under one `Delta`, with fresh keys only with those under one key).
//!
//! The bits that remain are about `128 - log2(hashes under one key)`. A group is 8 instances in lockstep; for the sign test of
//! up to 16 AND gates that is 8 * 16 * 4 = 512 hashes by the garbler: **about 119 bits** (127 - 9 counting the fixed colour bit
//! of `Delta`: 118). An argmax over 100 classes of 24 bits, 7,123 gates, has 2^18 hashes: about 110 bits. Label and OT hashes
//! take at most 128 a key.
//!
//! A key is never shared: it encodes domain, inference, layer and group; below it, the tweak is lane, gate and half-gate.

mod vaes;

use aes::Aes128Enc;
use aes::cipher::{BlockEncrypt, KeyInit};

use crate::block::Block;
use crate::error::{Error, Result};

/// Instances that are garbled in lockstep and share a key.
pub const LANES: usize = 8;
/// Blocks under one key in [`hash_to_bits`].
const FLAT_GROUP: u64 = 64;

/// What a hash is for. No two domains share a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Domain {
    /// Half-gates.
    Gate = 1,
    /// Output label to k bits, for the multiplexer's ciphertext.
    Output = 2,
    /// Correlated-OT block to k bits.
    CorrelatedOt = 3,
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

/// TMMO under the key of one group.
pub struct Hasher(Cipher);

/// The permutation, by what the processor has.
enum Cipher {
    Portable(Box<Aes128Enc>),
    Vaes(vaes::Keys),
}

impl Hasher {
    /// The hasher of `group` in `domain`: key `start + (domain, inference, layer, group)`.
    pub fn new(start: Block, domain: Domain, base: TweakBase, group: u64) -> Self {
        let key = Self::key(start, domain, base, group);
        match vaes::Keys::new(key) {
            Some(keys) => Self(Cipher::Vaes(keys)),
            None => Self::portable(key),
        }
    }

    fn key(start: Block, domain: Domain, base: TweakBase, group: u64) -> u128 {
        let number = (domain as u128) << 120
            | u128::from(base.inference) << 88
            | u128::from(base.layer) << 64
            | u128::from(group);
        start.0.wrapping_add(number)
    }

    fn portable(key: u128) -> Self {
        let cipher = Aes128Enc::new(&key.to_le_bytes().into());
        Self(Cipher::Portable(Box::new(cipher)))
    }

    /// `x[i] = H(x[i], tweak(i))` for every `i`, with several AES calls in flight.
    #[inline(always)]
    pub fn hash<const N: usize>(&self, x: &mut [Block; N], tweak: impl Fn(usize) -> u128) {
        let tweaks = std::array::from_fn(tweak);
        match &self.0 {
            Cipher::Vaes(keys) => keys.hash(x, &tweaks),
            Cipher::Portable(cipher) => hash_portable(cipher, x, &tweaks),
        }
    }
}

fn hash_portable<const N: usize>(cipher: &Aes128Enc, x: &mut [Block; N], tweaks: &[u128; N]) {
    let mut once = x.map(|b| aes::Block::from(b.to_le_bytes()));
    cipher.encrypt_blocks(&mut once);
    let mut twice = once;
    for (block, tweak) in twice.iter_mut().zip(tweaks) {
        *block = (u128::from_le_bytes((*block).into()) ^ tweak)
            .to_le_bytes()
            .into();
    }
    cipher.encrypt_blocks(&mut twice);
    for ((x, once), twice) in x.iter_mut().zip(once).zip(twice) {
        *x = Block::from_le_bytes(once.into()) ^ Block::from_le_bytes(twice.into());
    }
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
    let mut blocks = blocks;
    let mut number = first;
    let mut out = Vec::with_capacity(blocks.len());
    while blocks.len() > 0 {
        let hasher = Hasher::new(start, domain, base, number / FLAT_GROUP);
        let mut left = blocks
            .len()
            .min((FLAT_GROUP - number % FLAT_GROUP) as usize);
        while left > 0 {
            let n = left.min(LANES);
            let mut x = [Block::ZERO; LANES];
            for (x, block) in x.iter_mut().zip(blocks.by_ref().take(n)) {
                *x = block;
            }
            let offset = u128::from(number % FLAT_GROUP);
            hasher.hash(&mut x, |i| offset + i as u128);
            out.extend(x[..n].iter().map(|x| x.0 as u64 & keep));
            number += n as u64;
            left -= n;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn is_tmmo<const N: usize>(hasher: &Hasher, key: u128) {
        let inputs: [Block; N] = std::array::from_fn(|i| Block((i as u128 + 1) << (3 * i)));
        let mut hashed = inputs;
        hasher.hash(&mut hashed, |i| 1000 + i as u128);
        for (i, (input, hash)) in inputs.iter().zip(hashed).enumerate() {
            let once = permute(key, input.0);
            assert_eq!(
                hash.0,
                permute(key, once ^ (1000 + i as u128)) ^ once,
                "lane {i} of {N}"
            );
        }
    }

    #[test]
    fn both_kernels_are_tmmo_for_any_number_of_blocks() {
        for start in [
            0,
            99,
            u128::MAX - 3,
            0x0123_4567_89ab_cdef_0011_2233_4455_6677,
        ] {
            let key = Hasher::key(Block(start), Domain::Output, base(), 5);
            for hasher in [
                Hasher::new(Block(start), Domain::Output, base(), 5),
                Hasher::portable(key),
            ] {
                is_tmmo::<1>(&hasher, key);
                is_tmmo::<3>(&hasher, key);
                is_tmmo::<8>(&hasher, key);
                is_tmmo::<16>(&hasher, key);
                is_tmmo::<21>(&hasher, key);
                is_tmmo::<32>(&hasher, key);
                is_tmmo::<37>(&hasher, key);
            }
        }
    }

    #[test]
    fn keys_and_tweaks_separate() {
        let hash = |domain, inference, layer, group, tweak: u128| {
            let base = TweakBase::new(inference, layer).unwrap();
            let mut x = [Block(42)];
            Hasher::new(Block(7), domain, base, group).hash(&mut x, |_| tweak);
            x[0].0
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
