//! OT extension: SoftSpokenOT with k = 4 (Roy, CRYPTO 2022), correlated OTs on 128-bit blocks, checked.
//!
//! The COT receiver knows all leaves of 32 trees of 16, the COT sender all but leaf `Delta_j` (4 bits) of tree `j`
//! (module `pprf`). With `r_x` the output of leaf `x`, the receiver has `u_j = XOR_x r_x` and `v_j^b = XOR_{x: bit b set} r_x`, and
//! the sender `w_j^b = v_j^b ^ Delta_{j,b} u_j` (section 3.1: a small-field VOLE). The choice vector is `c = u_0`. Receiver ->
//! sender: `d_j = u_j ^ c` for the 31 others; the sender sets `q_j^b = w_j^b ^ Delta_{j,b} d_j` (section 3.2, repetition code).
//! Transposed, `q_i = t_i ^ c_i Delta`. The check (module `check`) makes a deviating receiver's gain a guess of bits of `Delta`.
//!
//! Cost: 31 bits for each OT, 496 bytes for up to 128 rows of check and rounding each, and 48 bytes; 16 AES calls for four OTs at
//! the receiver. Set-up: 32 + 8,192 bytes of base OTs and 4,128 of trees. 127 secret bits of `Delta` (its colour is fixed).
//!
//! A generator's position only moves forward, on both sides alike, and enters the challenge: no output serves twice. After a failed
//! check the sender refuses to go on, since the failure may have taught the receiver something about `Delta`.

use rand::CryptoRng;
use rayon::prelude::*;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::base::{self, BaseSender};
use super::check::{self, CHECK_BYTES};
use super::pprf::{self, DEPTH, Leaves, N_LEAVES, N_TREES};
use super::transpose::transpose;
use super::{CotReceiver, CotSender, Extended};
use crate::block::{Block, Delta, mask};
use crate::error::{Error, Result};

/// OTs that the base layer runs.
pub const N_BASE: usize = 128;
/// First message of a set-up, COT receiver to COT sender.
pub const BASE_SENDER_BYTES: usize = base::SENDER_BYTES;
/// Second message of a set-up, COT sender to COT receiver.
pub const BASE_RECEIVER_BYTES: usize = N_BASE * base::RECEIVER_BYTES;
/// Third message of a set-up, COT receiver to COT sender; an extension may follow at once.
pub const TREES_BYTES: usize = pprf::MESSAGE_BYTES;

const STEP: &str = "OT extension";
/// Corrections of one tile of 128 OTs.
const TILE_BYTES: usize = (N_TREES - 1) * Block::BYTES;
/// Tiles that one task handles together, so that eight AES calls are in flight.
const CHUNK: usize = 8;

type Tile = [Block; 128];

/// Tiles of 128 rows for `n` OTs, that of the check included.
const fn n_tiles(n: usize) -> usize {
    if n == 0 { 0 } else { n.div_ceil(128) + 1 }
}

/// Bytes of the message that extends by `n` OTs; none for none.
pub const fn message_bytes(n: usize) -> usize {
    if n == 0 {
        0
    } else {
        n_tiles(n) * TILE_BYTES + CHECK_BYTES
    }
}

/// The COT receiver during set-up: sender of the base OTs.
pub struct ReceiverSetup {
    session: [u8; 32],
    base: BaseSender,
    first: [u8; BASE_SENDER_BYTES],
}

/// The name of the extension: what its challenges are bound to. It holds every message of the set-up, so that no challenge is known
/// before the trees are fixed (SECURITY.md, section 6).
fn transcript(session: &[u8; 32], messages: [&[u8]; 3]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("pi-protocol v2 OT set-up transcript");
    hasher.update(session);
    for message in messages {
        hasher.update(&(message.len() as u64).to_le_bytes());
        hasher.update(message);
    }
    *hasher.finalize().as_bytes()
}

impl ReceiverSetup {
    /// Starts a set-up under a session name that both parties know and that serves once. The message goes to the COT sender.
    pub fn new<R: CryptoRng + ?Sized>(
        session: [u8; 32],
        rng: &mut R,
    ) -> (Self, [u8; BASE_SENDER_BYTES]) {
        let (base, first) = BaseSender::new(session, rng);
        let setup = Self {
            session,
            base,
            first,
        };
        (setup, first)
    }

    /// Takes the COT sender's answer; the message, [`TREES_BYTES`], goes back to it.
    ///
    /// # Errors
    /// [`Error::Peer`] on a wrong length or on bytes that are no points.
    pub fn finish(self, answer: &[u8]) -> Result<(Receiver, Vec<u8>)> {
        let keys = self.base.finish(N_BASE, answer)?;
        let (trees, message) = pprf::plant(&self.session, &keys)?;
        let receiver = Receiver {
            session: transcript(&self.session, [&self.first, answer, &message]),
            trees,
            position: 0,
        };
        Ok((receiver, message))
    }
}

/// The COT sender during set-up: receiver of the base OTs, its choices the bits of `Delta`.
pub struct SenderSetup {
    session: [u8; 32],
    first: Vec<u8>,
    answer: Vec<u8>,
    delta: Delta,
    keys: Zeroizing<Vec<Block>>,
}

impl SenderSetup {
    /// Answers the COT receiver's first message; the answer is [`BASE_RECEIVER_BYTES`] long.
    ///
    /// # Errors
    /// [`Error::Peer`] where the message is no point.
    pub fn new<R: CryptoRng + ?Sized>(
        session: [u8; 32],
        delta: Delta,
        message: &[u8],
        rng: &mut R,
    ) -> Result<(Self, Vec<u8>)> {
        let choices: Zeroizing<Vec<u8>> =
            Zeroizing::new((0..N_BASE).map(|i| delta.block().bit(i)).collect());
        let (keys, answer) = base::receive(&session, &choices, message, rng)?;
        let setup = Self {
            session,
            first: message.to_vec(),
            answer: answer.clone(),
            delta,
            keys,
        };
        Ok((setup, answer))
    }

    /// Takes the trees.
    ///
    /// # Errors
    /// [`Error::Peer`] on a wrong length or a failed check.
    pub fn finish(self, message: &[u8]) -> Result<Sender> {
        let Self {
            session,
            first,
            answer,
            delta,
            keys,
        } = self;
        let trees = pprf::puncture(&session, &keys, delta.block(), message)?;
        Ok(Sender {
            session: transcript(&session, [&first, &answer, message]),
            delta,
            trees,
            position: 0,
            spent: false,
        })
    }
}

/// The COT receiver.
pub struct Receiver {
    session: [u8; 32],
    trees: Vec<Leaves>,
    position: u64,
}

/// The COT sender.
pub struct Sender {
    session: [u8; 32],
    delta: Delta,
    trees: Vec<Leaves>,
    position: u64,
    spent: bool,
}

/// Sums of the leaves for eight tiles: all of them, and for each bit those whose number has it set.
struct Sums {
    all: [Block; CHUNK],
    by_bit: [[Block; CHUNK]; DEPTH],
}

/// `skip_first`: leaf 0 is unknown and counts as zero.
fn sum_leaves(leaves: &Leaves, position: u64, skip_first: bool) -> Sums {
    let mut level = [[Block::ZERO; CHUNK]; N_LEAVES];
    for (leaf, out) in leaves.iter().zip(&mut level).skip(usize::from(skip_first)) {
        leaf.fill(position, out);
    }
    let mut by_bit = [[Block::ZERO; CHUNK]; DEPTH];
    let mut width = N_LEAVES;
    for sum in &mut by_bit {
        width /= 2;
        for i in 0..width {
            for tile in 0..CHUNK {
                let odd = level[2 * i + 1][tile];
                sum[tile] ^= odd;
                level[i][tile] = level[2 * i][tile] ^ odd;
            }
        }
    }
    Sums {
        all: level[0],
        by_bit,
    }
}

/// The position after `n` more OTs.
fn advance(position: u64, n: usize) -> Result<u64> {
    let next = position.checked_add(n_tiles(n) as u64);
    next.ok_or_else(|| Error::Misuse("this OT session is exhausted".into()))
}

/// Transposes all tiles and keeps the first `n` rows.
fn into_rows(mut tiles: Zeroizing<Vec<Block>>, n: usize) -> Zeroizing<Vec<Block>> {
    tiles
        .as_chunks_mut::<128>()
        .0
        .par_iter_mut()
        .for_each(transpose);
    tiles[n..].zeroize();
    tiles.truncate(n);
    tiles
}

impl CotReceiver for Receiver {
    fn message_bytes(&self, n: usize) -> usize {
        message_bytes(n)
    }

    fn extend(&mut self, n: usize) -> Result<Extended> {
        let position = self.position;
        self.position = advance(position, n)?;
        let n_tiles = n_tiles(n);
        let mut message = vec![0; n_tiles * TILE_BYTES];
        let mut choices = Zeroizing::new(vec![Block::ZERO; n_tiles]);
        let mut tiles = Zeroizing::new(vec![Block::ZERO; n_tiles * 128]);
        let columns: &mut [Tile] = tiles.as_chunks_mut().0;
        let corrections: &mut [[u8; TILE_BYTES]] = message.as_chunks_mut().0;
        columns
            .par_chunks_mut(CHUNK)
            .zip(corrections.par_chunks_mut(CHUNK))
            .zip(choices.par_chunks_mut(CHUNK))
            .enumerate()
            .for_each(|(chunk, ((columns, corrections), choices))| {
                let first = position + (chunk * CHUNK) as u64;
                for (j, leaves) in self.trees.iter().enumerate() {
                    let sums = sum_leaves(leaves, first, false);
                    for (i, column) in columns.iter_mut().enumerate() {
                        for (b, sum) in sums.by_bit.iter().enumerate() {
                            column[j * DEPTH + b] = sum[i];
                        }
                        match j {
                            0 => choices[i] = sums.all[i],
                            _ => corrections[i][(j - 1) * 16..j * 16]
                                .copy_from_slice(&(sums.all[i] ^ choices[i]).to_le_bytes()),
                        }
                    }
                }
            });
        if n > 0 {
            let challenge = check::challenge(&self.session, position, n, &message);
            let hash = check::hash_vector(challenge, choices.iter().copied());
            let columns = check::hash_columns(challenge, tiles.as_chunks().0);
            message.extend_from_slice(&hash.to_le_bytes());
            message.extend_from_slice(&check::digest(&self.session, challenge, &columns));
        }
        let mut packed = Zeroizing::new(Vec::with_capacity(n_tiles * 16));
        choices
            .iter()
            .for_each(|c| packed.extend_from_slice(&c.to_le_bytes()));
        let n_bytes = n.div_ceil(8);
        packed[n_bytes..].zeroize();
        packed.truncate(n_bytes);
        if let (Some(last), 1..) = (packed.last_mut(), n % 8) {
            *last &= (1 << (n % 8)) - 1;
        }
        Ok(Extended {
            message,
            choices: packed,
            blocks: into_rows(tiles, n),
        })
    }
}

impl Sender {
    /// Ends the extension and keeps its correlation.
    pub fn into_delta(self) -> Delta {
        self.delta
    }
}

impl CotSender for Sender {
    fn delta(&self) -> &Delta {
        &self.delta
    }

    fn message_bytes(&self, n: usize) -> usize {
        message_bytes(n)
    }

    fn extend(&mut self, n: usize, message: &[u8]) -> Result<Zeroizing<Vec<Block>>> {
        if self.spent {
            return Err(Error::Misuse(
                "this OT session failed its check; set up another".into(),
            ));
        }
        if message.len() != message_bytes(n) {
            self.spent = true;
            let expected = format!("{} bytes", message_bytes(n));
            return Err(Error::peer(STEP, 0, expected, message.len()));
        }
        let position = self.position;
        self.position = advance(position, n)?;
        let n_tiles = n_tiles(n);
        let (corrections, proof) = message.split_at(n_tiles * TILE_BYTES);
        let mut tiles = Zeroizing::new(vec![Block::ZERO; n_tiles * 128]);
        let columns: &mut [Tile] = tiles.as_chunks_mut().0;
        let (delta, trees) = (self.delta.block(), &self.trees);
        columns
            .par_chunks_mut(CHUNK)
            .zip(corrections.as_chunks::<TILE_BYTES>().0.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(chunk, (columns, corrections))| {
                let first = position + (chunk * CHUNK) as u64;
                for (j, leaves) in trees.iter().enumerate() {
                    let sums = sum_leaves(leaves, first, true);
                    for (i, column) in columns.iter_mut().enumerate() {
                        let d = match j {
                            0 => 0,
                            _ => {
                                let mut bytes = [0; 16];
                                bytes.copy_from_slice(&corrections[i][(j - 1) * 16..j * 16]);
                                u128::from_le_bytes(bytes)
                            }
                        };
                        for (b, sum) in sums.by_bit.iter().enumerate() {
                            let bit = j * DEPTH + b;
                            column[bit] = Block(sum[i].0 ^ (d & mask(delta.bit(bit))));
                        }
                    }
                }
            });
        if n > 0 {
            let challenge = check::challenge(&self.session, position, n, corrections);
            let (hash, digest) = proof.split_at(Block::BYTES);
            let mut choices = [0; 16];
            choices.copy_from_slice(hash);
            let mut columns = check::hash_columns(challenge, tiles.as_chunks().0);
            check::subtract(&mut columns, &self.delta, Block::from_le_bytes(choices));
            let expected = check::digest(&self.session, challenge, &columns);
            if !bool::from(expected.ct_eq(digest)) {
                self.spent = true;
                return Err(Error::peer(
                    STEP,
                    0,
                    "consistent corrections",
                    "a failed check",
                ));
            }
        }
        Ok(into_rows(tiles, n))
    }
}

#[cfg(test)]
mod tests;
