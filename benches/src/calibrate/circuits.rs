//! Garbled circuits and oblivious transfers, and what both parties do around them for each label and each ReLU.

use pi_model::bits::{pack, unpack};
use pi_protocol::primitives::digits::{
    DigitTests, digit_labels, evaluate_digits, evaluator_keys, garble_digits,
};
use pi_protocol::primitives::multiplexer::{
    ServerKeys, client_decrypt, client_products, server_encrypt, server_products,
};
use pi_protocol::primitives::ot::{
    CotReceiver as _, CotSender as _, receiver_pads, sender_pads, softspoken,
};
use pi_protocol::primitives::{
    ActiveLabel, Block, Delta, Instances, Ring, Scheme, Seed, TweakBase, ZeroLabel,
    active_label_hash, evaluate, garble, label_hash, sign_circuit,
};
use pi_protocol::session::OtMode;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

use super::{Rates, cold, typical};
use crate::error::BenchError;

/// ReLUs of the layer that is measured.
const N: usize = 1 << 14;
/// Bits of the sign test.
const BITS: usize = 14;
/// Bits of the ring of the result.
const RING_BITS: u32 = 25;
/// Bits of the pads of the multiplexer's transfers.
const PAD_BITS: u32 = 62;

impl Rates {
    /// Measures gates, labels and ReLUs by one layer.
    // house: one measurement after the other of the same layer, each on what the one before has made
    pub(super) fn circuits(&mut self) -> Result<(), BenchError> {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let circuit = sign_circuit(BITS)?;
        let signs = Instances {
            circuit: &circuit,
            n_instances: N,
            start_key: Block::random(&mut rng),
            tweak: TweakBase::new(0, 0)?,
            scheme: Scheme::HalfGates,
        };
        let delta = Delta::random(&mut rng);
        let cots: Vec<Block> = (0..N * BITS).map(|_| Block::random(&mut rng)).collect();
        let from_cots = || -> Vec<ZeroLabel> {
            cots.iter()
                .map(|&q| ZeroLabel::from_cot(q, 0, &delta))
                .collect()
        };
        let zero = from_cots();
        let seed = pi_protocol::primitives::os_seed()?;
        let n_gates = (N * circuit.n_and()) as f64;
        self.garble_and_s = typical(5, || {
            garble(&signs, &delta, &seed, &zero, Some(&vec![0; N]))
        }) / n_gates;
        let garbled = garble(&signs, &delta, &seed, &zero, Some(&vec![0; N]))?;
        let own: Vec<ActiveLabel> = zero.iter().map(|z| z.active(0, &delta)).collect();
        let choose = || -> Vec<u8> {
            let mut message = Vec::with_capacity(N * BITS * ActiveLabel::BYTES);
            for (i, zero) in garbled.garbler_zero.iter().enumerate() {
                message.extend_from_slice(&zero.active((i & 1) as u8, &delta).to_bytes());
            }
            message
        };
        let read = |message: &[u8]| -> Vec<ActiveLabel> {
            let blocks = message.as_chunks().0.iter();
            blocks.map(|&b| ActiveLabel::from_bytes(b)).collect()
        };
        let message = choose();
        let active = read(&message);
        self.label_s = (cold(5, choose) + typical(5, || read(&message))) / (N * BITS) as f64;
        self.evaluate_and_s =
            cold(5, || evaluate(&signs, &garbled.tables, &active, &own)) / n_gates;

        let sliced = Instances {
            scheme: Scheme::ThreeHalves,
            ..signs
        };
        let colours = vec![0; N];
        self.garble_sliced_and_s =
            typical(5, || garble(&sliced, &delta, &seed, &zero, Some(&colours))) / n_gates;
        // The garbler's labels are the same in both schemes.
        let tables = garble(&sliced, &delta, &seed, &zero, Some(&colours))?.tables;
        self.evaluate_sliced_and_s =
            cold(5, || evaluate(&sliced, &tables, &active, &own)) / n_gates;

        self.digits(&delta, &seed, &cots)?;
        let outputs = evaluate(&signs, &garbled.tables, &active, &own)?;
        let ring = Ring::new(RING_BITS);
        let values: Vec<u64> = (0..N as u64)
            .map(|i| ring.reduce(i * 0x9e37_79b9))
            .collect();
        let bits: Vec<u8> = (0..N).map(|i| (i & 1) as u8).collect();
        let keys = ServerKeys {
            choices: &bits,
            products: &values,
            hash_of_colour_0: &values,
            hash_of_colour_1: &values,
        };
        let online = cold(5, || -> Result<_, BenchError> {
            let (ciphertexts, offsets) = server_encrypt(ring, &keys, &values);
            let sent = pack(&ciphertexts, RING_BITS);
            let ciphertexts = unpack(&sent, N, RING_BITS).unwrap_or_default();
            let colours: Vec<u8> = outputs.iter().map(|label| label.colour()).collect();
            let hashes = active_label_hash(&signs, &outputs, RING_BITS)?;
            let opened = client_decrypt(ring, &colours, &hashes, &ciphertexts, &values, &values);
            let results = pack(&masked(ring, &opened, &values), RING_BITS);
            let results = unpack(&results, N, RING_BITS).unwrap_or_default();
            Ok(masked(ring, &results, &offsets))
        });
        self.relu_s = online / N as f64;

        let start = Block::random(&mut rng);
        let offline = typical(5, || -> Result<_, BenchError> {
            let hashes = label_hash(&signs, &delta, &garbled.output_zero, RING_BITS)?;
            let [r0, r1] = sender_pads(start, 0, &cots[..N], &delta, PAD_BITS)?;
            let received = receiver_pads(start, 0, &cots[..N], PAD_BITS)?;
            let (corrections, products) = client_products(ring, &r0, &r1, &values);
            let sent = pack(&corrections, RING_BITS);
            let corrections = unpack(&sent, N, RING_BITS).unwrap_or_default();
            let shares = server_products(ring, &bits, &received, &corrections);
            Ok((hashes, products, shares))
        });
        self.prepare_relu_s = offline / N as f64;
        let flips: Vec<u64> = (0..(N * BITS) as u64).map(|i| i & 1).collect();
        let labels = typical(5, || {
            let sent = pack(&flips, 1);
            let flips = unpack(&sent, N * BITS, 1);
            let own: Vec<ActiveLabel> = cots.iter().map(|&t| ActiveLabel::from_cot(t)).collect();
            (flips, from_cots(), own)
        });
        self.prepare_label_s = labels / (N * BITS) as f64;
        Ok(())
    }

    /// Measures a layer that the client garbles.
    fn digits(&mut self, delta: &Delta, seed: &Seed, cots: &[Block]) -> Result<(), BenchError> {
        let tests = DigitTests {
            sign_bits: BITS as u32,
            n_instances: N,
            start_key: Block::ZERO,
            tweak: TweakBase::new(0, 0)?,
        };
        let n_digits = tests.n_labels() as f64;
        let shares: Vec<u64> = (0..N as u64).map(|i| i % (1 << BITS)).collect();
        let garble = || garble_digits(&tests, delta, seed, cots, &shares);
        self.garble_digit_s = typical(5, garble) / n_digits;
        let garbled = garble()?;
        let keys = evaluator_keys(&tests, cots)?;
        let labels = digit_labels(&tests, &garbled.offsets, delta, &shares)?;
        let evaluate = || evaluate_digits(&tests, &garbled.tables, &keys, &labels, &shares);
        self.evaluate_digit_s = cold(5, evaluate) / n_digits;
        Ok(())
    }

    /// Measures what the end of an inference costs: its material is wiped and given back.
    pub(super) fn forgetting(&mut self) {
        const TABLES: usize = 4 << 20;
        const LABELS: usize = TABLES / 32;
        let seconds: Vec<f64> = (0..3)
            .map(|_| {
                let layers: Vec<(Vec<u8>, Zeroizing<Vec<Block>>)> = (0..12)
                    .map(|i| (vec![i; TABLES], Zeroizing::new(vec![Block::ZERO; LABELS])))
                    .collect();
                let started = std::time::Instant::now();
                drop(std::hint::black_box(layers));
                started.elapsed().as_secs_f64()
            })
            .collect();
        let n_bytes = 12 * (TABLES + LABELS * Block::BYTES);
        self.forget_byte_s = crate::stats::median(&seconds) / n_bytes as f64;
    }

    /// Measures base transfers, the extension and the silent mode on top of it.
    pub(super) fn transfers(&mut self) -> Result<(), BenchError> {
        const N: usize = 1 << 17;
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let started = std::time::Instant::now();
        let (receiver, first) = softspoken::ReceiverSetup::new([7; 32], &mut rng);
        let delta = Delta::random(&mut rng);
        let (sender, answer) = softspoken::SenderSetup::new([7; 32], delta, &first, &mut rng)?;
        let (mut receiver, trees) = receiver.finish(&answer)?;
        let mut sender = sender.finish(&trees)?;
        self.base_ot_s = started.elapsed().as_secs_f64();
        let seconds = typical(5, || -> Result<_, pi_protocol::Error> {
            let extended = receiver.extend(N)?;
            sender.extend(N, &extended.message)
        });
        self.ot_s = seconds / N as f64;
        let mut sender =
            OtMode::Silent.sender(sender, [8; 32], pi_protocol::primitives::os_seed()?);
        let mut receiver = OtMode::Silent.receiver(receiver, [8; 32]);
        let seconds = typical(3, || -> Result<_, pi_protocol::Error> {
            let mut extended = receiver.extend(N)?;
            let blocks = sender.extend(N, &extended.message)?;
            receiver.finish(N, &mut extended, &sender.reply())?;
            Ok((extended, blocks))
        });
        self.silent_ot_s = seconds / N as f64;
        Ok(())
    }
}

fn masked(ring: Ring, values: &[u64], masks: &[u64]) -> Vec<u64> {
    values
        .iter()
        .zip(masks)
        .map(|(&v, &m)| ring.sub(v, m))
        .collect()
}
