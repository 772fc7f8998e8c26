//! Named training recipes: the published one, and a short one for a processor.

use crate::optim::Shape;
use clap::ValueEnum;

/// A recipe by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Kundu et al., ICLR 2023, on CIFAR: 240 epochs teacher, 150 search, 240 fine-tuning; batch 128.
    Published,
    /// 16 epochs teacher, 10 search, 15 fine-tuning; batch 64, one-cycle.
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
    /// Label smoothing of the teacher.
    pub label_smoothing: f64,
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
            (Self::Short, "finetune") => (15, 0.05),
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
            label_smoothing: if published { 0.0 } else { 0.1 },
        }
    }
}
