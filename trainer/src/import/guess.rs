//! Which architecture the names and shapes of a state dict are of.

use super::Weights;
use super::names::{FIRST, NORM, STEM, features, homes};
use crate::error::{Error, Result};
use crate::net::{Arch, Family, Stem};
use std::collections::{BTreeMap, BTreeSet};

type Shapes<'a> = BTreeMap<&'a str, Vec<i64>>;

/// The name of the architecture.
///
/// # Errors
/// When no architecture here has these blocks and widths, and when there are several networks of different shape.
pub fn guess(weights: &Weights) -> Result<String> {
    let shapes: Shapes = weights
        .tensors
        .iter()
        .map(|(name, t)| (name.as_str(), t.size()))
        .collect();
    let mut found: BTreeSet<(String, String)> = BTreeSet::new();
    for (prefix, block) in first_blocks(&shapes) {
        let arch = residual(&shapes, prefix, block)?;
        found.insert((arch, prefix.to_owned()));
    }
    if let Some(vgg) = vgg(weights)? {
        found.insert((vgg, "features".into()));
    }
    let found: Vec<(String, String)> = found.into_iter().collect();
    match &found[..] {
        [] => Err(unknown(
            weights
                .tensors
                .iter()
                .take(super::SHOWN)
                .map(|(n, _)| n.as_str()),
            "are no names of a residual network or a VGG",
        )),
        // The same twice is for the loader to tell apart.
        [(arch, _), rest @ ..] if rest.iter().all(|(other, _)| other == arch) => Ok(arch.clone()),
        several => {
            let listed = several.iter().take(super::SHOWN);
            let listed = listed.map(|(arch, prefix)| format!("{arch} under {prefix:?}"));
            Err(Error::Usage(format!(
                "the names are of {}: give the --arch that is meant",
                listed.collect::<Vec<_>>().join(" and ")
            )))
        }
    }
}

fn unknown<'a>(what: impl Iterator<Item = &'a str>, why: &str) -> Error {
    let shown = what.map(|n| n.escape_debug().to_string());
    Error::Usage(format!(
        "{} {why}: give the --arch that it is, if there is one; there are {}",
        shown.collect::<Vec<_>>().join(", "),
        Arch::FAMILIES
    ))
}

/// What stands in front of the first convolution of a first block, and which of the forms of its name it has.
fn first_blocks<'a>(shapes: &Shapes<'a>) -> Vec<(&'a str, [usize; 2])> {
    let mut found = Vec::new();
    for (home, block) in homes(0, 0).iter().enumerate() {
        for (part, first) in FIRST.iter().enumerate() {
            let name = format!("{block}.{first}.weight");
            let prefixes = shapes.keys().filter_map(|n| n.strip_suffix(&name));
            let whole = prefixes.filter(|p| p.is_empty() || p.ends_with('.'));
            found.extend(whole.map(|p| (p, [home, part])));
        }
    }
    found
}

/// The residual network whose first block was found.
fn residual(shapes: &Shapes, prefix: &str, [home, part]: [usize; 2]) -> Result<String> {
    let block = |s, b| format!("{prefix}{}", homes(s, b)[home]);
    let first = |s, b| shapes.get(format!("{}.{}.weight", block(s, b), FIRST[part]).as_str());
    let root = |names: &[&str]| {
        let weight = |n: &&str| shapes.get(format!("{prefix}{n}.weight").as_str());
        names.iter().find_map(weight)
    };
    let not_here = |why: &str| Err(unknown([block(0, 0).as_str()].into_iter(), why));
    if shapes.contains_key(format!("{}.conv3.weight", block(0, 0)).as_str()) {
        return not_here("is a block of three convolutions, which none has here");
    }
    let (mut widths, mut blocks) = (Vec::new(), Vec::new());
    while let Some(&[n_out, _, 3, 3]) = first(widths.len(), 0).map(Vec::as_slice) {
        let s = widths.len();
        blocks.push((1..).take_while(|&b| first(s, b).is_some()).count() + 1);
        widths.push(n_out);
    }
    let Some(&[stem, _, kernel, _]) = root(&STEM).map(Vec::as_slice) else {
        return not_here("has no first convolution beside it");
    };
    // A pre-activation network has its last BatchNorm where others have their first.
    let last = root(&NORM).and_then(|size| size.first());
    let pre = last != Some(&stem) && last == widths.last();
    let arch = Arch {
        name: String::new(),
        family: match pre {
            true => Family::PreActivation,
            false => Family::Residual,
        },
        stem: Stem {
            width: stem,
            kernel,
            stride: if kernel == 7 { 2 } else { 1 },
            pool: if kernel == 7 { 2 } else { 1 },
        },
        widths,
        blocks,
        input: [3, 32, 32],
        n_classes: 10,
    };
    match arch.residual_name() {
        Some(name) => Ok(name),
        None => not_here(&format!(
            "is of a network of {:?} blocks with {:?} channels behind a first convolution of {stem} channels and size {kernel}, which has no name here",
            arch.blocks, arch.widths
        )),
    }
}

/// VGG-16, where the convolutions of `features` are its own.
fn vgg(weights: &Weights) -> Result<Option<String>> {
    const NAME: &str = "vgg16";
    let known = Arch::parse(NAME, [3, 32, 32], 10)?;
    let stages = known.widths.iter().zip(&known.blocks);
    let known: Vec<i64> = stages.flat_map(|(&w, &n)| vec![w; n]).collect();
    let of_file = features(&weights.tensors);
    let convs = of_file.iter().filter(|(_, size, _)| size.len() == 4);
    let widths: Vec<i64> = convs.map(|(_, size, _)| size[0]).collect();
    Ok((widths == known).then(|| NAME.to_owned()))
}
