//! Architectures by name, and the shapes of their ReLU layers.

use crate::error::{Error, Result};

/// A residual network: `n_blocks` blocks for each width, each width after the first at half the size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arch {
    /// Name, such as `resnet20`.
    pub name: String,
    /// Channels of each stage (the stem has those of the first).
    pub widths: Vec<i64>,
    /// Blocks in each stage.
    pub n_blocks: usize,
    /// Channels, height, width of the input.
    pub input: [usize; 3],
    /// Number of classes.
    pub n_classes: usize,
}

impl Arch {
    /// Names that [`Arch::parse`] takes.
    pub const NAMES: [&'static str; 4] = ["resnet8", "resnet20", "resnet32", "resnet18"];

    /// An architecture by name.
    pub fn parse(name: &str, input: [usize; 3], n_classes: usize) -> Result<Arch> {
        let (widths, n_blocks): (&[i64], usize) = match name {
            "resnet8" => (&[16, 32, 64], 1),
            "resnet20" => (&[16, 32, 64], 3),
            "resnet32" => (&[16, 32, 64], 5),
            "resnet18" => (&[64, 128, 256, 512], 2),
            _ => {
                let known = Self::NAMES.join(", ");
                return Err(Error::Usage(format!(
                    "no architecture {name:?}; known: {known}"
                )));
            }
        };
        Ok(Arch {
            name: name.into(),
            ..Arch::custom(widths, n_blocks, input, n_classes)
        })
    }

    /// An architecture of any size, for tests and experiments.
    pub fn custom(widths: &[i64], n_blocks: usize, input: [usize; 3], n_classes: usize) -> Arch {
        Arch {
            name: "custom".into(),
            widths: widths.to_vec(),
            n_blocks,
            input,
            n_classes,
        }
    }

    /// Channels of the input.
    pub fn in_channels(&self) -> i64 {
        self.input[0] as i64
    }

    /// [channels, height, width] of every ReLU layer: the stem's, then two for each block.
    pub fn relu_shapes(&self) -> Vec<[i64; 3]> {
        let (mut h, mut w) = (self.input[1] as i64, self.input[2] as i64);
        let mut shapes = vec![[self.widths[0], h, w]];
        for (s, &width) in self.widths.iter().enumerate() {
            if s > 0 {
                (h, w) = ((h + 1) / 2, (w + 1) / 2);
            }
            shapes.extend(std::iter::repeat_n([width, h, w], 2 * self.n_blocks));
        }
        shapes
    }

    /// ReLUs of every layer.
    pub fn relu_counts(&self) -> Vec<usize> {
        self.relu_shapes()
            .iter()
            .map(|s| s.iter().product::<i64>() as usize)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_match_the_literature() {
        let total = |name: &str| {
            Arch::parse(name, [3, 32, 32], 10)
                .unwrap()
                .relu_counts()
                .iter()
                .sum::<usize>()
        };
        assert_eq!(total("resnet20"), 188_416);
        assert_eq!(total("resnet18"), 557_056);
        assert!(
            Arch::parse("vgg", [3, 32, 32], 10)
                .unwrap_err()
                .to_string()
                .contains("resnet20")
        );
    }
}
