//! The client's half: keys, noise messages with implied masks, decryption of responses.
//!
//! For each input polynomial the client draws e and computes z = -c1 z_k + e. It sends bits lambda .. h of z. With c0 those
//! bits shifted back, its mask is r = round((c0 + c1 z_k) / 2^h), which depends on the high bits of z, and these stay here.
//! Where a position must encrypt a given value, zero or a guest's mask, it sends r minus that, and the server subtracts it.

use super::field::VECTORS;
use super::lanes::Lanes;
use super::ntt::{Coefficient, Ntt, Poly};
use super::params::{DEGREE, MODULUS_BITS, MODULUS_MASK, RlweParams};
use super::sample::{self, Streams};
use crate::{Error, Result};
use pi_model::bits;
use pi_model::packing::{GuestSpec, ResponsePacking, SourcePacking};
use rand::CryptoRng;
use rayon::prelude::*;
use zeroize::Zeroizing;

/// The client's key for one source: a ternary polynomial. Sources have keys of their own, under a common a, because
/// corrections depend on the key and travel beside masks of other sources.
pub struct SecretKey {
    z: Poly<Ntt>,
}

impl SecretKey {
    /// Draws a key, and the message that tells the server its public half b = -a z + e (9 bytes for each coefficient). The
    /// polynomial a comes from `public_seed`.
    pub fn generate(public_seed: &[u8; 32], rng: &mut impl CryptoRng) -> (Self, Vec<u8>) {
        let z = Poly::from_small(&sample::ternary(rng));
        let key = Self { z };
        let az = key.times(&sample::uniform(public_seed, 0).to_ntt());
        let e = sample::gaussian(rng);
        let b: Vec<u128> = az
            .coefficients()
            .iter()
            .zip(e.iter())
            .map(|(az, &e)| e.wrapping_sub(*az) & MODULUS_MASK)
            .collect();
        (key, bits::pack_wide(&b, MODULUS_BITS))
    }

    /// `poly` times the key.
    fn product(&self, poly: &Poly<Ntt>) -> Poly<Ntt> {
        let mut product = Poly::zero();
        product.add_product(poly, &self.z);
        product
    }

    /// Its coefficients.
    fn times(&self, poly: &Poly<Ntt>) -> Poly<Coefficient> {
        self.product(poly).into_coefficients()
    }
}

/// The messages that stand for one source.
pub struct SourceMessages {
    /// Bits lambda .. h of each coefficient of each z.
    pub noise: Vec<u8>,
    /// Masks of the corrected positions minus what they must encrypt, polynomial by polynomial, k bits each.
    pub corrections: Vec<u8>,
}

/// What the client keeps of one source: its mask.
pub struct ClientSource {
    mask: Zeroizing<Vec<u64>>,
}

impl ClientSource {
    /// Draws the mask of a source without guests. `public_seed` gives the c1 of its polynomials; a pair of key and seed
    /// serves once.
    ///
    /// # Errors
    /// If the packing is for another degree.
    pub fn new(
        key: &SecretKey,
        params: &RlweParams,
        packing: &SourcePacking,
        public_seed: &[u8; 32],
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, SourceMessages)> {
        Self::with_guests(key, params, packing, public_seed, &[], rng)
    }

    /// Draws the mask of a source, and encrypts beside it the masks of its guests: each in (B, C, H, W) order, from the same
    /// ring, and implied by a key that is not this one.
    ///
    /// # Errors
    /// If the packing is for another degree or other guests.
    pub fn with_guests(
        key: &SecretKey,
        params: &RlweParams,
        packing: &SourcePacking,
        public_seed: &[u8; 32],
        guests: &[&[u64]],
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, SourceMessages)> {
        check_degree(packing.degree())?;
        let fits = |(spec, mask): (&GuestSpec, &&[u64])| {
            mask.len() == packing.spec().batch * spec.channels * spec.height * spec.width
        };
        let specs = &packing.spec().guests;
        if guests.len() != specs.len() || !specs.iter().zip(guests).all(fits) {
            return Err(Error::Misuse("the masks of other guests".into()));
        }
        let streams = Streams::fresh(rng);
        let mut drawn: Vec<(Vec<u8>, Zeroizing<Vec<u64>>)> = (0..packing.n_polys())
            .into_par_iter()
            .map(|index| {
                let c1z = key.times(&sample::uniform(public_seed, index).to_ntt());
                let c1z = c1z.coefficients();
                let e = sample::gaussian(&mut streams.stream(index));
                let sent: Vec<u64> = c1z
                    .iter()
                    .zip(e.iter())
                    .map(|(c1z, &e)| params.travelling(e.wrapping_sub(*c1z)))
                    .collect();
                let mask = c1z
                    .iter()
                    .zip(&sent)
                    .map(|(c1z, &v)| params.round(c1z + params.low_half(v)))
                    .collect();
                (bits::pack(&sent, params.up_bits()), Zeroizing::new(mask))
            })
            .collect();
        let mut noise = Vec::with_capacity(packing.noise_bytes(params.up_bits()));
        drawn
            .iter()
            .for_each(|(bytes, _)| noise.extend_from_slice(bytes));
        // Guests lie where no data does, so this leaves the mask alone and changes corrections only.
        for (index, guest) in guests.iter().enumerate() {
            for (poly, position, value) in packing.guest_positions(index) {
                let r = &mut drawn[poly].1[position];
                *r = r.wrapping_sub(guest[value]) & params.share_mask();
            }
        }
        let corrections = packing.corrections();
        let mut zeros = Zeroizing::new(Vec::new());
        for ((_, mask), positions) in drawn.iter().zip(&corrections) {
            zeros.extend(positions.iter().map(|&position| mask[position as usize]));
        }
        let spec = packing.spec();
        let mut mask = Zeroizing::new(Vec::with_capacity(packing.n_values()));
        for b in 0..spec.batch {
            for c in 0..spec.channels {
                for h in 0..spec.height {
                    for w in 0..spec.width {
                        let (poly, index) = packing.position(b, c, h, w);
                        mask.push(drawn[poly].1[index]);
                    }
                }
            }
        }
        let messages = SourceMessages {
            noise,
            corrections: bits::pack(&zeros, params.k_bits()),
        };
        Ok((Self { mask }, messages))
    }

    /// The mask r in (B, C, H, W) order, k bits each.
    pub fn mask(&self) -> &[u64] {
        &self.mask
    }
}

/// The client's share of W r, in (B, O, Ho, Wo) order, from the response to one of `key`'s source's convolutions.
///
/// # Errors
/// If the message does not have the length that `packing` says, as the fault of the peer at `layer`.
pub fn decrypt(
    key: &SecretKey,
    params: &RlweParams,
    packing: &ResponsePacking,
    layer: usize,
    message: &[u8],
) -> Result<Zeroizing<Vec<u64>>> {
    check_degree(packing.degree())?;
    let poly_bytes = bits::packed_bytes(DEGREE, params.down_bits());
    super::check_length(
        "response",
        layer,
        packing.response_bytes(params.down_bits()),
        message,
    )?;
    let polys: Result<Vec<Zeroizing<Vec<u64>>>> = message
        .par_chunks_exact(poly_bytes)
        .map(|bytes| {
            let top = bits::unpack(bytes, DEGREE, params.down_bits())
                .map_err(|e| Error::peer("response", layer, "packed coefficients", e))?;
            let acc1 = Poly::from_coefficients(top.iter().map(|&v| params.undropped(v)).collect());
            let (half, bits) = params.rounding();
            let mut no_noise = [Lanes::ZERO; VECTORS];
            let product = key.product(&acc1.to_ntt()).into_words();
            Ok(Zeroizing::new(product.shifted(&mut no_noise, half, bits)))
        })
        .collect();
    let polys = polys?;
    let rows: Vec<&[u64]> = polys.iter().map(|poly| poly.as_slice()).collect();
    Ok(Zeroizing::new(packing.gather(&rows, params.k_bits())))
}

pub(super) fn check_degree(degree: usize) -> Result<()> {
    if degree == DEGREE {
        Ok(())
    } else {
        Err(Error::Misuse(format!(
            "a packing for degree {degree}; the encryption has {DEGREE}"
        )))
    }
}
