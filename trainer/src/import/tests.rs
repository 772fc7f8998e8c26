//! State dicts under foreign names.

mod shapes;
mod shortcuts;

use super::names::{add, names};
use super::*;
use crate::net::{Arch, MaskSet, Mode};

fn small(name: &str) -> Net {
    let mut arch = Arch::parse(name, [3, 16, 16], 4).unwrap();
    arch.widths.iter_mut().for_each(|w| *w = (*w / 16).max(2));
    arch.stem.width = arch.stem.width.min(arch.widths[0]);
    Net::new(&arch, 3)
}

fn arch(net: &Net) -> &Arch {
    net.graph.arch.as_ref().unwrap()
}

fn weights(tensors: &[(String, Tensor)]) -> Weights {
    let copy = tensors.iter().map(|(n, t)| (n.clone(), t.shallow_clone()));
    Weights {
        tensors: copy.collect(),
        ..Weights::default()
    }
}

/// The network's own state under its first foreign names, as another tool would write it.
fn foreign(net: &Net, prefix: &str) -> Vec<(String, Tensor)> {
    let mut names = names(arch(net));
    if arch(net).family == Family::Plain {
        // conv, BatchNorm and ReLU count: 0, 1, (2), 3, 4, (5), ...
        names.retain(|n, _| n.starts_with("fc."));
        for (i, ours) in net.graph.producers().iter().enumerate() {
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
        ("resnet14", ""),
        ("resnet20", ""),
        ("resnet18", "module."),
        ("resnet20", "module._orig_mod."),
        ("resnet20", "_orig_mod.module.net.model."),
        ("wrn22-8", "encoder."),
        ("wrn16-4", "_orig_mod."),
        ("vgg16", "module.features."),
        ("vgg16", ""),
    ] {
        let net = small(name);
        let fresh = Net::new(arch(&net), 99);
        let matched = load(&fresh, &weights(&foreign(&net, prefix))).unwrap();
        assert!(
            matched.missing.is_empty() && matched.unused.is_empty(),
            "{name}: {matched:?}"
        );
        let x = Tensor::randn([2, 3, 16, 16], (Kind::Float, tch::Device::Cpu));
        let masks = MaskSet::all_relu(&net.graph);
        let of = |n: &Net| n.forward(&x, &masks, Mode::EVAL).logits;
        assert_eq!(of(&net), of(&fresh), "{name}");
    }
}

#[test]
fn a_bias_in_front_of_a_batchnorm_is_taken_up() {
    let net = small("vgg16");
    let options = (Kind::Float, tch::Device::Cpu);
    let (mut state, mut shifts) = (foreign(&net, ""), Vec::new());
    for (i, ours) in net.graph.producers().iter().enumerate() {
        let n = net
            .params
            .iter()
            .find(|p| p.name == format!("{ours}.bn.mean"));
        let n = n.unwrap().tensor.size()[0];
        let bias = Tensor::randn([n], options);
        state.push((format!("features.{}.bias", 3 * i), bias.shallow_clone()));
        shifts.push((format!("{ours}.bn.mean"), bias));
    }
    let fresh = Net::new(arch(&net), 99);
    let matched = load(&fresh, &weights(&state)).unwrap();
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
    let matched = load(&net, &weights(&state)).unwrap();
    assert_eq!(matched.unused, ["extra.weight"]);
    assert_eq!(matched.missing, ["stage1.block0.conv1.weight"]);
    let at = state.iter().position(|(n, _)| n == "fc.bias").unwrap();
    state[at].1 = Tensor::zeros([7], (Kind::Float, tch::Device::Cpu));
    let e = load(&net, &weights(&state)).unwrap_err().to_string();
    assert!(e.contains("fc.bias") && e.contains("classes"), "{e}");
}

#[test]
fn a_part_that_the_network_lacks_makes_it_another() {
    let net = small("resnet20");
    let zeros = |n: i64| Tensor::zeros([n], (Kind::Float, tch::Device::Cpu));
    for (name, n) in [
        ("module.layer1.3.conv1.weight", 9),
        ("module.layer1.0.se.fc.weight", 9),
        ("module.layer2.0.conv2.bias", 3),
        ("module.fc.2.weight", 9),
    ] {
        let mut state = foreign(&net, "module.");
        state.push((name.into(), zeros(n)));
        let e = load(&net, &weights(&state)).unwrap_err().to_string();
        assert!(e.contains(name) && e.contains("another one"), "{e}");
    }
    // Counters of a profiler, and what is beside the network.
    let mut state = foreign(&net, "module.");
    state.push(("module.layer1.0.total_ops".into(), zeros(1)));
    state.push(("module.head.weight".into(), zeros(9)));
    let matched = load(&net, &weights(&state)).unwrap();
    assert_eq!(matched.unused.len(), 2);
}

#[test]
fn narrower_numbers_are_widened() {
    let net = small("resnet20");
    for kind in [Kind::Half, Kind::BFloat16, Kind::Double] {
        let state = foreign(&net, "").into_iter();
        let state: Vec<_> = state.map(|(n, t)| (n, t.to_kind(kind))).collect();
        let fresh = Net::new(arch(&net), 99);
        load(&fresh, &weights(&state)).unwrap();
        for ((name, of), (_, own)) in net.state().iter().zip(fresh.state()) {
            assert_eq!(own, of.to_kind(kind).to_kind(Kind::Float), "{name}");
        }
    }
}

#[test]
fn a_classifier_may_stand_beside_what_the_others_share() {
    let net = small("resnet20");
    let mut state = foreign(&net, "model.backbone.");
    for (name, _) in &mut state {
        if name.contains(".fc.") {
            *name = name.replace("backbone.", "");
        }
    }
    state.push(("model.n_averaged".into(), Tensor::from(5i64)));
    // As in MMPretrain, the classifier in a part of its own.
    let apart = state.iter().map(|(n, t)| {
        let name = n.strip_prefix("model.").unwrap_or(n);
        (name.replace("fc.", "head.fc."), t.shallow_clone())
    });
    let matched = load(
        &Net::new(arch(&net), 99),
        &weights(&apart.collect::<Vec<_>>()),
    )
    .unwrap();
    assert_eq!(matched.n_set, net.params.len());
    let matched = load(&Net::new(arch(&net), 99), &weights(&state)).unwrap();
    assert_eq!(matched.n_set, net.params.len());
    assert_eq!(matched.unused, ["model.n_averaged"]);
    // One of the same name beside the network is another's.
    let mut state = foreign(&net, "model.");
    let other = || Tensor::zeros([7], (Kind::Float, tch::Device::Cpu));
    state.insert(0, ("fc.bias".into(), other()));
    state.push(("bn1.bias".into(), other()));
    let matched = load(&Net::new(arch(&net), 99), &weights(&state)).unwrap();
    assert_eq!(matched.unused, ["fc.bias", "bn1.bias"]);
}

#[test]
fn no_tensor_set_and_two_networks_are_errors_with_names() {
    let net = small("resnet20");
    let of = |f: &dyn Fn(&str) -> String| -> String {
        let state = foreign(&net, "").into_iter().map(|(n, t)| (f(&n), t));
        load(&net, &weights(&state.collect::<Vec<_>>()))
            .unwrap_err()
            .to_string()
    };
    let e = of(&|n| format!("trunk.{}", n.replace(['.', '_'], "-")));
    for said in [
        "are not those of resnet20",
        "\"trunk.\"",
        "trunk.bn1-",
        "conv1.weight",
        "--arch",
    ] {
        assert!(e.contains(said), "{said}: {e}");
    }
    assert!(!of(&|n| n.replace('.', "/")).contains("begin with"));
    assert!(load(&net, &Weights::default()).is_err());

    let mut twins = foreign(&net, "student.");
    twins.extend(foreign(&Net::new(arch(&net), 4), "teacher."));
    let e = load(&net, &weights(&twins)).unwrap_err().to_string();
    assert!(e.contains("student.") && e.contains("teacher."), "{e}");
    // A twin of other widths is none.
    let mut arch = arch(&net).clone();
    arch.widths.iter_mut().for_each(|w| *w += 1);
    let mut pair = foreign(&net, "student.");
    pair.extend(foreign(&Net::new(&arch, 4), "teacher."));
    let matched = load(&net, &weights(&pair)).unwrap();
    assert!(matched.missing.is_empty(), "{matched:?}");
}

#[test]
fn what_was_not_read_is_refused_only_where_it_is_asked_for() {
    let net = small("resnet20");
    let mut given = weights(&foreign(&net, "module."));
    let why = || "is no plain tensor but made by x.y".to_owned();
    given.unread.push(("module.extra".into(), why()));
    assert!(load(&net, &given).unwrap().missing.is_empty());
    given.tensors.retain(|(n, _)| n != "module.fc.bias");
    given.unread.push(("module.fc.bias".into(), why()));
    let e = load(&net, &given).unwrap_err().to_string();
    assert!(
        e.contains("module.fc.bias is no plain tensor but made by x.y"),
        "{e}"
    );
}

#[test]
fn a_file_that_is_not_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    std::fs::write(&path, b"PK\x03\x04rest").unwrap();
    let e = read(&path).unwrap_err().to_string();
    assert!(e.contains("cut or damaged"), "{e}");
    std::fs::write(&path, b"\x80\x04}.").unwrap();
    let e = read(&path).unwrap_err().to_string();
    assert!(
        e.contains("pickle") && e.contains("torch.save(model"),
        "{e}"
    );
    // A header of 640 bytes begins as a pickle of protocol 2 does.
    let header = format!(
        "{:<640}",
        r#"{"a.b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#
    );
    let file = [
        &640u64.to_le_bytes(),
        header.as_bytes(),
        &1f32.to_le_bytes(),
    ]
    .concat();
    std::fs::write(&path, file).unwrap();
    assert_eq!(
        read(&path).unwrap().tensors[0].1,
        Tensor::from_slice(&[1f32])
    );
}
