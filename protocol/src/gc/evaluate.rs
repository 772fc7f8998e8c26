//! The evaluator: many instances of one circuit, by half-gates or by three-halves garbling.
//!
//! Takes the garbler's tables and one active label for each input; gives one active label for each output. Two TMMO hashes for
//! each AND gate, or three, eight instances in lockstep. Colours select by mask: they are values masked by the garbler, but cost nothing
//! to treat as secret. Evaluating one set of tables on two inputs would reveal both: the caller consumes its material.

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::garble::MIN_BATCHES;
use super::half_gates::HalfGates;
use super::instances::Instances;
use super::lanes::{BATCH, Evaluation, batch_keys, by_batch, wire_rows};
use super::scheme::Scheme;
use super::three_halves::ThreeHalves;
use crate::block::ActiveLabel;
use crate::error::{Error, Result};
use crate::hash::path::Path;
use crate::hash::{Domain, hash_to_bits};

/// Evaluates all instances; everything is instance-major. Returns the active labels of the outputs.
///
/// The garbler's labels may be [`ActiveLabel`]s or the 16 bytes of each as they came.
///
/// # Errors
/// [`Error::Peer`] where tables or the garbler's labels have the wrong length, [`Error::Misuse`] for the evaluator's own.
pub fn evaluate<L: Copy + Into<ActiveLabel> + Sync>(
    instances: &Instances<'_>,
    tables: &[u8],
    garbler_active: &[L],
    evaluator_active: &[ActiveLabel],
) -> Result<Zeroizing<Vec<ActiveLabel>>> {
    evaluate_on(
        Path::best(),
        instances,
        tables,
        garbler_active,
        evaluator_active,
    )
}

pub(super) fn evaluate_on<L: Copy + Into<ActiveLabel> + Sync>(
    path: Path,
    instances: &Instances<'_>,
    tables: &[u8],
    garbler_active: &[L],
    evaluator_active: &[ActiveLabel],
) -> Result<Zeroizing<Vec<ActiveLabel>>> {
    let circuit = instances.circuit;
    let peer = |what: &str, expected: usize, got: usize| {
        let layer = instances.tweak.layer();
        let error = || Error::peer("garbled circuit", layer, format!("{expected} {what}"), got);
        (expected == got).then_some(()).ok_or_else(error)
    };
    peer("bytes of tables", instances.table_bytes(), tables.len())?;
    peer(
        "garbler labels",
        instances.n_garbler_labels(),
        garbler_active.len(),
    )?;
    let (expected, got) = (instances.n_evaluator_labels(), evaluator_active.len());
    if expected != got {
        return Err(Error::Misuse(format!(
            "evaluation needs {expected} own labels, got {got}"
        )));
    }

    let (n_in, n_eval, n_out) = (
        circuit.n_garbler_inputs(),
        circuit.n_evaluator_inputs(),
        circuit.n_outputs(),
    );
    let stride = instances.instance_bytes();
    let mut outputs = Zeroizing::new(vec![ActiveLabel::default(); instances.n_output_labels()]);
    by_batch(&mut outputs, instances.n_instances.div_ceil(BATCH), n_out)
        .into_par_iter()
        .enumerate()
        .with_min_len(MIN_BATCHES)
        .for_each_init(
            || wire_rows(instances),
            |wires, (batch, outputs)| {
                let first = batch * BATCH;
                let n_instances = BATCH.min(instances.n_instances - first);
                let end = first + n_instances;
                let evaluation = Evaluation {
                    circuit,
                    keys: batch_keys(instances, batch),
                    n_instances,
                    wires,
                    tables: &tables[first * stride..end * stride],
                    garbler: &garbler_active[first * n_in..end * n_in],
                    evaluator: &evaluator_active[first * n_eval..end * n_eval],
                    outputs,
                };
                match instances.scheme {
                    Scheme::HalfGates => path.run(HalfGates(evaluation)),
                    Scheme::ThreeHalves => path.run(ThreeHalves(evaluation)),
                }
            },
        );
    Ok(outputs)
}

/// `bits`-bit hashes of the active output labels, in order: for each the garbler's `h_o` with `o` the label's colour.
///
/// # Errors
/// [`Error::Misuse`] unless `1 <= bits <= 64`.
pub fn active_label_hash(
    instances: &Instances<'_>,
    output_active: &[ActiveLabel],
    bits: u32,
) -> Result<Zeroizing<Vec<u64>>> {
    let labels = output_active.iter().map(|label| label.0);
    hash_to_bits(
        instances.start_key,
        Domain::Output,
        instances.tweak,
        0,
        labels,
        bits,
    )
    .map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Block, Delta, ZeroLabel};
    use crate::gc::argmax::tests::{plain_argmax, to_bits};
    use crate::gc::{Circuit, Garbled, argmax_circuit, garble, sign_circuit};
    use crate::hash::TweakBase;
    use crate::prg::Seed;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    /// Garbles and evaluates on both parties' bits; returns garbled material, output labels and Delta.
    fn run(
        scheme: Scheme,
        circuit: &Circuit,
        garbler: &[bool],
        evaluator: &[bool],
        n_instances: usize,
        colours: Option<&[u8]>,
    ) -> (Garbled, Vec<ActiveLabel>, Delta) {
        let mut rng = ChaCha20Rng::seed_from_u64(n_instances as u64);
        let delta = Delta::random(&mut rng);
        let tweak = TweakBase::new(2, 1).unwrap();
        let start_key = Block::random(&mut rng);
        let instances = Instances {
            circuit,
            n_instances,
            start_key,
            tweak,
            scheme,
        };
        let zero: Vec<ZeroLabel> = evaluator
            .iter()
            .map(|_| ZeroLabel(Block::random(&mut rng)))
            .collect();
        let garbled = garble(&instances, &delta, &Seed::from([1; 32]), &zero, colours).unwrap();
        let bytes = scheme.instance_bytes(circuit.n_and());
        assert_eq!(garbled.tables.len(), n_instances * bytes);
        let active = |zero: &[ZeroLabel], bits: &[bool]| -> Vec<ActiveLabel> {
            zero.iter()
                .zip(bits)
                .map(|(z, b)| z.active(u8::from(*b), &delta))
                .collect()
        };
        let a = active(&garbled.garbler_zero, garbler);
        let b = active(&zero, evaluator);
        let out = evaluate(&instances, &garbled.tables, &a, &b)
            .unwrap()
            .to_vec();
        for (zero, out) in garbled.output_zero.iter().zip(&out) {
            let bit = zero.colour() ^ out.colour();
            assert_eq!(zero.active(bit, &delta).to_bytes(), out.to_bytes());
        }
        (garbled, out, delta)
    }

    #[test]
    fn sign_test_on_random_and_boundary_values() {
        Scheme::ALL.into_iter().for_each(sign_tests);
    }

    fn sign_tests(scheme: Scheme) {
        let mut rng = ChaCha20Rng::seed_from_u64(11);
        for l in [1, 2, 3, 7, 13, 14, 16, 22, 52, 64] {
            let circuit = sign_circuit(l).unwrap();
            for n in [0, 1, 7, 8, 9, 100, 131] {
                let low = i64::MIN >> (64 - l);
                let boundary = [0, -1, low, !low, low / 2, 1 & !low];
                let values: Vec<i64> = (0..n)
                    .map(|i| {
                        *boundary
                            .get(i)
                            .unwrap_or(&(rng.random::<i64>() >> (64 - l)))
                    })
                    .collect();
                let shares: Vec<u64> = (0..n).map(|_| rng.random()).collect();
                let other: Vec<u64> = values
                    .iter()
                    .zip(&shares)
                    .map(|(v, s)| (*v as u64).wrapping_sub(*s))
                    .collect();
                let colours: Vec<u8> = (0..n).map(|_| rng.random_range(0..2)).collect();
                let (a, b) = (to_bits(&shares, l), to_bits(&other, l));
                let (garbled, out, _) = run(scheme, &circuit, &a, &b, n, Some(&colours));
                for i in 0..n {
                    assert_eq!(garbled.output_zero[i].colour(), colours[i]);
                    let negative = out[i].colour() ^ colours[i] == 1;
                    assert_eq!(negative, values[i] < 0, "l = {l}, value {}", values[i]);
                }
            }
        }
    }

    #[test]
    fn argmax_of_ten_classes() {
        Scheme::ALL.into_iter().for_each(argmax_of_ten);
    }

    fn argmax_of_ten(scheme: Scheme) {
        let mut rng = ChaCha20Rng::seed_from_u64(12);
        let (n_classes, bits, n) = (10, 20, 9);
        let circuit = argmax_circuit(n_classes, bits).unwrap();
        let values: Vec<i64> = (0..n * n_classes)
            .map(|_| rng.random_range(-3..3))
            .collect();
        let shares: Vec<u64> = values.iter().map(|_| rng.random()).collect();
        let other: Vec<u64> = values
            .iter()
            .zip(&shares)
            .map(|(v, s)| (*v as u64).wrapping_sub(*s))
            .collect();
        let (garbled, out, _) = run(
            scheme,
            &circuit,
            &to_bits(&shares, bits),
            &to_bits(&other, bits),
            n,
            None,
        );
        for i in 0..n {
            let bit = |j: usize| garbled.output_zero[4 * i + j].colour() ^ out[4 * i + j].colour();
            let index: usize = (0..4).map(|j| usize::from(bit(j)) << j).sum();
            assert_eq!(index, plain_argmax(&values[i * n_classes..][..n_classes]));
        }
    }

    #[test]
    fn labels_and_tables_do_not_repeat_across_instances() {
        let circuit = sign_circuit(3).unwrap();
        let scheme = Scheme::HalfGates;
        let (garbled, _, _) = run(scheme, &circuit, &[false; 60], &[false; 60], 20, None);
        let mut labels: Vec<u128> = garbled.garbler_zero.iter().map(|z| z.0.0).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), 60);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let circuit = sign_circuit(4).unwrap();
        let tweak = TweakBase::new(0, 3).unwrap();
        let instances = Instances {
            circuit: &circuit,
            n_instances: 2,
            start_key: Block(1),
            tweak,
            scheme: Scheme::HalfGates,
        };
        let labels = [ActiveLabel::default(); 9];
        let tables = [0; 200];
        let call = |t, g, e| evaluate(&instances, &tables[..t], &labels[..g], &labels[..e]);
        assert!(call(192, 8, 8).is_ok());
        for t in [0, 191, 193] {
            assert!(matches!(call(t, 8, 8), Err(Error::Peer { .. })));
        }
        assert!(matches!(call(192, 7, 8), Err(Error::Peer { .. })));
        assert!(matches!(call(192, 9, 8), Err(Error::Peer { .. })));
        assert!(matches!(call(192, 8, 9), Err(Error::Misuse(_))));
        let sliced = Instances {
            scheme: Scheme::ThreeHalves,
            ..instances
        };
        let call = |t| evaluate(&sliced, &tables[..t], &labels[..8], &labels[..8]);
        assert!(call(2 * (3 * 24 + 2)).is_ok());
        for t in [0, 147, 149, 192] {
            assert!(matches!(call(t), Err(Error::Peer { .. })));
        }
    }
}
