//! Architectures by name: a few names, and families whose depth and width are free.

use super::arch::{Arch, Family, Stem};
use crate::error::{Error, Result};

/// Channels of the stages of CIFAR's ResNets, of ImageNet's, and of the stem of wide ones.
const SMALL: [i64; 3] = [16, 32, 64];
const LARGE: [i64; 4] = [64, 128, 256, 512];
const WIDE_STEM: i64 = 16;
/// Most layers, and most channels of a stem or a first stage: more than any network that was published.
const DEEPEST: usize = 1202;
const WIDEST: i64 = 1024;

impl Arch {
    /// What [`Arch::parse`] takes, for help and messages.
    pub const FAMILIES: &'static str = "resnetN with N = 6n + 2 (three stages of n blocks and 16, 32, 64 channels, such as resnet20), \
        resnet18 and resnet34 (64 to 512 channels), resnet18-imagenet and resnet34-imagenet (7x7 stem and pool), \
        wrnD-K with D = 6n + 4 (such as wrn22-8), vgg16, and lean (73,728 ReLUs and 92 million multiply-adds at 32x32), \
        lean-small, lean-wide; residual ones also with -widthW for W channels in the first stage and twice as many in each \
        further one, and with -stemS for S channels before it, such as resnet8-width64-stem32";

    /// One name of every kind in [`Arch::FAMILIES`], and those that are used most.
    pub const NAMES: [&'static str; 16] = [
        "resnet8",
        "resnet14",
        "resnet20",
        "resnet32",
        "resnet8-width64-stem32",
        "resnet18",
        "resnet34",
        "resnet18-width32",
        "resnet18-imagenet",
        "resnet34-imagenet",
        "wrn22-8",
        "wrn16-4",
        "vgg16",
        "lean",
        "lean-small",
        "lean-wide",
    ];

    /// An architecture by name.
    ///
    /// # Errors
    /// When no family has the name, when it is not the shortest one of its network, and when pools do not divide the input.
    pub fn parse(name: &str, input: [usize; 3], n_classes: usize) -> Result<Arch> {
        let mut arch = named(name).map_err(|why| {
            let families = Self::FAMILIES;
            Error::Usage(format!(
                "no architecture {name:?}{why}; there are {families}"
            ))
        })?;
        if let Some(shorter) = arch.residual_name().filter(|own| own != name) {
            return Err(Error::Usage(format!("{name:?} is called {shorter}")));
        }
        arch.name = name.into();
        (arch.input, arch.n_classes) = (input, n_classes);
        arch.check_pools()?;
        Ok(arch)
    }

    /// True of the name of an architecture.
    pub fn is_name(name: &str) -> bool {
        named(name).is_ok()
    }

    /// The name of a residual network of this shape, if it has one.
    pub fn residual_name(&self) -> Option<String> {
        let first = *self.widths.first()?;
        let doubling = self.widths.windows(2).all(|w| w[1] == 2 * w[0]);
        let n = self.blocks[0];
        let equal = self.blocks.len() == SMALL.len() && self.blocks.iter().all(|&b| b == n);
        let imagenet = self.stem == imagenet_stem(self.stem.width);
        let small = self.stem == small_stem(self.stem.width);
        let (base, width, stem) = match (self.family, &self.blocks[..]) {
            _ if !doubling => return None,
            (Family::Residual, _) if equal && small => {
                (format!("resnet{}", 6 * n + 2), SMALL[0], first)
            }
            (Family::Residual, [2, 2, 2, 2]) => ("resnet18".into(), LARGE[0], first),
            (Family::Residual, [3, 4, 6, 3]) => ("resnet34".into(), LARGE[0], first),
            (Family::PreActivation, _) if equal && small && first % SMALL[0] == 0 => (
                format!("wrn{}-{}", 6 * n + 4, first / SMALL[0]),
                first,
                WIDE_STEM,
            ),
            _ => return None,
        };
        let form = match (imagenet, small) {
            (true, _) => "-imagenet",
            (_, true) => "",
            _ => return None,
        };
        let differs = |what: &str, is: i64, usual: i64| match is == usual {
            true => String::new(),
            false => format!("-{what}{is}"),
        };
        let (widths, stems) = (
            differs("width", first, width),
            differs("stem", self.stem.width, stem),
        );
        let name = format!("{base}{form}{widths}{stems}");
        named(&name).is_ok().then_some(name)
    }
}

fn small_stem(width: i64) -> Stem {
    Stem {
        width,
        kernel: 3,
        stride: 1,
        pool: 1,
    }
}

fn imagenet_stem(width: i64) -> Stem {
    Stem {
        width,
        kernel: 7,
        stride: 2,
        pool: 2,
    }
}

/// The network of a name, its input still open; or what is wrong with a name that looks like one of ours.
fn named(name: &str) -> std::result::Result<Arch, String> {
    let of = |family, widths: &[i64], blocks: &[usize]| {
        let mut arch = Arch::custom(widths, 1, [3, 32, 32], 10);
        arch.blocks = blocks.to_vec();
        arch.family = family;
        arch
    };
    let unknown = String::new;
    let chain = match name {
        "vgg16" => Some(of(
            Family::Plain,
            &[64, 128, 256, 512, 512],
            &[2, 2, 3, 3, 3],
        )),
        "lean" => Some(of(Family::Lean, &[64, 256, 256], &[2; 3])),
        "lean-small" => Some(of(Family::Lean, &[32, 128, 128], &[2; 3])),
        "lean-wide" => Some(of(Family::Lean, &[128, 384, 512], &[2; 3])),
        _ => None,
    };
    if let Some(arch) = chain {
        return Ok(arch);
    }
    let mut parts = name.split('-').peekable();
    let base = parts.next().unwrap_or_default();
    let mut arch = if let Some(depth) = base.strip_prefix("resnet").and_then(number) {
        match depth {
            18 => of(Family::Residual, &LARGE, &[2; 4]),
            34 => of(Family::Residual, &LARGE, &[3, 4, 6, 3]),
            50 | 101 | 152 => {
                return Err(" (its blocks have three convolutions, which none has here)".into());
            }
            _ => of(Family::Residual, &SMALL, &[of_depth(depth, 2)?; 3]),
        }
    } else if let Some(depth) = base.strip_prefix("wrn").and_then(number) {
        let n_blocks = of_depth(depth, 4)?;
        let factor = parts.next().and_then(number).ok_or_else(unknown)?;
        let first = i64::try_from(factor)
            .ok()
            .and_then(|k| k.checked_mul(SMALL[0]));
        let mut arch = of(Family::PreActivation, &SMALL, &[n_blocks; 3]);
        widen(&mut arch, first.ok_or_else(unknown)?)?;
        arch.stem.width = WIDE_STEM;
        arch
    } else {
        return Err(unknown());
    };
    if arch.widths.len() == LARGE.len() && parts.next_if_eq(&"imagenet").is_some() {
        arch.stem = imagenet_stem(arch.stem.width);
    }
    let mut option = |what: &str| -> Option<i64> {
        let digits = parts.peek()?.strip_prefix(what)?;
        let n = i64::try_from(number(digits)?).ok()?;
        parts.next();
        Some(n)
    };
    if arch.family == Family::Residual
        && let Some(first) = option("width")
    {
        widen(&mut arch, first)?;
        arch.stem.width = first;
    }
    if let Some(stem) = option("stem") {
        if !(1..=WIDEST).contains(&stem) {
            return Err(format!(" (a stem has 1 to {WIDEST} channels)"));
        }
        arch.stem.width = stem;
    }
    match parts.next() {
        None => Ok(arch),
        Some(_) => Err(unknown()),
    }
}

/// A number as it is written shortest.
fn number(digits: &str) -> Option<usize> {
    let n: usize = digits.parse().ok()?;
    (n.to_string() == digits).then_some(n)
}

/// Blocks of a stage of a network whose three stages have two layers a block, and that has `others` beside them.
fn of_depth(depth: usize, others: usize) -> std::result::Result<usize, String> {
    match depth.checked_sub(others) {
        Some(rest) if rest > 0 && rest % 6 == 0 && depth <= DEEPEST => Ok(rest / 6),
        _ => Err(format!(
            " (its layers would be 6n + {others} for three equal stages, and {DEEPEST} at most)"
        )),
    }
}

fn widen(arch: &mut Arch, first: i64) -> std::result::Result<(), String> {
    if !(1..=WIDEST).contains(&first) {
        return Err(format!(" (a first stage has 1 to {WIDEST} channels)"));
    }
    for (stage, width) in arch.widths.iter_mut().enumerate() {
        *width = first << stage;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<Arch> {
        Arch::parse(name, [3, 32, 32], 10)
    }

    #[test]
    fn depth_and_width_are_free() {
        // Parameters as published: He et al., table 6; Zagoruyko and Komodakis, table 4 (in millions).
        let millions = |name: &str| {
            let arch = parse(name).unwrap();
            let graph = arch.graph();
            let shapes = (0..graph.ops.len()).filter_map(|i| graph.weight_shape(i));
            let convs = shapes.filter(|s| s.len() == 4);
            convs.map(|s| s.iter().product::<i64>()).sum::<i64>() as f64 / 1e6
        };
        for (name, published, within) in [
            ("resnet32", 0.46, 0.01),
            ("resnet44", 0.66, 0.01),
            ("resnet56", 0.85, 0.01),
            ("resnet110", 1.7, 0.05),
            ("resnet1202", 19.4, 0.1),
            ("wrn40-1", 0.6, 0.05),
            ("wrn40-2", 2.2, 0.05),
            ("wrn16-8", 11.0, 0.1),
            ("wrn22-8", 17.2, 0.1),
            ("wrn28-10", 36.5, 0.1),
        ] {
            let millions = millions(name);
            assert!((millions - published).abs() < within, "{name}: {millions}");
        }
        let wide = parse("resnet8-width64-stem32").unwrap();
        assert_eq!(
            (&wide.widths[..], wide.stem.width),
            (&[64, 128, 256][..], 32)
        );
        assert_eq!(wide.graph().relu_counts()[..2], [32 * 1024, 64 * 1024]);
        let half = parse("resnet34-imagenet-width32").unwrap();
        assert_eq!(
            (half.widths[3], half.stem.width, half.stem.kernel),
            (256, 32, 7)
        );
    }

    #[test]
    fn a_network_has_one_name() {
        for name in Arch::NAMES {
            let arch = parse(name).unwrap();
            let residual = matches!(arch.family, Family::Residual | Family::PreActivation);
            assert_eq!(
                arch.residual_name(),
                residual.then(|| name.to_owned()),
                "{name}"
            );
        }
        for (longer, name) in [
            ("resnet20-width16", "resnet20"),
            ("wrn22-8-stem16", "wrn22-8"),
            ("resnet8-width64-stem64", "resnet8-width64"),
        ] {
            let e = parse(longer).unwrap_err().to_string();
            assert!(e.contains(&format!("is called {name}")), "{e}");
        }
        let mut odd = parse("resnet20").unwrap();
        odd.widths[2] += 1;
        assert_eq!(odd.residual_name(), None);
        odd = parse("resnet20").unwrap();
        odd.blocks[1] = 2;
        assert_eq!(odd.residual_name(), None);
    }

    #[test]
    fn what_is_no_name_is_told_the_families() {
        for name in [
            "alexnet",
            "",
            "resnet",
            "resnet1",
            "resnet2",
            "resnet20-",
            "resnet20-8",
            "resnet020",
            "resnet+20",
            "resnet20-imagenet",
            "resnet19",
            "resnet1208",
            "resnet99999999999999999999",
            "wrn22",
            "wrn22-0",
            "wrn22-65",
            "wrn22-8-width4",
            "wrn20-8",
            "resnet20-width0",
            "resnet20-width1025",
            "resnet20-stem0",
            "resnet20-stem",
            "resnet20-stem8-width8",
            "resnet20-stem8-stem8",
            "vgg16-width8",
            "lean-width8",
            "ResNet20",
        ] {
            let e = parse(name).unwrap_err().to_string();
            for said in [
                "resnetN with N = 6n + 2",
                "wrnD-K",
                "vgg16",
                "lean",
                &format!("{name:?}"),
            ] {
                assert!(e.contains(said), "{name}: {e}");
            }
        }
        let e = parse("resnet50").unwrap_err().to_string();
        assert!(e.contains("three convolutions"), "{e}");
    }
}
