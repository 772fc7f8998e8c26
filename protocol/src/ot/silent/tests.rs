use super::*;
use crate::ot::softspoken::{ReceiverSetup, SenderSetup};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

fn setup(seed: u64) -> (Sender, Receiver) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let session = [seed as u8; 32];
    let (receiver, first) = ReceiverSetup::new(session, &mut rng);
    let delta = Delta::random(&mut rng);
    let (sender, second) = SenderSetup::new(session, delta, &first, &mut rng).unwrap();
    let (receiver, third) = receiver.finish(&second).unwrap();
    let sender = sender.finish(&third).unwrap();
    (
        Sender::new(sender, session, Seed::from([seed as u8; 32])),
        Receiver::new(receiver, session),
    )
}

/// What any correlated OT must give, the ideal one included.
fn run<S: CotSender, R: CotReceiver>(sender: &mut S, receiver: &mut R, n: usize) -> Extended {
    let mut got = receiver.extend(n).unwrap();
    assert_eq!(got.message.len(), sender.message_bytes(n));
    let q = sender.extend(n, &got.message).unwrap();
    let reply = sender.reply();
    assert_eq!(reply.len(), receiver.reply_bytes(n));
    assert_eq!(reply.len(), sender.reply_bytes(n));
    receiver.finish(n, &mut got, &reply).unwrap();
    assert_eq!(
        (q.len(), got.blocks.len(), got.choices.len()),
        (n, n, n.div_ceil(8))
    );
    let delta = sender.delta().block();
    for (i, q) in q.iter().enumerate() {
        let want = q.xor_if(packed_bit(&got.choices, i), delta);
        assert_eq!(got.blocks[i], want, "OT {i} of {n}");
    }
    if !n.is_multiple_of(8) {
        assert_eq!(got.choices[n / 8] >> (n % 8), 0);
    }
    got
}

#[test]
fn correlation_holds_as_in_the_ideal_twin() {
    let (mut sender, mut receiver) = setup(1);
    let (mut ideal_sender, mut ideal_receiver) = crate::ot::ideal::pair(&[1; 32]);
    let mut seen = std::collections::HashSet::new();
    for n in [
        0,
        1,
        1000,
        MIN_SILENT - 1,
        MIN_SILENT,
        MIN_SILENT + 1,
        20_001,
        32_768,
        50_003,
        MIN_SILENT,
        350_000,
        (1 << 20) + 3,
    ] {
        run(&mut ideal_sender, &mut ideal_receiver, n);
        let got = run(&mut sender, &mut receiver, n);
        assert!(
            got.blocks.iter().all(|t| seen.insert(t.0)),
            "a block came twice"
        );
        let ones: u32 = got.choices.iter().map(|c| c.count_ones()).sum();
        let slack = 4.0 * (n as f64).sqrt() / 2.0 + 1.0;
        assert!(
            (f64::from(ones) - n as f64 / 2.0).abs() < slack,
            "{ones} ones in {n}"
        );
    }
}

#[test]
fn random_shapes() {
    use rand::Rng;
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let (mut sender, mut receiver) = setup(2);
    for _ in 0..12 {
        run(
            &mut sender,
            &mut receiver,
            rng.random_range(MIN_SILENT..120_000),
        );
    }
}

#[test]
fn shapes_keep_their_bounds_and_bytes_fall_below_a_bit() {
    for n in (MIN_SILENT..6_000_000)
        .step_by(10_007)
        .chain([MIN_SILENT, 1 << 20, 1 << 21])
    {
        let shapes = Shape::chunks(n);
        assert_eq!(shapes.iter().map(|s| s.n).sum::<usize>(), n);
        for (i, shape) in shapes.iter().enumerate() {
            assert!((272..512).contains(&shape.n_trees), "{shape:?}");
            assert!(shape.n_positions() >= 2 * shape.n, "{shape:?}");
            assert!(
                shape.n <= 1 << 20 && shape.n_leaves().is_multiple_of(64),
                "{shape:?}"
            );
            assert!(i + 1 == shapes.len() || shape.n == 1 << 20, "{shape:?}");
        }
        let total = message_bytes(n) + reply_bytes(n);
        assert!(total < softspoken::message_bytes(n), "{n}: {total}");
        // The last chunk may be short, and has as many errors as a full one.
        assert!(n < 1 << 20 || 8 * total <= n + n / 3, "{n}: {total} bytes");
        assert!(n < 1 << 21 || 8 * total <= n, "{n}: {total} bytes");
    }
    for n in [350_000, 1 << 20, 2_100_000, 5_600_000] {
        let total = message_bytes(n) + reply_bytes(n);
        println!(
            "{n}: {total} bytes, {:.2} bits",
            8.0 * total as f64 / n as f64
        );
    }
}

#[test]
fn two_extensions_may_wait_and_finish_in_order() {
    let (mut sender, mut receiver) = setup(3);
    let (n, m) = (MIN_SILENT, MIN_SILENT + 9);
    let mut one = receiver.extend(n).unwrap();
    let mut two = receiver.extend(m).unwrap();
    let q_one = sender.extend(n, &one.message).unwrap();
    let reply_one = sender.reply();
    assert!(sender.reply().is_empty());
    let q_two = sender.extend(m, &two.message).unwrap();
    let reply_two = sender.reply();
    receiver.finish(n, &mut one, &reply_one).unwrap();
    receiver.finish(m, &mut two, &reply_two).unwrap();
    let delta = sender.delta().block();
    for (q, got) in [(q_one, one), (q_two, two)] {
        for (i, q) in q.iter().enumerate() {
            assert_eq!(got.blocks[i], q.xor_if(packed_bit(&got.choices, i), delta));
        }
    }
    let mut none = receiver.extend(MIN_SILENT).unwrap();
    let reply = vec![0; reply_bytes(MIN_SILENT + 1)];
    assert!(receiver.finish(MIN_SILENT + 1, &mut none, &reply).is_err());
}

/// One byte of the reply is spoiled, wherever it is.
#[test]
fn a_deviating_sender_is_caught() {
    let n = MIN_SILENT;
    let shape = Shape::chunks(n)[0];
    let (mut sender, mut receiver) = setup(4);
    for at in (0..reply_bytes(n)).step_by(1531).chain([
        shape.depth * 16,
        shape.tree_bytes() - 1,
        reply_bytes(n) - 1,
    ]) {
        let mut got = receiver.extend(n).unwrap();
        sender.extend(n, &got.message).unwrap();
        let mut reply = sender.reply();
        reply[at] ^= 8;
        let error = receiver.finish(n, &mut got, &reply).unwrap_err();
        assert!(matches!(error, Error::Peer { .. }), "byte {at}");
        assert!(got.blocks.is_empty());
        let again = receiver.finish(n, &mut got, &reply);
        assert!(matches!(again, Err(Error::Misuse(_))), "byte {at}");
        let further = receiver.extend(n);
        assert!(matches!(further, Err(Error::Misuse(_))), "byte {at}");
        receiver.spent = false;
    }
    for length in [0, 1, reply_bytes(n) - 1, reply_bytes(n) + 1] {
        let (mut sender, mut receiver) = setup(5);
        let mut got = receiver.extend(n).unwrap();
        sender.extend(n, &got.message).unwrap();
        let mut reply = sender.reply();
        reply.resize(length, 0);
        assert!(matches!(
            receiver.finish(n, &mut got, &reply),
            Err(Error::Peer { .. })
        ));
    }
}

/// Trees with another correlation than that of the base OTs: every path but a guessed one sees it.
#[test]
fn another_delta_in_one_tree_is_caught() {
    let mut rng = ChaCha20Rng::seed_from_u64(6);
    let depth = 7;
    let hashes = Hashes::new(&[1; 32], 0);
    let delta = Delta::random(&mut rng).block();
    let q: Vec<Block> = (0..depth).map(|_| Block::random(&mut rng)).collect();
    let root = Block::random(&mut rng);
    for (planted, honest) in [(delta, true), (delta ^ Block(1 << 90), false)] {
        let mut all = vec![Block::ZERO; 1 << depth];
        let mut reply = vec![0; depth * 16 + 32];
        let hash = mpcot::plant(&hashes, planted, root, &q, &mut all, &mut reply);
        for path in 0..1 << depth {
            let t: Vec<Block> = (0..depth)
                .map(|level| {
                    let bit = (path >> (depth - 1 - level)) as u8 & 1;
                    q[level].xor_if(1 - bit, delta)
                })
                .collect();
            let mut some = vec![Block(7); 1 << depth];
            let got = mpcot::puncture(&hashes, path, &t, &mut some, &reply);
            // A path of ones never uses the correlation of its base OTs: that is the guess which the check allows.
            assert_eq!(
                got == hash,
                honest || path == (1 << depth) - 1,
                "path {path}"
            );
            if honest {
                for (i, (a, b)) in all.iter().zip(&some).enumerate() {
                    assert_eq!(*a, b.xor_if(u8::from(i == path), delta));
                }
            }
        }
    }
}

#[test]
fn a_deviating_receiver_is_caught() {
    let n = MIN_SILENT;
    let (mut sender, mut receiver) = setup(7);
    let mut got = receiver.extend(n).unwrap();
    let last = got.message.len() - 1;
    got.message[last] ^= 1;
    assert!(matches!(
        sender.extend(n, &got.message),
        Err(Error::Peer { .. })
    ));
    assert!(sender.reply().is_empty());
    let next = receiver.extend(n).unwrap();
    assert!(matches!(
        sender.extend(n, &next.message),
        Err(Error::Misuse(_))
    ));
}
