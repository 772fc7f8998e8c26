//! Base OTs: random OT over Ristretto255, after Masny and Rindal (ACM CCS 2019, "Endemic Oblivious Transfer", figure 1).
//!
//! Sender -> receiver: `A = a G`, 32 bytes, independent of everything, so it can go first. Receiver -> sender, for each OT: two
//! points `R_0, R_1`, 64 bytes, where `R_{1-b}` is random and `R_b = s G - H_b(R_{1-b})`. Keys:
//! `KDF(a (R_i + H_i(R_{1-i})))`, of which the receiver knows the one of `b`, `KDF(s A)`. `H` hashes to the group.
//!
//! Security about 126 bits (gap Diffie-Hellman, random oracle). `A` serves all OTs of one run, so session, `A`, index and slot
//! enter both `H` and the KDF (McQuoid, Rosulek, Roy, Asiacrypt 2021, section 4: without, batched OTs collapse). The choice is
//! fixed by the first message of the receiver, which 32-byte schemes do not achieve under simulation. A later quantum computer
//! opens recorded runs. Constant time; `a` and `s` are wiped.

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_TABLE as G;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{Identity, IsIdentity};
use rand::CryptoRng;
use subtle::{Choice, ConditionallySelectable};
use zeroize::{Zeroize, Zeroizing};

use crate::block::Block;
use crate::error::{Error, Result};

const STEP: &str = "base OT";
/// Bytes of the sender's message.
pub const SENDER_BYTES: usize = 32;
/// Bytes of the receiver's message for each OT.
pub const RECEIVER_BYTES: usize = 64;

/// The sender, between its message and the receiver's.
pub struct BaseSender {
    session: [u8; 32],
    secret: Zeroizing<Scalar>,
    point: [u8; 32],
}

impl BaseSender {
    /// A sender and its message. `session` is known to both parties and used once.
    pub fn new<R: CryptoRng + ?Sized>(
        session: [u8; 32],
        rng: &mut R,
    ) -> (Self, [u8; SENDER_BYTES]) {
        let secret = random_scalar(rng);
        let point = (G * &*secret).compress().to_bytes();
        (
            Self {
                session,
                secret,
                point,
            },
            point,
        )
    }

    /// The keys of `n` OTs, both of each.
    ///
    /// # Errors
    /// [`Error::Peer`] on a wrong length or on bytes that are no points.
    pub fn finish(self, n: usize, message: &[u8]) -> Result<Zeroizing<Vec<[Block; 2]>>> {
        let (points, rest) = message.as_chunks::<RECEIVER_BYTES>();
        if points.len() != n || !rest.is_empty() {
            let expected = format!("{} bytes", n * RECEIVER_BYTES);
            return Err(Error::peer(STEP, 0, expected, message.len()));
        }
        let mut keys = Zeroizing::new(vec![[Block::ZERO; 2]; n]);
        for (index, (pair, keys)) in points.iter().zip(keys.iter_mut()).enumerate() {
            let (halves, _) = pair.as_chunks::<32>();
            for slot in 0..2 {
                let own = decode(&halves[slot])?;
                let other = &halves[1 - slot];
                let at = At {
                    session: &self.session,
                    sender: &self.point,
                    index,
                    slot,
                };
                let shared = Zeroizing::new(*self.secret * (own + at.hash_to_group(other)));
                keys[slot] = at.derive(pair, &shared);
            }
        }
        Ok(keys)
    }
}

/// The receiver: the key of `choices[i]` (0 or 1) for each OT, and its message.
///
/// # Errors
/// [`Error::Peer`] where the sender's message is no point, or the neutral one.
pub fn receive<R: CryptoRng + ?Sized>(
    session: &[u8; 32],
    choices: &[u8],
    sender_message: &[u8],
    rng: &mut R,
) -> Result<(Zeroizing<Vec<Block>>, Vec<u8>)> {
    let length = || Error::peer(STEP, 0, "32 bytes", sender_message.len());
    let sender: &[u8; 32] = sender_message.try_into().map_err(|_| length())?;
    let point = decode(sender)?;
    if point.is_identity() {
        return Err(Error::peer(
            STEP,
            0,
            "a point of prime order",
            "the neutral point",
        ));
    }
    let mut keys = Zeroizing::new(vec![Block::ZERO; choices.len()]);
    let mut message = Vec::with_capacity(choices.len() * RECEIVER_BYTES);
    for (index, (choice, key)) in choices.iter().zip(keys.iter_mut()).enumerate() {
        let choice = Choice::from(choice & 1);
        let secret = random_scalar(rng);
        let other = random_point(rng);
        let other_bytes = other.compress().to_bytes();
        // Both hashes are computed, so that time does not tell the choice.
        let at = |slot| At {
            session,
            sender,
            index,
            slot,
        };
        let [h0, h1] = [at(0), at(1)].map(|at| at.hash_to_group(&other_bytes));
        let own = G * &*secret - RistrettoPoint::conditional_select(&h0, &h1, choice);
        let first = RistrettoPoint::conditional_select(&own, &other, choice);
        let second = RistrettoPoint::conditional_select(&other, &own, choice);
        let mut pair = [0; RECEIVER_BYTES];
        pair[..32].copy_from_slice(first.compress().as_bytes());
        pair[32..].copy_from_slice(second.compress().as_bytes());
        let shared = Zeroizing::new(*secret * point);
        let [k0, k1] = [at(0), at(1)].map(|at| at.derive(&pair, &shared));
        *key = k0.xor_if(choice.unwrap_u8(), k0 ^ k1);
        message.extend_from_slice(&pair);
    }
    Ok((keys, message))
}

/// What separates one hash from all others.
struct At<'a> {
    session: &'a [u8; 32],
    sender: &'a [u8; 32],
    index: usize,
    slot: usize,
}

impl At<'_> {
    fn hasher(&self, context: &str) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(self.session).update(self.sender);
        hasher
            .update(&(self.index as u64).to_le_bytes())
            .update(&[self.slot as u8]);
        hasher
    }

    fn hash_to_group(&self, point: &[u8; 32]) -> RistrettoPoint {
        let mut uniform = [0; 64];
        let mut hasher = self.hasher("pi-protocol v1 base OT hash to group");
        hasher.update(point).finalize_xof().fill(&mut uniform);
        RistrettoPoint::from_uniform_bytes(&uniform)
    }

    fn derive(&self, pair: &[u8; RECEIVER_BYTES], shared: &RistrettoPoint) -> Block {
        let mut hasher = self.hasher("pi-protocol v1 base OT key");
        let mut shared = shared.compress();
        hasher.update(pair).update(shared.as_bytes());
        shared.zeroize();
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        hasher.zeroize();
        let block = Block::from_le_bytes(key);
        key.zeroize();
        block
    }
}

fn decode(bytes: &[u8; 32]) -> Result<RistrettoPoint> {
    let point = CompressedRistretto(*bytes).decompress();
    point.ok_or_else(|| Error::peer(STEP, 0, "a Ristretto point", "bytes that encode none"))
}

fn random_scalar<R: CryptoRng + ?Sized>(rng: &mut R) -> Zeroizing<Scalar> {
    let mut wide = Zeroizing::new([0; 64]);
    rng.fill_bytes(&mut *wide);
    Zeroizing::new(Scalar::from_bytes_mod_order_wide(&wide))
}

fn random_point<R: CryptoRng + ?Sized>(rng: &mut R) -> RistrettoPoint {
    let mut wide = [0; 64];
    rng.fill_bytes(&mut wide);
    let point = RistrettoPoint::from_uniform_bytes(&wide);
    debug_assert!(point != RistrettoPoint::identity());
    point
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn receiver_gets_the_chosen_key_and_no_key_repeats() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let choices = [0, 1, 1, 0, 1, 0, 0, 1];
        let (sender, first) = BaseSender::new([5; 32], &mut rng);
        let (keys, message) = receive(&[5; 32], &choices, &first, &mut rng).unwrap();
        assert_eq!(message.len(), 8 * RECEIVER_BYTES);
        let pairs = sender.finish(8, &message).unwrap();
        for i in 0..8 {
            assert_eq!(keys[i], pairs[i][choices[i] as usize], "OT {i}");
            assert_ne!(keys[i], pairs[i][1 - choices[i] as usize], "OT {i}");
        }
        let mut all: Vec<u128> = pairs.iter().flatten().map(|k| k.0).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 16);
    }

    #[test]
    fn session_and_index_separate_equal_messages() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let (sender, first) = BaseSender::new([5; 32], &mut rng);
        let (keys, message) = receive(&[6; 32], &[0], &first, &mut rng).unwrap();
        let twice = message.repeat(2);
        let pairs = sender.finish(2, &twice).unwrap();
        assert_ne!(pairs[0], pairs[1]);
        assert!(!pairs[0].contains(&keys[0]));
    }

    #[test]
    fn bad_messages_are_the_peers_fault() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let session = [0; 32];
        let bad = [vec![0; 32], vec![0xff; 32], vec![0; 31], vec![]];
        for message in bad {
            let got = receive(&session, &[0, 1], &message, &mut rng);
            assert!(matches!(got, Err(Error::Peer { .. })));
        }
        let (_, first) = BaseSender::new(session, &mut rng);
        let (_, message) = receive(&session, &[0, 1], &first, &mut rng).unwrap();
        let mut no_point = message.clone();
        no_point[64..96].fill(0xff);
        for bytes in [&message[..127], &message[..64], &[], &no_point] {
            let (sender, _) = BaseSender::new(session, &mut rng);
            assert!(matches!(sender.finish(2, bytes), Err(Error::Peer { .. })));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rng = ChaCha20Rng::seed_from_u64(4);
            let (sender, _) = BaseSender::new([0; 32], &mut rng);
            let _ = sender.finish(bytes.len() / 64, &bytes);
            let _ = receive(&[0; 32], &[1], &bytes, &mut rng);
        }
    }
}
