//! What an import found, in words.

use std::collections::BTreeMap;

use pi_model::FloatModel;
use pi_model::spec::Op;

/// What an import found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Operations by kind.
    pub operations: BTreeMap<&'static str, usize>,
    /// ReLUs of each operation that has some, in order.
    pub relus: Vec<(String, usize)>,
    /// ReLUs of the whole network, comparisons of max pools included.
    pub n_relus: usize,
    /// Weights and biases.
    pub parameters: usize,
    /// What was folded, swapped, dropped and guessed.
    pub notes: Vec<String>,
}

/// Name of the kind of an operation, as in `model.json`.
const fn kind(op: &Op) -> &'static str {
    match op {
        Op::Conv2d { .. } => "conv2d",
        Op::Linear { .. } => "linear",
        Op::Bias { .. } => "bias",
        Op::Add { .. } => "add",
        Op::Sub { .. } => "sub",
        Op::Concat { .. } => "concat",
        Op::Channels { .. } => "channels",
        Op::Pad { .. } => "pad",
        Op::AvgPool { .. } => "avg_pool",
        Op::GlobalAvgPool { .. } => "global_avg_pool",
        Op::MaxPool { .. } => "max_pool",
        Op::Flatten { .. } => "flatten",
        Op::MaskedRelu { .. } => "masked_relu",
        Op::Clip { .. } => "clip",
        Op::LeakyRelu { .. } => "leaky_relu",
    }
}

impl Summary {
    /// Of a model with `n_relus` ReLUs, comparisons of max pools included.
    #[must_use]
    pub fn new(model: &FloatModel, n_relus: usize, notes: Vec<String>) -> Self {
        let mut operations = BTreeMap::new();
        let mut relus = vec![];
        for op in &model.spec.ops {
            *operations.entry(kind(op)).or_default() += 1;
            relus.extend(op.relus_kept().map(|n| (op.name().to_owned(), n)));
        }
        let weights = model.weights.values();
        Self {
            operations,
            relus,
            n_relus,
            parameters: weights.map(|w| w.weight.len() + w.bias.len()).sum(),
            notes,
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds: Vec<_> = self
            .operations
            .iter()
            .map(|(kind, n)| format!("{n} {kind}"))
            .collect();
        writeln!(f, "operations: {}", kinds.join(", "))?;
        writeln!(f, "parameters: {}", grouped(self.parameters))?;
        writeln!(f, "activations:")?;
        for (name, n) in &self.relus {
            writeln!(f, "  {:>12}  {name}", grouped(*n))?;
        }
        writeln!(
            f,
            "ReLUs, comparisons of max pools included: {}",
            grouped(self.n_relus)
        )?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

fn grouped(n: usize) -> String {
    pi_model::text::thousands(n as u64)
}
