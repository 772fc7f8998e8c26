//! Three-halves garbling of instances in lockstep (Rosulek, Roy, "Three Halves Make a Whole?", CRYPTO 2021): both kernels.
//!
//! Tables, garbler -> evaluator, for each instance: 24 bytes for each AND gate, in circuit order, then 5 control bits for each,
//! packed. Six TMMO hashes a gate to garble, three to evaluate; XOR and NOT are free. Lockstep: [`super::lanes`].
//!
//! *Slicing.* A label X is two slices (X_L, X_R) of 64 bits; (x y) below is one label of two slices. A and B are the labels of
//! colour 0 of the inputs, i and j the colours that the evaluator holds, A_i = A + i Delta, B_j = B + j Delta, X_k = A + B + k Delta
//! with k = i + j. H is the low slice of a hash; its next bit is h. The evaluator computes
//!   C_L = H(A_i) + H(X_k) + i G_0 + k G_2 + (1 + i) B_j,L + x u + y v,
//!   C_R = H(B_j) + H(X_k) + j G_1 + k G_2 + (1 + j) A_i,R + x v + y (u + v)
//! with u = A_i,L + A_i,R + B_j,L and v = A_i,L + B_j,R. Asked to give C + Delta where (i, j) = (a, b), C elsewhere, this is 8 equations
//! in the 5 slices C_L, C_R, G_0, G_1, G_2, for which hashes cancel in the 3 that are too many. What remains asks of the *control bits*
//! (x, y) of the four rows (i, j), with any p, q:
//!   00: (p, q); 01: (p + a + b, q + a); 10: (p + b, q + a + b); 11: (p + a, q + b).
//! *Dicing.* p and q are random, so the bits of any one row are uniform and say nothing about a, b. They travel as five bits
//!   z_0 = p + h(A_0) + h(X_0), z_1 = q + h(B_0) + h(X_0), z_2 = a + h(A_0) + h(A_1), z_3 = b + h(B_0) + h(B_1),
//!   z_4 = a + b + h(X_0) + h(X_1),
//! of which the evaluator opens its own row alone: x = h(A_i) + h(X_k) + z_0 + i z_2 + k z_4, y = h(B_j) + h(X_k) + z_1 + j z_3 + k z_4.
//! `tests` solves the equations again by elimination and checks every row.
//!
//! *Security*: the paper's theorem, for a (randomised, tweakable) circular correlation-robust hash whose pads hide any linear function of Delta's slices,
//! which the control bits of hidden rows select ("joint leakage": slice and bit of one pad). G_0, z_2 are masked by one hash that the
//! evaluator lacks, G_1, z_3 by another, G_2, z_4 by the third; z_0, z_1 by p, q; so tables are uniform to it, and its row's bits
//! follow from them. TMMO under the ideal cipher gives such pads by the argument of Guo, Katz, Wang, Yu (S&P 2020, section 7.4): until the
//! cipher is queried at a label's other half, pi(pi(x + Delta) + tweak) + pi(x + Delta) is uniform and independent of Delta, whatever
//! is added to it. **Their theorem states this for a multiple of Delta, not for slices; we rely on its proof, not its wording.** Half as
//! many hashes again go under each key: `hash.rs` counts them.

#![allow(
    clippy::needless_range_loop,
    reason = "a lane's number indexes rows and tables alike"
)]

use super::circuit::Gate;
use super::lanes::{
    Ahead, Evaluation, Garbling, PAIR, collect, lanes_of, load_gates, spread, store_gates, xor,
};
use super::scheme::{
    Scheme, THREE_HALVES_BYTES as GATE_BYTES, THREE_HALVES_CONTROL_BITS as CONTROL_BITS,
};
use crate::block::{ActiveLabel, Block, ZeroLabel};
use crate::hash::LANES;
use crate::hash::simd::{KEYS, Kernel, LANE_NUMBERS, Row, Simd};

/// Gates whose control bits are kept in one word.
const GATES_OF_WORD: usize = 12;
/// Where the control bits of a word's last gate begin.
const TOP_BIT: u32 = (CONTROL_BITS * (GATES_OF_WORD - 1)) as u32;
/// Gates that one block of random bits serves.
const GATES_OF_DICE: usize = 64;
/// The low slice; its low bit; the low bits of both slices.
const LOW: u128 = u64::MAX as u128;
const LOW_BIT: u128 = 1;
const BITS: u128 = 1 | 1 << 64;

/// Garbles or evaluates one batch by three-halves garbling.
pub(super) struct ThreeHalves<T>(pub T);

impl Kernel for ThreeHalves<Garbling<'_>> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let keys = s.expand(&self.0.keys);
        self.0.draw_labels(s);
        let mut dice_keys = s.expand(&[self.0.dice_key.0; KEYS]);
        for group in 0..self.0.n_instances.div_ceil(LANES) {
            self.group(s, &keys, &dice_keys, group);
        }
        s.wipe(&mut dice_keys);
    }
}

impl ThreeHalves<Garbling<'_>> {
    #[inline(always)]
    fn group<S: Simd>(&mut self, s: S, keys: &S::Keys, dice_keys: &S::Keys, group: usize) {
        let circuit = self.0.circuit;
        let stride = Scheme::ThreeHalves.instance_bytes(circuit.n_and());
        let n_in = circuit.n_garbler_inputs();
        let n_eval = circuit.n_evaluator_inputs();
        let n_inputs = n_in + n_eval;
        let wires = self.0.wires.as_chunks_mut::<1>().0;
        let [n_lanes] = lanes_of::<1>(group, self.0.n_instances);
        let (at, next) = (group * LANES, (group + 1) * LANES);
        let labels = &self.0.garbler[at * n_in..];
        spread(&mut wires[..n_in], 0, n_lanes, labels, |l| l.0);
        let labels = &self.0.evaluator[at * n_eval..];
        spread(&mut wires[n_in..n_inputs], 0, n_lanes, labels, |l| l.0);
        let mut ahead = Ahead {
            tables: self.0.tables.as_ptr().wrapping_add(next * stride),
            labels: [
                self.0.garbler.as_ptr().wrapping_add(next * n_in).cast(),
                self.0.evaluator.as_ptr().wrapping_add(next * n_eval).cast(),
            ],
            gate_bytes: LANES * GATE_BYTES,
        };
        let tables = &mut self.0.tables[at * stride..];
        let delta = s.splat(self.0.delta.0);
        let lane_numbers = s.load(&LANE_NUMBERS);
        let first_instance = u128::from(self.0.first_instance) + at as u128;
        let mut dice = [[lane_numbers]];
        let mut control = s.splat(0);
        let mut n_and = 0;
        for (gate, wire) in circuit.gates().iter().zip(n_inputs..) {
            ahead.next(s);
            match *gate {
                Gate::Xor(a, b) => xor(s, wires, a, b, wire),
                Gate::Not(a) => {
                    let a = s.load(&wires[a as usize][0]);
                    s.store(s.xor(a, delta), &mut wires[wire][0]);
                }
                Gate::And(a, b) => {
                    if n_and % GATES_OF_DICE == 0 {
                        let block = (n_and / GATES_OF_DICE) as u128;
                        let number = s.splat(block << 64 | first_instance);
                        dice = [[s.xor(lane_numbers, number)]];
                        s.permute(dice_keys, 0, &mut dice);
                    }
                    let inputs = [&wires[a as usize][0], &wires[b as usize][0]];
                    let random = s.spread_half_lsb(dice[0][0]);
                    dice[0][0] = s.shift_right(dice[0][0], 1);
                    let tweaks = tweaks(s, lane_numbers, n_and);
                    let garbled = garble_and(s, keys, group, inputs, delta, random, tweaks);
                    s.store(garbled.output, &mut wires[wire][0]);
                    let last = n_and + 1 == circuit.n_and();
                    let [first, second] = garbled.slices;
                    let at = &mut tables[n_and * GATE_BYTES..];
                    store_gates::<S, GATE_BYTES>(s, first, second, at, stride, n_lanes, last);
                    n_and += 1;
                    // The newest gate's bits come in at the top: low slices hold z_0, z_2, z_4, high ones z_1, z_3 one place below.
                    let new = s.shift_left(garbled.control, TOP_BIT);
                    control = s.xor(s.shift_right(control, CONTROL_BITS as u32), new);
                    if n_and % GATES_OF_WORD == 0 || last {
                        let n_gates = (n_and - 1) % GATES_OF_WORD + 1;
                        let empty = (GATES_OF_WORD - n_gates) * CONTROL_BITS;
                        let mut words = Row::default();
                        s.store(s.shift_right(control, empty as u32), &mut words);
                        for lane in 0..n_lanes {
                            let bits = words.0[lane].0;
                            let word = bits as u64 | ((bits >> 64) as u64) << 1;
                            let instance = &mut tables[lane * stride..][..stride];
                            let bytes = &mut instance[circuit.n_and() * GATE_BYTES..];
                            store_word(bytes, (n_and - 1) / GATES_OF_WORD, word);
                        }
                        control = s.splat(0);
                    }
                    ahead.next_tables(s);
                }
            }
        }
        let outputs = &mut self.0.outputs[at * circuit.n_outputs()..];
        collect(wires, 0, n_lanes, circuit, outputs, ZeroLabel);
    }
}

/// What garbling one AND gate gives.
struct GarbledAnd<L> {
    /// Zero-labels of the output.
    output: L,
    /// (G_0, G_1) and (G_2, anything).
    slices: [L; 2],
    /// z_0, z_2, z_4 in bits 0, 2 and 4 of the low slice, z_1 and z_3 in bits 0 and 2 of the high one.
    control: L,
}

/// One AND gate of a group. `inputs` are zero-labels, `random` is all ones or zeros in either slice: (p q).
// house: vectors are passed in registers; a struct of them would go through memory
#[inline(always)]
fn garble_and<S: Simd>(
    s: S,
    keys: &S::Keys,
    group: usize,
    inputs: [&Row; 2],
    delta: S::Lanes,
    random: S::Lanes,
    [tweak_a, tweak_b, tweak_x]: [S::Lanes; 3],
) -> GarbledAnd<S::Lanes> {
    let zero = [s.load(inputs[0]), s.load(inputs[1])];
    // A zero-label of colour c is the label of colour 0 if c = 0, its other label if c = 1; and then a = 1 + c.
    let not_ab = s.spread_half_lsb(s.low_halves(zero[0], zero[1]));
    let (not_a, not_b) = (both_low(s, not_ab), both_high(s, not_ab));
    let a_0 = s.xor(zero[0], s.and(not_a, delta));
    let b_0 = s.xor(zero[1], s.and(not_b, delta));
    let x_0 = s.xor(a_0, b_0);
    let [a_1, b_1, x_1] = [s.xor(a_0, delta), s.xor(b_0, delta), s.xor(x_0, delta)];
    let mut h = [[a_0, a_1, b_0, b_1, x_0, x_1]];
    let tweaks = [tweak_a, tweak_a, tweak_b, tweak_b, tweak_x, tweak_x];
    s.tmmo(keys, group, &mut h, &tweaks);
    let [a_hash, a_other, b_hash, b_other, x_hash, x_other] = h[0];
    let (a_sum, b_sum, x_sum) = (
        s.xor(a_hash, a_other),
        s.xor(b_hash, b_other),
        s.xor(x_hash, x_other),
    );

    let ab = s.xor(not_ab, s.splat(u128::MAX));
    let (a, b) = (both_low(s, ab), both_high(s, ab));
    let (p, q) = (both_low(s, random), both_high(s, random));
    let low = s.splat(LOW);
    let [u_v, v_w] = combinations(s, a_0, b_0);
    let own = own_slices(s, a_0, b_0);

    let hash = s.xor(s.low_halves(a_hash, b_hash), both_low(s, x_hash));
    let row = s.xor(s.and(p, u_v), s.and(q, v_w));
    let one = s.and(s.and(not_a, not_b), delta);
    let output = s.xor(s.xor(hash, own), s.xor(row, one));

    // G_0, G_1: the slices of (q + 1 + a, p + 1 + b) Delta and p + q + a + b times Delta's other slice.
    let same = s.and(s.xor(s.swap_halves(random), not_ab), delta);
    let parity = s.xor(s.xor(p, q), s.xor(a, b));
    let crossed = s.and(parity, s.swap_halves(delta));
    let row = s.xor(s.and(a, u_v), s.and(b, v_w));
    let first = s.xor(s.low_halves(a_sum, b_sum), s.xor(own, row));
    let first = s.xor(first, s.xor(same, crossed));

    // G_2: the sum of the slices (a + b) u + (p + b) Delta_L and a v + (q + a) Delta_R.
    let mixed = s.and(s.xor(a, s.and(b, low)), u_v);
    let mixed = s.xor(mixed, s.and(s.xor(random, s.swap_halves(ab)), delta));
    let second = s.xor(s.xor(mixed, s.swap_halves(mixed)), both_low(s, x_sum));

    let z_01 = s.xor(s.high_halves(a_hash, b_hash), both_high(s, x_hash));
    let z_01 = s.and(s.xor(z_01, random), s.splat(BITS));
    let z_23 = s.and(s.xor(s.high_halves(a_sum, b_sum), ab), s.splat(BITS));
    let z_4 = s.and(s.xor(both_high(s, x_sum), s.xor(a, b)), s.splat(LOW_BIT));
    let z_234 = s.xor(z_23, s.shift_left(z_4, 2));
    GarbledAnd {
        output,
        slices: [first, second],
        control: s.xor(z_01, s.shift_left(z_234, 2)),
    }
}

impl<L: Copy + Into<ActiveLabel>> Kernel for ThreeHalves<Evaluation<'_, L>> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let keys = s.expand(&self.0.keys);
        for group in 0..self.0.n_instances.div_ceil(LANES) {
            self.group(s, &keys, group);
        }
    }
}

impl<L: Copy + Into<ActiveLabel>> ThreeHalves<Evaluation<'_, L>> {
    #[inline(always)]
    fn group<S: Simd>(&mut self, s: S, keys: &S::Keys, group: usize) {
        let circuit = self.0.circuit;
        let stride = Scheme::ThreeHalves.instance_bytes(circuit.n_and());
        let n_in = circuit.n_garbler_inputs();
        let n_eval = circuit.n_evaluator_inputs();
        let n_inputs = n_in + n_eval;
        let wires = self.0.wires.as_chunks_mut::<1>().0;
        let [n_lanes] = lanes_of::<1>(group, self.0.n_instances);
        let (at, next) = (group * LANES, (group + 1) * LANES);
        let labels = &self.0.garbler[at * n_in..];
        spread(&mut wires[..n_in], 0, n_lanes, labels, |l| l.into().0);
        let labels = &self.0.evaluator[at * n_eval..];
        spread(&mut wires[n_in..n_inputs], 0, n_lanes, labels, |l| l.0);
        let mut ahead = Ahead {
            tables: self.0.tables.as_ptr().wrapping_add(next * stride),
            labels: [
                self.0.garbler.as_ptr().wrapping_add(next * n_in).cast(),
                self.0.evaluator.as_ptr().wrapping_add(next * n_eval).cast(),
            ],
            gate_bytes: LANES * GATE_BYTES,
        };
        let tables = &self.0.tables[at * stride..];
        let lane_numbers = s.load(&LANE_NUMBERS);
        let mut control = lane_numbers;
        let mut n_and = 0;
        for (gate, wire) in circuit.gates().iter().zip(n_inputs..) {
            ahead.next(s);
            match *gate {
                Gate::Xor(a, b) => xor(s, wires, a, b, wire),
                Gate::Not(a) => wires[wire] = wires[a as usize],
                Gate::And(a, b) => {
                    if n_and % GATES_OF_WORD == 0 {
                        let mut words = Row::default();
                        for lane in 0..n_lanes {
                            let instance = &tables[lane * stride..][..stride];
                            let bytes = &instance[circuit.n_and() * GATE_BYTES..];
                            let word = load_word(bytes, n_and / GATES_OF_WORD);
                            // z_0, z_2, z_4 for the low slice, z_1 and z_3 for the high one.
                            let bits = u128::from(word) | u128::from(word >> 1) << 64;
                            words.0[lane] = Block(bits);
                        }
                        control = s.load(&words);
                    }
                    let (a, b) = (a as usize, b as usize);
                    let labels = [s.load(&wires[a][0]), s.load(&wires[b][0])];
                    let mut h = [[labels[0], labels[1], s.xor(labels[0], labels[1])]];
                    let tweaks = tweaks(s, lane_numbers, n_and);
                    s.tmmo(keys, group, &mut h, &tweaks);
                    // The last gate of few is not followed by enough bytes.
                    let exact = n_and * GATE_BYTES + PAIR > stride;
                    let tables = &tables[n_and * GATE_BYTES..];
                    let slices = load_gates::<S, GATE_BYTES>(s, tables, stride, n_lanes, exact);
                    let labels = [s.load(&wires[a][0]), s.load(&wires[b][0])];
                    let output = evaluate_and(s, labels, h[0], slices, control);
                    s.store(output, &mut wires[wire][0]);
                    control = s.shift_right(control, CONTROL_BITS as u32);
                    n_and += 1;
                    ahead.next_tables(s);
                }
            }
        }
        let outputs = &mut self.0.outputs[at * circuit.n_outputs()..];
        collect(wires, 0, n_lanes, circuit, outputs, ActiveLabel);
    }
}

/// The output's active labels of one AND gate of a group, from active labels, their hashes and that of their sum.
/// Bits 0, 2 and 4 of `control`'s low slice are z_0, z_2 and z_4, bits 0 and 2 of its high slice z_1 and z_3.
#[inline(always)]
fn evaluate_and<S: Simd>(
    s: S,
    [a, b]: [S::Lanes; 2],
    [a_hash, b_hash, x_hash]: [S::Lanes; 3],
    (first, second): (S::Lanes, S::Lanes),
    control: S::Lanes,
) -> S::Lanes {
    let colours = s.spread_half_lsb(s.low_halves(a, b));
    let differ = s.xor(both_low(s, colours), both_high(s, colours));

    let bits = s.xor(s.high_halves(a_hash, b_hash), both_high(s, x_hash));
    let z_23 = s.and(colours, s.shift_right(control, 2));
    let z_4 = s.and(differ, s.shift_right(both_low(s, control), 4));
    let row = s.spread_half_lsb(s.xor(s.xor(bits, control), s.xor(z_23, z_4)));

    let [u_v, v_w] = combinations(s, a, b);
    let row = s.xor(s.and(both_low(s, row), u_v), s.and(both_high(s, row), v_w));
    let hash = s.xor(s.low_halves(a_hash, b_hash), both_low(s, x_hash));
    let slices = s.xor(s.and(colours, first), s.and(differ, both_low(s, second)));
    let not_colours = s.xor(colours, s.splat(u128::MAX));
    let own = s.and(not_colours, own_slices(s, a, b));
    s.xor(s.xor(hash, slices), s.xor(own, row))
}

/// The low slice twice.
#[inline(always)]
fn both_low<S: Simd>(s: S, x: S::Lanes) -> S::Lanes {
    s.low_halves(x, x)
}

/// The high slice twice.
#[inline(always)]
fn both_high<S: Simd>(s: S, x: S::Lanes) -> S::Lanes {
    s.high_halves(x, x)
}

/// (u v) and (v u + v), with u = A_L + A_R + B_L and v = A_L + B_R.
#[inline(always)]
fn combinations<S: Simd>(s: S, a: S::Lanes, b: S::Lanes) -> [S::Lanes; 2] {
    let low = s.splat(LOW);
    let u_v = s.xor(s.xor(s.swap_halves(a), b), s.and(a, low));
    let v_w = s.xor(s.swap_halves(u_v), s.and(u_v, s.splat(!LOW)));
    [u_v, v_w]
}

/// (B_L A_R).
#[inline(always)]
fn own_slices<S: Simd>(s: S, a: S::Lanes, b: S::Lanes) -> S::Lanes {
    s.xor(s.and(b, s.splat(LOW)), s.and(a, s.splat(!LOW)))
}

/// The tweaks of the hashes of A, B and A + B at AND gate `gate`, below the group's key: `(4 gate + which) * 8 + lane`.
#[inline(always)]
fn tweaks<S: Simd>(s: S, lane_numbers: S::Lanes, gate: usize) -> [S::Lanes; 3] {
    let mut tweaks = [lane_numbers; 3];
    for (which, tweak) in tweaks.iter_mut().enumerate() {
        *tweak = s.xor(*tweak, s.splat(((4 * gate + which) * LANES) as u128));
    }
    tweaks
}

/// Where word `index` of 60 bits begins: a byte, and 0 or 4 bits.
fn place_of_word(index: usize) -> (usize, usize) {
    let bit = index * GATES_OF_WORD * CONTROL_BITS;
    (bit / 8, bit % 8)
}

/// Adds word `index` to an instance's control bits, zero so far there.
fn store_word(control: &mut [u8], index: usize, word: u64) {
    let (byte, bit) = place_of_word(index);
    let control = &mut control[byte..];
    let word = word << bit;
    match control.first_chunk_mut() {
        Some(bytes) => *bytes = (u64::from_le_bytes(*bytes) | word).to_le_bytes(),
        None => {
            for (to, from) in control.iter_mut().zip(word.to_le_bytes()) {
                *to |= from;
            }
        }
    }
}

/// Word `index` of an instance's control bits; past its 60 bits, or past the last gate's, it may hold anything.
fn load_word(control: &[u8], index: usize) -> u64 {
    let (byte, bit) = place_of_word(index);
    let control = &control[byte..];
    let word = control.first_chunk().copied().unwrap_or_else(|| {
        let mut word = [0; 8];
        word[..control.len()].copy_from_slice(control);
        word
    });
    u64::from_le_bytes(word) >> bit
}

#[cfg(test)]
mod tests;
