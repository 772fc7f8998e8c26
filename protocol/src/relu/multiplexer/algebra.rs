//! The algebra of the one-round multiplexer: from a garbled sign bit and additive shares to a masked ReLU.
//!
//! For one surviving ReLU, with truncated shares y'_c, y'_s of y' and a random bit m that only the server knows:
//! - Offline, by one correlated OT of k bits whose choice is m, the parties hold u_c + u_s = m y'_c.
//! - Online the client sees the colour o = `[y >= 0]` xor m of the sign circuit's output label, and
//!   tau_o = (o xor m) y'_s + (1 - 2o) u_s + q, encrypted under that label with the k-bit hashes h_0, h_1.
//!   The server chooses q = -h_0 - m y'_s - u_s, which makes the ciphertext of colour 0 zero: it is not sent.
//! - The client computes c = tau_o + o y'_c + (1 - 2o) u_c = ReLU(y') + q and sends c minus the next mask; the server
//!   removes q.
//!
//! Cost for each ReLU: k bits offline, k bits down and k' bits up online (k' of the next tensor). All in Z_2^k, exact.
//! Nothing here branches on a secret: bits select by multiplication.

use crate::ring::Ring;

/// Server, offline: its share u_s = R_m + m * correction of the products m y'_c.
///
/// `received` are the R_m of the OT, `corrections` what the client sent.
#[must_use]
pub fn server_products(
    ring: Ring,
    choices: &[u8],
    received: &[u64],
    corrections: &[u64],
) -> Vec<u64> {
    let triples = choices.iter().zip(received).zip(corrections);
    triples
        .map(|((&m, &r), &c)| ring.add(r, c.wrapping_mul(m.into())))
        .collect()
}

/// Client, offline: the corrections R_0 + y'_c - R_1, and its share u_c = -R_0.
#[must_use]
pub fn client_products(
    ring: Ring,
    r0: &[u64],
    r1: &[u64],
    truncated: &[u64],
) -> (Vec<u64>, Vec<u64>) {
    let corrections = r0
        .iter()
        .zip(r1)
        .zip(truncated)
        .map(|((&r0, &r1), &y)| ring.reduce(r0.wrapping_add(y).wrapping_sub(r1)));
    (
        corrections.collect(),
        r0.iter().map(|&r| ring.sub(0, r)).collect(),
    )
}

/// What the server keeps for one layer's surviving ReLUs.
pub struct ServerKeys<'a> {
    /// m.
    pub choices: &'a [u8],
    /// u_s.
    pub products: &'a [u64],
    /// h_0, hashes of the output labels of colour 0.
    pub hash_of_colour_0: &'a [u64],
    /// h_1, hashes of the output labels of colour 1.
    pub hash_of_colour_1: &'a [u64],
}

/// Server, online: the ciphertexts of colour 1, and q, for its truncated shares `truncated`.
#[must_use]
pub fn server_encrypt(
    ring: Ring,
    keys: &ServerKeys<'_>,
    truncated: &[u64],
) -> (Vec<u64>, Vec<u64>) {
    let mut ciphertexts = Vec::with_capacity(truncated.len());
    let mut offsets = Vec::with_capacity(truncated.len());
    for (i, &y) in truncated.iter().enumerate() {
        let (m, u) = (u64::from(keys.choices[i]), keys.products[i]);
        let q = ring.reduce(
            0u64.wrapping_sub(keys.hash_of_colour_0[i])
                .wrapping_sub(m.wrapping_mul(y))
                .wrapping_sub(u),
        );
        let tau_1 = (1 - m).wrapping_mul(y).wrapping_sub(u).wrapping_add(q);
        ciphertexts.push(ring.add(tau_1, keys.hash_of_colour_1[i]));
        offsets.push(q);
    }
    (ciphertexts, offsets)
}

/// Client, online: c = ReLU(y') + q from the colours it sees, the hashes of its labels and the ciphertexts.
#[must_use]
pub fn client_decrypt(
    ring: Ring,
    colours: &[u8],
    hashes: &[u64],
    ciphertexts: &[u64],
    truncated: &[u64],
    products: &[u64],
) -> Vec<u64> {
    (0..colours.len())
        .map(|i| {
            let o = u64::from(colours[i]);
            let tau = o.wrapping_mul(ciphertexts[i]).wrapping_sub(hashes[i]);
            let sign = 1u64.wrapping_sub(o.wrapping_mul(2));
            ring.reduce(
                tau.wrapping_add(o.wrapping_mul(truncated[i]))
                    .wrapping_add(sign.wrapping_mul(products[i])),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_multiplexer_is_exact(k in 20u32..=62, y in any::<i32>(), random in proptest::array::uniform6(any::<u64>()), m in 0u8..2) {
            let ring = Ring::new(k);
            let y = i64::from(y) >> 13;
            let [yc, r0, r1, h0, h1, _] = random.map(|v| ring.reduce(v));
            let ys = ring.sub(ring.encode(y), yc);
            let (corrections, u_c) = client_products(ring, &[r0], &[r1], &[yc]);
            let received = [if m == 1 { r1 } else { r0 }];
            let u_s = server_products(ring, &[m], &received, &corrections);
            prop_assert_eq!(ring.add(u_c[0], u_s[0]), if m == 1 { yc } else { 0 });
            let keys = ServerKeys { choices: &[m], products: &u_s, hash_of_colour_0: &[h0], hash_of_colour_1: &[h1] };
            let (ciphertexts, q) = server_encrypt(ring, &keys, &[ys]);
            let o = u8::from(y >= 0) ^ m;
            let hash = if o == 1 { h1 } else { h0 };
            let c = client_decrypt(ring, &[o], &[hash], &ciphertexts, &[yc], &u_c);
            prop_assert_eq!(ring.decode(ring.sub(c[0], q[0])), y.max(0));
        }
    }
}
