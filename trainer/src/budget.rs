//! Stage 1: how many ReLUs each layer keeps (Kundu et al., ICLR 2023, section 3.1).
//!
//! A layer whose convolution stays dense in a sparse proxy needs its ReLUs least: sensitivity
//! eta(l) = 1 - density(l). Layer l keeps r(l) = min(A(l), r_total eta(l) / sum eta); a layer that
//! saturates is fixed and the rest is spread again in proportion, until none saturates.

use crate::error::{Error, Result};

/// Layer densities of the sparse proxy, published for ResNet-18 (stem first).
const RESNET18: [f64; 17] = [
    0.944, 0.819, 0.792, 0.755, 0.731, 0.654, 0.523, 0.502, 0.456, 0.342, 0.205, 0.192, 0.158,
    0.081, 0.033, 0.025, 0.024,
];

/// The same for VGG-16.
const VGG16: [f64; 13] = [
    0.943, 0.81, 0.735, 0.621, 0.478, 0.336, 0.336, 0.17, 0.076, 0.052, 0.052, 0.028, 0.028,
];

/// The same for WRN-22-8.
const WRN22: [f64; 19] = [
    0.966, 0.863, 0.685, 0.616, 0.575, 0.527, 0.486, 0.452, 0.314, 0.246, 0.177, 0.16, 0.129,
    0.122, 0.054, 0.028, 0.03, 0.023, 0.023,
];

fn published(arch: &str) -> Option<&'static [f64]> {
    match arch {
        "resnet18" | "resnet18-imagenet" => Some(&RESNET18),
        "vgg16" => Some(&VGG16),
        "wrn22-8" => Some(&WRN22),
        _ => None,
    }
}

/// True where the known densities are the paper's.
pub fn is_published(arch: &str) -> bool {
    published(arch).is_some()
}

/// Known proxy densities of an architecture with `n_layers` ReLU layers, so that a run can skip the
/// proxy. Those of ResNet-18, VGG-16 and WRN-22-8 are published; for the others they are ours:
/// ResNet-18's, interpolated linearly over the relative depth.
pub fn known_densities(arch: &str, n_layers: usize) -> Vec<f64> {
    if let Some(list) = published(arch).filter(|l| l.len() == n_layers) {
        return list.to_vec();
    }
    let last = RESNET18.len() - 1;
    let at = |i: usize| {
        let x = i as f64 * last as f64 / (n_layers.max(2) - 1) as f64;
        let low = (x.floor() as usize).min(last - 1);
        RESNET18[low] + (x - low as f64) * (RESNET18[low + 1] - RESNET18[low])
    };
    (0..n_layers).map(at).collect()
}

/// Spreads exactly `total` ReLUs over layers of `sizes` positions and proxy `densities`.
pub fn allocate(sizes: &[usize], densities: &[f64], total: usize) -> Result<Vec<usize>> {
    let n = sizes.len();
    if densities.len() != n {
        let what = format!("{} densities for {n} layers", densities.len());
        return Err(Error::Budget(what));
    }
    if let Some(d) = densities.iter().find(|d| !(0.0..=1.0).contains(*d)) {
        let what = format!("a density of {d}: densities are shares from 0 to 1");
        return Err(Error::Budget(what));
    }
    let all: usize = sizes.iter().sum();
    if total > all {
        return Err(Error::Budget(format!(
            "{total} ReLUs asked, the network has {all}"
        )));
    }
    // A layer of density 1 still gets its turn when all others are full.
    let eta: Vec<f64> = densities
        .iter()
        .map(|d| (1.0 - d).clamp(1e-9, 1.0))
        .collect();
    let mut saturated = vec![false; n];
    let shares = loop {
        let rest = total - zip_sum(sizes, &saturated);
        let sum: f64 = eta
            .iter()
            .zip(&saturated)
            .filter(|(_, s)| !**s)
            .map(|(e, _)| e)
            .sum();
        let share = |l: usize| {
            if saturated[l] {
                0.0
            } else {
                rest as f64 * eta[l] / sum
            }
        };
        let shares: Vec<f64> = (0..n).map(share).collect();
        let over: Vec<usize> = (0..n)
            .filter(|&l| !saturated[l] && shares[l] >= sizes[l] as f64)
            .collect();
        if over.is_empty() {
            break shares;
        }
        over.iter().for_each(|&l| saturated[l] = true);
    };
    let mut kept: Vec<usize> = (0..n)
        .map(|l| {
            if saturated[l] {
                sizes[l]
            } else {
                shares[l] as usize
            }
        })
        .collect();
    let mut order: Vec<usize> = (0..n).filter(|&l| !saturated[l]).collect();
    order.sort_by(|&a, &b| {
        shares[b]
            .fract()
            .total_cmp(&shares[a].fract())
            .then(a.cmp(&b))
    });
    let missing = total - kept.iter().sum::<usize>();
    order.iter().take(missing).for_each(|&l| kept[l] += 1);
    Ok(kept)
}

/// Budgets of whole channels near `kept`: each layer's rounded down, then a channel more where the largest
/// share of one was cut off, as long as the sum does not grow.
pub fn whole_channels(sizes: &[usize], planes: &[usize], kept: &[usize]) -> Vec<usize> {
    let rest = |l: usize| kept[l] % planes[l].max(1);
    let mut whole: Vec<usize> = (0..kept.len()).map(|l| kept[l] - rest(l)).collect();
    let mut left: usize = (0..kept.len()).map(rest).sum();
    let share = |l: usize| rest(l) as f64 / planes[l].max(1) as f64;
    let mut order: Vec<usize> = (0..kept.len()).collect();
    order.sort_by(|&a, &b| share(b).total_cmp(&share(a)).then(a.cmp(&b)));
    loop {
        let fits = |&&l: &&usize| planes[l] <= left && whole[l] + planes[l] <= sizes[l];
        // One channel a layer, then another round with what is left.
        let round: Vec<usize> = order.iter().filter(fits).copied().collect();
        if round.is_empty() {
            return whole;
        }
        for l in round.into_iter().filter(|&l| planes[l] > 0) {
            if planes[l] <= left {
                whole[l] += planes[l];
                left -= planes[l];
            }
        }
    }
}

fn zip_sum(sizes: &[usize], chosen: &[bool]) -> usize {
    sizes
        .iter()
        .zip(chosen)
        .filter(|(_, c)| **c)
        .map(|(s, _)| s)
        .sum()
}

/// Checks a list given by hand: one entry a layer, none above the layer's size.
pub fn explicit(sizes: &[usize], list: &[usize]) -> Result<Vec<usize>> {
    if list.len() != sizes.len() {
        let what = format!("{} entries for {} ReLU layers", list.len(), sizes.len());
        return Err(Error::Budget(what));
    }
    match list.iter().zip(sizes).position(|(r, a)| r > a) {
        Some(l) => Err(Error::Budget(format!(
            "layer {l} has {} ReLUs, {} asked",
            sizes[l], list[l]
        ))),
        None => Ok(list.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Arch;

    #[test]
    fn densities_are_shares() {
        for wrong in [f64::NAN, f64::INFINITY, -0.1, 1.1] {
            let e = allocate(&[10, 10], &[0.5, wrong], 5).unwrap_err();
            assert!(e.to_string().contains("shares from 0 to 1"), "{e}");
        }
        assert_eq!(allocate(&[10, 10], &[0.0, 1.0], 12).unwrap(), [10, 2]);
    }

    #[test]
    fn resnet18_matches_the_published_list() {
        let published = [
            633, 2053, 2357, 2776, 3055, 3930, 5408, 5649, 6165, 7462, 9018, 9165, 9549, 8192,
            8192, 8192, 8192,
        ];
        let sizes = Arch::parse("resnet18", [3, 32, 32], 100)
            .unwrap()
            .graph()
            .relu_counts();
        let kept = allocate(&sizes, &known_densities("resnet18", 17), 99_988).unwrap();
        assert_eq!(kept.iter().sum::<usize>(), 99_988);
        for (l, (&got, want)) in kept.iter().zip(published).enumerate() {
            assert!(
                got.abs_diff(want) <= 13,
                "layer {l}: {got}, published {want}"
            );
        }
    }

    #[test]
    fn published_densities_have_one_entry_for_each_relu_layer() {
        for arch in Arch::NAMES {
            let n = Arch::parse(arch, [3, 64, 64], 10)
                .unwrap()
                .graph()
                .relu_counts()
                .len();
            assert_eq!(known_densities(arch, n).len(), n);
            assert!(published(arch).is_none_or(|l| l.len() == n), "{arch}");
        }
        assert_eq!(known_densities("wrn22-8", 19)[1], 0.863);
        // A late layer of VGG-16 is small and nearly as sensitive as can be: it fills up first.
        let sizes = Arch::parse("vgg16", [3, 32, 32], 10)
            .unwrap()
            .graph()
            .relu_counts();
        let kept = allocate(&sizes, &known_densities("vgg16", 13), 100_000).unwrap();
        assert_eq!(kept[12], sizes[12]);
        assert!(kept[0] < kept[4] && kept.iter().sum::<usize>() == 100_000);
    }

    #[test]
    fn totals_are_exact_and_no_layer_overflows_for_any_budget() {
        let sizes = Arch::parse("resnet20", [3, 32, 32], 10)
            .unwrap()
            .graph()
            .relu_counts();
        let densities = known_densities("resnet20", sizes.len());
        assert!(densities.is_sorted_by(|a, b| a >= b));
        for total in [0, 1, 19, 1000, 30_000, 37_683, 100_000, 188_415, 188_416] {
            let kept = allocate(&sizes, &densities, total).unwrap();
            assert_eq!(kept.iter().sum::<usize>(), total);
            assert!(kept.iter().zip(&sizes).all(|(k, a)| k <= a), "{kept:?}");
        }
        assert!(allocate(&sizes, &densities, 188_417).is_err());
        assert!(allocate(&sizes, &densities[1..], 5).is_err());
    }

    #[test]
    fn whole_channels_come_as_close_as_the_smallest_channel() {
        let arch = Arch::parse("resnet8", [3, 32, 32], 10).unwrap().graph();
        let (sizes, shapes) = (arch.relu_counts(), arch.relu_shapes());
        let planes: Vec<usize> = shapes.iter().map(|s| (s[1] * s[2]) as usize).collect();
        let densities = known_densities("resnet8", sizes.len());
        for total in [100, 14_746, 30_001, 73_728] {
            let kept = allocate(&sizes, &densities, total).unwrap();
            let whole = whole_channels(&sizes, &planes, &kept);
            let sum: usize = whole.iter().sum();
            assert!(sum <= total && total - sum < 64, "{total}: {whole:?}");
            let fits = |l: usize| whole[l].is_multiple_of(planes[l]) && whole[l] <= sizes[l];
            assert!((0..sizes.len()).all(fits), "{whole:?}");
        }
    }

    #[test]
    fn lists_by_hand_are_checked() {
        assert_eq!(explicit(&[4, 4], &[4, 0]).unwrap(), [4, 0]);
        assert!(
            explicit(&[4, 4], &[5, 0])
                .unwrap_err()
                .to_string()
                .contains("layer 0 has 4")
        );
        assert!(explicit(&[4, 4], &[1]).is_err());
    }
}
