//! Architectures, and the shapes of their ReLU layers.

use super::plan::{self, LayerPlan};
use crate::error::{Error, Result};

/// How the convolutions are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Post-activation residual blocks (He, Zhang, Ren, Sun, CVPR 2016).
    Residual,
    /// Pre-activation residual blocks (Zagoruyko, Komodakis, BMVC 2016).
    PreActivation,
    /// A chain of convolutions with pools between the stages (Simonyan, Zisserman, ICLR 2015).
    Plain,
    /// Two convolutions a stage, the first of stride 2: few ReLUs and few multiply-adds from the start
    /// (after K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024).
    Lean,
}

/// The first convolution and the pool behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stem {
    /// Channels.
    pub width: i64,
    /// Kernel size.
    pub kernel: i64,
    /// Stride.
    pub stride: i64,
    /// Side of the average pool behind it; 1 for none.
    pub pool: i64,
}

/// A network's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arch {
    /// Name, such as `resnet20`.
    pub name: String,
    /// How the convolutions are arranged.
    pub family: Family,
    /// The first convolution; plain and lean networks have none of their own.
    pub stem: Stem,
    /// Channels of each stage.
    pub widths: Vec<i64>,
    /// Blocks in each stage (convolutions, in a plain network).
    pub blocks: Vec<usize>,
    /// Channels, height, width of the input.
    pub input: [usize; 3],
    /// Number of classes.
    pub n_classes: usize,
}

impl Arch {
    /// A residual network of any size, for tests and experiments: `n_blocks` blocks for each width.
    pub fn custom(widths: &[i64], n_blocks: usize, input: [usize; 3], n_classes: usize) -> Arch {
        Arch {
            name: "custom".into(),
            family: Family::Residual,
            stem: Stem {
                width: widths.first().copied().unwrap_or(1),
                kernel: 3,
                stride: 1,
                pool: 1,
            },
            widths: widths.to_vec(),
            blocks: vec![n_blocks; widths.len()],
            input,
            n_classes,
        }
    }

    /// The same network with every width times `factor`, rounded up.
    pub fn scaled(&self, factor: f64) -> Arch {
        let scale = |w: i64| ((w as f64 * factor).ceil() as i64).max(1);
        let mut arch = self.clone();
        arch.stem.width = scale(self.stem.width);
        arch.widths = self.widths.iter().map(|&w| scale(w)).collect();
        arch
    }

    /// The same network for square images of another size.
    pub fn for_side(&self, side: usize) -> Result<Arch> {
        let mut arch = self.clone();
        arch.input = [self.input[0], side, side];
        arch.check_pools()?;
        Ok(arch)
    }

    /// Pools must divide what they pool, as the private protocol sums windows that do not overlap.
    pub(super) fn check_pools(&self) -> Result<()> {
        let [_, h, w] = self.input;
        if self.family == Family::Lean && (h % 8 != 0 || w % 8 != 0) {
            return Err(Error::Usage(format!(
                "{} halves images three times, and {h}x{w} is no multiple of 8; choose another image size",
                self.name
            )));
        }
        for layer in self.plan() {
            let [_, h, w] = layer.shape;
            if h % layer.pool != 0 || w % layer.pool != 0 {
                return Err(Error::Usage(format!(
                    "{} pools {}x{} windows, which do not divide the {h}x{w} map of {}; choose another image size",
                    self.name, layer.pool, layer.pool, layer.name
                )));
            }
        }
        Ok(())
    }

    /// Channels of the input.
    pub fn in_channels(&self) -> i64 {
        self.input[0] as i64
    }

    /// The layers in the order in which they run.
    pub fn plan(&self) -> Vec<LayerPlan> {
        plan::layers(self)
    }

    /// Positions of a channel in every ReLU layer in order.
    pub fn relu_planes(&self) -> Vec<usize> {
        let plane = |s: [i64; 3]| (s[1] * s[2]) as usize;
        self.relu_shapes().into_iter().map(plane).collect()
    }

    /// [channels, height, width] of every ReLU layer in order.
    pub fn relu_shapes(&self) -> Vec<[i64; 3]> {
        let plan = self.plan();
        plan.iter().filter(|l| l.relu).map(|l| l.shape).collect()
    }

    /// ReLUs of every layer.
    pub fn relu_counts(&self) -> Vec<usize> {
        self.relu_shapes()
            .iter()
            .map(|s| s.iter().product::<i64>() as usize)
            .collect()
    }

    /// Multiplications of one inference: those of the convolutions and of the classifier.
    pub fn multiply_adds(&self) -> u64 {
        let plan = self.plan();
        let one = |l: &LayerPlan| {
            let terms = l.terms.iter().filter(|t| t.weight);
            let taps = terms.map(|t| t.channels[0] * t.channels[1] * t.kernel * t.kernel);
            taps.sum::<i64>() * l.shape[1] * l.shape[2]
        };
        let classifier = self.widths.last().copied().unwrap_or(1) * self.n_classes as i64;
        (plan.iter().map(one).sum::<i64>() + classifier) as u64
    }

    /// Names of the ReLU layers.
    pub fn relu_names(&self) -> Vec<String> {
        let plan = self.plan();
        let names = plan.into_iter().filter(|l| l.relu).map(|l| l.name);
        names.collect()
    }

    /// For each ReLU layer the convolution that produces its pre-activation, by parameter prefix. Where
    /// only a BatchNorm stands between (pre-activation blocks), the convolution before it.
    pub fn producers(&self) -> Vec<String> {
        let plan = self.plan();
        let mut names = Vec::new();
        for layer in plan.iter().filter(|l| l.relu) {
            let mut term = layer.terms.first();
            while let Some(t) = term.filter(|t| !t.weight && t.from > 0) {
                term = plan[t.from - 1].terms.first();
            }
            names.push(term.map_or(String::new(), |t| t.name.clone()));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_match_the_literature() {
        let counts = |name: &str, side: usize| {
            let arch = Arch::parse(name, [3, side, side], 10).unwrap();
            arch.relu_counts()
        };
        let cases = [
            ("resnet8", 73_728, 7),
            ("resnet20", 188_416, 19),
            ("resnet32", 303_104, 31),
            ("resnet18", 557_056, 17),
            ("resnet34", 966_656, 33),
            ("wrn22-8", 1_392_640, 19),
            ("vgg16", 294_912, 13),
        ];
        for (name, total, n_layers) in cases {
            let counts = counts(name, 32);
            assert_eq!(
                (counts.iter().sum(), counts.len()),
                (total, n_layers),
                "{name}"
            );
        }
        // Two layers a stage at 16 x 16, 8 x 8 and 4 x 4.
        let lean = [
            ("lean", 73_728, 91_949_568),
            ("lean-small", 36_864, 23_430_400),
            ("lean-wide", 131_072, 264_639_488),
        ];
        for (name, total, multiply_adds) in lean {
            let arch = Arch::parse(name, [3, 32, 32], 10).unwrap();
            let counts = arch.relu_counts();
            assert_eq!((counts.iter().sum(), counts.len()), (total, 6), "{name}");
            assert_eq!(arch.multiply_adds(), multiply_adds, "{name}");
        }
        let resnet = Arch::parse("resnet18", [3, 32, 32], 10).unwrap();
        assert_eq!(resnet.multiply_adds(), 555_422_720);
        assert!(Arch::parse("lean", [3, 36, 36], 10).is_err());
        // Tiny-ImageNet's images have four times the pixels.
        assert_eq!(counts("resnet18", 64).iter().sum::<usize>(), 4 * 557_056);
        // 64 channels at 112 x 112, then four blocks at 56, 28, 14 and 7.
        let imagenet = 64 * 112 * 112 + 4 * 49 * (64 * 64 + 128 * 16 + 256 * 4 + 512);
        assert_eq!(
            counts("resnet18-imagenet", 224).iter().sum::<usize>(),
            imagenet
        );
        let unknown = Arch::parse("alexnet", [3, 32, 32], 10).unwrap_err();
        assert!(unknown.to_string().contains("resnet20"));
        let odd = Arch::parse("vgg16", [3, 36, 36], 10)
            .unwrap_err()
            .to_string();
        assert!(odd.contains("do not divide"), "{odd}");
    }

    #[test]
    fn every_relu_layer_has_the_convolution_before_it() {
        for name in Arch::NAMES {
            let arch = Arch::parse(name, [3, 64, 64], 10).unwrap();
            let producers = arch.producers();
            assert_eq!(producers.len(), arch.relu_counts().len(), "{name}");
            let mut unique = producers.clone();
            unique.dedup();
            assert_eq!(unique, producers, "{name}");
            assert!(
                producers.iter().all(|p| !p.contains("shortcut")),
                "{name}: {producers:?}"
            );
        }
        let wide = Arch::parse("wrn22-8", [3, 32, 32], 10).unwrap().producers();
        assert_eq!(
            wide[..3],
            ["stem", "stage0.block0.conv1", "stage0.block0.conv2"]
        );
    }
}
