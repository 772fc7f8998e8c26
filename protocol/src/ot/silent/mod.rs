//! Silent correlated OTs: less than a bit for each, from a few thousand of the base extension's.
//!
//! The receiver's choices are `c = G e` for a public compressing code matrix `G` (module `lpn`) and a sparse `e`, which has one
//! 1 in each of `t` blocks: pseudorandom under dual LPN with regular noise (Boyle, Couteau, Gilboa, Ishai, Kohl, Rindal, Scholl,
//! CCS 2019, section 4; parameters and attacks: module `params`). For each block the parties run a single-point correlated OT
//! (module `mpcot`): sender `v`, receiver `w = v ^ e Delta`. Then `q = G v` and `t = G w = q ^ c Delta`. One pass; nothing is
//! bootstrapped, so a fresh `Delta` for each batch costs no more than with the base extension.
//!
//! Receiver -> sender: the base extension (SoftSpokenOT, checked) by `t log2 L` OTs, whose choices are the places of the errors, so
//! no correction bits travel. The receiver knows `c` at once. Sender -> receiver: the trees, [`CotSender::reply`]; the receiver's
//! blocks are there after [`CotReceiver::finish`]. Fewer than [`MIN_SILENT`] OTs come from the base extension itself.
//!
//! Cost: see [`message_bytes`] and [`reply_bytes`]; 2 bits for each OT at 350,000, 0.6 at 2^20, under 1 from two million on, of which four fifths
//! are the reply. Both parties check each other: a receiver that deviates fails the base extension's check, a sender the
//! trees'. What either can gain is the guess of some bits, with detection if wrong, as with the base extension. The sender's guess is on
//! where errors lie: `g` bits known cost `2^g` aborted sessions, and take at most `g` bits from the noise.

mod convolve;
mod lpn;
mod mpcot;
mod params;

use std::collections::VecDeque;

use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use super::{CotReceiver, CotSender, Extended, packed_bit, softspoken};
use crate::block::{Block, Delta};
use crate::error::{Error, Result};
use crate::prg::Seed;
use lpn::Code;
use mpcot::Hashes;
pub use params::{MIN_SILENT, message_bytes, reply_bytes};
use params::{Shape, n_base};

const STEP: &str = "silent OT";

/// The party with `Delta`.
pub struct Sender {
    base: softspoken::Sender,
    name: Name,
    roots: Seed,
    reply: Vec<u8>,
}

/// The party with choice bits.
pub struct Receiver {
    base: softspoken::Receiver,
    name: Name,
    pending: VecDeque<Pending>,
    spent: bool,
}

/// What the receiver keeps until the reply.
struct Pending {
    n: usize,
    first: Name,
    choices: Zeroizing<Vec<u8>>,
    blocks: Zeroizing<Vec<Block>>,
}

/// Names each chunk of a session.
#[derive(Clone, Copy)]
struct Name {
    session: [u8; 32],
    n_chunks: u64,
}

impl Name {
    /// The public name of the `i`-th chunk from here.
    fn chunk(&self, i: usize, shape: &Shape) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("pi-protocol v1 silent OT chunk");
        hasher.update(&self.session);
        for number in [
            self.n_chunks + i as u64,
            shape.n_trees as u64,
            shape.depth as u64,
        ] {
            hasher.update(&number.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Steps past `n` chunks, and returns where they begin.
    fn advance(&mut self, n: usize) -> Result<Self> {
        let here = *self;
        let next = self.n_chunks.checked_add(n as u64);
        self.n_chunks = next.ok_or_else(|| Error::Misuse("this OT session is exhausted".into()))?;
        Ok(here)
    }
}

impl Sender {
    /// On top of a base extension, under a name that both parties know and that serves once.
    /// The trees grow from `roots`, a seed for this alone.
    pub fn new(base: softspoken::Sender, session: [u8; 32], roots: Seed) -> Self {
        Self {
            base,
            name: Name {
                session,
                n_chunks: 0,
            },
            roots,
            reply: vec![],
        }
    }

    /// Ends the extension and keeps its correlation.
    pub fn into_delta(self) -> Delta {
        self.base.into_delta()
    }
}

impl Receiver {
    /// On top of a base extension, under the sender's name for it.
    pub fn new(base: softspoken::Receiver, session: [u8; 32]) -> Self {
        Self {
            base,
            name: Name {
                session,
                n_chunks: 0,
            },
            pending: VecDeque::new(),
            spent: false,
        }
    }

    /// After a failed check nothing more is transferred.
    fn unless_spent(&self) -> Result<()> {
        if self.spent {
            return Err(Error::Misuse(
                "this OT session failed its check; set up another".into(),
            ));
        }
        Ok(())
    }
}

impl CotSender for Sender {
    fn delta(&self) -> &Delta {
        self.base.delta()
    }

    fn message_bytes(&self, n: usize) -> usize {
        message_bytes(n)
    }

    fn extend(&mut self, n: usize, message: &[u8]) -> Result<Zeroizing<Vec<Block>>> {
        self.reply.clear();
        let shapes = Shape::chunks(n);
        if shapes.is_empty() {
            return self.base.extend(n, message);
        }
        let base = self.base.extend(n_base(&shapes), message)?;
        let name = self.name.advance(shapes.len())?;
        let mut out = Zeroizing::new(vec![Block::ZERO; n]);
        let mut reply = vec![0; reply_bytes(n)];
        let delta = self.delta().block();
        let roots = &self.roots;
        let (mut out_left, mut reply_left, mut base_left) =
            (&mut out[..], &mut reply[..], &base[..]);
        let parts = shapes.iter().map(|shape| {
            (
                shape,
                split_mut(&mut out_left, shape.n),
                split_mut(&mut reply_left, shape.chunk_bytes()),
                split(&mut base_left, shape.n_base_of_chunk()),
            )
        });
        let parts: Vec<_> = parts.collect();
        parts
            .into_par_iter()
            .enumerate()
            .for_each(|(i, (shape, out, reply, base))| {
                let chunk = name.chunk(i, shape);
                let mut rng = roots.stream("silent OT roots", &[name.n_chunks + i as u64]);
                let roots: Zeroizing<Vec<Block>> = Zeroizing::new(
                    (0..shape.n_trees)
                        .map(|_| Block::random(&mut rng))
                        .collect(),
                );
                let mut vector = Zeroizing::new(vec![Block::ZERO; shape.n_positions()]);
                let (trees, check) = reply.split_at_mut(shape.n_trees * shape.tree_bytes());
                let hashes: Vec<[u8; 32]> = vector
                    .par_chunks_mut(shape.n_leaves())
                    .zip(trees.par_chunks_mut(shape.tree_bytes()))
                    .zip(base.par_chunks(shape.depth).zip(&*roots))
                    .enumerate()
                    .map(|(tree, ((leaves, reply), (q, root)))| {
                        let hashes = Hashes::new(&chunk, tree);
                        mpcot::plant(&hashes, delta, *root, q, leaves, reply)
                    })
                    .collect();
                check.copy_from_slice(&mpcot::close(&chunk, &hashes));
                Code::new(&chunk, shape.n_positions()).encode(&mut vector, out);
            });
        self.reply = reply;
        Ok(out)
    }

    fn reply_bytes(&self, n: usize) -> usize {
        reply_bytes(n)
    }

    fn reply(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.reply)
    }
}

/// Takes the first `n` items off a slice.
fn split<'a, T>(slice: &mut &'a [T], n: usize) -> &'a [T] {
    let (first, rest) = slice.split_at(n);
    *slice = rest;
    first
}

/// As [`split`], to write to.
fn split_mut<'a, T>(slice: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let (first, rest) = std::mem::take(slice).split_at_mut(n);
    *slice = rest;
    first
}

/// The places of a chunk's errors, one in each tree: the complements of the base OTs' choices, highest bit first. The chunk's
/// base OTs begin at number `first`.
fn places(shape: &Shape, first: usize, choices: &[u8]) -> Zeroizing<Vec<usize>> {
    let place = |tree: usize| {
        (0..shape.depth).fold(0, |place, level| {
            let choice = packed_bit(choices, first + tree * shape.depth + level);
            place << 1 | usize::from(1 - choice)
        })
    };
    Zeroizing::new((0..shape.n_trees).map(place).collect())
}

/// The noise vector with these errors, 64 positions in a word; every word is written alike.
fn noise(shape: &Shape, places: &[usize]) -> Zeroizing<Vec<u64>> {
    let words = shape.n_leaves() / 64;
    let mut vector = Zeroizing::new(vec![0; shape.n_positions() / 64]);
    for (block, place) in vector.chunks_mut(words).zip(places) {
        for (i, word) in block.iter_mut().enumerate() {
            let differ = (i ^ (place / 64)) as u64;
            let here = (differ.wrapping_sub(1) & !differ) >> 63;
            *word = here << (place % 64);
        }
    }
    vector
}

impl CotReceiver for Receiver {
    fn message_bytes(&self, n: usize) -> usize {
        message_bytes(n)
    }

    fn extend(&mut self, n: usize) -> Result<Extended> {
        self.unless_spent()?;
        let shapes = Shape::chunks(n);
        if shapes.is_empty() {
            return self.base.extend(n);
        }
        let base = self.base.extend(n_base(&shapes))?;
        let first = self.name.advance(shapes.len())?;
        let parts: Vec<Zeroizing<Vec<u8>>> = shapes
            .par_iter()
            .enumerate()
            .map(|(i, shape)| {
                let places = places(shape, n_base(&shapes[..i]), &base.choices);
                let mut vector = noise(shape, &places);
                let code = Code::new(&first.chunk(i, shape), shape.n_positions());
                code.encode_bits(&mut vector, shape.n)
            })
            .collect();
        // All chunks but the last hold whole bytes.
        let mut choices = Zeroizing::new(Vec::with_capacity(n.div_ceil(8)));
        parts
            .iter()
            .for_each(|part| choices.extend_from_slice(part));
        self.pending.push_back(Pending {
            n,
            first,
            choices: base.choices,
            blocks: base.blocks,
        });
        Ok(Extended {
            message: base.message,
            choices,
            blocks: Zeroizing::new(vec![]),
        })
    }

    fn reply_bytes(&self, n: usize) -> usize {
        reply_bytes(n)
    }

    fn finish(&mut self, n: usize, extended: &mut Extended, reply: &[u8]) -> Result<()> {
        self.unless_spent()?;
        if reply.len() != reply_bytes(n) {
            self.spent = true;
            let expected = format!("{} bytes", reply_bytes(n));
            return Err(Error::peer(STEP, 0, expected, reply.len()));
        }
        let shapes = Shape::chunks(n);
        if shapes.is_empty() {
            return Ok(());
        }
        let pending = self.pending.pop_front().filter(|p| p.n == n);
        let pending = pending.ok_or_else(|| {
            Error::Misuse(format!(
                "no extension by {n} OTs waits for its reply; finish in order"
            ))
        })?;
        let mut out = Zeroizing::new(vec![Block::ZERO; n]);
        let (mut out_left, mut reply_left, mut base_left) =
            (&mut out[..], reply, &pending.blocks[..]);
        let parts = shapes.iter().map(|shape| {
            (
                shape,
                split_mut(&mut out_left, shape.n),
                split(&mut reply_left, shape.chunk_bytes()),
                split(&mut base_left, shape.n_base_of_chunk()),
            )
        });
        let parts: Vec<_> = parts.collect();
        let agree = parts
            .into_par_iter()
            .enumerate()
            .map(|(i, (shape, out, reply, base))| {
                let chunk = pending.first.chunk(i, shape);
                let places = places(shape, n_base(&shapes[..i]), &pending.choices);
                let mut vector = Zeroizing::new(vec![Block::ZERO; shape.n_positions()]);
                let (trees, check) = reply.split_at(shape.n_trees * shape.tree_bytes());
                let hashes: Vec<[u8; 32]> = vector
                    .par_chunks_mut(shape.n_leaves())
                    .zip(trees.par_chunks(shape.tree_bytes()))
                    .zip(base.par_chunks(shape.depth).zip(&*places))
                    .enumerate()
                    .map(|(tree, ((leaves, reply), (t, place)))| {
                        let hashes = Hashes::new(&chunk, tree);
                        mpcot::puncture(&hashes, *place, t, leaves, reply)
                    })
                    .collect();
                let agree = mpcot::agrees(&mpcot::close(&chunk, &hashes), check);
                if agree {
                    Code::new(&chunk, shape.n_positions()).encode(&mut vector, out);
                }
                agree
            })
            .reduce(|| true, |a, b| a & b);
        if !agree {
            self.spent = true;
            out.zeroize();
            return Err(Error::peer(STEP, 0, "consistent trees", "a failed check"));
        }
        extended.blocks = out;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
