//! The sign test: the top bit of a sum of two `l`-bit shares.
//!
//! Inputs: garbler's share and evaluator's share, `l` bits each, least significant first. Output: bit `l - 1` of their sum mod
//! 2^l, which is 1 for a negative value. `l - 1` AND gates: 32 (l - 1) bytes of table for each ReLU by half-gates. The top bits enter no AND
//! gate, so the garbler may choose the colour of the output ([`Circuit::colour_input`]).

use super::circuit::{Builder, Circuit};
use crate::error::{Error, Result};

/// The sign test on `l` bits.
///
/// # Errors
/// [`Error::Plan`] unless `1 <= l <= 64`.
pub fn sign_circuit(l: usize) -> Result<Circuit> {
    if !(1..=64).contains(&l) {
        return Err(Error::Plan(format!(
            "a sign test of {l} bits; 1 to 64 exist"
        )));
    }
    let mut b = Builder::new(l, l);
    let mut carry = None;
    for i in 0..l - 1 {
        let (x, y) = (b.garbler_input(i), b.evaluator_input(i));
        carry = Some(b.carry(x, y, carry));
    }
    let (x, y) = (b.garbler_input(l - 1), b.evaluator_input(l - 1));
    let top = b.sum(x, y, carry);
    Ok(b.finish(vec![top]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sign(l: usize, x: u64, y: u64) -> bool {
        let bits = |v: u64| (0..l).map(move |i| v >> i & 1 == 1);
        let inputs: Vec<bool> = bits(x).chain(bits(y)).collect();
        sign_circuit(l).unwrap().eval(&inputs).unwrap()[0]
    }

    #[test]
    fn gates_and_limits() {
        for l in 1..=64 {
            let circuit = sign_circuit(l).unwrap();
            assert_eq!(circuit.n_and(), l - 1);
            assert_eq!(circuit.colour_input(), Some(l - 1), "l = {l}");
        }
        assert!(sign_circuit(0).is_err() && sign_circuit(65).is_err());
    }

    #[test]
    fn small_widths_exhaustively() {
        for l in 1..=5 {
            for x in 0..1u64 << l {
                for y in 0..1u64 << l {
                    assert_eq!(sign(l, x, y), x.wrapping_add(y) >> (l - 1) & 1 == 1);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn sign_of_shared_value(l in 1usize..=64, y: i64, r: u64) {
            let y = y >> (64 - l); // any value of l bits, sign included
            prop_assert_eq!(sign(l, r, (y as u64).wrapping_sub(r)), y < 0);
        }
    }
}
