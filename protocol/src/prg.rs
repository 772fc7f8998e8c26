//! Randomness: seeds from the operating system, one ChaCha20 stream for each purpose, and fast expansion for OT.
//!
//! A stream is named by a label and a list of numbers (batch, layer, index and the like). Its key is a BLAKE3 derived key
//! of (seed, label, numbers), each with its length, so no two names meet. Public coins are made of a nonce of each party:
//! neither alone chooses them. [`Expander`] is AES-128 in counter mode under a one-time key: a PRG if AES is a PRP, up to
//! 2^-(127 - 2 log2 blocks).

use aes::Aes128Enc;
use aes::cipher::{BlockEncrypt, KeyInit};
use rand::{SeedableRng, TryRngCore};
use rand_chacha::ChaCha20Rng;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::block::Block;
use crate::error::{Error, Result};

/// A secret 32-byte seed, wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    /// The bytes, to derive streams from.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The stream called `label`, `ids` under this seed.
    pub fn stream(&self, label: &str, ids: &[u64]) -> ChaCha20Rng {
        stream(&self.0, label, ids)
    }

    /// An independent seed for one purpose.
    pub fn derive(&self, label: &str, ids: &[u64]) -> Self {
        Self(derive("pi-protocol v1 seed", &[&self.0], label, ids))
    }
}

impl From<[u8; 32]> for Seed {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// A seed from the operating system's generator.
///
/// # Errors
/// [`Error::Misuse`] where the operating system gives no randomness.
pub fn os_seed() -> Result<Seed> {
    let mut seed = Seed([0; 32]);
    rand::rngs::OsRng
        .try_fill_bytes(&mut seed.0)
        .map_err(|e| Error::Misuse(format!("the operating system gave no randomness: {e}")))?;
    Ok(seed)
}

/// The stream called `label`, `ids` under `seed`.
pub fn stream(seed: &[u8; 32], label: &str, ids: &[u64]) -> ChaCha20Rng {
    let mut key = derive("pi-protocol v1 stream", &[seed], label, ids);
    let rng = ChaCha20Rng::from_seed(key);
    key.zeroize();
    rng
}

/// A public value that neither party chooses alone: fresh nonces of both, and what it is for.
pub fn public_seed(
    label: &str,
    client_nonce: &[u8; 32],
    server_nonce: &[u8; 32],
    ids: &[u64],
) -> [u8; 32] {
    derive(
        "pi-protocol v1 public seed",
        &[client_nonce, server_nonce],
        label,
        ids,
    )
}

fn derive(context: &str, keys: &[&[u8; 32]], label: &str, ids: &[u64]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for key in keys {
        hasher.update(*key);
    }
    hasher.update(&(label.len() as u64).to_le_bytes());
    hasher.update(label.as_bytes());
    hasher.update(&(ids.len() as u64).to_le_bytes());
    for id in ids {
        hasher.update(&id.to_le_bytes());
    }
    let key = *hasher.finalize().as_bytes();
    hasher.zeroize();
    key
}

/// AES-128 in counter mode under a one-time key: a seekable stream of blocks.
#[derive(Clone)]
pub struct Expander(Aes128Enc);

impl Expander {
    /// The stream of `seed`.
    pub fn new(seed: Block) -> Self {
        Self(Aes128Enc::new(&seed.to_le_bytes().into()))
    }

    /// Blocks `first..first + out.len()` of the stream. Eight at a time are in flight.
    #[inline]
    pub fn fill(&self, first: u64, out: &mut [Block]) {
        for (chunk, counter) in out.chunks_mut(8).zip((first..).step_by(8)) {
            let mut blocks = [aes::Block::default(); 8];
            for (block, i) in blocks.iter_mut().zip(counter..) {
                *block = u128::from(i).to_le_bytes().into();
            }
            self.0.encrypt_blocks(&mut blocks[..chunk.len()]);
            for (out, block) in chunk.iter_mut().zip(blocks) {
                *out = Block::from_le_bytes(block.into());
            }
        }
    }
}

/// The first bytes of the stream of `seed`.
pub fn expand(seed: Block, out: &mut [u8]) {
    let expander = Expander::new(seed);
    for (chunk, first) in out.chunks_mut(128).zip((0u64..).step_by(8)) {
        let mut blocks = [Block::ZERO; 8];
        expander.fill(first, &mut blocks[..chunk.len().div_ceil(16)]);
        for (bytes, block) in chunk.chunks_mut(16).zip(&mut blocks) {
            bytes.copy_from_slice(&block.to_le_bytes()[..bytes.len()]);
            block.zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;

    #[test]
    fn streams_with_different_names_differ() {
        let seed = [7; 32];
        let first = |label: &str, ids: &[u64]| stream(&seed, label, ids).next_u64();
        assert_eq!(first("a", &[1]), first("a", &[1]));
        let others = [
            first("a", &[]),
            first("a", &[2]),
            first("a", &[1, 0]),
            first("ab", &[1]),
        ];
        assert!(others.iter().all(|o| *o != first("a", &[1])));
        let (c, s) = ([1; 32], [2; 32]);
        assert_ne!(public_seed("a", &c, &s, &[]), public_seed("a", &s, &c, &[]));
        assert_ne!(os_seed().unwrap().as_bytes(), os_seed().unwrap().as_bytes());
    }

    #[test]
    fn expansion_is_aes_in_counter_mode() {
        // FIPS-197 appendix C.1 fixes the cipher; the counter 0x..00 block is checked against a one-block call.
        let key: [u8; 16] = std::array::from_fn(|i| i as u8);
        let mut plain: aes::Block = std::array::from_fn::<u8, 16, _>(|i| (i * 0x11) as u8).into();
        Aes128Enc::new(&key.into()).encrypt_block(&mut plain);
        assert_eq!(plain[..4], [0x69, 0xc4, 0xe0, 0xd8]);

        let seed = Block::from_le_bytes(key);
        let mut bytes = [0; 300];
        expand(seed, &mut bytes);
        for i in 0..18 {
            let mut block: aes::Block = (i as u128).to_le_bytes().into();
            Aes128Enc::new(&key.into()).encrypt_block(&mut block);
            assert_eq!(&bytes[16 * i..16 * i + 16], block.as_slice(), "block {i}");
        }
        let mut later = [Block::ZERO; 3];
        Expander::new(seed).fill(15, &mut later);
        assert_eq!(later[2].to_le_bytes(), bytes[272..288]);
    }
}
