//! Teachers trained with PyTorch: state dicts, as safetensors or as `torch.save` writes them, with
//! torchvision's names or the usual ones of CIFAR repositories, to the names used here.
//!
//! ResNets: `conv1`, `bn1`, `layer<s>.<b>.{conv1,bn1,conv2,bn2}` (or `conv1.{0,1}` and
//! `conv<s>_x.<b>.residual_function.{0,1,3,4}`), `downsample` or `shortcut` `.{0,1}` or none ([`select`]), `fc` or
//! `linear`, `classifier` or `head.fc`. VGG: the convolutions and BatchNorms of `features` in order. WRN: `conv1`,
//! `block<s>.layer.<b>.{bn1,conv1,bn2,conv2,convShortcut}`, `bn1`, `fc`. What all names have in front of these, such as
//! `module._orig_mod.`, is dropped. Averages replace max pools here, so a VGG or an ImageNet ResNet needs training on.

mod guess;
mod names;
mod shortcut;
#[cfg(test)]
mod tests;

pub use guess::guess;
pub use shortcut::{Place, Selected, select};

use crate::error::{Error, Result};
use crate::net::{Family, Net};
use crate::torch_file;
use names::{Names, names, plain_names};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tch::{Kind, Tensor};

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// Parameters that were set.
    pub n_set: usize,
    /// Tensors of the file that nothing took.
    pub unused: Vec<String>,
    /// Parameters that nothing set.
    pub missing: Vec<String>,
    /// The file's shortcuts have no parameters: [`select`] has to set them.
    pub option_a: bool,
}

/// The weights of a file.
#[derive(Debug, Default)]
pub struct Weights {
    /// Tensors by name.
    pub tensors: Vec<(String, Tensor)>,
    /// What lies beside them and was not read, by name, and why.
    pub unread: Vec<(String, String)>,
    /// Where in the file they are, as Python would write it; empty for the file itself.
    pub home: String,
    /// Where the file has other weights.
    pub others: Vec<String>,
}

/// Reads the weights of a safetensors file, or of one that `torch.save` wrote.
pub fn read(path: &Path) -> Result<Weights> {
    let fail = |what: String| Error::Checkpoint {
        path: path.to_owned(),
        what,
    };
    let bytes = std::fs::read(path).map_err(crate::error::io_error(path))?;
    if torch_file::is_ours(&bytes) {
        let read = torch_file::read(&bytes);
        return read.map_err(|what| fail(format!("is a torch.save file, and {what}")));
    }
    if torch_file::is_pickle(&bytes) {
        return Err(fail(
            "is a pickle that torch.save did not write; save the weights: torch.save(model.state_dict(), OUT)"
                .into(),
        ));
    }
    drop(bytes);
    let tensors = Tensor::read_safetensors(path);
    Ok(Weights {
        tensors: tensors.map_err(|e| fail(format!("cannot be read as safetensors ({e})")))?,
        ..Weights::default()
    })
}

/// Sets the network's parameters from a state dict of foreign names.
///
/// # Errors
/// When nothing fits, when two networks fit equally well, when a tensor has another shape or was not read, and when the file's
/// network has more in it than this one.
pub fn load(net: &Net, weights: &Weights) -> Result<Matched> {
    let tensors = &weights.tensors;
    let Some(arch) = &net.graph.arch else {
        return Err(Error::Usage(format!(
            "{} is a model folder and has weights already; a state dict is imported into an architecture with a name here",
            net.graph.name
        )));
    };
    let wanted = match arch.family {
        Family::Plain => plain_names(arch, tensors),
        _ => names(arch),
    };
    let prefix = common_prefix(net, &wanted, tensors)?;
    let mut by_name = Tensors::new();
    // What has the whole prefix last, so that it counts.
    let (whole, part): (Vec<_>, Vec<_>) = tensors.iter().partition(|(n, _)| n.starts_with(&prefix));
    for (name, t) in part.into_iter().chain(whole) {
        if let Some(bare) = under(name, &prefix) {
            by_name.insert(bare, (name, t));
        }
    }
    let unread: BTreeMap<&str, &String> =
        weights.unread.iter().map(|(n, why)| (&**n, why)).collect();
    let mut used = BTreeSet::new();
    let (mut n_set, mut missing) = (0, Vec::new());
    for p in &net.params {
        let candidates = wanted.get(&p.name).map_or(&[][..], Vec::as_slice);
        let Some((name, t)) = candidates.iter().find_map(|c| by_name.get(c.as_str())) else {
            let unread = candidates
                .iter()
                .find_map(|c| unread.get_key_value(format!("{prefix}{c}").as_str()));
            if let Some((name, why)) = unread {
                return Err(Error::Usage(format!(
                    "{} {why}: save it as a plain tensor of numbers",
                    name.escape_debug()
                )));
            }
            missing.push(p.name.clone());
            continue;
        };
        if t.size() != p.tensor.size() {
            return Err(Error::Usage(format!(
                "{} has shape {:?} in the file, {} of {} has {:?}: another width, or another number of classes",
                name.escape_debug(),
                t.size(),
                p.name,
                net.graph.name,
                p.tensor.size()
            )));
        }
        let own = t.to_kind(Kind::Float);
        let bias = bias_before(&p.name, &wanted, &by_name);
        let value = match bias.filter(|(_, bias)| bias.size() == own.size()) {
            // Convolutions have no bias here: BatchNorm's mean takes it up.
            Some((name, bias)) => {
                used.insert(name.clone());
                own - bias.to_kind(Kind::Float)
            }
            None => own,
        };
        tch::no_grad(|| p.tensor.shallow_clone().copy_(&value));
        used.insert((*name).clone());
        n_set += 1;
    }
    let unused = unused(net, tensors, &prefix, &used)?;
    let option_a = shortcut::is_option_a(net, &missing) && unused.iter().all(|(_, t)| t.dim() != 4);
    if option_a {
        shortcut::put(net, Place::Middle);
        missing.clear();
    }
    Ok(Matched {
        n_set,
        unused: unused.into_iter().map(|(n, _)| n.clone()).collect(),
        missing,
        option_a,
    })
}

/// What nothing took. A part of the file's network that has no place in ours makes it another network.
fn unused<'a>(
    net: &Net,
    tensors: &'a [(String, Tensor)],
    prefix: &str,
    used: &BTreeSet<String>,
) -> Result<Vec<&'a (String, Tensor)>> {
    let part = |name: &str| -> Option<String> {
        let part = name.strip_prefix(prefix)?.split('.').next();
        part.map(str::to_owned)
    };
    let parts: BTreeSet<String> = used.iter().filter_map(|n| part(n)).collect();
    let unused = tensors.iter().filter(|(name, _)| !used.contains(name));
    let unused: Vec<_> = unused
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .collect();
    let within = |name: &str| part(name).is_some_and(|p| parts.contains(&p));
    match unused.iter().find(|(n, t)| t.numel() > 1 && within(n)) {
        None => Ok(unused),
        Some((name, _)) => Err(Error::Usage(format!(
            "{} has no place in {}: the file's network is another one; give the --arch that it is, if there is one",
            name.escape_debug(),
            net.graph.name
        ))),
    }
}

/// A name without the prefix, or without as much of it as the name has in whole parts: a classifier may stand
/// beside `backbone.`.
fn under<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let mut prefix = prefix;
    loop {
        if let Some(bare) = name.strip_prefix(prefix) {
            return Some(bare);
        }
        let above = prefix.trim_end_matches('.').rfind('.');
        prefix = &prefix[..above.map_or(0, |at| at + 1)];
    }
}

/// What stands in front of the names that the network knows: that by which most of its parameters are found.
fn common_prefix(net: &Net, wanted: &Names, tensors: &[(String, Tensor)]) -> Result<String> {
    // How many parameters each prefix has in their shape, and how many by name.
    let mut found: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let by_last = by_last_part(tensors);
    for p in &net.params {
        let mut seen = BTreeMap::new();
        for candidate in wanted.get(&p.name).into_iter().flatten() {
            let last = candidate.rsplit('.').next().unwrap_or(candidate);
            for (name, t) in by_last.get(last).into_iter().flatten() {
                let prefix = name.strip_suffix(candidate.as_str());
                let whole = prefix.filter(|p| p.is_empty() || p.ends_with('.'));
                if let Some(prefix) = whole {
                    let fits = seen.entry(prefix).or_insert(false);
                    *fits |= t.size() == p.tensor.size();
                }
            }
        }
        for (prefix, fits) in seen {
            let counts = found.entry(prefix).or_default();
            *counts = (counts.0 + usize::from(fits), counts.1 + 1);
        }
    }
    let most = found.values().max().copied().unwrap_or_default();
    let best: Vec<&str> = found
        .iter()
        .filter(|(_, n)| **n == most)
        .map(|(p, _)| *p)
        .collect();
    match best[..] {
        [prefix] => Ok(prefix.to_owned()),
        _ if 2 * most.1 < net.params.len() => Err(nothing_fits(net, wanted, tensors)),
        _ => Err(Error::Usage(format!(
            "the names fit {} equally well under {}: save the weights of one network by themselves",
            net.graph.name,
            best.iter()
                .take(SHOWN)
                .map(|p| format!("{p:?}"))
                .collect::<Vec<_>>()
                .join(" and ")
        ))),
    }
}

/// Names with their tensors, by the last part of the name.
fn by_last_part(tensors: &[(String, Tensor)]) -> BTreeMap<&str, Vec<(&str, &Tensor)>> {
    let mut by_last: BTreeMap<&str, Vec<(&str, &Tensor)>> = BTreeMap::new();
    for (name, t) in tensors {
        let last = name.rsplit('.').next().unwrap_or(name);
        by_last.entry(last).or_default().push((name, t));
    }
    by_last
}

/// Names that a message shows.
const SHOWN: usize = 4;

/// That no name is known, with names of both sides.
fn nothing_fits(net: &Net, wanted: &Names, tensors: &[(String, Tensor)]) -> Error {
    let shown = |names: &mut dyn Iterator<Item = &String>| -> String {
        let names = names.take(SHOWN).map(|n| n.escape_debug().to_string());
        names.collect::<Vec<_>>().join(", ")
    };
    let mut common = tensors.first().map_or("", |(n, _)| n.as_str());
    for (name, _) in tensors {
        while !name.starts_with(common) {
            let shorter = common
                .trim_end_matches('.')
                .rfind('.')
                .map_or(0, |at| at + 1);
            common = &common[..shorter];
        }
    }
    let common = match common.ends_with('.') {
        true => format!(", which all begin with {:?},", common),
        false => String::new(),
    };
    let theirs = shown(&mut tensors.iter().map(|(n, _)| n));
    let ours = net
        .params
        .iter()
        .filter_map(|p| wanted.get(&p.name)?.first());
    let ours = shown(&mut { ours });
    Error::Usage(format!(
        "the names of its {} tensors are not those of {}: it has {theirs}{common} and {} takes {ours} and so on, with anything in front that all share: give the --arch that it is, or save it under these names",
        tensors.len(),
        net.graph.name,
        net.graph.name
    ))
}

type Tensors<'a> = BTreeMap<&'a str, (&'a String, &'a Tensor)>;

/// The bias of the convolution in front of a BatchNorm whose running mean is `name`.
fn bias_before<'a>(
    name: &str,
    wanted: &Names,
    tensors: &Tensors<'a>,
) -> Option<(&'a String, &'a Tensor)> {
    let conv = wanted.get(&format!("{}.weight", name.strip_suffix(".bn.mean")?))?;
    let bias = |n: &String| {
        let home = n.strip_suffix(".weight")?;
        tensors
            .contains_key(n.as_str())
            .then(|| format!("{home}.bias"))
    };
    tensors.get(conv.iter().find_map(bias)?.as_str()).copied()
}
