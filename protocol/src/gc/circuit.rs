//! Boolean circuits of XOR, AND and NOT gates.
//!
//! Wires are numbered: the garbler's inputs, the evaluator's, then one for each gate in order, so a gate reads only smaller
//! numbers. Only AND gates cost anything when garbled (free XOR; Kolesnikov, Schneider, ICALP 2008).

use crate::error::{Error, Result};

/// Number of a wire.
pub type Wire = u32;

/// A gate; its output is the next wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Exclusive or.
    Xor(Wire, Wire),
    /// And: the only gate with a table.
    And(Wire, Wire),
    /// Negation.
    Not(Wire),
}

/// A circuit. Made by a [`Builder`], so every gate reads wires that exist.
#[derive(Clone, Debug)]
pub struct Circuit {
    n_garbler_inputs: usize,
    n_evaluator_inputs: usize,
    gates: Vec<Gate>,
    outputs: Vec<Wire>,
    n_and: usize,
}

impl Circuit {
    /// Input bits of the garbler.
    pub fn n_garbler_inputs(&self) -> usize {
        self.n_garbler_inputs
    }

    /// Input bits of the evaluator.
    pub fn n_evaluator_inputs(&self) -> usize {
        self.n_evaluator_inputs
    }

    /// Output bits.
    pub fn n_outputs(&self) -> usize {
        self.outputs.len()
    }

    /// AND gates: each costs a table, free XOR none.
    pub fn n_and(&self) -> usize {
        self.n_and
    }

    /// Wires in all.
    pub fn n_wires(&self) -> usize {
        self.n_garbler_inputs + self.n_evaluator_inputs + self.gates.len()
    }

    /// The gates in order.
    pub fn gates(&self) -> &[Gate] {
        &self.gates
    }

    /// The wires that are outputs.
    pub fn outputs(&self) -> &[Wire] {
        &self.outputs
    }

    /// The circuit on plain bits: garbler's inputs, then evaluator's.
    ///
    /// # Errors
    /// [`Error::Misuse`] on another number of inputs.
    pub fn eval(&self, inputs: &[bool]) -> Result<Vec<bool>> {
        let n_inputs = self.n_garbler_inputs + self.n_evaluator_inputs;
        if inputs.len() != n_inputs {
            let got = inputs.len();
            return Err(Error::Misuse(format!(
                "the circuit has {n_inputs} inputs, got {got}"
            )));
        }
        let mut wires = inputs.to_vec();
        for gate in &self.gates {
            wires.push(match *gate {
                Gate::Xor(a, b) => wires[a as usize] ^ wires[b as usize],
                Gate::And(a, b) => wires[a as usize] & wires[b as usize],
                Gate::Not(a) => !wires[a as usize],
            });
        }
        Ok(self.outputs.iter().map(|w| wires[*w as usize]).collect())
    }

    /// A garbler's input that enters no AND gate and reaches the single output: flipping the colour of its zero-label flips the
    /// colour of the output's and changes no table. The last such input; `None` where there is none.
    pub fn colour_input(&self) -> Option<usize> {
        let [output] = self.outputs[..] else {
            return None;
        };
        (0..self.n_garbler_inputs).rev().find(|input| {
            let mut depends = vec![false; self.n_wires()];
            depends[*input] = true;
            let first_gate = self.n_garbler_inputs + self.n_evaluator_inputs;
            for (gate, wire) in self.gates.iter().zip(first_gate..) {
                depends[wire] = match *gate {
                    Gate::Xor(a, b) => depends[a as usize] ^ depends[b as usize],
                    Gate::And(a, b) if depends[a as usize] | depends[b as usize] => return false,
                    Gate::And(..) => false,
                    Gate::Not(a) => depends[a as usize],
                };
            }
            depends[output as usize]
        })
    }
}

/// Builds a circuit gate by gate.
pub struct Builder {
    circuit: Circuit,
}

impl Builder {
    /// A circuit with these inputs and no gates.
    pub fn new(n_garbler_inputs: usize, n_evaluator_inputs: usize) -> Self {
        Self {
            circuit: Circuit {
                n_garbler_inputs,
                n_evaluator_inputs,
                gates: Vec::new(),
                outputs: Vec::new(),
                n_and: 0,
            },
        }
    }

    /// The wire of the garbler's input `i`.
    pub fn garbler_input(&self, i: usize) -> Wire {
        debug_assert!(i < self.circuit.n_garbler_inputs);
        i as Wire
    }

    /// The wire of the evaluator's input `i`.
    pub fn evaluator_input(&self, i: usize) -> Wire {
        debug_assert!(i < self.circuit.n_evaluator_inputs);
        (self.circuit.n_garbler_inputs + i) as Wire
    }

    fn push(&mut self, gate: Gate) -> Wire {
        let wire = self.circuit.n_wires() as Wire;
        self.circuit.gates.push(gate);
        wire
    }

    /// `a ^ b`.
    pub fn xor(&mut self, a: Wire, b: Wire) -> Wire {
        self.push(Gate::Xor(a, b))
    }

    /// `a & b`.
    pub fn and(&mut self, a: Wire, b: Wire) -> Wire {
        self.circuit.n_and += 1;
        self.push(Gate::And(a, b))
    }

    /// `!a`.
    pub fn not(&mut self, a: Wire) -> Wire {
        self.push(Gate::Not(a))
    }

    /// `if s { b } else { a }`, one AND.
    pub fn select(&mut self, s: Wire, a: Wire, b: Wire) -> Wire {
        let differ = self.xor(a, b);
        let masked = self.and(s, differ);
        self.xor(a, masked)
    }

    /// The carry out of `a + b + carry`, one AND (Boyar, Peralta, Pochuev 2000). `None` is a carry of zero.
    pub fn carry(&mut self, a: Wire, b: Wire, carry: Option<Wire>) -> Wire {
        let Some(carry) = carry else {
            return self.and(a, b);
        };
        let (ac, bc) = (self.xor(a, carry), self.xor(b, carry));
        let both = self.and(ac, bc);
        self.xor(both, carry)
    }

    /// The sum bit of `a + b + carry`.
    pub fn sum(&mut self, a: Wire, b: Wire, carry: Option<Wire>) -> Wire {
        let ab = self.xor(a, b);
        carry.map_or(ab, |carry| self.xor(ab, carry))
    }

    /// The circuit with these outputs.
    pub fn finish(mut self, outputs: Vec<Wire>) -> Circuit {
        debug_assert!(
            outputs
                .iter()
                .all(|w| (*w as usize) < self.circuit.n_wires())
        );
        self.circuit.outputs = outputs;
        self.circuit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_compute_and_lengths_are_checked() {
        let mut b = Builder::new(2, 1);
        let (x, y, z) = (b.garbler_input(0), b.garbler_input(1), b.evaluator_input(0));
        let select = b.select(z, x, y);
        let not = b.not(select);
        let circuit = b.finish(vec![select, not]);
        assert_eq!(circuit.n_and(), 1);
        for i in 0..8 {
            let [x, y, z] = [i & 1 == 1, i & 2 == 2, i & 4 == 4];
            let want = if z { y } else { x };
            assert_eq!(circuit.eval(&[x, y, z]).unwrap(), [want, !want]);
        }
        assert!(circuit.eval(&[true]).is_err());
        assert_eq!(circuit.colour_input(), None);
    }
}
