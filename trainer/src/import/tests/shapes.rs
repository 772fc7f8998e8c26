//! The architecture that names and shapes tell.

use super::*;
use crate::checkpoint::State;

fn guessed(state: &[(String, Tensor)]) -> std::result::Result<String, String> {
    guess(&weights(state)).map_err(|e| e.to_string())
}

fn net(name: &str) -> Net {
    Net::new(&Arch::parse(name, [3, 32, 32], 10).unwrap(), 1)
}

/// As in weiaicunzai's repository for CIFAR-100.
fn numbered(name: &str) -> String {
    let mut name = name.to_owned();
    for (from, to) in [
        ("layer4", "conv5_x"),
        ("layer3", "conv4_x"),
        ("layer2", "conv3_x"),
        ("layer1", "conv2_x"),
        ("conv1.", "residual_function.0."),
        ("bn1.", "residual_function.1."),
        ("conv2.", "residual_function.3."),
        ("bn2.", "residual_function.4."),
        ("downsample", "shortcut"),
    ] {
        name = name.replace(from, to);
    }
    let root = ["residual_function.0.", "residual_function.1."].map(|r| name.strip_prefix(r));
    match root {
        [Some(rest), _] => format!("conv1.0.{rest}"),
        [_, Some(rest)] => format!("conv1.1.{rest}"),
        _ => name,
    }
}

#[test]
fn every_foreign_network_is_known_by_its_shapes() {
    for (name, prefix) in [
        ("resnet8", ""),
        ("resnet14", "module."),
        ("resnet44", "module._orig_mod."),
        ("resnet8-width64-stem32", "model."),
        ("resnet18", "net."),
        ("resnet18-width16", ""),
        ("resnet34-imagenet-width8", ""),
        ("wrn10-1", ""),
        ("wrn16-2", "module."),
        ("wrn16-2-stem32", ""),
    ] {
        let net = net(name);
        let mut state = foreign(&net, prefix);
        assert_eq!(guessed(&state).as_deref(), Ok(name));
        // Without shortcuts, and beside another classifier.
        state.retain(|(n, _)| !n.contains("downsample"));
        state.push((
            "fc.weight".into(),
            Tensor::zeros([3, 3], (Kind::Float, tch::Device::Cpu)),
        ));
        assert_eq!(guessed(&state).as_deref(), Ok(name));
    }
    let of = net("resnet18-width16");
    let state = foreign(&of, "").into_iter().map(|(n, t)| (numbered(&n), t));
    let state: Vec<_> = state.collect();
    assert_eq!(guessed(&state).as_deref(), Ok("resnet18-width16"));
    let matched = load(&Net::new(arch(&of), 9), &weights(&state)).unwrap();
    assert_eq!(
        (matched.n_set, matched.missing.len()),
        (of.params.len(), 0),
        "{matched:?}"
    );
    assert_eq!(
        guessed(&foreign(&net("vgg16"), "module.")).as_deref(),
        Ok("vgg16")
    );
}

#[test]
fn a_network_that_has_no_name_is_told_what_was_seen() {
    let of = |change: &dyn Fn(&mut State)| {
        let mut state = foreign(&net("resnet14"), "module.");
        change(&mut state);
        guessed(&state).unwrap_err()
    };
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, tch::Device::Cpu));
    let uneven = of(&|state| {
        state.push((
            "module.layer2.2.conv1.weight".into(),
            zeros(&[32, 32, 3, 3]),
        ));
    });
    for said in [
        "module.layer1.0",
        "[2, 3, 2] blocks",
        "[16, 32, 64] channels",
        "resnetN",
    ] {
        assert!(uneven.contains(said), "{said}: {uneven}");
    }
    let bottleneck = of(&|state| {
        state.push((
            "module.layer1.0.conv3.weight".into(),
            zeros(&[64, 16, 1, 1]),
        ));
    });
    assert!(bottleneck.contains("three convolutions"), "{bottleneck}");
    let headless = of(&|state| state.retain(|(n, _)| n != "module.conv1.weight"));
    assert!(headless.contains("no first convolution"), "{headless}");
    let foreign_names = of(&|state| {
        for (name, _) in state {
            *name = name.replace("layer", "part");
        }
    });
    assert!(
        foreign_names.contains("module.conv1.weight"),
        "{foreign_names}"
    );
    let two = of(&|state| state.extend(foreign(&net("resnet8"), "teacher.")));
    for said in [
        "resnet14 under \"module.\"",
        "resnet8 under \"teacher.\"",
        "--arch",
    ] {
        assert!(two.contains(said), "{said}: {two}");
    }
    assert!(guessed(&[]).is_err());
}
