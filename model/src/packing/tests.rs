//! Packed products against plain convolutions, with junk at every position that is neither data nor corrected.

mod costs;

use super::*;
use crate::kernel::{Shape, convolve};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha20Rng;

fn random_spec(rng: &mut ChaCha20Rng) -> SourceSpec {
    let stride = [rng.random_range(1..4), rng.random_range(1..3)];
    let (height, width) = (rng.random_range(1..9), rng.random_range(1..9));
    let channels = rng.random_range(1..6);
    let mut consumers = Vec::new();
    while consumers.is_empty() || rng.random_range(0..3) == 0 {
        let kernel = *[1, 3, 5].choose(rng).unwrap();
        let kernel_w = if rng.random_range(0..4) == 0 {
            3
        } else {
            kernel
        };
        let dilation = [rng.random_range(1..3), rng.random_range(1..3)];
        let reach = [(kernel - 1) * dilation[0], (kernel_w - 1) * dilation[1]];
        let mut padding = |axis: usize| rng.random_range(0..=reach[axis].min(3));
        let window = Window {
            kernel: [kernel, kernel_w],
            stride,
            padding: [padding(0), padding(1), padding(0), padding(1)].into(),
            dilation,
        };
        let groups = if rng.random_range(0..3) == 0 {
            channels
        } else {
            1
        };
        let filters = groups * rng.random_range(1..6usize.div_ceil(groups) + 1);
        let mut conv = ConvGeometry::new(filters, groups, &window, [height, width]);
        if conv.out == [0, 0] {
            continue;
        }
        // The full convolution of a band.
        if rng.random_range(0..4) == 0 && stride == [1, 1] {
            conv.before = reach;
            conv.out = [height + reach[0], width + reach[1]];
        }
        consumers.push(conv);
    }
    let mut spec = SourceSpec {
        guests: vec![],
        channels,
        height,
        width,
        batch: rng.random_range(1..6),
        stride,
        consumers,
    };
    for _ in 0..rng.random_range(0..3) {
        let consumer = rng.random_range(0..spec.consumers.len());
        spec.guests.extend(random_guest(rng, &spec, consumer));
    }
    spec
}

/// A convolution of another tensor with the outputs of `consumer`.
fn random_guest(rng: &mut ChaCha20Rng, spec: &SourceSpec, consumer: usize) -> Option<GuestSpec> {
    let host = spec.consumers[consumer];
    let (kernel, stride) = (rng.random_range(1..5), rng.random_range(1..3));
    let padding = rng.random_range(0..kernel);
    let size =
        |n_out: usize, rest: usize| ((n_out - 1) * stride + kernel + rest).checked_sub(2 * padding);
    let height = size(host.out[0], rng.random_range(0..stride)).filter(|&n| n > 0)?;
    let width = size(host.out[1], rng.random_range(0..stride)).filter(|&n| n > 0)?;
    let window = Window::square(kernel, stride, padding);
    let conv = ConvGeometry::new(host.out_channels, 1, &window, [height, width]);
    (conv.out == host.out).then_some(GuestSpec {
        channels: rng.random_range(1..5),
        height,
        width,
        stride: [stride; 2],
        conv,
        consumer,
    })
}

/// A choice at random; often one that leaves no coefficient of the polynomial free.
fn random_choice(rng: &mut ChaCha20Rng, spec: &SourceSpec, degree: usize) -> Option<PackingChoice> {
    let area = Block::new(spec, degree).ok()?.area;
    let images = rng.random_range(1..=(degree / area).min(spec.batch));
    let n_channels = Block::new(spec, degree).ok()?.n_channels();
    let channels = rng.random_range(1..=(degree / (images * area)).min(n_channels));
    let room = degree / (images * channels * area);
    let filters = spec
        .consumers
        .iter()
        .map(|_| rng.random_range(1..=room))
        .collect();
    Some(PackingChoice {
        images,
        channels,
        filters,
    })
}

fn multiply(a: &[u64], kernel: &[i32], sum: &mut [u64]) {
    let n = a.len();
    for (j, &w) in kernel.iter().enumerate().filter(|(_, w)| **w != 0) {
        for (i, &x) in a.iter().enumerate() {
            let product = x.wrapping_mul(i64::from(w) as u64);
            let t = i + j;
            sum[t % n] = if t < n {
                sum[t].wrapping_add(product)
            } else {
                sum[t - n].wrapping_sub(product)
            };
        }
    }
}

/// Channels, rows, columns, stride and convolution of a source or a guest.
type Tensor = (usize, usize, usize, [usize; 2], ConvGeometry);

fn check(spec: &SourceSpec, packing: &SourcePacking, rng: &mut ChaCha20Rng) -> (usize, bool) {
    let degree = packing.degree();
    let x: Vec<u64> = (0..packing.n_values()).map(|_| rng.random()).collect();
    let mut polys: Vec<Vec<u64>> = (0..packing.n_polys())
        .map(|_| (0..degree).map(|_| rng.random()).collect())
        .collect();
    for (poly, corrected) in polys.iter_mut().zip(packing.corrections()) {
        corrected.iter().for_each(|&index| poly[index as usize] = 0);
    }
    let (area, per_image) = (
        spec.height * spec.width,
        spec.channels * spec.height * spec.width,
    );
    for (at, &value) in x.iter().enumerate() {
        let (b, c) = (at / per_image, at % per_image / area);
        let (poly, index) = packing.position(b, c, at % area / spec.width, at % spec.width);
        polys[poly][index] = value;
    }
    let guests: Vec<Vec<u64>> = spec
        .guests
        .iter()
        .enumerate()
        .map(|(index, guest)| {
            let n = spec.batch * guest.channels * guest.height * guest.width;
            let values: Vec<u64> = (0..n).map(|_| rng.random()).collect();
            for (poly, at, value) in packing.guest_positions(index) {
                polys[poly][at] = values[value];
            }
            values
        })
        .collect();
    let (mut n_negated, mut full) = (0, false);
    for (consumer, (conv, response)) in spec.consumers.iter().zip(packing.responses()).enumerate() {
        let weights: Vec<i32> = (0..response.n_weights())
            .map(|_| rng.random_range(-127..128))
            .collect();
        let mut outputs = vec![vec![0; degree]; response.n_polys()];
        let mut kernel = vec![0; degree];
        let mut norms = (0, 0);
        for (index, output) in outputs.iter_mut().enumerate() {
            let (group, j) = (
                index / response.n_filter_polys(),
                index % response.n_filter_polys(),
            );
            for i in 0..response.n_inputs() {
                response.kernel(j, i, &weights, &mut kernel);
                assert!(response.inputs_of(j).contains(&i) || kernel.iter().all(|&w| w == 0));
                norms.0 += kernel
                    .iter()
                    .map(|w| u64::from(w.unsigned_abs()))
                    .sum::<u64>();
                multiply(&polys[group * packing.n_inputs() + i], &kernel, output);
            }
            norms.1 += response.norms(j, &weights).0;
            let mut of_ones = vec![0; degree];
            for i in 0..response.n_inputs() {
                response.kernel(j, i, &weights, &mut kernel);
                multiply(&vec![1; degree], &kernel, &mut of_ones);
            }
            let largest = of_ones.iter().map(|&v| (v as i64).unsigned_abs()).max();
            assert_eq!(response.largest_sum(j, &weights), largest.unwrap());
        }
        assert!(
            norms.0 <= norms.1,
            "weights of a response polynomial and their norm"
        );
        let own = (spec.channels, spec.height, spec.width, spec.stride, *conv);
        let mut expected = vec![0u64; response.n_outputs()];
        let mut first = 0;
        let mut add = |(channels, height, width, stride, conv): Tensor, x: &[u64]| {
            // What is needed below and to the right.
            let after = |axis: usize, size: usize| {
                let reach = (conv.kernel[axis] - 1) * conv.dilation[axis];
                let due = (conv.out[axis] - 1) * stride[axis] + reach + 1;
                due.saturating_sub(size + conv.before[axis])
            };
            let [top, left] = conv.before;
            let shape = Shape {
                in_channels: channels,
                height,
                width,
                out_channels: conv.out_channels,
                groups: conv.groups,
                window: Window {
                    kernel: conv.kernel,
                    stride,
                    padding: [top, left, after(0, height), after(1, width)].into(),
                    dilation: conv.dilation,
                },
            };
            let n = shape.n_weights();
            let images = x.chunks_exact(channels * height * width);
            let products =
                images.flat_map(|image| convolve(&shape, image, &weights[first..first + n]));
            for (sum, product) in expected.iter_mut().zip(products) {
                *sum = sum.wrapping_add(product);
            }
            first += n;
        };
        add(own, &x);
        for (guest, values) in spec.guests.iter().zip(&guests) {
            if guest.consumer == consumer {
                let tensor = (
                    guest.channels,
                    guest.height,
                    guest.width,
                    guest.stride,
                    guest.conv,
                );
                add(tensor, values);
            }
        }
        assert_eq!(first, weights.len());
        assert_eq!(
            response.gather(&outputs, 64),
            expected,
            "{spec:?} {:?}",
            packing.choice()
        );
        full |= response.filter_step() * response.filters_per_poly() == degree;
        for o in 0..conv.out_channels {
            n_negated += usize::from(
                response
                    .output(0, o, response.out_height() - 1, response.out_width() - 1)
                    .2,
            );
        }
    }
    (n_negated, full)
}

#[test]
fn packed_products_compute_the_convolution() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let (mut n_cases, mut n_negated, mut n_full) = (0, 0, 0);
    while n_cases < 600 {
        let spec = random_spec(&mut rng);
        let degree = *[64, 128, 256, 512].choose(&mut rng).unwrap();
        let Some(choice) = random_choice(&mut rng, &spec, degree) else {
            continue;
        };
        let packing = SourcePacking::new(&spec, degree, &choice).unwrap();
        let (negated, full) = check(&spec, &packing, &mut rng);
        (n_cases, n_negated, n_full) =
            (n_cases + 1, n_negated + negated, n_full + usize::from(full));
    }
    assert!(
        n_negated > 20 && n_full > 10,
        "{n_negated} negated outputs, {n_full} full polynomials"
    );
}

#[test]
fn chosen_packings_compute_the_convolution() {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    for _ in 0..50 {
        let spec = random_spec(&mut rng);
        let Ok(choice) = choose(&spec, 256, 52, 14, 56) else {
            continue;
        };
        let packing = SourcePacking::new(&spec, 256, &choice).unwrap();
        check(&spec, &packing, &mut rng);
    }
}

#[test]
fn every_correction_is_needed() {
    let spec = SourceSpec::square(2, 4, 2, 1, &[(2, 3, 1)]);
    let choice = PackingChoice {
        images: 1,
        channels: 2,
        filters: vec![1],
    };
    let packing = SourcePacking::new(&spec, 64, &choice).unwrap();
    let response = &packing.responses()[0];
    let weights = vec![1; response.n_weights()];
    let mut kernel = vec![0; 64];
    response.kernel(0, 0, &weights, &mut kernel);
    for &index in packing.corrections()[0].iter() {
        let mut junk = vec![0; 64];
        junk[index as usize] = 1;
        let mut polys = vec![vec![0; 64]; response.n_polys()];
        multiply(&junk, &kernel, &mut polys[0]);
        assert!(
            response.gather(&polys, 64).iter().any(|&y| y != 0),
            "position {index} is not read"
        );
    }
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let spec = SourceSpec::square(3, 8, 2, 1, &[(4, 3, 1)]);
    let choice = |images, channels, filters| PackingChoice {
        images,
        channels,
        filters,
    };
    assert!(SourcePacking::new(&spec, 4096, &choice(2, 3, vec![4])).is_ok());
    for wrong in [
        choice(0, 1, vec![1]),
        choice(1, 0, vec![1]),
        choice(1, 1, vec![]),
        choice(1, 1, vec![0]),
        choice(8, 3, vec![4]),
    ] {
        assert!(
            matches!(
                SourcePacking::new(&spec, 4096, &wrong),
                Err(PackingError::Choice { .. })
            ),
            "{wrong:?}"
        );
    }
    let guest = |size, out_channels, consumer| GuestSpec {
        channels: 2,
        height: size,
        width: size,
        stride: [2; 2],
        conv: ConvGeometry::square(out_channels, 1, 0, 2, size),
        consumer,
    };
    let with_guests = |guests| {
        let spec = SourceSpec {
            guests,
            ..spec.clone()
        };
        choose(&spec, 4096, 52, 14, 56)
    };
    assert!(with_guests(vec![guest(16, 4, 0), guest(15, 4, 0)]).is_ok());
    for wrong in [guest(14, 4, 0), guest(16, 3, 0), guest(16, 4, 1)] {
        assert_eq!(with_guests(vec![wrong]), Err(PackingError::Guest));
    }
    assert_eq!(
        with_guests(vec![guest(16, 4, 0); 17]),
        Err(PackingError::Guest)
    );
    let with = |change: fn(&mut SourceSpec)| {
        let mut changed = spec.clone();
        change(&mut changed);
        choose(&changed, 4096, 52, 14, 56).unwrap_err()
    };
    assert_eq!(
        with(|s| {
            s.height = 600;
            s.consumers[0].out[0] = 600;
        }),
        PackingError::MapTooLarge {
            area: 601 * 9,
            degree: 4096
        }
    );
    let changes: [fn(&mut SourceSpec); 6] = [
        |s| s.stride[0] = 9,
        |s| s.channels = 0,
        |s| s.consumers[0].before[1] = 3,
        |s| s.consumers[0].out = [0; 2],
        |s| s.consumers[0].groups = 2,
        |s| s.consumers[0].dilation[0] = 0,
    ];
    for change in changes {
        assert!(matches!(with(change), PackingError::Geometry { .. }));
    }
}
