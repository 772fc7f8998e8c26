//! The class alone: index of the largest of `n` shared signed numbers, the lowest index among equals.
//!
//! Inputs: both parties' shares, class by class, `bits` each, least significant first. Adders mod 2^bits, then a tournament of
//! neighbours in which the right one wins only if strictly larger; winners carry their value and the low bits of their index.
//! Output: ceil(log2 n) index bits, least significant first. AND gates: n (bits - 1) for the sums, (n - 1) bits to compare,
//! (n - 2) bits to select and fewer than n log2 n for the index: 7,123 gates, 228 KB, for 100 classes of 24 bits.

use super::circuit::{Builder, Circuit, Wire};
use crate::error::{Error, Result};

/// One player: value and known index bits.
struct Player {
    value: Vec<Wire>,
    index: Vec<Option<Wire>>,
}

/// The argmax of `n_classes` shared numbers of `bits` bits.
///
/// # Errors
/// [`Error::Plan`] unless `1 <= n_classes <= 65536` and `1 <= bits <= 64`.
pub fn argmax_circuit(n_classes: usize, bits: usize) -> Result<Circuit> {
    if !(1..=1 << 16).contains(&n_classes) || !(1..=64).contains(&bits) {
        let given = format!("{n_classes} classes of {bits} bits");
        return Err(Error::Plan(format!(
            "an argmax over {given}; 1 to 65536 of 1 to 64 exist"
        )));
    }
    let mut b = Builder::new(n_classes * bits, n_classes * bits);
    let mut players: Vec<Player> = (0..n_classes)
        .map(|class| Player {
            value: add(&mut b, class * bits, bits),
            index: Vec::new(),
        })
        .collect();
    while players.len() > 1 {
        let last = players.len() == 2;
        let mut winners = Vec::with_capacity(players.len().div_ceil(2));
        let mut field = players.into_iter();
        while let Some(left) = field.next() {
            winners.push(match field.next() {
                Some(right) => play(&mut b, left, right, last),
                // No opponent: the new index bit of the leftmost of two is a constant zero.
                None => Player {
                    index: [left.index, vec![None]].concat(),
                    ..left
                },
            });
        }
        players = winners;
    }
    // The first player's side is always full, so no bit of the winner is constant.
    let outputs = players
        .into_iter()
        .flat_map(|p| p.index)
        .flatten()
        .collect();
    Ok(b.finish(outputs))
}

/// The sum of both shares of one class, mod 2^bits.
fn add(b: &mut Builder, first: usize, bits: usize) -> Vec<Wire> {
    let mut carry = None;
    (0..bits)
        .map(|i| {
            let (x, y) = (b.garbler_input(first + i), b.evaluator_input(first + i));
            let sum = b.sum(x, y, carry);
            if i + 1 < bits {
                carry = Some(b.carry(x, y, carry));
            }
            sum
        })
        .collect()
}

/// `left < right`, signed: the borrow of left - right, that is the carry of !left + right, with the top bits exchanged.
fn less(b: &mut Builder, left: &[Wire], right: &[Wire]) -> Option<Wire> {
    let mut borrow = None;
    for (i, (l, r)) in left.iter().zip(right).enumerate() {
        let top = i + 1 == left.len();
        let (l, r) = if top { (*r, *l) } else { (*l, *r) };
        let l = b.not(l);
        borrow = Some(b.carry(l, r, borrow));
    }
    borrow
}

fn play(b: &mut Builder, left: Player, right: Player, last: bool) -> Player {
    let Some(wins) = less(b, &left.value, &right.value) else {
        return left;
    };
    let mut index: Vec<Option<Wire>> = left
        .index
        .iter()
        .zip(&right.index)
        .map(|(l, r)| match (*l, *r) {
            (Some(l), Some(r)) => Some(b.select(wins, l, r)),
            (Some(l), None) => {
                let stays = b.not(wins);
                Some(b.and(stays, l))
            }
            (None, Some(r)) => Some(b.and(wins, r)),
            (None, None) => None,
        })
        .collect();
    index.push(Some(wins));
    let value = match last {
        true => Vec::new(),
        false => {
            let pairs = left.value.iter().zip(&right.value);
            pairs.map(|(l, r)| b.select(wins, *l, *r)).collect()
        }
    };
    Player { value, index }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lowest index of the largest value.
    pub fn plain_argmax(values: &[i64]) -> usize {
        (0..values.len()).rev().max_by_key(|i| values[*i]).unwrap()
    }

    /// Little-endian bits of each value in turn.
    pub fn to_bits(values: &[u64], bits: usize) -> Vec<bool> {
        let one = |v: &u64| (0..bits).map(|i| *v >> i & 1 == 1).collect::<Vec<_>>();
        values.iter().flat_map(one).collect()
    }

    fn argmax(values: &[i64], masks: &[u64], bits: usize) -> usize {
        let circuit = argmax_circuit(values.len(), bits).unwrap();
        let n_index_bits = values.len().next_power_of_two().trailing_zeros() as usize;
        assert_eq!(circuit.n_outputs(), n_index_bits);
        let other: Vec<u64> = values
            .iter()
            .zip(masks)
            .map(|(v, m)| (*v as u64).wrapping_sub(*m))
            .collect();
        let inputs = [to_bits(masks, bits), to_bits(&other, bits)].concat();
        let index = circuit.eval(&inputs).unwrap();
        index
            .iter()
            .enumerate()
            .map(|(i, b)| usize::from(*b) << i)
            .sum()
    }

    #[test]
    fn small_fields_exhaustively() {
        for n in 1..=5usize {
            for code in 0..4usize.pow(n as u32) {
                let values: Vec<i64> = (0..n).map(|i| (code >> (2 * i) & 3) as i64 - 2).collect();
                let masks = vec![3; n];
                assert_eq!(
                    argmax(&values, &masks, 2),
                    plain_argmax(&values),
                    "{values:?}"
                );
            }
        }
    }

    #[test]
    fn limits_and_size() {
        assert!(argmax_circuit(0, 8).is_err() && argmax_circuit(8, 65).is_err());
        assert_eq!(argmax_circuit(2, 1).unwrap().n_and(), 1);
        assert_eq!(argmax_circuit(10, 24).unwrap().n_and(), 645);
        assert_eq!(argmax_circuit(100, 24).unwrap().n_and(), 7_123);
    }

    proptest! {
        #[test]
        fn argmax_of_shared_values(
            pairs in proptest::collection::vec((any::<i64>(), any::<u64>()), 1..20),
            bits in 1usize..=64,
        ) {
            let values: Vec<i64> = pairs.iter().map(|(v, _)| *v >> (64 - bits)).collect();
            let masks: Vec<u64> = pairs.iter().map(|(_, m)| *m).collect();
            prop_assert_eq!(argmax(&values, &masks, bits), plain_argmax(&values));
        }
    }
}
