//! Both halves together: shares add up to the convolution of the mask, within the stated error.

use super::*;
use pi_model::kernel::{Shape, convolve};
use pi_model::packing::{
    ConvGeometry, GuestSpec, PackingChoice, SourcePacking, SourceSpec, choose,
};
use pi_model::spec::Window;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

struct Outcome {
    errors: Vec<i64>,
    mask: Vec<u64>,
    weights_squared: u64,
    largest_sum: u64,
}

fn signed(value: u64, bits: u32) -> i64 {
    (value << (64 - bits)) as i64 >> (64 - bits)
}

/// Runs a source and all of its consumers; the error of each output, in units of a share.
fn run(params: &RlweParams, packing: &SourcePacking, rng: &mut ChaCha20Rng) -> Outcome {
    let spec = packing.spec();
    let (key, message) = SecretKey::generate(&[1; 32], rng);
    assert_eq!(message.len(), 36_864);
    let public = PublicKey::from_message(&[1; 32], 0, &message).unwrap();
    let seed: [u8; 32] = rng.random();
    let (client, sent) = ClientSource::new(&key, params, packing, &seed, rng).unwrap();
    assert_eq!(sent.noise.len(), packing.noise_bytes(params.up_bits()));
    assert_eq!(
        sent.corrections.len(),
        packing.correction_bytes(params.k_bits())
    );
    let server =
        ServerSource::new(params, packing, &seed, 0, &sent.noise, &sent.corrections).unwrap();
    let (mut errors, mut weights_squared, mut largest_sum) = (Vec::new(), 0, 0);
    for (conv, response) in spec.consumers.iter().zip(packing.responses()) {
        let weights: Vec<i32> = (0..response.n_weights())
            .map(|_| rng.random_range(-127..128))
            .collect();
        let answer = server.respond(&public, response, &weights, rng).unwrap();
        assert_eq!(
            answer.message.len(),
            response.response_bytes(params.down_bits())
        );
        let share = decrypt(&key, params, response, 0, &answer.message).unwrap();
        let p = conv.before;
        let shape = Shape {
            in_channels: spec.channels,
            height: spec.height,
            width: spec.width,
            out_channels: conv.out_channels,
            groups: conv.groups,
            window: Window {
                kernel: conv.kernel,
                stride: spec.stride,
                padding: [p[0], p[1], p[0], p[1]].into(),
                dilation: conv.dilation,
            },
        };
        let images = client.mask().chunks_exact(shape.n_inputs());
        let expected: Vec<u64> = images
            .flat_map(|image| convolve(&shape, image, &weights))
            .collect();
        assert_eq!(
            (share.len(), answer.share.len()),
            (expected.len(), expected.len())
        );
        let sums = share
            .iter()
            .zip(answer.share.iter())
            .map(|(a, b)| a.wrapping_add(*b));
        errors.extend(
            sums.zip(expected)
                .map(|(got, due)| signed(got.wrapping_sub(due), params.k_bits())),
        );
        for j in 0..response.n_filter_polys() {
            weights_squared = weights_squared.max(response.norms(j, &weights).1);
            largest_sum = largest_sum.max(response.largest_sum(j, &weights));
        }
    }
    Outcome {
        errors,
        mask: client.mask().to_vec(),
        weights_squared,
        largest_sum,
    }
}

fn random_spec(rng: &mut ChaCha20Rng) -> SourceSpec {
    let stride = [rng.random_range(1..4), rng.random_range(1..3)];
    let (height, width) = (rng.random_range(9..14), rng.random_range(9..14));
    let groups = [1, 1, 2, 3][rng.random_range(0..4)];
    let channels = groups * rng.random_range(1..4);
    let n_consumers = rng.random_range(1..3);
    let consumers = (0..n_consumers).map(|_| {
        let kernel = [1, 3, 5][rng.random_range(0..3)];
        let window = Window {
            stride,
            dilation: [rng.random_range(1..3); 2],
            ..Window::square(kernel, 1, rng.random_range(0..3.min(kernel)))
        };
        let filters = groups * rng.random_range(1..4);
        ConvGeometry::new(filters, groups, &window, [height, width])
    });
    SourceSpec {
        guests: vec![],
        consumers: consumers.collect(),
        channels,
        height,
        width,
        batch: rng.random_range(1..6),
        stride,
    }
}

#[test]
fn shares_add_up_for_random_geometries() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for case in 0..30 {
        let spec = random_spec(&mut rng);
        let params = if case % 3 == 0 {
            RlweParams::OPENED
        } else {
            RlweParams::HIDDEN
        };
        let choice = choose(
            &spec,
            DEGREE,
            params.k_bits(),
            params.up_bits(),
            params.down_bits(),
        )
        .unwrap();
        let packing = SourcePacking::new(&spec, DEGREE, &choice).unwrap();
        let outcome = run(&params, &packing, &mut rng);
        let most = outcome.errors.iter().map(|e| e.abs()).max().unwrap() as f64;
        let bound = ErrorBound::new(&params, outcome.weights_squared, outcome.largest_sum)
            .max_error(40.0)
            .floor();
        let bound = if params == RlweParams::OPENED {
            0.0
        } else {
            bound
        };
        assert!(
            most <= bound,
            "error {most}, bound {bound}: {spec:?} {choice:?}"
        );
    }
}

#[test]
fn forced_packings_work_up_to_full_polynomials() {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let spec = |size, stride, padding, kernel| {
        SourceSpec::square(4, size, 4, stride, &[(4, kernel, padding)])
    };
    // Blocks of 16x16: the products fill all 4096 coefficients.
    for (size, stride, padding, kernel) in
        [(15, 1, 1, 3), (16, 1, 0, 3), (30, 2, 1, 3), (14, 1, 2, 5)]
    {
        let spec = spec(size, stride, padding, kernel);
        for (images, channels, filters) in [(4, 2, 2), (1, 4, 4), (2, 4, 2), (4, 1, 4), (3, 1, 2)] {
            let choice = PackingChoice {
                images,
                channels,
                filters: vec![filters],
            };
            let packing = SourcePacking::new(&spec, DEGREE, &choice).unwrap();
            let outcome = run(&RlweParams::HIDDEN, &packing, &mut rng);
            let most = outcome.errors.iter().map(|e| e.abs()).max().unwrap();
            let bound = ErrorBound::new(
                &RlweParams::HIDDEN,
                outcome.weights_squared,
                outcome.largest_sum,
            )
            .max_error(40.0);
            assert!(
                most as f64 <= bound,
                "error {most}, bound {bound}: {spec:?} {choice:?}"
            );
        }
    }
}

fn layer(channels: usize, size: usize, batch: usize) -> SourcePacking {
    let spec = SourceSpec::square(channels, size, batch, 1, &[(16, 3, 1)]);
    let choice = choose(&spec, DEGREE, 52, 14, 56).unwrap();
    SourcePacking::new(&spec, DEGREE, &choice).unwrap()
}

#[test]
fn errors_have_the_stated_size_and_masks_are_uniform() {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let outcome = run(&RlweParams::HIDDEN, &layer(32, 16, 16), &mut rng);
    let n = outcome.errors.len() as f64;
    let mean = outcome.errors.iter().sum::<i64>() as f64 / n;
    let rms = (outcome.errors.iter().map(|e| (e * e) as f64).sum::<f64>() / n).sqrt();
    let stated = ErrorBound::typical_rms(&RlweParams::HIDDEN, outcome.weights_squared);
    assert!(mean.abs() < 0.05, "mean {mean}");
    assert!(
        (0.9..1.1).contains(&(rms / stated)) && rms < 2.5,
        "rms {rms}, stated {stated}"
    );
    let n = outcome.mask.len() as f64;
    for bit in 0..52 {
        let ones = outcome.mask.iter().filter(|&&r| r >> bit & 1 == 1).count() as f64;
        let deviations = (2.0 * ones - n) / n.sqrt();
        assert!(
            deviations.abs() < 5.0,
            "bit {bit} is off by {deviations} deviations"
        );
    }
    assert!(outcome.mask.iter().all(|&r| r < 1 << 52));
}

#[test]
fn wrong_messages_are_the_peers_fault() {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let (params, packing) = (RlweParams::HIDDEN, layer(2, 8, 1));
    let (key, message) = SecretKey::generate(&[1; 32], &mut rng);
    let public = PublicKey::from_message(&[1; 32], 0, &message).unwrap();
    let (_, sent) = ClientSource::new(&key, &params, &packing, &[2; 32], &mut rng).unwrap();
    let response = &packing.responses()[0];
    let server = ServerSource::new(
        &params,
        &packing,
        &[2; 32],
        3,
        &sent.noise,
        &sent.corrections,
    )
    .unwrap();
    let answer = server
        .respond(&public, response, &vec![1; response.n_weights()], &mut rng)
        .unwrap();
    let damaged = |bytes: &[u8]| [bytes[1..].to_vec(), [bytes, &[0]].concat(), Vec::new()];
    let is_peer = |error: Option<Error>| matches!(error, Some(Error::Peer { .. }));
    for bytes in damaged(&message) {
        assert!(is_peer(PublicKey::from_message(&[1; 32], 0, &bytes).err()));
    }
    for bytes in damaged(&sent.noise) {
        assert!(is_peer(
            ServerSource::new(&params, &packing, &[2; 32], 3, &bytes, &sent.corrections).err()
        ));
    }
    for bytes in damaged(&sent.corrections) {
        assert!(is_peer(
            ServerSource::new(&params, &packing, &[2; 32], 3, &sent.noise, &bytes).err()
        ));
    }
    for bytes in damaged(&answer.message) {
        assert!(is_peer(decrypt(&key, &params, response, 3, &bytes).err()));
    }
    let mut weights = vec![1; response.n_weights()];
    weights.pop();
    assert!(matches!(
        server.respond(&public, response, &weights, &mut rng).err(),
        Some(Error::Misuse(_))
    ));
    let large = vec![i32::MAX; response.n_weights()];
    assert!(matches!(
        server.respond(&public, response, &large, &mut rng).err(),
        Some(Error::Plan(_))
    ));
}

/// A residual block's last convolution with the shortcut of its input as guest.
#[test]
fn one_response_sums_a_convolution_and_its_shortcut() {
    let mut rng = ChaCha20Rng::seed_from_u64(8);
    for (batch, size) in [(1, 8), (3, 5), (4, 16)] {
        let (height, width) = (2 * size, 2 * size - 1);
        let shortcut = Window::square(1, 2, 0);
        let spec = SourceSpec {
            guests: vec![GuestSpec {
                channels: 3,
                height,
                width,
                stride: [2; 2],
                conv: ConvGeometry::new(6, 1, &shortcut, [height, width]),
                consumer: 0,
            }],
            ..SourceSpec::square(6, size, batch, 1, &[(6, 3, 1)])
        };
        for params in [RlweParams::HIDDEN, RlweParams::OPENED] {
            let (k, up, down) = (params.k_bits(), params.up_bits(), params.down_bits());
            let choice = choose(&spec, DEGREE, k, up, down).unwrap();
            let packing = SourcePacking::new(&spec, DEGREE, &choice).unwrap();
            let (key, message) = SecretKey::generate(&[1; 32], &mut rng);
            let public = PublicKey::from_message(&[1; 32], 0, &message).unwrap();
            let n_guest = batch * 3 * height * width;
            let guest: Vec<u64> = (0..n_guest)
                .map(|_| rng.random::<u64>() >> (64 - k))
                .collect();
            let refused = ClientSource::new(&key, &params, &packing, &[7; 32], &mut rng).err();
            assert!(matches!(refused, Some(Error::Misuse(_))));
            let (client, sent) =
                ClientSource::with_guests(&key, &params, &packing, &[7; 32], &[&guest], &mut rng)
                    .unwrap();
            let (noise, corrections) = (&sent.noise, &sent.corrections);
            let server =
                ServerSource::new(&params, &packing, &[7; 32], 0, noise, corrections).unwrap();
            let response = &packing.responses()[0];
            let weights: Vec<i32> = (0..response.n_weights())
                .map(|_| rng.random_range(-127..128))
                .collect();
            assert_eq!(weights.len(), 6 * 6 * 9 + 6 * 3);
            let answer = server
                .respond(&public, response, &weights, &mut rng)
                .unwrap();
            let share = decrypt(&key, &params, response, 0, &answer.message).unwrap();
            let shape = |in_channels, height, width, kernel, stride, padding| Shape {
                in_channels,
                height,
                width,
                out_channels: 6,
                groups: 1,
                window: Window::square(kernel, stride, padding),
            };
            let own = shape(6, size, size, 3, 1, 1);
            let shortcut = shape(3, height, width, 1, 2, 0);
            let products = |shape: &Shape, x: &[u64], weights: &[i32]| -> Vec<u64> {
                let images = x.chunks_exact(shape.n_inputs());
                images.flat_map(|x| convolve(shape, x, weights)).collect()
            };
            let (first, second) = weights.split_at(6 * 6 * 9);
            let own = products(&own, client.mask(), first);
            let shortcut = products(&shortcut, &guest, second);
            let most = ErrorBound::new(
                &params,
                response.norms(0, &weights).1,
                response.largest_sum(0, &weights),
            )
            .max_error(40.0);
            let most = if k == 52 { most as i64 } else { 0 };
            for (i, (a, b)) in share.iter().zip(answer.share.iter()).enumerate() {
                let due = own[i].wrapping_add(shortcut[i]);
                let error = signed(a.wrapping_add(*b).wrapping_sub(due), k);
                assert!(error.abs() <= most, "output {i} is off by {error}");
            }
        }
    }
}
