//! Linear layers under homomorphic encryption, offline: the client learns W r - s, the server s, for a mask r and an output
//! mask s that neither chose alone.
//!
//! RLWE (Lyubashevsky, Peikert, Regev, EUROCRYPT 2010) in Z_Q\[X\]/(X^N + 1) with Q = 2^72 and N = 4096, and rounding of both
//! ciphertext halves to shares (Dodis, Halevi, Rothblum, Wichs, CRYPTO 2016, section 5; Boyle, Kohl, Scholl, EUROCRYPT 2019,
//! section 3). Masks are *implied*: any uniform value serves as a mask, so c1 comes from a public seed, of c0 only the bits
//! below 2^h travel, and the client takes what the pair decrypts to as its mask. The server's answer is the upper part of
//! acc1 alone; its body acc0 stays at home and becomes the server's share.
//!
//! | message | from | bytes |
//! |---|---|---|
//! | public key b, once for each source | client | 9 N = 36,864 |
//! | noise bits | client | polynomials * N * (h - lambda) / 8 |
//! | corrections, guests' values included | client | positions * k / 8 |
//! | response, for each convolution | server | polynomials * N * (72 - drop) / 8 |
//!
//! A source may carry *guests*: masks of other sources, encrypted once more under its key so that one response sums the
//! convolutions of both. The client sends a guest's mask as a correction, r' - r with r' implied by this key. No key ever
//! meets a message that depends on itself as long as guests come from sources before this one: r' is used for nothing else and
//! hides r, and whatever r hides depends on keys of earlier sources only (SECURITY.md, section 4.3).
//!
//! Semi-honest security. A (key, c1) pair, a u and an e serve once: seeds of c1 must be fresh for each batch and come from
//! nonces of both parties.

mod bound;
mod client;
mod field;
mod kernel;
mod lanes;
mod ntt;
mod params;
mod product;
mod sample;
mod server;
mod weights;

pub use bound::{ErrorBound, check_products};
pub use client::{ClientSource, SecretKey, decrypt};
pub use params::{DEGREE, MODULUS_BITS, RlweParams};
pub use server::{PublicKey, ServerSource};

use crate::{Error, Result};
use pi_model::bits::packed_bytes;

/// Bytes of a public key message.
pub const fn public_key_bytes() -> usize {
    packed_bytes(DEGREE, MODULUS_BITS)
}

fn check_length(step: &'static str, layer: usize, expected: usize, message: &[u8]) -> Result<()> {
    let got = message.len();
    if got == expected {
        Ok(())
    } else {
        Err(Error::peer(
            step,
            layer,
            format!("{expected} bytes"),
            format!("{got} bytes"),
        ))
    }
}

#[cfg(test)]
mod tests;
