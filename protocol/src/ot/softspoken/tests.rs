use super::*;
use crate::ot::packed_bit;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use std::sync::OnceLock;

fn setup(seed: u64) -> (Sender, Receiver) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let session = [seed as u8; 32];
    let (receiver, first) = ReceiverSetup::new(session, &mut rng);
    let delta = Delta::random(&mut rng);
    let (sender, second) = SenderSetup::new(session, delta, &first, &mut rng).unwrap();
    assert_eq!(second.len(), BASE_RECEIVER_BYTES);
    let (receiver, third) = receiver.finish(&second).unwrap();
    assert_eq!(third.len(), TREES_BYTES);
    (sender.finish(&third).unwrap(), receiver)
}

#[allow(clippy::needless_range_loop)] // three sequences share the index
fn assert_correlated(delta: &Delta, q: &[Block], got: &Extended, n: usize) {
    assert_eq!(
        (q.len(), got.blocks.len(), got.choices.len()),
        (n, n, n.div_ceil(8))
    );
    for i in 0..n {
        let want = q[i].xor_if(packed_bit(&got.choices, i), delta.block());
        assert_eq!(got.blocks[i], want, "OT {i} of {n}");
    }
    if !n.is_multiple_of(8) {
        assert_eq!(got.choices[n / 8] >> (n % 8), 0);
    }
}

#[test]
fn correlation_holds_and_nothing_repeats() {
    let (mut sender, mut receiver) = setup(1);
    let mut seen = std::collections::HashSet::new();
    let mut ones = 0;
    for n in [0, 1, 127, 128, 129, 1000, 0, 1000, 100_000] {
        let got = receiver.extend(n).unwrap();
        assert_eq!(got.message.len(), message_bytes(n));
        let q = sender.extend(n, &got.message).unwrap();
        assert_correlated(sender.delta(), &q, &got, n);
        assert!(q.iter().all(|q| seen.insert(q.0)), "a block came twice");
        ones += got.choices.iter().map(|c| c.count_ones()).sum::<u32>();
    }
    assert!(
        (50_000..53_500).contains(&ones),
        "{ones} ones in 102,385 random bits"
    );
}

#[test]
fn message_sizes() {
    assert_eq!((message_bytes(0), message_bytes(1)), (0, 2 * 496 + 48));
    assert_eq!(message_bytes(128), 2 * 496 + 48);
    assert_eq!(message_bytes(129), 3 * 496 + 48);
}

#[test]
fn tampering_is_caught_and_ends_the_session() {
    let n = 300;
    let length = message_bytes(n);
    let places = [
        0,
        15,
        16,
        495,
        496,
        4 * 496 - 1,
        4 * 496,
        length - 33,
        length - 32,
        length - 1,
    ];
    for (seed, at) in places.into_iter().enumerate() {
        let (mut sender, mut receiver) = setup(10 + seed as u64);
        let mut got = receiver.extend(n).unwrap();
        // Every bit of Delta's nibble would have to be zero for the change to go unseen.
        got.message[at] ^= 0x10;
        let nibble = sender.delta.block().0 >> (4 * (at % 496 / 16 + 1)) & 15;
        if at < 4 * 496 && nibble == 0 {
            continue;
        }
        assert!(
            matches!(sender.extend(n, &got.message), Err(Error::Peer { .. })),
            "byte {at}"
        );
        let next = receiver.extend(n).unwrap();
        assert!(matches!(
            sender.extend(n, &next.message),
            Err(Error::Misuse(_))
        ));
    }
}

#[test]
fn a_message_serves_once_and_in_its_place() {
    let (mut sender, mut receiver) = setup(30);
    let got = receiver.extend(100).unwrap();
    sender.extend(100, &got.message).unwrap();
    assert!(matches!(
        sender.extend(100, &got.message),
        Err(Error::Peer { .. })
    ));
    for cut in [0, 1, message_bytes(100) - 1] {
        let (mut sender, mut receiver) = setup(31);
        let got = receiver.extend(100).unwrap();
        assert!(matches!(
            sender.extend(100, &got.message[..cut]),
            Err(Error::Peer { .. })
        ));
    }
    let (mut sender, mut receiver) = setup(32);
    let mut longer = receiver.extend(100).unwrap().message;
    longer.push(0);
    assert!(matches!(
        sender.extend(100, &longer),
        Err(Error::Peer { .. })
    ));
    // Same length, another number of OTs: the challenge differs.
    let (mut sender, mut receiver) = setup(33);
    let got = receiver.extend(100).unwrap();
    assert!(matches!(
        sender.extend(101, &got.message),
        Err(Error::Peer { .. })
    ));
}

#[test]
fn bad_set_up_messages_are_the_peers_fault() {
    let mut rng = ChaCha20Rng::seed_from_u64(40);
    let (receiver, first) = ReceiverSetup::new([1; 32], &mut rng);
    let (sender, second) =
        SenderSetup::new([1; 32], Delta::random(&mut rng), &first, &mut rng).unwrap();
    let (_, third) = receiver.finish(&second).unwrap();
    assert!(matches!(
        sender.finish(&third[1..]),
        Err(Error::Peer { .. })
    ));
    let (receiver, first) = ReceiverSetup::new([1; 32], &mut rng);
    assert!(matches!(
        receiver.finish(&second[1..]),
        Err(Error::Peer { .. })
    ));
    let delta = Delta::random(&mut rng);
    assert!(SenderSetup::new([1; 32], delta, &first[1..], &mut rng).is_err());
    // Another session's trees.
    let delta = Delta::random(&mut rng);
    let (sender, _) = SenderSetup::new([1; 32], delta, &first, &mut rng).unwrap();
    assert!(matches!(sender.finish(&third), Err(Error::Peer { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_panic(n in 0usize..300, bytes in proptest::collection::vec(any::<u8>(), 0..2100)) {
        static TREES: OnceLock<Vec<Leaves>> = OnceLock::new();
        let trees = TREES.get_or_init(|| setup(50).0.trees).clone();
        let delta = Delta::random(&mut ChaCha20Rng::seed_from_u64(0));
        let mut sender = Sender { session: [0; 32], delta, trees, position: 0, spent: false };
        let mut exact = bytes.clone();
        exact.resize(message_bytes(n), 7);
        let message = if bytes.len() % 2 == 0 { exact } else { bytes };
        if n > 0 {
            prop_assert!(sender.extend(n, &message).is_err());
        }
    }
}

#[test]
fn every_message_of_the_set_up_is_in_the_name_of_the_extension() {
    let parts: [&[u8]; 3] = [b"point", b"answer", b"trees"];
    let name = super::transcript(&[1; 32], parts);
    assert_ne!(name, super::transcript(&[2; 32], parts));
    assert_ne!(
        name,
        super::transcript(&[1; 32], [b"pointa", b"nswer", b"trees"])
    );
    for i in 0..parts.len() {
        let mut other = parts;
        other[i] = b"other";
        assert_ne!(name, super::transcript(&[1; 32], other));
    }
    // Receiver and sender name it alike: the check of every other test depends on it.
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let (receiver, first) = ReceiverSetup::new([1; 32], &mut rng);
    let delta = Delta::random(&mut rng);
    let (sender, answer) = SenderSetup::new([1; 32], delta, &first, &mut rng).unwrap();
    let (receiver, trees) = receiver.finish(&answer).unwrap();
    let sender = sender.finish(&trees).unwrap();
    assert_eq!(receiver.session, sender.session);
    assert_ne!(receiver.session, [1; 32]);
}
