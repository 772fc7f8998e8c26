//! The equations of three-halves garbling, solved again by elimination over formal labels, and the kernels against the solution.

use aes::cipher::{BlockEncrypt, KeyInit};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::block::{Block, Delta, ZeroLabel};
use crate::gc::{Builder, Circuit, Instances, Scheme, evaluate, garble};
use crate::hash::TweakBase;
use crate::prg::Seed;

/// A sum of the six slices of A, B and Delta (low bits) and of the six hashes of A_0, A_1, B_0, B_1, X_0, X_1 (bits from 6 on).
type Form = u16;
const A_L: Form = 1;
const A_R: Form = 2;
const B_L: Form = 4;
const B_R: Form = 8;
const D_L: Form = 16;
const D_R: Form = 32;

/// The hash of label `colour` of A (0), B (1) or X (2).
fn hash_form(label: usize, colour: bool) -> Form {
    1 << (6 + 2 * label + usize::from(colour))
}

fn times(bit: bool, form: Form) -> Form {
    if bit { form } else { 0 }
}

/// Control bits of the rows 00, 01, 10, 11: bit 2 r is x of row r, bit 2 r + 1 is y.
type Rows = u8;

/// The control bits that the module states.
fn stated_rows(a: bool, b: bool, p: bool, q: bool) -> Rows {
    let rows = [
        (p, q),
        (p ^ a ^ b, q ^ a),
        (p ^ b, q ^ a ^ b),
        (p ^ a, q ^ b),
    ];
    rows.iter().rev().fold(0, |bits, (x, y)| {
        bits << 2 | u8::from(*y) << 1 | u8::from(*x)
    })
}

/// C_L, C_R, G_0, G_1, G_2 so that the row (i, j) gives C + Delta if it is (a, b) and C otherwise; `None` if there are none.
fn solve(a: bool, b: bool, rows: Rows) -> Option<[Form; 5]> {
    let mut equations: Vec<(u8, Form)> = vec![];
    for (row, (i, j)) in [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .enumerate()
    {
        let (k, t) = (i ^ j, i == a && j == b);
        let [x, y] = [0, 1].map(|bit| rows >> (2 * row + bit) & 1 == 1);
        let [a_l, a_r] = [A_L ^ times(i, D_L), A_R ^ times(i, D_R)];
        let [b_l, b_r] = [B_L ^ times(j, D_L), B_R ^ times(j, D_R)];
        let (u, v) = (a_l ^ a_r ^ b_l, a_l ^ b_r);
        let x_hash = hash_form(2, k);
        let left = hash_form(0, i) ^ x_hash ^ times(!i, b_l) ^ times(x, u) ^ times(y, v);
        let right = hash_form(1, j) ^ x_hash ^ times(!j, a_r) ^ times(x, v) ^ times(y, u ^ v);
        let [i, j, k] = [i, j, k].map(u8::from);
        equations.push((1 | i << 2 | k << 4, left ^ times(t, D_L)));
        equations.push((2 | j << 3 | k << 4, right ^ times(t, D_R)));
    }
    for unknown in 0..5 {
        let has = |(mask, _): &(u8, Form)| mask >> unknown & 1 == 1;
        let pivot = equations[unknown..].iter().position(has)? + unknown;
        equations.swap(unknown, pivot);
        let (mask, right) = equations[unknown];
        for (index, equation) in equations.iter_mut().enumerate() {
            if index != unknown && has(equation) {
                equation.0 ^= mask;
                equation.1 ^= right;
            }
        }
    }
    let consistent = equations[5..].iter().all(|e| *e == (0, 0));
    consistent.then(|| std::array::from_fn(|unknown| equations[unknown].1))
}

const BOOLS: [bool; 2] = [false, true];

/// All 256 control bits are tried: those that the equations admit are the stated ones, four for each (a, b).
#[test]
fn control_bits_follow_from_the_equations() {
    for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut stated: Vec<Rows> = vec![];
        for p in BOOLS {
            stated.extend(BOOLS.map(|q| stated_rows(a, b, p, q)));
        }
        stated.sort_unstable();
        let admitted = (0..=255).filter(|rows| solve(a, b, *rows).is_some());
        assert_eq!(admitted.collect::<Vec<_>>(), stated, "{a} {b}");
    }
}

/// What the evaluator sees of the control bits, those of one row, takes each value for one (p, q), whatever a and b are.
#[test]
fn control_bits_of_one_row_tell_nothing() {
    for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
        for row in 0..4 {
            let mut seen = [0; 4];
            for p in BOOLS {
                for q in BOOLS {
                    seen[usize::from(stated_rows(a, b, p, q) >> (2 * row) & 3)] += 1;
                }
            }
            assert_eq!(seen, [1; 4], "{a} {b} row {row}");
        }
    }
}

/// Each slice that is sent has a hash of a label that the evaluator lacks, and three slices have three: nothing else is
/// between Delta and the evaluator.
#[test]
fn slices_are_masked_by_hashes_that_the_evaluator_lacks() {
    for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
        let solution = solve(a, b, stated_rows(a, b, true, false)).unwrap();
        for (i, j) in [(false, false), (false, true), (true, false), (true, true)] {
            let lacked = [hash_form(0, !i), hash_form(1, !j), hash_form(2, i == j)];
            for (slice, own) in solution[2..].iter().zip(lacked) {
                let masks = lacked.map(|hash| slice & hash != 0);
                assert_eq!(masks, lacked.map(|hash| hash == own));
            }
        }
    }
}

fn and_circuit() -> Circuit {
    let mut b = Builder::new(1, 1);
    let wire = b.and(b.garbler_input(0), b.evaluator_input(0));
    b.finish(vec![wire])
}

/// The hash under `key`, by single AES calls.
fn single_hash(key: u128) -> impl Fn(u128, u128) -> u128 {
    let cipher = aes::Aes128::new(&key.to_le_bytes().into());
    let pi = move |x: u128| {
        let mut block: aes::Block = x.to_le_bytes().into();
        cipher.encrypt_block(&mut block);
        u128::from_le_bytes(block.into())
    };
    move |x, tweak| pi(pi(x) ^ tweak) ^ pi(x)
}

/// One gate in all colourings: the kernel's bytes are those of the solved equations under single AES calls, and all four
/// pairs of inputs evaluate to the right label.
#[test]
fn and_gate_is_what_the_equations_say() {
    let circuit = and_circuit();
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let delta = Delta::random(&mut rng);
    let start_key = Block(0x0123456789abcdef);
    let hash = single_hash(start_key.0 + (4u128 << 120 | 5 << 88 | 6 << 64));
    let instances = Instances {
        circuit: &circuit,
        n_instances: 1,
        start_key,
        tweak: TweakBase::new(5, 6).unwrap(),
        scheme: Scheme::ThreeHalves,
    };
    let mut seen = [0; 16];
    for seed in 0..64u8 {
        let b_zero = ZeroLabel(Block::random(&mut rng));
        let labels = Seed::from([seed; 32]);
        let garbled = garble(&instances, &delta, &labels, &[b_zero], None).unwrap();
        let a_zero = garbled.garbler_zero[0];
        let [a, b] = [a_zero, b_zero].map(|zero| zero.colour() == 0);
        seen[usize::from(a) << 1 | usize::from(b)] += 1;
        // The labels of colour 0.
        let [a_0, b_0] = [a_zero, b_zero].map(|zero| zero.active(zero.colour(), &delta).0.0);
        let d = delta.block().0;
        let hashes = [
            hash(a_0, 0),
            hash(a_0 ^ d, 0),
            hash(b_0, 8),
            hash(b_0 ^ d, 8),
            hash(a_0 ^ b_0, 16),
            hash(a_0 ^ b_0 ^ d, 16),
        ];
        let halves = |x: u128| [x as u64, (x >> 64) as u64];
        let mut values: Vec<u64> = [a_0, b_0, d].into_iter().flat_map(halves).collect();
        values.extend(hashes.map(|h| h as u64));
        let value = |form: Form| {
            let terms = values.iter().enumerate();
            terms.fold(0, |sum, (i, v)| {
                sum ^ if form >> i & 1 == 1 { *v } else { 0 }
            })
        };
        let h = |index: usize| hashes[index] >> 64 & 1 == 1;
        let control = garbled.tables[24];
        let z = |i: usize| control >> i & 1 == 1;
        let (p, q) = (z(0) ^ h(0) ^ h(4), z(1) ^ h(2) ^ h(4));
        assert_eq!(z(2), a ^ h(0) ^ h(1));
        assert_eq!(z(3), b ^ h(2) ^ h(3));
        assert_eq!(z(4), a ^ b ^ h(4) ^ h(5));
        assert_eq!(control >> 5, 0);
        seen[4 + (usize::from(p) << 1 | usize::from(q))] += 1;
        let solution = solve(a, b, stated_rows(a, b, p, q)).unwrap().map(value);
        let slices: Vec<u8> = solution[2..].iter().flat_map(|g| g.to_le_bytes()).collect();
        assert_eq!(garbled.tables[..24], slices);
        let zero = garbled.output_zero[0];
        assert_eq!(halves(zero.0.0), solution[..2]);
        for (x, y) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let active_a = a_zero.active(x, &delta);
            let active_b = b_zero.active(y, &delta);
            let got = evaluate(&instances, &garbled.tables, &[active_a], &[active_b]).unwrap();
            let want = zero.active(x & y, &delta).to_bytes();
            assert_eq!(got[0].to_bytes(), want, "{x} and {y}");
        }
    }
    // All colourings and all dice came up.
    assert!(seen[..8].iter().all(|n| *n > 4), "{seen:?}");
}

/// The dice of different gates, instances and blocks of 64 gates differ. Gates side by side have inputs whose labels are known,
/// so that their dice can be read off what is sent.
#[test]
fn dice_are_spread_over_gates_and_instances() {
    const GATES: usize = 100;
    const INSTANCES: usize = 40;
    let mut b = Builder::new(1, 1);
    let gates: Vec<_> = (0..GATES)
        .map(|_| b.and(b.garbler_input(0), b.evaluator_input(0)))
        .collect();
    let circuit = b.finish(gates);
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let delta = Delta::random(&mut rng);
    let instances = Instances {
        circuit: &circuit,
        n_instances: INSTANCES,
        start_key: Block(1),
        tweak: TweakBase::new(0, 0).unwrap(),
        scheme: Scheme::ThreeHalves,
    };
    let zero: Vec<ZeroLabel> = (0..INSTANCES)
        .map(|_| ZeroLabel(Block::random(&mut rng)))
        .collect();
    let labels = Seed::from([1; 32]);
    let garbled = garble(&instances, &delta, &labels, &zero, None).unwrap();
    let stride = GATES * 24 + (5 * GATES).div_ceil(8);
    assert_eq!(garbled.tables.len(), INSTANCES * stride);
    // Of each instance the dice p, then q, of its first 36 gates and of the 36 from the second block.
    let mut strings: Vec<u128> = vec![];
    let mut n_ones = 0;
    for (i, table) in garbled.tables.chunks_exact(stride).enumerate() {
        let hash = single_hash(1 + (4u128 << 120 | (i as u128 / 8)));
        let inputs = [garbled.garbler_zero[i], zero[i]];
        let [a_0, b_0] = inputs.map(|zero| zero.active(zero.colour(), &delta).0.0);
        let control = &table[GATES * 24..];
        let dice = |gate: usize| {
            let z = |k: usize| {
                let at = 5 * gate + k;
                u128::from(control[at / 8] >> (at % 8) & 1)
            };
            let tweak = |which: usize| ((4 * gate + which) * 8 + i % 8) as u128;
            let h = |label, which| hash(label, tweak(which)) >> 64 & 1;
            let both = h(a_0 ^ b_0, 2);
            [z(0) ^ h(a_0, 0) ^ both, z(1) ^ h(b_0, 1) ^ both]
        };
        for first in [0, 64] {
            for die in [0, 1] {
                let bits = (0..36).fold(0, |bits, gate| bits << 1 | dice(first + gate)[die]);
                n_ones += bits.count_ones();
                strings.push(bits);
            }
        }
    }
    // 5,760 dice: half of them ones, give or take 38.
    assert!((2_650..3_110).contains(&n_ones), "{n_ones}");
    assert!(!strings.contains(&0) && !strings.contains(&((1 << 36) - 1)));
    let n = strings.len();
    strings.sort_unstable();
    strings.dedup();
    assert_eq!(strings.len(), n);
}
