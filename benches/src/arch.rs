//! Network shapes that can be built with random weights, for images of 32 x 32 pixels unless said otherwise.

mod large;

use clap::{Args, ValueEnum};
use pi_model::Model;
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;
use serde::Deserialize;

use crate::error::BenchError;

/// Known network shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// Two stages of width 8, images of 16 x 16 pixels, 10 classes: for tests.
    Tiny,
    /// One block in each of four stages of width 64 to 512: what the calibration computes.
    #[value(skip)]
    #[serde(skip)]
    Reference,
    /// ResNet-8 of width 16, 10 classes.
    Resnet8,
    /// ResNet-20 of width 16, 10 classes.
    Resnet20,
    /// ResNet-32 of width 16, 10 classes.
    Resnet32,
    /// ResNet-18 of width 64, 100 classes.
    Resnet18,
    /// ResNet-18 of width 64, images of 64 x 64 pixels, 200 classes: Tiny-ImageNet's.
    #[serde(rename = "resnet18-64")]
    #[value(name = "resnet18-64")]
    Resnet18At64,
    /// ResNet-50, images of 224 x 224 pixels, 1000 classes; the stem is pooled by average.
    Resnet50,
    /// SqueezeNet 1.1 with its max pools, images of 224 x 224 pixels, 1000 classes.
    Squeezenet,
}

/// A random network, as the command line names it.
#[derive(Args, Clone)]
pub struct Network {
    /// Shape of the network.
    #[arg(long, value_enum, default_value_t = Arch::Resnet20)]
    pub arch: Arch,
    /// ReLUs to keep, spread evenly; all of them if left out.
    #[arg(long)]
    pub relus: Option<usize>,
    /// Inferences to prepare at once.
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Open the class alone, through a garbled argmax.
    #[arg(long)]
    pub argmax: bool,
}

impl Arch {
    /// The name used in models and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Reference => "reference",
            Self::Resnet8 => "resnet8",
            Self::Resnet20 => "resnet20",
            Self::Resnet32 => "resnet32",
            Self::Resnet18 => "resnet18",
            Self::Resnet18At64 => "resnet18-64",
            Self::Resnet50 => "resnet50",
            Self::Squeezenet => "squeezenet",
        }
    }

    /// Builds it with random weights and at most `relus` ReLUs.
    ///
    /// # Errors
    /// [`BenchError::Model`] when the network does not fit together, which would be a bug.
    pub fn build(self, name: &str, relus: usize, mode: OutputMode) -> Result<Model, BenchError> {
        let (size, widths, blocks, classes): (_, &[usize], _, _) = match self {
            Self::Tiny => (16, &[8, 8], 1, 10),
            Self::Reference => (32, &[64, 128, 256, 512], 1, 10),
            Self::Resnet8 => (32, &[16, 32, 64], 1, 10),
            Self::Resnet20 => (32, &[16, 32, 64], 3, 10),
            Self::Resnet32 => (32, &[16, 32, 64], 5, 10),
            Self::Resnet18 => (32, &[64, 128, 256, 512], 2, 100),
            Self::Resnet18At64 => (64, &[64, 128, 256, 512], 2, 200),
            Self::Resnet50 => return Ok(large::resnet50(name, relus, mode)?),
            Self::Squeezenet => return Ok(large::squeezenet(name, relus, mode)?),
        };
        // More than any of these networks has; not so many that products overflow.
        let relus = relus.min(usize::MAX >> 24);
        Ok(residual_network(
            name,
            [3, size, size],
            widths,
            blocks,
            classes,
            relus,
            mode,
        )?)
    }
}

impl Network {
    /// Builds the network.
    ///
    /// # Errors
    /// [`BenchError::Model`].
    pub fn build(&self) -> Result<Model, BenchError> {
        let mode = if self.argmax {
            OutputMode::Argmax
        } else {
            OutputMode::Logits
        };
        self.arch.build(
            &format!("{}-random", self.arch.name()),
            self.relus.unwrap_or(usize::MAX),
            mode,
        )
    }
}
