//! Sets of instances of one circuit: what both parties know of them.

use super::circuit::Circuit;
use super::scheme::Scheme;
use crate::block::Block;
use crate::hash::TweakBase;

/// How all circuits of a batch are garbled, as both parties know it.
#[derive(Clone, Copy, Debug)]
pub struct CircuitParams {
    /// The scheme.
    pub scheme: Scheme,
    /// Public start value of the hash keys: fresh and random for each `Delta`.
    pub start_key: Block,
}

impl CircuitParams {
    /// `n_instances` of `circuit`; `tweak` is unique in the batch.
    #[must_use]
    pub const fn instances<'a>(
        &self,
        circuit: &'a Circuit,
        n_instances: usize,
        tweak: TweakBase,
    ) -> Instances<'a> {
        Instances {
            circuit,
            n_instances,
            start_key: self.start_key,
            tweak,
            scheme: self.scheme,
        }
    }
}

/// What both parties know of a set of instances: same values, same hash keys.
#[derive(Clone, Copy)]
pub struct Instances<'a> {
    /// The circuit of every instance.
    pub circuit: &'a Circuit,
    /// How many.
    pub n_instances: usize,
    /// Public start value of the hash keys: fresh and random for each `Delta`.
    pub start_key: Block,
    /// Inference and layer: unique under one start value.
    pub tweak: TweakBase,
    /// The garbling scheme.
    pub scheme: Scheme,
}

impl Instances<'_> {
    /// AND gates of all instances.
    pub fn n_and(&self) -> usize {
        self.n_instances.saturating_mul(self.circuit.n_and())
    }

    /// Bytes of all tables.
    pub fn table_bytes(&self) -> usize {
        self.n_instances.saturating_mul(self.instance_bytes())
    }

    /// Bytes of the tables of one instance.
    pub(super) fn instance_bytes(&self) -> usize {
        self.scheme.instance_bytes(self.circuit.n_and())
    }

    /// Labels of all the garbler's inputs.
    pub fn n_garbler_labels(&self) -> usize {
        self.n_instances
            .saturating_mul(self.circuit.n_garbler_inputs())
    }

    /// Labels of all the evaluator's inputs.
    pub fn n_evaluator_labels(&self) -> usize {
        self.n_instances
            .saturating_mul(self.circuit.n_evaluator_inputs())
    }

    /// Labels of all outputs.
    pub fn n_output_labels(&self) -> usize {
        self.n_instances.saturating_mul(self.circuit.n_outputs())
    }
}
