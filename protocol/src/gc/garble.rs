//! The garbler: many instances of one circuit, by half-gates or by three-halves garbling.
//!
//! Garbler -> evaluator: tables, instance after instance, gates in circuit order; what a gate is, [`super::half_gates`] and
//! [`super::three_halves`] say. Eight instances go in lockstep under one hash key; groups run in parallel. A last group is
//! filled up with dummy instances that leave no bytes. Four TMMO hashes for each AND gate, or six.
//!
//! Secret labels select by mask only. The tables are a function of `Delta` and one-time labels: garble once, evaluate once.

use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use super::half_gates::HalfGates;
use super::instances::Instances;
use super::lanes::{BATCH, Garbling, batch_keys, by_batch, wire_rows};
use super::scheme::Scheme;
use super::three_halves::ThreeHalves;
use crate::block::{Block, Delta, ZeroLabel};
use crate::error::{Error, Result};
use crate::hash::path::Path;
use crate::hash::{Domain, hash_to_bits};
use crate::prg::Seed;

/// Batches that one task of the thread pool takes at least.
pub(super) const MIN_BATCHES: usize = 4;

/// What garbling leaves. Labels are instance-major: all of instance 0, then of instance 1.
pub struct Garbled {
    /// To send: the tables.
    pub tables: Vec<u8>,
    /// To keep: zero-labels of the garbler's inputs.
    pub garbler_zero: Zeroizing<Vec<ZeroLabel>>,
    /// To keep: zero-labels of the outputs.
    pub output_zero: Zeroizing<Vec<ZeroLabel>>,
}

/// Garbles all instances.
///
/// `labels` is the seed of the garbler's input labels; with the same seed and tweak they come out again, so a seed serves one
/// batch. `output_colour`, one bit for each instance, fixes the colour of the single output's zero-label: the evaluator then
/// sees value xor that bit.
///
/// # Errors
/// [`Error::Misuse`] on wrong lengths, or on `output_colour` for a circuit whose output colour cannot be chosen.
pub fn garble(
    instances: &Instances<'_>,
    delta: &Delta,
    labels: &Seed,
    evaluator_zero: &[ZeroLabel],
    output_colour: Option<&[u8]>,
) -> Result<Garbled> {
    garble_on(
        Path::best(),
        instances,
        delta,
        labels,
        evaluator_zero,
        output_colour,
    )
}

pub(super) fn garble_on(
    path: Path,
    instances: &Instances<'_>,
    delta: &Delta,
    labels: &Seed,
    evaluator_zero: &[ZeroLabel],
    output_colour: Option<&[u8]>,
) -> Result<Garbled> {
    let circuit = instances.circuit;
    let (n_in, n_eval, n_out) = (
        circuit.n_garbler_inputs(),
        circuit.n_evaluator_inputs(),
        circuit.n_outputs(),
    );
    let colour_input = checked(instances, evaluator_zero, output_colour)?;
    let n_batches = instances.n_instances.div_ceil(BATCH);
    let mut tables = vec![0; instances.table_bytes()];
    let mut garbler_zero = Zeroizing::new(vec![ZeroLabel::default(); instances.n_garbler_labels()]);
    let mut output_zero = Zeroizing::new(vec![ZeroLabel::default(); instances.n_output_labels()]);
    let ids = [instances.tweak.inference(), instances.tweak.layer() as u64];
    let mut labels = labels.stream("garbler input labels", &ids);
    let label_key = Zeroizing::new(Block::random(&mut labels));
    let dice_key = Zeroizing::new(Block::random(&mut labels));

    by_batch(&mut tables, n_batches, instances.instance_bytes())
        .into_par_iter()
        .zip(by_batch(&mut garbler_zero, n_batches, n_in))
        .zip(by_batch(&mut output_zero, n_batches, n_out))
        .enumerate()
        .with_min_len(MIN_BATCHES)
        .for_each_init(
            || wire_rows(instances),
            |wires, (batch, ((tables, inputs), outputs))| {
                let first = batch * BATCH;
                let n_instances = BATCH.min(instances.n_instances - first);
                let garbling = Garbling {
                    circuit,
                    delta: delta.block(),
                    keys: batch_keys(instances, batch),
                    first_instance: first as u64,
                    n_instances,
                    wires,
                    tables,
                    label_key: *label_key,
                    dice_key: *dice_key,
                    first_label: (first * n_in) as u64,
                    garbler: &mut *inputs,
                    evaluator: &evaluator_zero[first * n_eval..(first + n_instances) * n_eval],
                    outputs: &mut *outputs,
                };
                match instances.scheme {
                    Scheme::HalfGates => path.run(HalfGates(garbling)),
                    Scheme::ThreeHalves => path.run(ThreeHalves(garbling)),
                }
                if let (Some(input), Some(colours)) = (colour_input, output_colour) {
                    // The input enters no AND gate, so its colour may still be chosen: a uniform label stays uniform.
                    let inputs = inputs.chunks_exact_mut(n_in);
                    let labels = outputs.chunks_exact_mut(n_out).zip(inputs);
                    for ((outputs, inputs), colour) in labels.zip(&colours[first..]) {
                        let flip = Block(u128::from(outputs[0].colour() ^ (colour & 1)));
                        outputs[0].0 ^= flip;
                        inputs[input].0 ^= flip;
                    }
                }
            },
        );
    Ok(Garbled {
        tables,
        garbler_zero,
        output_zero,
    })
}

/// Checks all lengths; the input whose label carries the colour of the output, if colours are asked for.
fn checked(
    instances: &Instances<'_>,
    evaluator_zero: &[ZeroLabel],
    output_colour: Option<&[u8]>,
) -> Result<Option<usize>> {
    let length = |what: &str, expected: usize, got: usize| {
        let fits = expected == got;
        fits.then_some(())
            .ok_or_else(|| Error::Misuse(format!("garbling needs {expected} {what}, got {got}")))
    };
    length(
        "evaluator labels",
        instances.n_evaluator_labels(),
        evaluator_zero.len(),
    )?;
    match output_colour {
        Some(colours) => {
            length("output colours", instances.n_instances, colours.len())?;
            let none = || Error::Misuse("this circuit's output colour cannot be chosen".into());
            Ok(Some(instances.circuit.colour_input().ok_or_else(none)?))
        }
        None => Ok(None),
    }
}

/// `bits`-bit hashes of both labels of each output, in order: `[h_0, h_1]`, `h_o` being that of the label of *colour* `o`.
/// That is the label of value `o ^ colour of the zero-label`.
///
/// # Errors
/// [`Error::Misuse`] unless `1 <= bits <= 64`.
pub fn label_hash(
    instances: &Instances<'_>,
    delta: &Delta,
    output_zero: &[ZeroLabel],
    bits: u32,
) -> Result<[Zeroizing<Vec<u64>>; 2]> {
    let hash = |colour: u8| {
        let labels = output_zero.iter();
        let labels = labels.map(|zero| zero.active(zero.colour() ^ colour, delta).0);
        hash_to_bits(
            instances.start_key,
            Domain::Output,
            instances.tweak,
            0,
            labels,
            bits,
        )
        .map(Zeroizing::new)
    };
    Ok([hash(0)?, hash(1)?])
}

impl Zeroize for Garbled {
    fn zeroize(&mut self) {
        self.tables.zeroize();
        self.garbler_zero.zeroize();
        self.output_zero.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ActiveLabel;
    use crate::gc::{Builder, Circuit, evaluate, sign_circuit};
    use crate::hash::TweakBase;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn and_circuit() -> Circuit {
        let mut b = Builder::new(1, 1);
        let wire = b.and(b.garbler_input(0), b.evaluator_input(0));
        b.finish(vec![wire])
    }

    /// The four label pairs of one gate, in all four colourings, against the equations written out with single AES calls.
    #[test]
    fn and_gate_known_answer() {
        use aes::cipher::{BlockEncrypt, KeyInit};
        let circuit = and_circuit();
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let delta = Delta::random(&mut rng);
        let start_key = Block(0x0123456789abcdef);
        let key = start_key.0 + (1u128 << 120 | 5 << 88 | 6 << 64);
        let cipher = aes::Aes128::new(&key.to_le_bytes().into());
        let pi = |x: u128| {
            let mut block: aes::Block = x.to_le_bytes().into();
            cipher.encrypt_block(&mut block);
            u128::from_le_bytes(block.into())
        };
        let h = |x: u128, i: u128| pi(pi(x) ^ i) ^ pi(x);
        let tweak = TweakBase::new(5, 6).unwrap();
        let instances = Instances {
            circuit: &circuit,
            n_instances: 1,
            start_key,
            tweak,
            scheme: Scheme::HalfGates,
        };
        for (seed, colour_b) in (0..16u8).map(|i| (i, i & 1)) {
            let b_zero = ZeroLabel(Block(
                (Block::random(&mut rng).0 & !1) | u128::from(colour_b),
            ));
            let garbled =
                garble(&instances, &delta, &Seed::from([seed; 32]), &[b_zero], None).unwrap();
            let (a, b, d) = (garbled.garbler_zero[0].0.0, b_zero.0.0, delta.block().0);
            let generator = h(a, 0) ^ h(a ^ d, 0) ^ ((b & 1) * d);
            let evaluator = h(b, 8) ^ h(b ^ d, 8) ^ a;
            let want = [generator.to_le_bytes(), evaluator.to_le_bytes()].concat();
            assert_eq!(garbled.tables, want);
            let zero = garbled.output_zero[0];
            for (x, y) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let active_a = garbled.garbler_zero[0].active(x, &delta);
                let active_b = b_zero.active(y, &delta);
                let got = evaluate(&instances, &garbled.tables, &[active_a], &[active_b]).unwrap();
                assert_eq!(
                    got[0].to_bytes(),
                    zero.active(x & y, &delta).to_bytes(),
                    "{x} and {y}"
                );
            }
        }
    }

    #[test]
    fn wrong_lengths_and_colours_are_refused() {
        let circuit = and_circuit();
        let mut rng = ChaCha20Rng::seed_from_u64(4);
        let delta = Delta::random(&mut rng);
        let tweak = TweakBase::new(0, 0).unwrap();
        let instances = Instances {
            circuit: &circuit,
            n_instances: 3,
            start_key: Block(1),
            tweak,
            scheme: Scheme::HalfGates,
        };
        let seed = Seed::from([0; 32]);
        let labels = [ZeroLabel::default(); 3];
        assert!(garble(&instances, &delta, &seed, &labels[..2], None).is_err());
        // An AND gate's output cannot be coloured by an input.
        assert!(garble(&instances, &delta, &seed, &labels, Some(&[0; 3])).is_err());
        let sign = sign_circuit(1).unwrap();
        let instances = Instances {
            circuit: &sign,
            ..instances
        };
        assert!(garble(&instances, &delta, &seed, &labels, Some(&[0; 2])).is_err());
        assert!(garble(&instances, &delta, &seed, &labels, Some(&[0; 3])).is_ok());
    }

    #[test]
    fn label_hashes_agree() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let delta = Delta::random(&mut rng);
        let zero: Vec<ZeroLabel> = (0..100)
            .map(|_| ZeroLabel(Block::random(&mut rng)))
            .collect();
        let circuit = sign_circuit(4).unwrap();
        let tweak = TweakBase::new(1, 2).unwrap();
        let instances = Instances {
            circuit: &circuit,
            n_instances: 100,
            start_key: Block(9),
            tweak,
            scheme: Scheme::HalfGates,
        };
        let [h0, h1] = label_hash(&instances, &delta, &zero, 52).unwrap();
        let active: Vec<ActiveLabel> = zero
            .iter()
            .enumerate()
            .map(|(i, z)| z.active((i % 3 == 0) as u8, &delta))
            .collect();
        let h = crate::gc::active_label_hash(&instances, &active, 52).unwrap();
        for i in 0..100 {
            assert_eq!(
                h[i],
                if active[i].colour() == 1 {
                    h1[i]
                } else {
                    h0[i]
                }
            );
            assert_ne!(h0[i], h1[i]);
        }
    }
}
