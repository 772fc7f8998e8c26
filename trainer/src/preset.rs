//! Named training recipes: the published one, and a short one for a processor.

use crate::loss::{PRAM_WEIGHT, Targets};
use crate::net::Compute;
use crate::optim::Shape;
use crate::selection::Selection;
use clap::ValueEnum;

/// A recipe by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Kundu et al., ICLR 2023, on CIFAR: 240 epochs teacher, 150 search, 240 fine-tuning; batch 128,
    /// 32-bit floats, plain momentum, the student's own mismatch (senet) from fresh weights. As everywhere
    /// here, weight decay leaves BatchNorm and biases alone.
    Published,
    /// 16 epochs teacher, 10 search (anneal-kink), 15 fine-tuning (learning rate 0.01, half cross-entropy, half distillation, no comparison
    /// of activations: the best of what was compared on held-out images); batch 64, one-cycle.
    Short,
}

/// Settings of one stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Passes over the training images.
    pub epochs: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// How it moves.
    pub schedule: Shape,
    /// Images a minibatch.
    pub batch: usize,
    /// Label smoothing.
    pub label_smoothing: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// Number type of the convolutions.
    pub compute: Compute,
    /// How a search chooses positions.
    pub selection: Selection,
    /// A search starts from fresh weights.
    pub fresh: bool,
    /// What search or fine-tuning learn from.
    pub targets: Targets,
    /// Weight of the comparison of activations in fine-tuning.
    pub pram_weight: f64,
}

impl Preset {
    /// Settings of a stage. The paper gives no schedule for the search: its learning rate steps down
    /// at the same shares of the run as elsewhere.
    pub fn of(self, stage: &str) -> Settings {
        let (epochs, lr) = match (self, stage) {
            (Self::Published, "search") => (150, 0.05),
            (Self::Published, "finetune") => (240, 0.01),
            (Self::Published, _) => (240, 0.05),
            (Self::Short, "search") => (10, 0.05),
            (Self::Short, "finetune") => (15, 0.01),
            (Self::Short, _) => (16, 0.15),
        };
        let published = self == Self::Published;
        Settings {
            epochs,
            lr,
            schedule: if published {
                Shape::Steps
            } else {
                Shape::OneCycle
            },
            batch: if published { 128 } else { 64 },
            label_smoothing: if !published && stage == "teacher" {
                0.1
            } else {
                0.0
            },
            nesterov: !published,
            compute: if published {
                Compute::F32
            } else {
                Compute::Bf16
            },
            selection: if published {
                Selection::Senet
            } else {
                Selection::AnnealKink
            },
            fresh: published,
            targets: match published && stage == "finetune" {
                true => Targets::FINETUNE,
                false => Targets::SEARCH,
            },
            pram_weight: if published { PRAM_WEIGHT } else { 0.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_recipe_is_the_published_one() {
        let of = |stage| {
            let s = Preset::Published.of(stage);
            assert_eq!((s.batch, s.schedule), (128, Shape::Steps));
            assert_eq!((s.label_smoothing, s.nesterov), (0.0, false));
            assert_eq!((s.selection, s.fresh), (Selection::Senet, true));
            assert_eq!(s.compute, Compute::F32);
            assert_eq!(s.pram_weight, 1000.0);
            (s.epochs, s.lr)
        };
        assert_eq!(of("teacher"), (240, 0.05));
        assert_eq!(of("search"), (150, 0.05));
        assert_eq!(of("finetune"), (240, 0.01));
        let shares =
            ["search", "finetune"].map(|stage| Preset::Published.of(stage).targets.ce_share);
        assert_eq!(shares, [0.5, 0.1]);
    }
}
