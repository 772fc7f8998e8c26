//! What the packings of ResNet-18 cost, by goal and batch.

use super::*;

/// The linear layers of ResNet-18 for 32x32 images: one source for each distinct input.
fn resnet18(batch: usize, classes: usize) -> Vec<SourceSpec> {
    let source = |channels, size, stride, convs: &[_]| {
        SourceSpec::square(channels, size, batch, stride, convs)
    };
    let mut sources = vec![source(3, 32, 1, &[(64, 3, 1)])];
    sources.extend(vec![source(64, 32, 1, &[(64, 3, 1)]); 4]);
    for (channels, size) in [(128, 16), (256, 8), (512, 4)] {
        let both = [(channels, 3, 1), (channels, 1, 0)];
        sources.push(source(channels / 2, 2 * size, 2, &both));
        sources.extend(vec![source(channels, size, 1, &[(channels, 3, 1)]); 3]);
    }
    sources.push(source(512, 1, 1, &[(classes, 1, 0)]));
    sources
}

/// Cost of ResNet-18 for one inference of a batch, in bytes and products.
fn resnet18_cost(batch: usize, shortcuts: bool) -> (usize, usize) {
    let (mut bytes, mut products) = (0, 0);
    for mut spec in resnet18(batch, 100) {
        spec.consumers.truncate(if shortcuts { 2 } else { 1 });
        let choice = choose(&spec, 4096, 52, 14, 56).unwrap();
        let cost = SourcePacking::new(&spec, 4096, &choice)
            .unwrap()
            .cost(52, 14, 56);
        bytes += cost.bytes / batch;
        products += cost.products / batch;
    }
    (bytes, products)
}

#[test]
fn resnet18_stays_within_its_budget() {
    // Without the responses of the three shortcuts: 38.5 MB alone, 11.6 MB in a batch of 16.
    for (batch, shortcuts, most) in [
        (1, false, 39_000_000),
        (16, false, 11_800_000),
        (1, true, 43_000_000),
        (16, true, 13_000_000),
    ] {
        let (bytes, products) = resnet18_cost(batch, shortcuts);
        assert!(
            bytes < most,
            "batch {batch}, shortcuts {shortcuts}: {bytes} bytes"
        );
        assert!(
            products < 42_000,
            "batch {batch}, shortcuts {shortcuts}: {products} products"
        );
    }
}

/// As [`resnet18`], with each shortcut as guest of the second convolution of its block.
fn resnet18_joined(batch: usize, classes: usize) -> Vec<SourceSpec> {
    let mut sources = resnet18(batch, classes);
    for at in 1..sources.len() {
        let (before, after) = sources.split_at_mut(at);
        let from = &mut before[at - 1];
        if from.consumers.len() == 2
            && let Some(conv) = from.consumers.pop()
        {
            after[0].guests.push(GuestSpec {
                channels: from.channels,
                height: from.height,
                width: from.width,
                stride: from.stride,
                conv,
                consumer: 0,
            });
        }
    }
    sources
}

#[test]
fn resnet18_with_joined_shortcuts_keeps_its_marks() {
    let bits = CoefficientBits {
        share: 52,
        up: 14,
        down: 56,
    };
    for (batch, most) in [(1, 40_000_000), (16, 12_500_000)] {
        let [fewest, default, fastest] = [
            PackingGoal::FEWEST_BYTES,
            PackingGoal::DEFAULT,
            PackingGoal::for_bandwidth(1 << 50),
        ]
        .map(|goal| {
            let mut cost = PackingCost::default();
            for spec in resnet18_joined(batch, 100) {
                cost += rank(&spec, 4096, bits, &goal, 1).unwrap()[0].cost;
            }
            cost
        });
        assert!(default.bytes / batch < most, "batch {batch}: {default:?}");
        assert!(fewest.bytes <= default.bytes && default.bytes <= fastest.bytes);
        let work = |cost: &PackingCost| PackingGoal::for_bandwidth(1 << 50).nanoseconds(cost);
        assert!(work(&fastest) <= work(&default) && work(&default) <= work(&fewest));
        assert!(work(&fastest) < work(&fewest));
    }
}

#[test]
fn ranked_packings_are_in_order_and_the_first_is_chosen() {
    let bits = CoefficientBits {
        share: 52,
        up: 14,
        down: 56,
    };
    for spec in resnet18_joined(4, 10) {
        let ranked = rank(&spec, 4096, bits, &PackingGoal::FEWEST_BYTES, 4).unwrap();
        assert!(ranked.is_sorted_by_key(|r| r.nanoseconds));
        assert_eq!(ranked[0].choice, choose(&spec, 4096, 52, 14, 56).unwrap());
        for r in &ranked {
            let packing = SourcePacking::new(&spec, 4096, &r.choice).unwrap();
            assert_eq!(packing.cost(52, 14, 56), r.cost);
        }
    }
}

#[test]
fn choosing_is_deterministic() {
    for spec in resnet18(5, 10) {
        assert_eq!(
            choose(&spec, 4096, 52, 14, 56),
            choose(&spec, 4096, 52, 14, 56)
        );
    }
}
