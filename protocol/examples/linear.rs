//! Time and bytes of one ResNet-18 layer under encryption: 64 channels of 32x32, 3x3, a batch of 16.

use pi_model::packing::{ConvGeometry, SourcePacking, SourceSpec, choose};
use pi_protocol::he::{
    ClientSource, DEGREE, PublicKey, RlweParams, SecretKey, ServerSource, decrypt,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let params = RlweParams::HIDDEN;
    let conv = ConvGeometry {
        out_channels: 64,
        kernel_h: 3,
        kernel_w: 3,
        padding: 1,
    };
    let spec = SourceSpec {
        guests: vec![],
        channels: 64,
        height: 32,
        width: 32,
        batch: 16,
        stride: 1,
        consumers: vec![conv],
    };
    let choice = choose(
        &spec,
        DEGREE,
        params.k_bits(),
        params.up_bits(),
        params.down_bits(),
    )?;
    let packing = SourcePacking::new(&spec, DEGREE, &choice)?;
    let cost = packing.cost(params.k_bits(), params.up_bits(), params.down_bits());
    let response = &packing.responses()[0];
    let weights: Vec<i32> = (0..response.n_weights())
        .map(|i| (i * 37 % 255) as i32 - 127)
        .collect();
    println!(
        "{choice:?}: {cost:?}, {} threads",
        rayon::current_num_threads()
    );

    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let (key, message) = SecretKey::generate(&[1; 32], &mut rng);
    let public = PublicKey::from_message(&[1; 32], 0, &message)?;
    let mut last = Instant::now();
    let mut lap = |what: &str| {
        println!("{what}: {:.3} s", last.elapsed().as_secs_f64());
        last = Instant::now();
    };
    let (_client, sent) = ClientSource::new(&key, &params, &packing, &[2; 32], &mut rng)?;
    lap("client draws masks");
    let server = ServerSource::new(
        &params,
        &packing,
        &[2; 32],
        0,
        &sent.noise,
        &sent.corrections,
    )?;
    lap("server rebuilds ciphertexts");
    let start = Instant::now();
    let answer = server.respond(&public, response, &weights, &mut rng)?;
    let seconds = start.elapsed().as_secs_f64();
    lap("server responds");
    decrypt(&key, &params, response, 0, &answer.message)?;
    lap("client decrypts");
    println!(
        "{:.1} us of wall time for each product, everything included",
        seconds * 1e6 / cost.products as f64
    );
    Ok(())
}
