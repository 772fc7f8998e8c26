//! The server's half: convolutions of the client's ciphertexts with plain weights.
//!
//! For each response polynomial acc = sum of (c0, c1) * w + u * (b, a) + (e0, e1), with fresh Gaussian u, e1 and e0, so acc1
//! is independent of the weights under RLWE, even given what acc0 shows of u and e1 (SECURITY.md, 4.5). The upper bits of acc1 travel; round(acc0 / 2^h) is the server's share.
//! Weight polynomials are transformed when they are needed and serve all groups of the batch. A source's ciphertexts take
//! 128 KiB for each polynomial, and so do the sums of a response.

use super::client::check_degree;
use super::ntt::{Ntt, Poly};
use super::params::{DEGREE, MODULUS_BITS, MODULUS_MASK, RlweParams};
use super::product::Ciphertexts;
use super::sample::{self, Streams};
use super::weights::Weights;
use super::{check_length, check_products, public_key_bytes};
use crate::{Error, Result};
use pi_model::bits;
use pi_model::packing::{ResponsePacking, SourcePacking};
use rand::CryptoRng;
use rayon::prelude::*;
use zeroize::Zeroizing;

/// The public half (b, a) of a source's key.
pub struct PublicKey {
    b: Poly<Ntt>,
    a: Poly<Ntt>,
}

impl PublicKey {
    /// Reads the client's message; a comes from `public_seed`. `source` counts the sources, for the error.
    ///
    /// # Errors
    /// If the message has another length, as the fault of the peer.
    pub fn from_message(public_seed: &[u8; 32], source: usize, message: &[u8]) -> Result<Self> {
        check_length("public key", source, public_key_bytes(), message)?;
        let b = bits::unpack_wide(message, DEGREE, MODULUS_BITS)
            .map_err(|e| Error::peer("public key", source, "packed coefficients", e))?;
        Ok(Self {
            b: Poly::from_coefficients(b).to_ntt(),
            a: sample::uniform(public_seed, 0).to_ntt(),
        })
    }
}

/// The ciphertexts of one source.
pub struct ServerSource {
    params: RlweParams,
    n_inputs: usize,
    ciphertexts: Ciphertexts,
}

/// The answer to one convolution.
pub struct Response {
    /// The upper bits of acc1 of each response polynomial, for the client.
    pub message: Vec<u8>,
    /// The server's share of W r, in (B, O, Ho, Wo) order, k bits each.
    pub share: Zeroizing<Vec<u64>>,
}

impl ServerSource {
    /// Rebuilds the ciphertexts of a source from the client's messages; c1 comes from `public_seed`.
    ///
    /// # Errors
    /// If a message does not have the length that `packing` says, as the fault of the peer at `layer`.
    pub fn new(
        params: &RlweParams,
        packing: &SourcePacking,
        public_seed: &[u8; 32],
        layer: usize,
        noise: &[u8],
        corrections: &[u8],
    ) -> Result<Self> {
        check_degree(packing.degree())?;
        let positions = packing.corrections();
        let n_corrections = positions.iter().map(|p| p.len()).sum();
        check_length(
            "noise bits",
            layer,
            packing.noise_bytes(params.up_bits()),
            noise,
        )?;
        let zeros = bits::unpack(corrections, n_corrections, params.k_bits())
            .map_err(|e| Error::peer("corrections", layer, format!("{n_corrections} masks"), e))?;
        let mut rest = zeros.as_slice();
        let mut zeros_of = Vec::with_capacity(positions.len());
        for of_poly in &positions {
            let (first, others) = rest.split_at(of_poly.len());
            zeros_of.push(first);
            rest = others;
        }
        let poly_bytes = bits::packed_bytes(DEGREE, params.up_bits());
        let ciphertexts: Result<Vec<[Poly<Ntt>; 2]>> = noise
            .par_chunks_exact(poly_bytes)
            .enumerate()
            .map(|(index, bytes)| {
                let sent = bits::unpack(bytes, DEGREE, params.up_bits())
                    .map_err(|e| Error::peer("noise bits", layer, "packed coefficients", e))?;
                let mut c0: Vec<u128> = sent.iter().map(|&v| params.low_half(v)).collect();
                for (&position, &mask) in positions[index].iter().zip(zeros_of[index]) {
                    let c = &mut c0[position as usize];
                    *c = c.wrapping_sub(u128::from(mask) << params.noise_bits()) & MODULUS_MASK;
                }
                let c1 = sample::uniform(public_seed, index);
                Ok([Poly::from_coefficients(c0).to_ntt(), c1.to_ntt()])
            })
            .collect();
        Ok(Self {
            params: *params,
            n_inputs: packing.n_inputs(),
            ciphertexts: Ciphertexts::new(&ciphertexts?),
        })
    }

    /// Convolves the source with `weights` in (O, C / groups, kh, kw) order. `packing` is one of the responses of its packing.
    ///
    /// # Errors
    /// If the packing or the weights do not belong to this source, or the weights are too large for exact products.
    pub fn respond(
        &self,
        key: &PublicKey,
        packing: &ResponsePacking,
        weights: &[i32],
        rng: &mut impl CryptoRng,
    ) -> Result<Response> {
        let n_polys = packing.n_groups() * packing.n_inputs();
        if packing.n_inputs() != self.n_inputs || n_polys != self.ciphertexts.n_polys() {
            return Err(Error::Misuse("a response packing of another source".into()));
        }
        if weights.len() != packing.n_weights() {
            let (due, got) = (packing.n_weights(), weights.len());
            return Err(Error::Misuse(format!(
                "a convolution of {due} weights was given {got}"
            )));
        }
        for j in 0..packing.n_filter_polys() {
            check_products(packing.norms(j, weights).0)?;
        }
        let sums = self
            .ciphertexts
            .convolve(packing, &Weights::new(packing, weights));
        Ok(self.answer(key, packing, sums, rng))
    }

    /// The response that both halves of the sums of all products make.
    fn answer(
        &self,
        key: &PublicKey,
        packing: &ResponsePacking,
        sums: Vec<[Poly<Ntt>; 2]>,
        rng: &mut impl CryptoRng,
    ) -> Response {
        let streams = Streams::fresh(rng);
        let answers: Vec<Answer> = sums
            .into_par_iter()
            .enumerate()
            .map(|(index, sum)| self.finish(key, sum, &mut streams.stream(index)))
            .collect();
        let mut message = Vec::with_capacity(packing.response_bytes(self.params.down_bits()));
        answers
            .iter()
            .for_each(|answer| message.extend_from_slice(&answer.top));
        let bodies: Vec<&[u64]> = answers.iter().map(|a| a.body.as_slice()).collect();
        let share = Zeroizing::new(packing.gather(&bodies, self.params.k_bits()));
        Response { message, share }
    }

    /// Adds a fresh encryption of zero and rounds both halves.
    fn finish(&self, key: &PublicKey, sum: [Poly<Ntt>; 2], rng: &mut impl CryptoRng) -> Answer {
        let [mut acc0, mut acc1] = sum;
        let u = Poly::from_small(&sample::blinding(rng));
        acc0.add_product(&key.b, &u);
        acc1.add_product(&key.a, &u);
        let (mut e0, mut e1) = (sample::wide_lanes(rng), sample::blinding_lanes(rng));
        let (acc0, acc1) = (acc0.into_words(), acc1.into_words());
        let top = acc1.shifted(&mut e1, 0, self.params.drop());
        let (half, bits) = self.params.rounding();
        Answer {
            top: bits::pack(&top, self.params.down_bits()),
            body: Zeroizing::new(acc0.shifted(&mut e0, half, bits)),
        }
    }
}

/// One response polynomial: the packed upper bits of acc1, and the server's share of every coefficient.
struct Answer {
    top: Vec<u8>,
    body: Zeroizing<Vec<u64>>,
}
