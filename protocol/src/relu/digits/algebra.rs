//! The multiplexer with the roles exchanged: the client garbles, the server sees the colour.
//!
//! For one surviving ReLU, with truncated shares y'_c, y'_s of y', all in Z_2^k (SECURITY.md 5.1):
//! - Offline, one correlated OT with the client's random choice m gives it w_c = R_m; the server sets a = R_1 - R_0 and w_s = -R_0, so that
//!   w_c + w_s = m a. The client sends S + h_0 + h_1 with S = y'_c - 2 r_next and h_o the hash of the output label of colour o, and
//!   the bit f = m xor (what m would have to be, were the server's random top bit its real one).
//! - Online the server sends e = y'_s - a and its top bit, masked: delta. Both know zeta = f xor delta; mu = m xor zeta is 1 if the
//!   colour 0 means [y >= 0]. The client answers B = A_0 + h_0, A_0 = mu y'_c + (1 - 2 zeta)(w_c + m e) - r_next.
//! - The server, which holds one h_o, has A_0 = B - h_0 or A_1 = S - A_0, and adds
//!   o y'_s + (1 - 2o)(zeta y'_s + (1 - 2 zeta) w_s): that is ReLU(y') - r_next.
//!
//! Cost for each ReLU: k bits and a bit up offline; k bits and a bit down, k bits up online.
//! Nothing here branches on a secret: bits select by multiplication.

use crate::ring::Ring;

/// 1 - 2 `bit`, in wrapping arithmetic.
const fn sign(bit: u64) -> u64 {
    1u64.wrapping_sub(bit.wrapping_mul(2))
}

/// Client, offline: S + h_0 + h_1.
#[must_use]
pub fn client_sums(
    ring: Ring,
    truncated: &[u64],
    next_mask: &[u64],
    hashes: [&[u64]; 2],
) -> Vec<u64> {
    let values = truncated
        .iter()
        .zip(next_mask)
        .zip(hashes[0].iter().zip(hashes[1]));
    values
        .map(|((&y, &r), (&h0, &h1))| {
            ring.reduce(
                y.wrapping_sub(r.wrapping_mul(2))
                    .wrapping_add(h0)
                    .wrapping_add(h1),
            )
        })
        .collect()
}

/// What the client keeps for one layer's surviving ReLUs.
pub struct ClientKeys<'a> {
    /// m.
    pub choices: &'a [u8],
    /// f.
    pub flips: &'a [u8],
    /// y'_c.
    pub truncated: &'a [u64],
    /// w_c.
    pub products: &'a [u64],
    /// h_0 - r_next.
    pub pads: &'a [u64],
}

/// Client, online: B, from the server's masked top bits and e.
#[must_use]
pub fn client_answer(
    ring: Ring,
    keys: &ClientKeys<'_>,
    masked_tops: &[u8],
    masked: &[u64],
) -> Vec<u64> {
    (0..masked.len())
        .map(|i| {
            let (m, zeta) = (
                u64::from(keys.choices[i]),
                u64::from(keys.flips[i] ^ masked_tops[i]),
            );
            let product = keys.products[i].wrapping_add(m.wrapping_mul(masked[i]));
            let a0 = (m ^ zeta)
                .wrapping_mul(keys.truncated[i])
                .wrapping_add(sign(zeta).wrapping_mul(product));
            ring.add(a0, keys.pads[i])
        })
        .collect()
}

/// What the server keeps for one layer's surviving ReLUs.
pub struct ServerKeys<'a> {
    /// f.
    pub flips: &'a [u8],
    /// S + h_0 + h_1.
    pub sums: &'a [u64],
    /// w_s.
    pub products: &'a [u64],
}

/// What the server sees of one layer online.
pub struct Opened<'a> {
    /// Its top bits, masked as it sent them.
    pub masked_tops: &'a [u8],
    /// o.
    pub colours: &'a [u8],
    /// h_o.
    pub hashes: &'a [u64],
    /// B.
    pub answers: &'a [u64],
}

/// Server, online: ReLU(y') - r_next, for its truncated shares.
#[must_use]
pub fn server_open(
    ring: Ring,
    keys: &ServerKeys<'_>,
    opened: &Opened<'_>,
    truncated: &[u64],
) -> Vec<u64> {
    let open = |(i, &y): (usize, &u64)| {
        let (o, zeta) = (
            u64::from(opened.colours[i]),
            u64::from(keys.flips[i] ^ opened.masked_tops[i]),
        );
        // B - h_0, or (S + h_0 + h_1) - h_1 - B.
        let answer = sign(o)
            .wrapping_mul(opened.answers[i])
            .wrapping_sub(opened.hashes[i])
            .wrapping_add(o.wrapping_mul(keys.sums[i]));
        let own = zeta
            .wrapping_mul(y)
            .wrapping_add(sign(zeta).wrapping_mul(keys.products[i]));
        ring.reduce(
            answer
                .wrapping_add(o.wrapping_mul(y))
                .wrapping_add(sign(o).wrapping_mul(own)),
        )
    };
    truncated.iter().enumerate().map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_reversed_multiplexer_is_exact(
            k in 20u32..=62,
            y in any::<i32>(),
            random in proptest::array::uniform6(any::<u64>()),
            m in 0u8..2,
            flip in 0u8..2,
            masked_top in 0u8..2,
        ) {
            let ring = Ring::new(k);
            let y = i64::from(y) >> 13;
            let [yc, r0, r1, h0, h1, r_next] = random.map(|v| ring.reduce(v));
            let ys = ring.sub(ring.encode(y), yc);
            let (w_c, w_s) = (if m == 1 { r1 } else { r0 }, ring.sub(0, r0));
            let a = ring.sub(r1, r0);
            let sums = client_sums(ring, &[yc], &[r_next], [&[h0], &[h1]]);
            let keys = ClientKeys {
                choices: &[m], flips: &[flip], truncated: &[yc], products: &[w_c], pads: &[ring.sub(h0, r_next)],
            };
            let answers = client_answer(ring, &keys, &[masked_top], &[ring.sub(ys, a)]);
            let mu = m ^ flip ^ masked_top;
            let o = u8::from(y >= 0) ^ mu;
            let keys = ServerKeys { flips: &[flip], sums: &sums, products: &[w_s] };
            let opened = Opened {
                masked_tops: &[masked_top], colours: &[o], hashes: &[if o == 1 { h1 } else { h0 }], answers: &answers,
            };
            let next = server_open(ring, &keys, &opened, &[ys]);
            prop_assert_eq!(ring.decode(ring.add(next[0], r_next)), y.max(0));
        }
    }
}
