//! What a query answered and what it cost.

use pi_model::{PublicPlan, executor};
use pi_protocol::client::Output;
use serde::Serialize;

/// One class with its label and, where the model opens logits, its logit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// Its number.
    pub class: usize,
    /// Its label.
    pub label: String,
    /// Its logit.
    pub logit: f64,
}

/// The answer to one query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The class with the largest logit; none where the outputs are no classes.
    pub class: Option<usize>,
    /// Its label.
    pub label: Option<String>,
    /// All logits by class, or the outputs that are no classes; empty when the model opens the class alone.
    pub logits: Vec<f64>,
    /// What was guessed to make the image fit, and what became of kept inferences.
    pub notes: Vec<String>,
    /// What it cost.
    pub stats: Stats,
    #[serde(skip)]
    labels: Vec<String>,
}

/// What one query cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// From the masked image to the answer.
    pub online_seconds: f64,
    /// This query's share of the seconds in which its batch was prepared.
    pub offline_seconds: f64,
    /// Between the call and the first online byte: near zero when it was prepared ahead and nothing else was running.
    pub waited_seconds: f64,
    /// Bytes on the wire online, both ways.
    pub online_bytes: u64,
    /// Its share of the bytes of its batch.
    pub offline_bytes: u64,
    /// Whether it was prepared before the call.
    pub prepared_ahead: bool,
}

impl Prediction {
    pub(crate) fn new(
        plan: &PublicPlan,
        output: &Output,
        notes: Vec<String>,
        stats: Stats,
    ) -> Self {
        let scale = f64::from(plan.logit_fraction_bits()).exp2();
        let (class, logits) = match output {
            Output::Class(class) => (*class, vec![]),
            Output::Logits(logits) => (
                executor::argmax(logits),
                logits.iter().map(|&l| l as f64 / scale).collect(),
            ),
        };
        let labels = plan.model().spec().labels.clone();
        let class = plan.model().has_classes().then_some(class);
        Self {
            class,
            label: class.map(|class| label(&labels, class)),
            logits,
            notes,
            stats,
            labels,
        }
    }

    /// The `n` classes with the largest logits, the largest first; empty when the model opens the class alone, or there are no classes.
    #[must_use]
    pub fn top(&self, n: usize) -> Vec<Scored> {
        if self.class.is_none() {
            return vec![];
        }
        let mut order: Vec<usize> = (0..self.logits.len()).collect();
        // Stable: of equal logits the lowest class comes first, as in the plaintext executor.
        order.sort_by(|&a, &b| self.logits[b].total_cmp(&self.logits[a]));
        let scored = order.into_iter().take(n).map(|class| Scored {
            class,
            label: label(&self.labels, class),
            logit: self.logits[class],
        });
        scored.collect()
    }
}

fn label(labels: &[String], class: usize) -> String {
    let known = labels.get(class).cloned();
    known.unwrap_or_else(|| format!("class {class}"))
}
