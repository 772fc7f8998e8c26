//! Teachers trained with PyTorch: state dicts, as safetensors or as `torch.save` writes them, with
//! torchvision's names or the usual ones of CIFAR repositories, to the names used here.
//!
//! ResNets: `conv1`, `bn1`, `layer<s>.<b>.{conv1,bn1,conv2,bn2}`, `downsample` or `shortcut` `.{0,1}`,
//! `fc` or `linear` or `classifier`. VGG: the convolutions and BatchNorms of `features` in order. WRN: `conv1`,
//! `block<s>.layer.<b>.{bn1,conv1,bn2,conv2,convShortcut}`, `bn1`, `fc`. A prefix such as `module.` or
//! `model.` is dropped. Averages replace max pools here, so a VGG or an ImageNet ResNet needs training on.

use crate::error::{Error, Result};
use crate::net::{Arch, Family, Net};
use crate::torch_file;
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
}

/// Reads the tensors of a safetensors file, or of one that `torch.save` wrote.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let fail = |what: String| Error::Checkpoint {
        path: path.to_owned(),
        what,
    };
    let bytes = std::fs::read(path).map_err(crate::error::io_error(path))?;
    let by_hand = |what: String| {
        fail(format!(
            "is a torch.save file, and {what}; write it as safetensors first: \
             python -c 'import sys,torch,safetensors.torch as s; d=torch.load(sys.argv[1],weights_only=True); \
             d=d.get(\"state_dict\",d); s.save_file({{k:v.contiguous() for k,v in d.items()}},sys.argv[2])' IN OUT"
        ))
    };
    if torch_file::is_zip(&bytes) {
        return torch_file::read(&bytes).map_err(by_hand);
    }
    if bytes.first() == Some(&0x80) {
        let what = "of the format before PyTorch 1.6, a program to be run";
        return Err(by_hand(what.into()));
    }
    drop(bytes);
    let tensors = Tensor::read_safetensors(path);
    tensors.map_err(|e| fail(format!("cannot be read as safetensors ({e})")))
}

/// Sets the network's parameters from a state dict of foreign names.
pub fn load(net: &Net, tensors: &[(String, Tensor)]) -> Result<Matched> {
    let wanted = if net.arch.family == Family::Plain {
        plain_names(&net.arch, tensors)
    } else {
        names(&net.arch)
    };
    let mut by_name = Tensors::new();
    for (name, t) in tensors {
        let bare = ["module.", "model.", "net.", "backbone."]
            .iter()
            .fold(name.as_str(), |n, prefix| {
                n.strip_prefix(prefix).unwrap_or(n)
            });
        by_name.insert(bare, (name, t));
    }
    let mut used = BTreeSet::new();
    let (mut n_set, mut missing) = (0, Vec::new());
    for p in &net.params {
        let candidates = wanted.get(&p.name).map_or(&[][..], Vec::as_slice);
        let Some((name, t)) = candidates.iter().find_map(|c| by_name.get(c.as_str())) else {
            missing.push(p.name.clone());
            continue;
        };
        if t.size() != p.tensor.size() {
            return Err(Error::Usage(format!(
                "{name} has shape {:?} in the file, {} of {} has {:?}: another width, or another number of classes",
                t.size(),
                p.name,
                net.arch.name,
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
    let unused = tensors.iter().map(|(n, _)| n.clone());
    let unused = unused.filter(|n| !used.contains(n) && !n.ends_with("num_batches_tracked"));
    Ok(Matched {
        n_set,
        unused: unused.collect(),
        missing,
    })
}

type Names = BTreeMap<String, Vec<String>>;
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

/// Records the foreign names of a convolution (`conv`, in any of the forms) and of its BatchNorm.
fn add(names: &mut Names, ours: &str, conv: &[String], norm: &[String]) {
    let with = |list: &[String], part: &str| list.iter().map(|n| format!("{n}.{part}")).collect();
    names.insert(format!("{ours}.weight"), with(conv, "weight"));
    for (part, theirs) in [
        ("gamma", "weight"),
        ("beta", "bias"),
        ("mean", "running_mean"),
        ("var", "running_var"),
    ] {
        names.insert(format!("{ours}.bn.{part}"), with(norm, theirs));
    }
}

fn strings<const N: usize>(list: [&str; N]) -> Vec<String> {
    list.map(str::to_owned).to_vec()
}

fn classifier(names: &mut Names) {
    for part in ["weight", "bias"] {
        let of = |n: &str| format!("{n}.{part}");
        let theirs = ["fc", "linear", "classifier", "classifier.0"]
            .map(of)
            .to_vec();
        names.insert(of("fc"), theirs);
    }
}

/// Names of residual networks.
fn names(arch: &Arch) -> Names {
    let mut names = Names::new();
    classifier(&mut names);
    let pre = arch.family == Family::PreActivation;
    let first_norm = if pre {
        strings(["block1.layer.0.bn1", "layer1.0.bn1"])
    } else {
        strings(["bn1", "norm1"])
    };
    add(&mut names, "stem", &strings(["conv1", "conv"]), &first_norm);
    add(&mut names, "norm", &[], &strings(["bn1", "bn"]));
    for (s, &n_blocks) in arch.blocks.iter().enumerate() {
        for b in 0..n_blocks {
            let ours = format!("stage{s}.block{b}");
            let homes = [
                format!("layer{}.{b}", s + 1),
                format!("block{}.layer.{b}", s + 1),
                format!("layer{}.layer.{b}", s + 1),
            ];
            let at = |parts: &[&str]| -> Vec<String> {
                let of = |h: &String| parts.iter().map(|p| format!("{h}.{p}")).collect::<Vec<_>>();
                homes.iter().flat_map(of).collect()
            };
            // A pre-activation block keeps its second BatchNorm with its first convolution here.
            let norm = if pre { "bn2" } else { "bn1" };
            add(
                &mut names,
                &format!("{ours}.conv1"),
                &at(&["conv1"]),
                &at(&[norm]),
            );
            add(
                &mut names,
                &format!("{ours}.conv2"),
                &at(&["conv2"]),
                &at(&["bn2"]),
            );
            add(&mut names, &format!("{ours}.norm1"), &[], &at(&["bn1"]));
            add(
                &mut names,
                &format!("{ours}.shortcut"),
                &at(&["downsample.0", "shortcut.0", "convShortcut", "shortcut"]),
                &at(&["downsample.1", "shortcut.1"]),
            );
        }
    }
    names
}

/// VGG numbers convolutions, BatchNorms, ReLUs and pools alike, so the order decides.
fn plain_names(arch: &Arch, tensors: &[(String, Tensor)]) -> Names {
    let mut names = Names::new();
    classifier(&mut names);
    let mut numbered: Vec<(usize, i64, String)> = Vec::new();
    for (name, t) in tensors {
        let Some((home, "weight")) = name.rsplit_once('.') else {
            continue;
        };
        let Some((before, number)) = home.rsplit_once('.') else {
            continue;
        };
        if let (true, Ok(n)) = (before.ends_with("features"), number.parse()) {
            let home = home[home.find("features").unwrap_or(0)..].to_owned();
            numbered.push((n, t.dim() as i64, home));
        }
    }
    numbered.sort();
    let of = |dim: i64| {
        numbered
            .iter()
            .filter(move |(_, d, _)| *d == dim)
            .map(|(_, _, h)| h.clone())
    };
    let ours = arch.producers();
    for ((ours, conv), norm) in ours.iter().zip(of(4)).zip(of(1)) {
        add(&mut names, ours, &[conv], &[norm]);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{MaskSet, Mode};

    fn small(name: &str) -> Net {
        let mut arch = Arch::parse(name, [3, 16, 16], 4).unwrap();
        arch.widths.iter_mut().for_each(|w| *w = (*w / 16).max(2));
        arch.stem.width = arch.stem.width.min(arch.widths[0]);
        Net::new(&arch, 3)
    }

    /// The network's own state under its first foreign names, as another tool would write it.
    fn foreign(net: &Net, prefix: &str) -> Vec<(String, Tensor)> {
        let mut names = names(&net.arch);
        if net.arch.family == Family::Plain {
            // conv, BatchNorm and ReLU count: 0, 1, (2), 3, 4, (5), ...
            names.retain(|n, _| n.starts_with("fc."));
            for (i, ours) in net.arch.producers().iter().enumerate() {
                let at = |k: usize| [format!("features.{}", 3 * i + k)];
                add(&mut names, ours, &at(0), &at(1));
            }
        }
        let rename = |(n, t): (String, Tensor)| (format!("{prefix}{}", names[&n][0]), t);
        let mut state: Vec<_> = net.state().into_iter().map(rename).collect();
        state.push((
            format!("{prefix}bn9.num_batches_tracked"),
            Tensor::from(3i64),
        ));
        state
    }

    #[test]
    fn every_family_comes_back_from_foreign_names() {
        for (name, prefix) in [
            ("resnet20", ""),
            ("resnet18", "module."),
            ("wrn22-8", ""),
            ("vgg16", ""),
        ] {
            let net = small(name);
            let fresh = Net::new(&net.arch, 99);
            let matched = load(&fresh, &foreign(&net, prefix)).unwrap();
            assert!(
                matched.missing.is_empty() && matched.unused.is_empty(),
                "{name}: {matched:?}"
            );
            let x = Tensor::randn([2, 3, 16, 16], (Kind::Float, tch::Device::Cpu));
            let masks = MaskSet::all_relu(&net.arch);
            let of = |n: &Net| n.forward(&x, &masks, Mode::EVAL).logits;
            assert_eq!(of(&net), of(&fresh), "{name}");
        }
    }

    #[test]
    fn a_bias_in_front_of_a_batchnorm_is_taken_up() {
        let net = small("vgg16");
        let options = (Kind::Float, tch::Device::Cpu);
        let (mut state, mut shifts) = (foreign(&net, ""), Vec::new());
        for (i, ours) in net.arch.producers().iter().enumerate() {
            let n = net.convs[i][0].n_out;
            let bias = Tensor::randn([n], options);
            state.push((format!("features.{}.bias", 3 * i), bias.shallow_clone()));
            shifts.push((format!("{ours}.bn.mean"), bias));
        }
        let fresh = Net::new(&net.arch, 99);
        let matched = load(&fresh, &state).unwrap();
        assert!(matched.unused.is_empty(), "{matched:?}");
        // conv + bias - mean is conv - (mean - bias).
        for (name, bias) in shifts {
            let mean = |n: &Net| {
                let p = n.params.iter().find(|p| p.name == name).unwrap();
                p.tensor.shallow_clone()
            };
            assert_eq!(mean(&fresh), mean(&net) - bias, "{name}");
        }
    }

    #[test]
    fn strangers_are_listed_and_other_class_counts_refused() {
        let net = small("resnet20");
        let mut state = foreign(&net, "");
        state.push(("extra.weight".into(), Tensor::from(1.0f32)));
        state.retain(|(n, _)| n != "layer2.0.conv1.weight");
        let matched = load(&net, &state).unwrap();
        assert_eq!(matched.unused, ["extra.weight"]);
        assert_eq!(matched.missing, ["stage1.block0.conv1.weight"]);
        let at = state.iter().position(|(n, _)| n == "fc.bias").unwrap();
        state[at].1 = Tensor::zeros([7], (Kind::Float, tch::Device::Cpu));
        let e = load(&net, &state).unwrap_err().to_string();
        assert!(e.contains("fc.bias") && e.contains("classes"), "{e}");
    }

    #[test]
    fn a_pickle_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pth");
        std::fs::write(&path, b"PK\x03\x04rest").unwrap();
        let e = read(&path).unwrap_err().to_string();
        assert!(e.contains("safetensors.torch"), "{e}");
        std::fs::write(&path, b"\x80\x02old").unwrap();
        let e = read(&path).unwrap_err().to_string();
        assert!(e.contains("safetensors.torch") && e.contains("1.6"), "{e}");
    }
}
