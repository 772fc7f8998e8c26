//! Published accuracies against ReLUs, to be plotted beside ours.
//!
//! SENet: Kundu et al., ICLR 2023. SNL: Cho et al., ICML 2022. DeepReDuce: Jha et al., ICML 2021.
//! Sphynx: Cho et al., IEEE S&P Magazine 2022. CryptoNAS: Ghodsi et al., NeurIPS 2020. The best since
//! with identities in place of the removed ReLUs, from later papers' tables.

/// One published line.
pub struct Line {
    /// Method.
    pub name: &'static str,
    /// (thousand ReLUs, top-1 percent).
    pub points: &'static [(f64, f64)],
}

const CIFAR100_RESNET18: &[Line] = &[
    Line {
        name: "SENet (published)",
        points: &[(24.6, 70.59), (49.6, 75.28)],
    },
    Line {
        name: "best since (published)",
        points: &[(12.9, 68.28), (25.0, 71.98), (50.0, 77.9), (100.0, 78.12)],
    },
    Line {
        name: "SNL (published)",
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
        name: "DeepReDuce (published)",
        points: &[(28.7, 68.68), (49.2, 69.5), (114.0, 74.72)],
    },
    Line {
        name: "Sphynx (published)",
        points: &[(25.6, 66.13), (51.2, 69.57), (102.4, 72.9)],
    },
    Line {
        name: "CryptoNAS (published)",
        points: &[(50.0, 63.5), (100.0, 68.5), (334.0, 76.0)],
    },
];

const CIFAR100_WRN: &[Line] = &[
    Line {
        name: "SENet (published)",
        points: &[(150.0, 78.32)],
    },
    Line {
        name: "best since (published)",
        points: &[(150.0, 78.61), (180.0, 79.54)],
    },
];

const CIFAR10: &[Line] = &[
    Line {
        name: "SENet, ResNet-18 (published)",
        points: &[(82.0, 93.05), (150.0, 94.91)],
    },
    Line {
        name: "best since, ResNet-18 (published)",
        points: &[(50.0, 94.02), (150.0, 95.07)],
    },
];

const TINY: &[Line] = &[
    Line {
        name: "SENet (published)",
        points: &[(142.0, 58.9), (298.0, 64.96)],
    },
    Line {
        name: "best since (published)",
        points: &[(100.0, 59.23), (200.0, 64.58), (300.0, 65.13)],
    },
];

/// Published lines for a data set and an architecture. CIFAR-10's are those of ResNet-18 whatever the
/// network, and say so.
pub fn lines(dataset: &str, arch: &str) -> &'static [Line] {
    match (dataset, arch) {
        ("cifar100", "wrn22-8") => CIFAR100_WRN,
        ("cifar100", _) => CIFAR100_RESNET18,
        ("cifar10", _) => CIFAR10,
        ("tiny-imagenet", _) => TINY,
        _ => &[],
    }
}
