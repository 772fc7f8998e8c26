//! Known answers, and equality of the ways to garble and evaluate: the bytes do not depend on the processor.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::evaluate::evaluate_on;
use super::garble::garble_on;
use super::{
    Builder, Circuit, Garbled, Instances, Scheme, argmax_circuit, label_hash, sign_circuit,
};
use crate::block::{ActiveLabel, Block, Delta, ZeroLabel};
use crate::hash::TweakBase;
use crate::hash::path::Path;
use crate::prg::Seed;

/// Fixed instances: what is garbled, and how.
struct Fixed<'a> {
    instances: Instances<'a>,
    delta: Delta,
    zero: Vec<ZeroLabel>,
    colours: Option<Vec<u8>>,
}

impl<'a> Fixed<'a> {
    fn new(scheme: Scheme, circuit: &'a Circuit, n_instances: usize) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(77);
        let delta = Delta::random(&mut rng);
        let instances = Instances {
            circuit,
            n_instances,
            start_key: Block::random(&mut rng),
            tweak: TweakBase::new(3, 5).unwrap(),
            scheme,
        };
        let zero = (0..instances.n_evaluator_labels())
            .map(|_| ZeroLabel(Block::random(&mut rng)))
            .collect();
        let colours = (0..n_instances).map(|i| (i % 3 == 0).into()).collect();
        Self {
            instances,
            delta,
            zero,
            colours: circuit.colour_input().map(|_| colours),
        }
    }

    fn garble(&self, path: Path) -> Garbled {
        let (labels, colours) = (Seed::from([9; 32]), self.colours.as_deref());
        garble_on(
            path,
            &self.instances,
            &self.delta,
            &labels,
            &self.zero,
            colours,
        )
        .unwrap()
    }
}

fn bytes<'a>(labels: impl Iterator<Item = &'a ZeroLabel>) -> Vec<[u8; 16]> {
    labels.map(|label| label.0.to_le_bytes()).collect()
}

/// BLAKE3 of tables, input labels, output labels and label hashes. Another implementation must find the same.
#[test]
fn bytes_stay_what_they_were() {
    use Scheme::{HalfGates, ThreeHalves};
    let answers = [
        (
            HalfGates,
            sign_circuit(14),
            101,
            "a835de48576fe60e0f67a307d26001da",
        ),
        (
            ThreeHalves,
            sign_circuit(14),
            101,
            "a0021e16b59f9267d18d599e5f48bb56",
        ),
        (
            HalfGates,
            sign_circuit(16),
            64,
            "969a2ef88d1cd91fc44a5a9900210886",
        ),
        (
            ThreeHalves,
            sign_circuit(16),
            64,
            "976789bbd70732a7a7795da59444c52a",
        ),
        (
            HalfGates,
            argmax_circuit(10, 24),
            1,
            "d7472ab9b055af1ac43653c76f71020f",
        ),
        (
            ThreeHalves,
            argmax_circuit(10, 24),
            1,
            "9ace39e4b28c6230abb1a725cbbf3cd8",
        ),
        (
            HalfGates,
            argmax_circuit(7, 20),
            70,
            "4da328f1e6d2be0077efc9d00103354c",
        ),
        (
            ThreeHalves,
            argmax_circuit(7, 20),
            70,
            "419808068e76a368a3a357c2287cecdf",
        ),
    ];
    for (scheme, circuit, n_instances, want) in answers {
        let circuit = circuit.unwrap();
        let fixed = Fixed::new(scheme, &circuit, n_instances);
        for (name, path) in Path::all() {
            let garbled = fixed.garble(path);
            let zero = &garbled.output_zero;
            let hashes = label_hash(&fixed.instances, &fixed.delta, zero, 52).unwrap();
            let mut hash = blake3::Hasher::new();
            hash.update(&garbled.tables);
            hash.update(bytes(garbled.garbler_zero.iter().chain(zero.iter())).as_flattened());
            for value in hashes.iter().flat_map(|h| h.iter()) {
                hash.update(&value.to_le_bytes());
            }
            assert_eq!(&hash.finalize().to_hex()[..32], want, "{name}");
        }
    }
}

/// A circuit of random gates with some outputs.
fn random_circuit(rng: &mut ChaCha20Rng) -> Circuit {
    let (n_in, n_eval) = (rng.random_range(0..4), rng.random_range(1..4));
    let mut b = Builder::new(n_in, n_eval);
    let mut n_wires = (n_in + n_eval) as u32;
    for _ in 0..rng.random_range(1..150) {
        let mut wire = || rng.random_range(0..n_wires);
        let (x, y) = (wire(), wire());
        match rng.random_range(0..4) {
            0 => b.not(x),
            1 => b.xor(x, y),
            _ => b.and(x, y),
        };
        n_wires += 1;
    }
    let outputs = (0..rng.random_range(1..5)).map(|_| rng.random_range(0..n_wires));
    let outputs = outputs.collect();
    b.finish(outputs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_paths_agree_and_compute_the_circuit(seed: u64, n_instances in 0usize..140, sliced: bool) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let circuit = random_circuit(&mut rng);
        let scheme = Scheme::ALL[usize::from(sliced)];
        let fixed = Fixed::new(scheme, &circuit, n_instances);
        let bits = |n: usize, rng: &mut ChaCha20Rng| -> Vec<bool> { (0..n).map(|_| rng.random()).collect() };
        let theirs = bits(fixed.instances.n_garbler_labels(), &mut rng);
        let own = bits(fixed.instances.n_evaluator_labels(), &mut rng);
        let mut first: Option<(Garbled, Vec<[u8; 16]>)> = None;
        for (name, path) in Path::all() {
            let garbled = fixed.garble(path);
            let active = |zero: &[ZeroLabel], bits: &[bool]| -> Vec<ActiveLabel> {
                let pairs = zero.iter().zip(bits);
                pairs.map(|(z, b)| z.active(u8::from(*b), &fixed.delta)).collect()
            };
            let (a, b) = (active(&garbled.garbler_zero, &theirs), active(&fixed.zero, &own));
            let a: Vec<[u8; 16]> = a.iter().map(|label| label.to_bytes()).collect();
            let out = evaluate_on(path, &fixed.instances, &garbled.tables, &a, &b).unwrap();
            let out: Vec<[u8; 16]> = out.iter().map(|label| label.to_bytes()).collect();
            if let Some((expected, expected_out)) = &first {
                prop_assert!(garbled.tables == expected.tables, "{}", name);
                prop_assert_eq!(bytes(garbled.garbler_zero.iter()), bytes(expected.garbler_zero.iter()));
                prop_assert_eq!(bytes(garbled.output_zero.iter()), bytes(expected.output_zero.iter()));
                prop_assert_eq!(&out, expected_out, "{}", name);
                continue;
            }
            let (n_in, n_eval, n_out) = (circuit.n_garbler_inputs(), circuit.n_evaluator_inputs(), circuit.n_outputs());
            for i in 0..n_instances {
                let inputs = [&theirs[i * n_in..][..n_in], &own[i * n_eval..][..n_eval]].concat();
                let want = circuit.eval(&inputs).unwrap();
                for (j, bit) in want.into_iter().enumerate() {
                    let zero = garbled.output_zero[i * n_out + j];
                    prop_assert_eq!(zero.active(u8::from(bit), &fixed.delta).to_bytes(), out[i * n_out + j]);
                }
            }
            first = Some((garbled, out));
        }
    }
}
