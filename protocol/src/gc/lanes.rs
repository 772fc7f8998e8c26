//! Instances in lockstep: what the kernels of half-gates and of three-halves garbling share.
//!
//! Eight instances are a group under one hash key; four groups are a batch, whose keys are expanded together and whose groups go
//! through the circuit one or two at a time, to fill the processor's AES pipeline. Labels lie wire after wire, eight instances
//! in a [`Row`]; tables instance after instance. Lanes past the last instance compute on stale labels and leave nothing.
//! No branch and no address depends on a label.

#![allow(
    clippy::needless_range_loop,
    reason = "a group's number indexes rows, lanes and tables alike"
)]

use zeroize::Zeroizing;

use super::circuit::Circuit;
use super::instances::Instances;
use crate::block::{ActiveLabel, Block, ZeroLabel};
use crate::hash::simd::{KEYS, LANE_NUMBERS, Row, Simd};
use crate::hash::{LANES, group_key};

/// Instances of a batch.
pub(super) const BATCH: usize = KEYS * LANES;
/// Groups that go through the circuit at a time in evaluation of half-gates: with two hashes a gate, one group would not fill
/// the pipeline.
pub(super) const LOCKSTEP: usize = 2;
const _: () = assert!(LOCKSTEP == 2, "what is left over is one group");
/// Rows of labels drawn at a time.
const DRAWN: usize = 4;
/// Bytes that [`Simd::store_pairs`] writes and [`Simd::load_pairs`] reads of each instance.
pub(super) const PAIR: usize = 32;

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
        let domain = instances.scheme.domain();
        group_key(instances.start_key, domain, instances.tweak, group)
    })
}

/// Garbles one batch. Slices hold `n_instances` instances; `wires` is of [`wire_rows`]. The labels of the garbler's inputs are
/// AES-128 under `label_key` of their numbers, from `first_label` on, a multiple of eight.
pub(super) struct Garbling<'a> {
    pub circuit: &'a Circuit,
    pub delta: Block,
    pub keys: [u128; KEYS],
    /// The number of the batch's first instance, a multiple of eight.
    pub first_instance: u64,
    pub n_instances: usize,
    pub wires: &'a mut [Row],
    pub tables: &'a mut [u8],
    pub label_key: Block,
    /// The key of the random control bits; half-gates need none.
    pub dice_key: Block,
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

impl Garbling<'_> {
    /// The labels of the garbler's inputs, to their place.
    #[inline(always)]
    pub fn draw_labels<S: Simd>(&mut self, s: S) {
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
}

/// What the next groups will read and write, asked of memory while these groups compute: their share of tables at each AND
/// gate, a line of labels at each gate. Hints only, so they may run past the batch.
pub(super) struct Ahead {
    pub tables: *const u8,
    pub labels: [*const u8; 2],
    /// Bytes of tables that go with one AND gate of the groups.
    pub gate_bytes: usize,
}

impl Ahead {
    const LINE: usize = 64;

    #[inline(always)]
    pub fn next<S: Simd>(&mut self, s: S) {
        for labels in &mut self.labels {
            s.prefetch(*labels);
            *labels = labels.wrapping_add(Self::LINE);
        }
    }

    #[inline(always)]
    pub fn next_tables<S: Simd>(&mut self, s: S) {
        for _ in 0..self.gate_bytes / Self::LINE {
            s.prefetch(self.tables);
            self.tables = self.tables.wrapping_add(Self::LINE);
        }
    }
}

/// Instances in each of the groups from `first` on.
#[inline(always)]
pub(super) fn lanes_of<const G: usize>(first: usize, n_instances: usize) -> [usize; G] {
    let mut lanes = [LANES; G];
    for (g, lanes) in lanes.iter_mut().enumerate() {
        *lanes = LANES.min(n_instances - (first + g) * LANES);
    }
    lanes
}

/// Group `g`'s labels, instance after instance, to its rows.
#[inline(always)]
pub(super) fn spread<T: Copy, const G: usize>(
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

/// The labels of the outputs of the `n_lanes` instances of group `g` from their rows, instance after instance.
#[inline(always)]
pub(super) fn collect<T, const G: usize>(
    wires: &[[Row; G]],
    g: usize,
    n_lanes: usize,
    circuit: &Circuit,
    outputs: &mut [T],
    label: impl Fn(Block) -> T,
) {
    for lane in 0..n_lanes {
        let outputs = outputs[lane * circuit.n_outputs()..].iter_mut();
        for (output, wire) in outputs.zip(circuit.outputs()) {
            *output = label(wires[*wire as usize][g].0[lane]);
        }
    }
}

#[inline(always)]
pub(super) fn xor<S: Simd, const G: usize>(
    s: S,
    wires: &mut [[Row; G]],
    a: u32,
    b: u32,
    wire: usize,
) {
    for g in 0..G {
        let a = s.load(&wires[a as usize][g]);
        let b = s.load(&wires[b as usize][g]);
        s.store(s.xor(a, b), &mut wires[wire][g]);
    }
}

/// Writes one gate of `n_lanes` instances, one every `stride` bytes: `BYTES` of `first` and `second`, and no more if `exact`.
/// Otherwise all 32, of which later gates overwrite what is too much.
// house: vectors are passed in registers; a struct of them would go through memory
#[inline(always)]
pub(super) fn store_gates<S: Simd, const BYTES: usize>(
    s: S,
    first: S::Lanes,
    second: S::Lanes,
    tables: &mut [u8],
    stride: usize,
    n_lanes: usize,
    exact: bool,
) {
    if n_lanes == LANES && !exact {
        s.store_pairs(first, second, tables, stride);
        return;
    }
    let mut gates = [0; LANES * PAIR];
    s.store_pairs(first, second, &mut gates, PAIR);
    for (lane, gate) in gates.chunks_exact(PAIR).take(n_lanes).enumerate() {
        tables[lane * stride..][..BYTES].copy_from_slice(&gate[..BYTES]);
    }
}

/// Reads what [`store_gates`] wrote; past `BYTES` the second block holds anything.
#[inline(always)]
pub(super) fn load_gates<S: Simd, const BYTES: usize>(
    s: S,
    tables: &[u8],
    stride: usize,
    n_lanes: usize,
    exact: bool,
) -> (S::Lanes, S::Lanes) {
    if n_lanes == LANES && !exact {
        return s.load_pairs(tables, stride);
    }
    let mut gates = [0; LANES * PAIR];
    for (lane, gate) in gates.chunks_exact_mut(PAIR).take(n_lanes).enumerate() {
        gate[..BYTES].copy_from_slice(&tables[lane * stride..][..BYTES]);
    }
    s.load_pairs(&gates, PAIR)
}
