//! Homomorphic encryption: keys, ciphertexts, and the parts of a convolution.

use pi_model::packing::{SourcePacking, SourceSpec, choose};
use pi_protocol::primitives::he::{
    self, ClientSource, DEGREE, RlweParams, SecretKey, ServerSource,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::fit::fit;
use super::{Rates, typical};
use crate::error::{BenchError, failed};
use crate::predict::n_transforms;

/// Channels (as many filters), rows and columns of the map, images: layers of residual networks. With several images a
/// transformed weight serves several products, which tells the two apart.
const TILES: [(usize, usize, usize); 7] = [
    (16, 32, 1),
    (64, 32, 1),
    (128, 16, 1),
    (256, 8, 1),
    (16, 32, 4),
    (64, 16, 8),
    (16, 32, 8),
];

impl Rates {
    /// Measures transform, product and finish by least squares over [`TILES`], the rest directly.
    pub(super) fn encryption(&mut self) -> Result<(), BenchError> {
        let tiles = TILES.map(|(channels, size, batch)| Tile::measure(channels, size, batch));
        let tiles = tiles.into_iter().collect::<Result<Vec<_>, _>>()?;
        let each = |n: fn(&Tile) -> f64, s: fn(&Tile) -> f64| {
            let rows: Vec<_> = tiles.iter().map(|t| ([n(t)], s(t))).collect();
            fit(&rows)[0]
        };
        self.key_s = tiles.iter().map(|t| t.key_s).fold(f64::INFINITY, f64::min);
        self.encrypt_s = each(|t| t.n_inputs, |t| t.encrypt_s);
        self.rebuild_s = each(|t| t.n_inputs, |t| t.rebuild_s);
        self.decrypt_s = each(|t| t.work[2], |t| t.decrypt_s);
        let rows: Vec<_> = tiles.iter().map(|t| (t.work, t.respond_s)).collect();
        [self.weight_transform_s, self.product_s, self.finish_s] = fit(&rows);
        Ok(())
    }
}

/// One convolution under encryption.
struct Tile {
    n_inputs: f64,
    /// Transforms of weights, products, response polynomials.
    work: [f64; 3],
    key_s: f64,
    encrypt_s: f64,
    rebuild_s: f64,
    respond_s: f64,
    decrypt_s: f64,
}

impl Tile {
    /// 3 x 3, with the packing that is best for these images.
    fn measure(channels: usize, size: usize, batch: usize) -> Result<Self, BenchError> {
        let bug = |e: &dyn std::fmt::Display| failed("calibration", e);
        let params = RlweParams::new(52, 20, 6, 16)?;
        let spec = SourceSpec::square(channels, size, batch, 1, &[(channels, 3, 1)]);
        let (k, up, down) = (params.k_bits(), params.up_bits(), params.down_bits());
        let choice = choose(&spec, DEGREE, k, up, down).map_err(|e| bug(&e))?;
        let packing = SourcePacking::new(&spec, DEGREE, &choice).map_err(|e| bug(&e))?;
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let mut keys = || -> Result<_, pi_protocol::Error> {
            let (key, message) = SecretKey::generate(&[1; 32], &mut rng);
            Ok((key, he::PublicKey::from_message(&[1; 32], 0, &message)?))
        };
        let (key, public) = keys()?;
        let key_s = typical(3, &mut keys);
        let [response] = packing.responses() else {
            return Err(bug(&"one convolution, but not one response"));
        };
        let weights: Vec<i32> = (0..response.n_weights())
            .map(|i| (i * 31 % 255) as i32 - 127)
            .collect();
        let (_, sent) = ClientSource::new(&key, &params, &packing, &[2; 32], &mut rng)?;
        let rebuild = || {
            let (noise, corrections) = (&sent.noise, &sent.corrections);
            ServerSource::new(&params, &packing, &[2; 32], 0, noise, corrections)
        };
        let server = rebuild()?;
        let answer = server.respond(&public, response, &weights, &mut rng)?;
        Ok(Self {
            n_inputs: packing.n_polys() as f64,
            work: [
                n_transforms(response) as f64,
                response.n_products() as f64,
                response.n_polys() as f64,
            ],
            key_s,
            encrypt_s: typical(3, || {
                ClientSource::new(&key, &params, &packing, &[2; 32], &mut rng)
            }),
            rebuild_s: typical(3, rebuild),
            respond_s: typical(3, || server.respond(&public, response, &weights, &mut rng)),
            decrypt_s: typical(3, || {
                he::decrypt(&key, &params, response, 0, &answer.message)
            }),
        })
    }
}
