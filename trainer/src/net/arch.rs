//! Architectures: families of networks, each of which [`Arch::graph`] writes out as a graph.

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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_match_the_literature() {
        let counts = |name: &str, side: usize| {
            let arch = Arch::parse(name, [3, side, side], 10).unwrap();
            arch.graph().relu_counts()
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
            let arch = Arch::parse(name, [3, 32, 32], 10).unwrap().graph();
            let counts = arch.relu_counts();
            assert_eq!((counts.iter().sum(), counts.len()), (total, 6), "{name}");
            assert_eq!(arch.multiply_adds(), multiply_adds, "{name}");
        }
        let resnet = Arch::parse("resnet18", [3, 32, 32], 10).unwrap();
        assert_eq!(resnet.graph().multiply_adds(), 555_422_720);
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
            let arch = Arch::parse(name, [3, 64, 64], 10).unwrap().graph();
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
        let wide = Arch::parse("wrn22-8", [3, 32, 32], 10).unwrap();
        let wide = wide.graph().producers();
        assert_eq!(
            wide[..3],
            ["stem", "stage0.block0.conv1", "stage0.block0.conv2"]
        );
    }
}
