//! Half-gates of instances in lockstep (Zahur, Rosulek, Evans, Eurocrypt 2015, figure 2): the kernels of both parties.
//!
//! Tables: 32 bytes for each AND gate, the generator's half then the evaluator's. Four TMMO hashes a gate to garble, two to
//! evaluate. How instances go in lockstep: [`super::lanes`].

#![allow(
    clippy::needless_range_loop,
    reason = "a group's number indexes rows, hashes, lanes and tables alike"
)]

use super::circuit::Gate;
use super::lanes::{
    Ahead, Evaluation, Garbling, LOCKSTEP, collect, lanes_of, load_gates, spread, store_gates, xor,
};
use super::scheme::HALF_GATES_BYTES as GATE_BYTES;
use crate::block::{ActiveLabel, ZeroLabel};
use crate::hash::LANES;
use crate::hash::simd::{Kernel, LANE_NUMBERS, Simd};

/// Garbles or evaluates one batch by half-gates.
pub(super) struct HalfGates<T>(pub T);

impl Kernel for HalfGates<Garbling<'_>> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let keys = s.expand(&self.0.keys);
        self.0.draw_labels(s);
        for group in 0..self.0.n_instances.div_ceil(LANES) {
            self.groups::<S, 1>(s, &keys, group);
        }
    }
}

impl HalfGates<Garbling<'_>> {
    // house: one loop over the gates, whose state stays in registers only while it is one function
    #[inline(always)]
    fn groups<S: Simd, const G: usize>(&mut self, s: S, keys: &S::Keys, first: usize) {
        let circuit = self.0.circuit;
        let stride = circuit.n_and() * GATE_BYTES;
        let n_in = circuit.n_garbler_inputs();
        let n_inputs = n_in + circuit.n_evaluator_inputs();
        let wires = self.0.wires.as_chunks_mut::<G>().0;
        let lanes = lanes_of::<G>(first, self.0.n_instances);
        let instance = |g: usize, lane: usize| (first + g) * LANES + lane;
        for g in 0..G {
            let at = instance(g, 0);
            spread(
                &mut wires[..n_in],
                g,
                lanes[g],
                &self.0.garbler[at * n_in..],
                |l| l.0,
            );
            let n_eval = n_inputs - n_in;
            let labels = &self.0.evaluator[at * n_eval..];
            spread(&mut wires[n_in..n_inputs], g, lanes[g], labels, |l| l.0);
        }
        let at = instance(G, 0);
        let mut ahead = Ahead {
            tables: self.0.tables.as_ptr().wrapping_add(at * stride),
            labels: [
                self.0.garbler.as_ptr().wrapping_add(at * n_in).cast(),
                self.0
                    .evaluator
                    .as_ptr()
                    .wrapping_add(at * (n_inputs - n_in))
                    .cast(),
            ],
            gate_bytes: G * LANES * GATE_BYTES,
        };
        let delta = s.splat(self.0.delta.0);
        let lane_numbers = s.load(&LANE_NUMBERS);
        let mut n_and = 0;
        for (gate, wire) in circuit.gates().iter().zip(n_inputs..) {
            ahead.next(s);
            match *gate {
                Gate::Xor(a, b) => xor(s, wires, a, b, wire),
                Gate::Not(a) => {
                    for g in 0..G {
                        let a = s.load(&wires[a as usize][g]);
                        s.store(s.xor(a, delta), &mut wires[wire][g]);
                    }
                }
                Gate::And(a, b) => {
                    let (a, b) = (a as usize, b as usize);
                    let mut h = [[delta; 4]; G];
                    for g in 0..G {
                        let (a, b) = (s.load(&wires[a][g]), s.load(&wires[b][g]));
                        h[g] = [a, s.xor(a, delta), b, s.xor(b, delta)];
                    }
                    let [first_half, second_half] = tweaks(s, lane_numbers, n_and);
                    let tweaks = [first_half, first_half, second_half, second_half];
                    s.tmmo(keys, first, &mut h, &tweaks);
                    for g in 0..G {
                        let [a0, a1, b0, b1] = h[g];
                        let (a, b) = (s.load(&wires[a][g]), s.load(&wires[b][g]));
                        let (colour_a, colour_b) = (s.spread_lsb(a), s.spread_lsb(b));
                        let generator = s.xor(s.xor(a0, a1), s.and(colour_b, delta));
                        let evaluator = s.xor(s.xor(b0, b1), a);
                        let left = s.xor(a0, s.and(colour_a, generator));
                        let right = s.xor(b0, s.and(colour_b, s.xor(evaluator, a)));
                        s.store(s.xor(left, right), &mut wires[wire][g]);
                        let at = instance(g, 0) * stride + n_and * GATE_BYTES;
                        let tables = &mut self.0.tables[at..];
                        let n_lanes = lanes[g];
                        store_gates::<S, GATE_BYTES>(
                            s, generator, evaluator, tables, stride, n_lanes, false,
                        );
                    }
                    n_and += 1;
                    ahead.next_tables(s);
                }
            }
        }
        for g in 0..G {
            let outputs = &mut self.0.outputs[instance(g, 0) * circuit.n_outputs()..];
            collect(wires, g, lanes[g], circuit, outputs, ZeroLabel);
        }
    }
}

impl<L: Copy + Into<ActiveLabel>> Kernel for HalfGates<Evaluation<'_, L>> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let keys = s.expand(&self.0.keys);
        let n_groups = self.0.n_instances.div_ceil(LANES);
        let mut group = 0;
        while group + LOCKSTEP <= n_groups {
            self.groups::<S, LOCKSTEP>(s, &keys, group);
            group += LOCKSTEP;
        }
        if group < n_groups {
            self.groups::<S, 1>(s, &keys, group);
        }
    }
}

impl<L: Copy + Into<ActiveLabel>> HalfGates<Evaluation<'_, L>> {
    #[inline(always)]
    fn groups<S: Simd, const G: usize>(&mut self, s: S, keys: &S::Keys, first: usize) {
        let circuit = self.0.circuit;
        let stride = circuit.n_and() * GATE_BYTES;
        let n_in = circuit.n_garbler_inputs();
        let n_inputs = n_in + circuit.n_evaluator_inputs();
        let wires = self.0.wires.as_chunks_mut::<G>().0;
        let lanes = lanes_of::<G>(first, self.0.n_instances);
        let instance = |g: usize, lane: usize| (first + g) * LANES + lane;
        for g in 0..G {
            let at = instance(g, 0);
            let labels = &self.0.garbler[at * n_in..];
            spread(&mut wires[..n_in], g, lanes[g], labels, |l| l.into().0);
            let n_eval = n_inputs - n_in;
            let labels = &self.0.evaluator[at * n_eval..];
            spread(&mut wires[n_in..n_inputs], g, lanes[g], labels, |l| l.0);
        }
        let at = instance(G, 0);
        let mut ahead = Ahead {
            tables: self.0.tables.as_ptr().wrapping_add(at * stride),
            labels: [
                self.0.garbler.as_ptr().wrapping_add(at * n_in).cast(),
                self.0
                    .evaluator
                    .as_ptr()
                    .wrapping_add(at * (n_inputs - n_in))
                    .cast(),
            ],
            gate_bytes: G * LANES * GATE_BYTES,
        };
        let lane_numbers = s.load(&LANE_NUMBERS);
        let mut n_and = 0;
        for (gate, wire) in circuit.gates().iter().zip(n_inputs..) {
            ahead.next(s);
            match *gate {
                Gate::Xor(a, b) => xor(s, wires, a, b, wire),
                Gate::Not(a) => wires[wire] = wires[a as usize],
                Gate::And(a, b) => {
                    let (a, b) = (a as usize, b as usize);
                    let mut h = [[lane_numbers; 2]; G];
                    for g in 0..G {
                        h[g] = [s.load(&wires[a][g]), s.load(&wires[b][g])];
                    }
                    let tweaks = tweaks(s, lane_numbers, n_and);
                    s.tmmo(keys, first, &mut h, &tweaks);
                    for g in 0..G {
                        let at = instance(g, 0) * stride + n_and * GATE_BYTES;
                        let tables = &self.0.tables[at..];
                        let (generator, evaluator) =
                            load_gates::<S, GATE_BYTES>(s, tables, stride, lanes[g], false);
                        let (a, b) = (s.load(&wires[a][g]), s.load(&wires[b][g]));
                        let left = s.xor(h[g][0], s.and(s.spread_lsb(a), generator));
                        let right = s.and(s.spread_lsb(b), s.xor(evaluator, a));
                        let output = s.xor(left, s.xor(h[g][1], right));
                        s.store(output, &mut wires[wire][g]);
                    }
                    n_and += 1;
                    ahead.next_tables(s);
                }
            }
        }
        for g in 0..G {
            let outputs = &mut self.0.outputs[instance(g, 0) * circuit.n_outputs()..];
            collect(wires, g, lanes[g], circuit, outputs, ActiveLabel);
        }
    }
}

/// The tweaks of both half-gates of AND gate `gate`, below the group's key: `(2 gate + half) * 8 + lane`.
#[inline(always)]
fn tweaks<S: Simd>(s: S, lane_numbers: S::Lanes, gate: usize) -> [S::Lanes; 2] {
    let first = s.splat((2 * gate * LANES) as u128);
    let second = s.splat(((2 * gate + 1) * LANES) as u128);
    [s.xor(lane_numbers, first), s.xor(lane_numbers, second)]
}
