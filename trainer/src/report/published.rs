//! Published accuracies against ReLUs, to be plotted beside ours.
//!
//! SENet: Kundu et al., ICLR 2023. SNL: Cho et al., ICML 2022. DeepReDuce: Jha et al., ICML 2021.
//! Sphynx: Cho et al., IEEE S&P Magazine 2022. CryptoNAS: Ghodsi et al., NeurIPS 2020. The best since
//! with identities in place of the removed ReLUs, from later papers' tables.

use std::borrow::Cow;

/// One published line.
#[derive(Clone)]
pub struct Line {
    /// Method, and the network where it is another than asked for.
    pub name: Cow<'static, str>,
    /// (thousand ReLUs, top-1 percent).
    pub points: &'static [(f64, f64)],
}

const CIFAR100_RESNET18: &[Line] = &[
    Line {
        name: Cow::Borrowed("SENet (published)"),
        points: &[(24.6, 70.59), (49.6, 75.28)],
    },
    Line {
        name: Cow::Borrowed("best since (published)"),
        points: &[(12.9, 68.28), (25.0, 71.98), (50.0, 77.9), (100.0, 78.12)],
    },
    Line {
        name: Cow::Borrowed("SNL (published)"),
        points: &[
            (12.9, 66.53),
            (25.0, 70.05),
            (49.4, 73.75),
            (99.9, 75.94),
            (150.0, 77.35),
            (180.0, 77.65),
        ],
    },
    Line {
        name: Cow::Borrowed("DeepReDuce (published)"),
        points: &[(28.7, 68.68), (49.2, 69.5), (114.0, 74.72)],
    },
    Line {
        name: Cow::Borrowed("Sphynx (published)"),
        points: &[(25.6, 66.13), (51.2, 69.57), (102.4, 72.9)],
    },
    Line {
        name: Cow::Borrowed("CryptoNAS (published)"),
        points: &[(50.0, 63.5), (100.0, 68.5), (334.0, 76.0)],
    },
];

const CIFAR100_WRN: &[Line] = &[
    Line {
        name: Cow::Borrowed("SENet (published)"),
        points: &[(150.0, 78.32)],
    },
    Line {
        name: Cow::Borrowed("best since (published)"),
        points: &[(150.0, 78.61), (180.0, 79.54)],
    },
];

const CIFAR10: &[Line] = &[
    Line {
        name: Cow::Borrowed("SENet (published)"),
        points: &[(82.0, 93.05), (150.0, 94.91)],
    },
    Line {
        name: Cow::Borrowed("best since (published)"),
        points: &[(50.0, 94.02), (150.0, 95.07)],
    },
];

const TINY: &[Line] = &[
    Line {
        name: Cow::Borrowed("SENet (published)"),
        points: &[(142.0, 58.9), (298.0, 64.96)],
    },
    Line {
        name: Cow::Borrowed("best since (published)"),
        points: &[(100.0, 59.23), (200.0, 64.58), (300.0, 65.13)],
    },
];

/// Published lines for a data set and an architecture: its own where there are any, else those of
/// ResNet-18, named so.
pub fn lines(dataset: &str, arch: &str) -> Vec<Line> {
    let lines = match (dataset, arch) {
        ("cifar100", "wrn22-8") => return CIFAR100_WRN.to_vec(),
        ("cifar100", _) => CIFAR100_RESNET18,
        ("cifar10", _) => CIFAR10,
        ("tiny-imagenet", _) => TINY,
        _ => &[],
    };
    let name = |l: &Line| match arch {
        "resnet18" => l.name.clone(),
        _ => l.name.replace(" (", ", ResNet-18 (").into(),
    };
    let one = |l: &Line| Line {
        name: name(l),
        points: l.points,
    };
    lines.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_another_network_say_whose_they_are() {
        let names = |set, arch| -> Vec<String> {
            let lines = lines(set, arch);
            lines.iter().map(|l| l.name.to_string()).collect()
        };
        assert_eq!(names("cifar100", "resnet18")[0], "SENet (published)");
        assert_eq!(names("cifar100", "wrn22-8")[0], "SENet (published)");
        for (set, arch) in [("cifar100", "vgg16"), ("tiny-imagenet", "wrn22-8")] {
            assert!(names(set, arch).iter().all(|n| n.contains(", ResNet-18 (")));
        }
        assert_eq!(
            names("cifar10", "resnet8")[0],
            "SENet, ResNet-18 (published)"
        );
        assert!(names("fashion-mnist", "resnet8").is_empty());
    }
}
