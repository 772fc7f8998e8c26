//! Integers against floats, on random networks; and what is refused.

use super::*;
use crate::testing::{Net, every_operation, residual};
use pi_model::spec::{Op, Window};

fn quiet(_: usize, _: usize) {}

/// Quantises on 16 images and compares on `n` others.
fn round_trip(net: &mut Net, options: &Options, n: usize) -> (Quantised, Comparison) {
    let input = net.model.spec.input.clone();
    let calibration = ImageSet::of_tensors(net.images(16), &input).unwrap();
    let made = quantise(&net.model, &calibration, options, &quiet).unwrap();
    let others = ImageSet::of_tensors(net.images(n), &input).unwrap();
    let same = compare(&net.model, &made.model, &others, &quiet).unwrap();
    (made, same)
}

#[test]
fn a_residual_network_keeps_its_classes() {
    for seed in 0..3 {
        let mut net = residual(seed);
        let (made, same) = round_trip(&mut net, &Options::default(), 60);
        assert!(same.n_agree >= 54, "{same:?}");
        assert!(same.logits.relative() < 0.05, "{same:?}");
        assert!(same.layers.iter().any(|(name, _)| name == "a.relu1"));
        for (name, difference) in &same.layers {
            assert!(difference.relative() < 0.05, "{name}: {difference:?}");
        }
        assert!(made.report.dropped.is_empty(), "{:?}", made.report);
        let card = &made.model.public().spec().card;
        assert!(card.notes.contains("calibrated on 16 images"), "{card:?}");
        let kept: usize = net.model.masks.values().map(|m| m.kept().len()).sum();
        assert_eq!(card.relus_kept, kept);
    }
}

#[test]
fn every_operation_is_near_its_float() {
    for seed in 0..3 {
        let mut net = every_operation(seed);
        let (_, same) = round_trip(&mut net, &Options::default(), 20);
        assert!(same.logits.relative() < 0.05, "{seed}: {same:?}");
        let wide = Options {
            activation_bits: Some(12),
            weight_bits: 14,
            ..Options::default()
        };
        let (_, nearer) = round_trip(&mut net, &wide, 20);
        assert!(nearer.logits.relative() < 0.004, "{seed}: {nearer:?}");
    }
}

#[test]
fn the_opened_accumulator_is_as_narrow_as_asked() {
    let mut net = residual(1);
    let last = |made: &Quantised| made.report.ranges.last().unwrap().1.bits;
    let (made, _) = round_trip(&mut net, &Options::default(), 1);
    assert!(last(&made) > 20, "{:?}", made.report);
    let narrow = Options {
        activation_bits: Some(8),
        output_bits: 20,
        ..Options::default()
    };
    let (made, same) = round_trip(&mut net, &narrow, 20);
    assert!(last(&made) <= 20, "{:?}", made.report);
    assert!(made.report.dropped["fc"] > 0, "{:?}", made.report);
    assert_eq!(same.n_range_violations, 0, "{same:?}");
}

#[test]
fn what_remains_of_a_pool_is_in_the_weights_of_its_reader() {
    // Windows of 3 x 3: 8 / 9 is left over.
    let mut net = Net::new([2, 6, 6], 1);
    net.relu("relu", "input").add(Op::AvgPool {
        name: "pool".into(),
        input: "relu".into(),
        window: Window::square(3, 3, 0),
        count_padding: false,
    });
    net.conv("out", "pool", 3, Window::square(1, 1, 0));
    let (_, same) = round_trip(&mut net, &Options::default(), 10);
    assert!(same.logits.relative() < 0.02, "{same:?}");
}

#[test]
fn layers_give_up_bits_where_ranges_are_too_wide() {
    let mut net = residual(3);
    // Small weights have many fraction bits, and large constants make large values of them.
    for op in ["a.conv1", "fc"] {
        let weights = net.model.weights.get_mut(op).unwrap();
        weights.weight.iter_mut().for_each(|w| *w *= 1e-4);
        weights.bias.iter_mut().for_each(|b| *b *= 4000.0);
    }
    let (made, same) = round_trip(&mut net, &Options::default(), 20);
    let report = &made.report;
    assert!(report.dropped["fc"] > 0, "{report:?}");
    assert!(report.expected_failures <= MAX_FAILURES / 2.0);
    let last = report.ranges.last().unwrap();
    assert!(last.1.bits <= MAX_OUTPUT_BITS, "{report:?}");
    assert_eq!(same.n_range_violations, 0, "{same:?}");
    pi_model::PublicPlan::new(made.model.public(), 1).unwrap();
}

#[test]
fn large_activations_give_up_bits_before_weights_do() {
    // Values grow so much that, of so many, one might wrap.
    let mut net = Net::new([3, 32, 32], 5);
    net.conv("a", "input", 64, Window::square(3, 1, 1))
        .relu("relu", "a")
        .conv("b", "relu", 64, Window::square(3, 1, 1))
        .relu("large", "b")
        .classifier("large", 10);
    let scale = |net: &mut Net, op: &str, by: f32| {
        let weights = net.model.weights.get_mut(op).unwrap();
        weights.weight.iter_mut().for_each(|w| *w *= by);
    };
    scale(&mut net, "a", 256.0);
    let bits = |made: &Quantised| {
        let numbers = made.model.public().spec().fixed_point.as_ref();
        numbers.unwrap().activation_fraction_bits
    };
    let (made, same) = round_trip(&mut net, &Options::default(), 10);
    assert!((4..8).contains(&bits(&made)), "{}", bits(&made));
    let gives_up = |made: &Quantised| made.report.dropped.contains_key("b");
    assert!(!gives_up(&made), "{:?}", made.report);
    assert!(same.logits.relative() < 0.05, "{same:?}");
    let all = Options {
        activation_bits: Some(8),
        ..Options::default()
    };
    let (made, _) = round_trip(&mut net, &all, 10);
    assert_eq!(bits(&made), 8);
    assert!(gives_up(&made), "{:?}", made.report);
    // An average has no weights that could give up some.
    let mut net = Net::new([3, 32, 32], 6);
    net.conv("a", "input", 32, Window::square(3, 1, 1))
        .relu("relu", "a")
        .add(Op::AvgPool {
            name: "average".into(),
            input: "relu".into(),
            window: Window::square(3, 1, 1),
            count_padding: true,
        })
        .conv("b", "average", 4, Window::square(1, 1, 0))
        .relu("last", "b")
        .classifier("last", 10);
    scale(&mut net, "a", 16_384.0);
    let images = ImageSet::of_tensors(net.images(2), &net.model.spec.input).unwrap();
    let wide = Options {
        weight_bits: 16,
        ..Options::default()
    };
    let refused = quantise(&net.model, &images, &wide, &quiet);
    let said = refused.unwrap_err().to_string();
    for what in ["layer 'average", "32768 values", "than 4", "scale"] {
        assert!(said.contains(what), "{said}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy() {
    let says = |outcome: Result<Quantised>, what: &[&str]| {
        let said = outcome.unwrap_err().to_string();
        for what in what {
            assert!(said.contains(what), "{said}");
        }
    };
    let with = |weight_bits: u32, change: &dyn Fn(&mut Net)| {
        let mut net = residual(4);
        change(&mut net);
        let images = ImageSet::of_tensors(net.images(2), &net.model.spec.input).unwrap();
        let options = Options {
            weight_bits,
            ..Options::default()
        };
        quantise(&net.model, &images, &options, &quiet)
    };
    let set = |op: &'static str, value: f32| {
        move |net: &mut Net| net.model.weights.get_mut(op).unwrap().weight[0] = value
    };
    says(
        with(8, &set("b.conv1", 200.0)),
        &["layer 'b.conv1'", "200", "--weight-bits"],
    );
    assert!(with(16, &set("b.conv1", 200.0)).is_ok());
    says(with(8, &set("fc", f32::NAN)), &["'fc'", "not a number"]);
    says(with(17, &|_| ()), &["17 weight bits", "2 to 16"]);
    let large = |net: &mut Net| net.model.weights.get_mut("fc").unwrap().bias[3] = 1e12;
    says(with(8, &large), &["layer 'fc'", "--activation-bits"]);
}
