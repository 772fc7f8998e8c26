//! Half-gates of instances in lockstep (Zahur, Rosulek, Evans, Eurocrypt 2015, figure 2): the kernels of both parties.
//!
//! Eight instances are a group under one hash key; four groups are a batch, whose keys are expanded together and whose groups go
//! through the circuit one or two at a time, to fill the processor's AES pipeline. Labels lie wire after wire, eight instances
//! in a [`Row`]; tables instance after instance. Lanes past the last instance compute on stale labels and leave nothing.
//! No branch and no address depends on a label.

#![allow(
    clippy::needless_range_loop,
    reason = "a group's number indexes rows, hashes, lanes and tables alike"
)]

use zeroize::Zeroizing;

use super::circuit::{Circuit, Gate};
use super::garble::{GATE_BYTES, Instances};
use crate::block::{ActiveLabel, Block, ZeroLabel};
use crate::hash::simd::{KEYS, Kernel, LANE_NUMBERS, Row, Simd};
use crate::hash::{Domain, LANES, group_key};

/// Instances of a batch.
pub(super) const BATCH: usize = KEYS * LANES;
/// Groups that go through the circuit at a time in evaluation: with two hashes a gate, one group would not fill the pipeline.
const LOCKSTEP: usize = 2;
const _: () = assert!(LOCKSTEP == 2, "what is left over is one group");
/// Rows of labels drawn at a time.
const DRAWN: usize = 4;

/// Cuts `data` into one slice for each batch, of `per_instance` items an instance, empty ones included.
pub(super) fn by_batch<T>(
    mut data: &mut [T],
    n_batches: usize,
    per_instance: usize,
) -> Vec<&mut [T]> {
    let mut batches = Vec::with_capacity(n_batches);
    for _ in 0..n_batches {
        let n = data.len().min(BATCH * per_instance);
        let (head, tail) = data.split_at_mut(n);
        batches.push(head);
        data = tail;
    }
    batches
}

/// Room for the labels of the groups that go in lockstep; wiped when dropped.
pub(super) fn wire_rows(instances: &Instances<'_>) -> Zeroizing<Vec<Row>> {
    let n_groups = instances.n_instances.div_ceil(LANES).min(LOCKSTEP);
    Zeroizing::new(vec![Row::default(); instances.circuit.n_wires() * n_groups])
}

/// The hash keys of the groups of `batch`.
pub(super) fn batch_keys(instances: &Instances<'_>, batch: usize) -> [u128; KEYS] {
    std::array::from_fn(|i| {
        let group = (batch * KEYS + i) as u64;
        group_key(instances.start_key, Domain::Gate, instances.tweak, group)
    })
}

/// Garbles one batch. Slices hold `n_instances` instances; `wires` is of [`wire_rows`]. The labels of the garbler's inputs are
/// AES-128 under `label_key` of their numbers, from `first_label` on, a multiple of eight.
pub(super) struct Garbling<'a> {
    pub circuit: &'a Circuit,
    pub delta: Block,
    pub keys: [u128; KEYS],
    pub n_instances: usize,
    pub wires: &'a mut [Row],
    pub tables: &'a mut [u8],
    pub label_key: Block,
    pub first_label: u64,
    pub garbler: &'a mut [ZeroLabel],
    pub evaluator: &'a [ZeroLabel],
    pub outputs: &'a mut [ZeroLabel],
}

/// Evaluates one batch. Slices hold `n_instances` instances; `wires` is of [`wire_rows`].
pub(super) struct Evaluation<'a, L> {
    pub circuit: &'a Circuit,
    pub keys: [u128; KEYS],
    pub n_instances: usize,
    pub wires: &'a mut [Row],
    pub tables: &'a [u8],
    pub garbler: &'a [L],
    pub evaluator: &'a [ActiveLabel],
    pub outputs: &'a mut [ActiveLabel],
}

impl Kernel for Garbling<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let keys = s.expand(&self.keys);
        self.draw_labels(s);
        for group in 0..self.n_instances.div_ceil(LANES) {
            self.groups::<S, 1>(s, &keys, group);
        }
    }
}

impl Garbling<'_> {
    /// The labels of the garbler's inputs, to their place.
    #[inline(always)]
    fn draw_labels<S: Simd>(&mut self, s: S) {
        let mut keys = s.expand(&[self.label_key.0; KEYS]);
        let lane_numbers = s.load(&LANE_NUMBERS);
        let mut number = u128::from(self.first_label);
        let mut rows = Zeroizing::new([Row::default(); DRAWN]);
        for labels in self.garbler.chunks_mut(DRAWN * LANES) {
            let mut x = [[lane_numbers; DRAWN]];
            for lanes in &mut x[0] {
                *lanes = s.xor(lane_numbers, s.splat(number));
                number += LANES as u128;
            }
            s.permute(&keys, 0, &mut x);
            for (lanes, row) in x[0].iter().zip(rows.iter_mut()) {
                s.store(*lanes, row);
            }
            for (labels, row) in labels.chunks_mut(LANES).zip(rows.iter()) {
                for (label, block) in labels.iter_mut().zip(&row.0) {
                    *label = ZeroLabel(*block);
                }
            }
        }
        s.wipe(&mut keys);
    }

    #[inline(always)]
    fn groups<S: Simd, const G: usize>(&mut self, s: S, keys: &S::Keys, first: usize) {
        let circuit = self.circuit;
        let stride = circuit.n_and() * GATE_BYTES;
        let n_in = circuit.n_garbler_inputs();
        let n_inputs = n_in + circuit.n_evaluator_inputs();
        let wires = self.wires.as_chunks_mut::<G>().0;
        let lanes = lanes_of::<G>(first, self.n_instances);
        let instance = |g: usize, lane: usize| (first + g) * LANES + lane;
        for g in 0..G {
            let at = instance(g, 0);
            spread(
                &mut wires[..n_in],
                g,
                lanes[g],
                &self.garbler[at * n_in..],
                |l| l.0,
            );
            let n_eval = n_inputs - n_in;
            let labels = &self.evaluator[at * n_eval..];
            spread(&mut wires[n_in..n_inputs], g, lanes[g], labels, |l| l.0);
        }
        let at = instance(G, 0);
        let mut ahead = Ahead {
            tables: self.tables.as_ptr().wrapping_add(at * stride),
            labels: [
                self.garbler.as_ptr().wrapping_add(at * n_in).cast(),
                self.evaluator
                    .as_ptr()
                    .wrapping_add(at * (n_inputs - n_in))
                    .cast(),
            ],
            n_groups: G,
        };
        let delta = s.splat(self.delta.0);
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
                        let tables = &mut self.tables[at..];
                        store_gates(s, generator, evaluator, tables, stride, lanes[g]);
                    }
                    n_and += 1;
                    ahead.next_tables(s);
                }
            }
        }
        for g in 0..G {
            for lane in 0..lanes[g] {
                let at = instance(g, lane) * circuit.n_outputs();
                let outputs = self.outputs[at..].iter_mut();
                for (output, wire) in outputs.zip(circuit.outputs()) {
                    *output = ZeroLabel(wires[*wire as usize][g].0[lane]);
                }
            }
        }
    }
}

impl<L: Copy + Into<ActiveLabel>> Kernel for Evaluation<'_, L> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let keys = s.expand(&self.keys);
        let n_groups = self.n_instances.div_ceil(LANES);
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

impl<L: Copy + Into<ActiveLabel>> Evaluation<'_, L> {
    #[inline(always)]
    fn groups<S: Simd, const G: usize>(&mut self, s: S, keys: &S::Keys, first: usize) {
        let circuit = self.circuit;
        let stride = circuit.n_and() * GATE_BYTES;
        let n_in = circuit.n_garbler_inputs();
        let n_inputs = n_in + circuit.n_evaluator_inputs();
        let wires = self.wires.as_chunks_mut::<G>().0;
        let lanes = lanes_of::<G>(first, self.n_instances);
        let instance = |g: usize, lane: usize| (first + g) * LANES + lane;
        for g in 0..G {
            let at = instance(g, 0);
            let labels = &self.garbler[at * n_in..];
            spread(&mut wires[..n_in], g, lanes[g], labels, |l| l.into().0);
            let n_eval = n_inputs - n_in;
            let labels = &self.evaluator[at * n_eval..];
            spread(&mut wires[n_in..n_inputs], g, lanes[g], labels, |l| l.0);
        }
        let at = instance(G, 0);
        let mut ahead = Ahead {
            tables: self.tables.as_ptr().wrapping_add(at * stride),
            labels: [
                self.garbler.as_ptr().wrapping_add(at * n_in).cast(),
                self.evaluator
                    .as_ptr()
                    .wrapping_add(at * (n_inputs - n_in))
                    .cast(),
            ],
            n_groups: G,
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
                        let tables = &self.tables[at..];
                        let (generator, evaluator) = load_gates(s, tables, stride, lanes[g]);
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
            for lane in 0..lanes[g] {
                let at = instance(g, lane) * circuit.n_outputs();
                let outputs = self.outputs[at..].iter_mut();
                for (output, wire) in outputs.zip(circuit.outputs()) {
                    *output = ActiveLabel(wires[*wire as usize][g].0[lane]);
                }
            }
        }
    }
}

/// What the next groups will read and write, asked of memory while these groups compute: their share of tables at each AND
/// gate, a line of labels at each gate. Hints only, so they may run past the batch.
struct Ahead {
    tables: *const u8,
    labels: [*const u8; 2],
    n_groups: usize,
}

impl Ahead {
    const LINE: usize = 64;

    #[inline(always)]
    fn next<S: Simd>(&mut self, s: S) {
        for labels in &mut self.labels {
            s.prefetch(*labels);
            *labels = labels.wrapping_add(Self::LINE);
        }
    }

    #[inline(always)]
    fn next_tables<S: Simd>(&mut self, s: S) {
        for _ in 0..self.n_groups * LANES * GATE_BYTES / Self::LINE {
            s.prefetch(self.tables);
            self.tables = self.tables.wrapping_add(Self::LINE);
        }
    }
}

/// Instances in each of the groups from `first` on.
#[inline(always)]
fn lanes_of<const G: usize>(first: usize, n_instances: usize) -> [usize; G] {
    let mut lanes = [LANES; G];
    for (g, lanes) in lanes.iter_mut().enumerate() {
        *lanes = LANES.min(n_instances - (first + g) * LANES);
    }
    lanes
}

/// Group `g`'s labels, instance after instance, to its rows.
#[inline(always)]
fn spread<T: Copy, const G: usize>(
    wires: &mut [[Row; G]],
    g: usize,
    n_lanes: usize,
    labels: &[T],
    block: impl Fn(T) -> Block,
) {
    if wires.is_empty() {
        return;
    }
    for (lane, labels) in labels.chunks_exact(wires.len()).take(n_lanes).enumerate() {
        for (wire, label) in wires.iter_mut().zip(labels) {
            wire[g].0[lane % LANES] = block(*label);
        }
    }
}

#[inline(always)]
fn xor<S: Simd, const G: usize>(s: S, wires: &mut [[Row; G]], a: u32, b: u32, wire: usize) {
    for g in 0..G {
        let a = s.load(&wires[a as usize][g]);
        let b = s.load(&wires[b as usize][g]);
        s.store(s.xor(a, b), &mut wires[wire][g]);
    }
}

/// The tweaks of both half-gates of AND gate `gate`, below the group's key: `(2 gate + half) * 8 + lane`.
#[inline(always)]
fn tweaks<S: Simd>(s: S, lane_numbers: S::Lanes, gate: usize) -> [S::Lanes; 2] {
    let first = s.splat((2 * gate * LANES) as u128);
    let second = s.splat(((2 * gate + 1) * LANES) as u128);
    [s.xor(lane_numbers, first), s.xor(lane_numbers, second)]
}

/// Writes both halves of one gate of `n_lanes` instances, one every `stride` bytes.
#[inline(always)]
fn store_gates<S: Simd>(
    s: S,
    generator: S::Lanes,
    evaluator: S::Lanes,
    tables: &mut [u8],
    stride: usize,
    n_lanes: usize,
) {
    if n_lanes == LANES {
        s.store_pairs(generator, evaluator, tables, stride);
        return;
    }
    let mut gates = [0; LANES * GATE_BYTES];
    s.store_pairs(generator, evaluator, &mut gates, GATE_BYTES);
    for (lane, gate) in gates.chunks_exact(GATE_BYTES).take(n_lanes).enumerate() {
        tables[lane * stride..][..GATE_BYTES].copy_from_slice(gate);
    }
}

/// Reads both halves of one gate of `n_lanes` instances, one every `stride` bytes.
#[inline(always)]
fn load_gates<S: Simd>(s: S, tables: &[u8], stride: usize, n_lanes: usize) -> (S::Lanes, S::Lanes) {
    if n_lanes == LANES {
        return s.load_pairs(tables, stride);
    }
    let mut gates = [0; LANES * GATE_BYTES];
    for (lane, gate) in gates.chunks_exact_mut(GATE_BYTES).take(n_lanes).enumerate() {
        gate.copy_from_slice(&tables[lane * stride..][..GATE_BYTES]);
    }
    s.load_pairs(&gates, GATE_BYTES)
}
