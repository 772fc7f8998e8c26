//! Shortcuts without parameters.

use super::*;
use crate::data::{Batches, Images, Normaliser};

/// A ResNet-8 whose shortcuts are those of option A, its images, and its classes of these.
struct OptionA {
    net: Net,
    images: Images,
    logits: Tensor,
}

/// x[:, :, ::2, ::2] between channels of zeros, and the rest of the network as it is written everywhere.
fn reference(state: &[(String, Tensor)], x: &Tensor, before: impl Fn(i64) -> i64) -> Tensor {
    let of = |n: &str| &state.iter().find(|(name, _)| name == n).unwrap().1;
    let conv = |x: &Tensor, conv: &str, norm: &str, stride: i64| {
        let y = x.conv2d(
            of(&format!("{conv}.weight")),
            None::<&Tensor>,
            [stride; 2],
            [1, 1],
            [1, 1],
            1,
        );
        let [g, b, m, v] =
            ["weight", "bias", "running_mean", "running_var"].map(|p| of(&format!("{norm}.{p}")));
        y.batch_norm(Some(g), Some(b), Some(m), Some(v), false, 0.1, 1e-5, false)
    };
    let mut x = conv(x, "conv1", "bn1", 1).relu();
    for s in 1..=3 {
        let (block, stride) = (format!("layer{s}.0"), if s == 1 { 1 } else { 2 });
        let y = conv(
            &x,
            &format!("{block}.conv1"),
            &format!("{block}.bn1"),
            stride,
        )
        .relu();
        let y = conv(&y, &format!("{block}.conv2"), &format!("{block}.bn2"), 1);
        let more = y.size()[1] - x.size()[1];
        let own = x.slice(2, None, None, stride).slice(3, None, None, stride);
        let (front, behind) = (before(more), more - before(more));
        x = (y + own.constant_pad_nd([0, 0, 0, 0, front, behind])).relu();
    }
    x.mean_dim([2i64, 3].as_slice(), false, Kind::Float)
        .linear(of("fc.weight"), Some(of("fc.bias")))
}

/// Its state dict without the shortcuts, and the network's answers.
fn option_a(before: impl Fn(i64) -> i64) -> (Vec<(String, Tensor)>, OptionA) {
    let arch = Arch::parse("resnet8", [3, 16, 16], 4).unwrap();
    let net = Net::new(&arch, 3);
    for p in net.params.iter().filter(|p| p.name.contains(".bn.")) {
        tch::no_grad(|| drop(p.tensor.shallow_clone().uniform_(0.5, 1.5)));
    }
    let mut state = foreign(&net, "");
    state.retain(|(n, _)| !n.contains("downsample"));
    let n = 64;
    let pixels: Vec<u8> = (0..n * 3 * 256)
        .map(|i: usize| (i * i / 7 % 251) as u8)
        .collect();
    let mut images = Images {
        shape: [3, 16, 16],
        n_classes: 4,
        pixels,
        labels: vec![0; n],
        checksum: String::new(),
    };
    let x = batches(&images).get(&batches(&images).epoch(0), 0).0;
    let logits = tch::no_grad(|| reference(&state, &x, before));
    let labels: Vec<i64> = Vec::try_from(logits.argmax(1, false)).unwrap();
    images.labels = labels.into_iter().map(|l| l as u16).collect();
    let fresh = Net::new(&arch, 99);
    (
        state,
        OptionA {
            net: fresh,
            images,
            logits,
        },
    )
}

fn batches(images: &Images) -> Batches<'_> {
    let normaliser = Normaliser {
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
    };
    Batches::plain(images, &normaliser, 64)
}

fn logits(of: &OptionA, mode: Mode) -> Tensor {
    let batches = batches(&of.images);
    let x = batches.get(&batches.epoch(0), 0).0;
    tch::no_grad(|| {
        of.net
            .forward(&x, &MaskSet::all_relu(&of.net.graph), mode)
            .logits
    })
}

#[test]
fn kernels_select_what_the_shortcut_carried() {
    for (place, before) in [
        (Place::Middle, (|n| n / 2) as fn(i64) -> i64),
        (Place::First, |_| 0),
    ] {
        let (state, of) = option_a(before);
        let matched = load(&of.net, &weights(&state)).unwrap();
        assert!(
            matched.option_a && matched.missing.is_empty(),
            "{matched:?}"
        );
        assert_eq!(matched.n_set, of.net.params.len() - 10);
        let done = select(&of.net, &batches(&of.images));
        assert_eq!((done.place, done.accuracies[0]), (place, 1.0));
        assert!(done.accuracies[1] < 1.0, "{done:?}");
        let error = (logits(&of, Mode::EVAL) - &of.logits).abs().max();
        let size = of.logits.abs().max();
        assert!(
            error.double_value(&[]) < 1e-5 * size.double_value(&[]),
            "{error} of {size}"
        );
    }
}

#[test]
fn the_batchnorm_is_the_identity_in_training_too() {
    let (state, of) = option_a(|n| n / 2);
    load(&of.net, &weights(&state)).unwrap();
    select(&of.net, &batches(&of.images));
    let shortcuts = shortcut::shortcuts(&of.net);
    assert_eq!(shortcuts.len(), 2);
    let collect = Mode {
        collect: true,
        ..Mode::EVAL
    };
    let batches = batches(&of.images);
    let x = batches.get(&batches.epoch(0), 0).0;
    let masks = MaskSet::all_relu(&of.net.graph);
    let stages = tch::no_grad(|| of.net.forward(&x, &masks, collect).stages);
    for (shortcut, stage) in shortcuts.into_iter().zip(stages) {
        let (n_in, n_out, conv) = (shortcut.n_in, shortcut.n_out, shortcut.layer);
        let before = (n_out - n_in) / 2;
        let (weight, bias) = conv.folded();
        let eye = Tensor::eye(n_in, (Kind::Double, tch::Device::Cpu));
        let want = eye.constant_pad_nd([0, 0, before, before]);
        let off = (weight.unwrap().view([n_out, n_in]) - want).abs().max();
        assert!(off.double_value(&[]) < 2e-7, "{}: {off}", conv.name);
        let bias = bias.abs().max();
        assert!(bias.double_value(&[]) < 1e-6, "{}: {bias}", conv.name);
        // A batch's own mean and variance, in training, are what the scale and the shift undo.
        let norm = conv.norm.as_ref().unwrap();
        let map = stage.slice(2, None, None, 2).slice(3, None, None, 2);
        let map = map.transpose(0, 1).flatten(1, -1);
        let same = |own: &Tensor, of_map: Tensor| {
            let rest = own.narrow(0, 0, before).abs().sum(Kind::Float);
            assert_eq!(rest.double_value(&[]), 0.0, "{}", conv.name);
            let off = (own.narrow(0, before, n_in) - of_map).abs().max();
            assert!(off.double_value(&[]) < 1e-5, "{}: {off}", conv.name);
        };
        same(
            &norm.mean,
            map.mean_dim([1i64].as_slice(), false, Kind::Float),
        );
        same(&norm.var, map.var_dim([1i64].as_slice(), false, false));
    }
}

#[test]
fn shortcuts_under_names_that_are_not_known_are_not_made_up() {
    let (mut state, of) = option_a(|n| n / 2);
    let zeros = Tensor::zeros([32, 16, 1, 1], (Kind::Float, tch::Device::Cpu));
    state.push(("layer2.0.skip.weight".into(), zeros.shallow_clone()));
    assert!(load(&of.net, &weights(&state)).is_err());
    state.pop();
    state.push(("skips.0.weight".into(), zeros));
    let matched = load(&of.net, &weights(&state)).unwrap();
    assert!(
        !matched.option_a && matched.missing.len() == 10,
        "{matched:?}"
    );
    state.pop();
    // One parameter more is missing.
    state.retain(|(n, _)| n != "layer1.0.bn2.bias");
    let matched = load(&of.net, &weights(&state)).unwrap();
    assert!(
        !matched.option_a && matched.missing.len() == 11,
        "{matched:?}"
    );
    // One shortcut of two.
    let net = small("resnet8");
    let mut state = foreign(&net, "");
    state.retain(|(n, _)| !n.contains("layer2.0.downsample"));
    let matched = load(&Net::new(arch(&net), 9), &weights(&state)).unwrap();
    assert!(
        !matched.option_a && matched.missing.len() == 5,
        "{matched:?}"
    );
    // A stem of another width is followed by a shortcut that no option A has.
    let net = Net::new(
        &Arch::parse("resnet8-width32-stem16", [3, 16, 16], 4).unwrap(),
        1,
    );
    let mut state = foreign(&net, "");
    state.retain(|(n, _)| !n.contains("downsample"));
    assert!(!load(&net, &weights(&state)).unwrap().option_a);
}
