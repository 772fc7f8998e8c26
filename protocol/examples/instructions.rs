//! Runs one kernel a number of times, from fixed seeds, on one thread: what `cargo xtask instructions` counts.
//!
//! Without arguments it lists the kernels, each with its unit; with a kernel and a number it runs the kernel as often.

use std::hint::black_box;

use pi_model::kernel::{Conv2d, Shape};
use pi_model::packing::{SourcePacking, SourceSpec, choose};
use pi_model::spec::Window;
use pi_protocol::primitives::Scheme::{self, HalfGates, ThreeHalves};
use pi_protocol::primitives::Seed;
use pi_protocol::primitives::digits::{
    DigitTests, digit_labels, evaluate_digits, evaluator_keys, garble_digits,
};
use pi_protocol::primitives::he::{
    ClientSource, DEGREE, PublicKey, RlweParams, SecretKey, ServerSource,
};
use pi_protocol::primitives::{ActiveLabel, Block, Delta, ZeroLabel};
use pi_protocol::primitives::{Domain, TweakBase, hash_to_bits};
use pi_protocol::primitives::{Instances, evaluate, garble, sign_circuit};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const KERNELS: [&str; 10] = [
    "hash",
    "garble",
    "evaluate",
    "garble-three-halves",
    "evaluate-three-halves",
    "garble-digits",
    "evaluate-digits",
    "transform",
    "product",
    "convolution",
];

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, times] = &args[..] else {
        println!("{}", KERNELS.join("\n"));
        return Ok(());
    };
    let times: usize = times.parse()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| match kernel.as_str() {
        "hash" => hash(times).map_err(|e| e.to_string()),
        "garble" => circuits(HalfGates, times, 0).map_err(|e| e.to_string()),
        "evaluate" => circuits(HalfGates, 0, times).map_err(|e| e.to_string()),
        "garble-three-halves" => circuits(ThreeHalves, times, 0).map_err(|e| e.to_string()),
        "evaluate-three-halves" => circuits(ThreeHalves, 0, times).map_err(|e| e.to_string()),
        "garble-digits" => digits(times, 0).map_err(|e| e.to_string()),
        "evaluate-digits" => digits(0, times).map_err(|e| e.to_string()),
        "transform" => encryption(times, 0).map_err(|e| e.to_string()),
        "product" => encryption(0, times).map_err(|e| e.to_string()),
        "convolution" => convolution(times).map_err(|e| e.to_string()),
        _ => Err(format!("there is no kernel {kernel}")),
    })?;
    Ok(())
}

/// 4,096 label hashes to 52 bits.
fn hash(times: usize) -> Outcome {
    let blocks = vec![Block(7); 4096];
    let base = TweakBase::new(0, 0)?;
    for _ in 0..times {
        let blocks = blocks.iter().copied();
        black_box(hash_to_bits(Block(3), Domain::Output, base, 0, blocks, 52)?);
    }
    Ok(())
}

/// 256 sign tests of 14 bits: 3,328 AND gates.
fn circuits(scheme: Scheme, n_garble: usize, n_evaluate: usize) -> Outcome {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let circuit = sign_circuit(14)?;
    let signs = Instances {
        circuit: &circuit,
        n_instances: 256,
        start_key: Block(5),
        tweak: TweakBase::new(0, 0)?,
        scheme,
    };
    let delta = Delta::random(&mut rng);
    let zero = vec![ZeroLabel::default(); signs.n_evaluator_labels()];
    let active = vec![ActiveLabel::default(); signs.n_evaluator_labels()];
    let seed = Seed::from([1; 32]);
    let garbled = garble(&signs, &delta, &seed, &zero, None)?;
    for _ in 0..n_garble {
        black_box(garble(&signs, &delta, &seed, &zero, None)?);
    }
    for _ in 0..n_evaluate {
        black_box(evaluate(&signs, &garbled.tables, &active, &active)?);
    }
    Ok(())
}

/// 256 sign tests of 14 bits by radix-16 digits.
fn digits(n_garble: usize, n_evaluate: usize) -> Outcome {
    let tests = DigitTests {
        sign_bits: 14,
        n_instances: 256,
        start_key: Block(5),
        tweak: TweakBase::new(0, 0)?,
    };
    let delta = Delta::random(&mut ChaCha20Rng::seed_from_u64(1));
    let seed = Seed::from([1; 32]);
    let ots = vec![Block(7); tests.n_ots()];
    let shares: Vec<u64> = (0..256).map(|i| i * 0x9e37 % (1 << 14)).collect();
    let garbled = garble_digits(&tests, &delta, &seed, &ots, &shares)?;
    let keys = evaluator_keys(&tests, &ots)?;
    let labels = digit_labels(&tests, &garbled.offsets, &delta, &shares)?;
    for _ in 0..n_garble {
        black_box(garble_digits(&tests, &delta, &seed, &ots, &shares)?);
    }
    for _ in 0..n_evaluate {
        black_box(evaluate_digits(
            &tests,
            &garbled.tables,
            &keys,
            &labels,
            &shares,
        )?);
    }
    Ok(())
}

/// 16 to 16 channels of 16 x 16 under encryption: ciphertexts rebuilt and transformed, or multiplied and answered.
fn encryption(n_transform: usize, n_product: usize) -> Outcome {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let params = RlweParams::HIDDEN;
    let spec = SourceSpec::square(16, 16, 1, 1, &[(16, 3, 1)]);
    let choice = choose(
        &spec,
        DEGREE,
        params.k_bits(),
        params.up_bits(),
        params.down_bits(),
    )?;
    let packing = SourcePacking::new(&spec, DEGREE, &choice)?;
    let (key, message) = SecretKey::generate(&[1; 32], &mut rng);
    let public = PublicKey::from_message(&[1; 32], 0, &message)?;
    let (_, sent) = ClientSource::new(&key, &params, &packing, &[2; 32], &mut rng)?;
    let rebuild = || {
        ServerSource::new(
            &params,
            &packing,
            &[2; 32],
            0,
            &sent.noise,
            &sent.corrections,
        )
    };
    let server = rebuild()?;
    let response = &packing.responses()[0];
    let weights: Vec<i32> = (0..response.n_weights())
        .map(|i| (i * 31 % 255) as i32 - 127)
        .collect();
    for _ in 0..n_transform {
        black_box(rebuild()?);
    }
    for _ in 0..n_product {
        black_box(server.respond(&public, response, &weights, &mut rng)?);
    }
    Ok(())
}

/// 16 to 16 channels of 16 x 16, 3 x 3, in Z_2^52.
fn convolution(times: usize) -> Outcome {
    let shape = Shape {
        in_channels: 16,
        height: 16,
        width: 16,
        out_channels: 16,
        groups: 1,
        window: Window::square(3, 1, 1),
    };
    let weights: Vec<i32> = (0..shape.n_weights())
        .map(|i| (i * 31 % 255) as i32 - 127)
        .collect();
    let conv = Conv2d::new(shape, &weights, 52)?;
    let x: Vec<u64> = (0..shape.n_inputs() as u64)
        .map(|i| i * 0x9e37_79b9 % (1 << 52))
        .collect();
    for _ in 0..times {
        black_box(conv.apply_serial(&x)?);
    }
    Ok(())
}
