//! Digits against plain addition, on every path, and what the two parties hold against what the tables say.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::block::Delta;
use crate::hash::path::Path;
use crate::prg::Seed;

/// Everything of one set of tests.
struct Case {
    tests: DigitTests,
    delta: Delta,
    ots: Vec<Block>,
    choices: Vec<u64>,
    client: Vec<u64>,
    server: Vec<u64>,
}

fn case(sign_bits: u32, n_instances: usize, seed: u64) -> Case {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let tests = DigitTests {
        sign_bits,
        n_instances,
        start_key: Block::random(&mut rng),
        tweak: TweakBase::new(3, 5).unwrap(),
    };
    let keep = u64::MAX >> (64 - sign_bits);
    let mut values = || -> Vec<u64> {
        (0..n_instances)
            .map(|_| rng.random::<u64>() & keep)
            .collect()
    };
    let (choices, mut client, server) = (values(), values(), values());
    // Some on the edge of a carry through all digits.
    for (i, (c, s)) in client
        .iter_mut()
        .zip(&server)
        .enumerate()
        .take(n_instances / 2)
    {
        *c = 0u64
            .wrapping_sub(*s)
            .wrapping_add(i as u64 % 3)
            .wrapping_sub(1)
            & keep;
    }
    Case {
        ots: (0..tests.n_ots())
            .map(|_| Block::random(&mut rng))
            .collect(),
        delta: Delta::random(&mut rng),
        tests,
        choices,
        client,
        server,
    }
}

impl Case {
    /// The receiver's blocks.
    fn received(&self) -> Vec<Block> {
        let l = self.tests.sign_bits as usize;
        let ots = self.ots.iter().enumerate();
        ots.map(|(i, q)| q.xor_if((self.choices[i / l] >> (i % l)) as u8, self.delta.block()))
            .collect()
    }

    /// Runs both parties; returns tables, and for each test what colours and constants say of the sum's top bit.
    fn run(&self, path: Path) -> (Vec<u8>, Vec<u64>) {
        let Self {
            tests,
            delta,
            ots,
            choices,
            client,
            server,
        } = self;
        let garbled =
            garble::garble_on(path, tests, delta, &Seed::from([9; 32]), ots, client).unwrap();
        let masked: Vec<u64> = server.iter().zip(choices).map(|(x, rho)| x ^ rho).collect();
        let labels = digit_labels(tests, &garbled.offsets, delta, &masked).unwrap();
        let keys = evaluator_keys(tests, &self.received()).unwrap();
        let positions: Vec<u64> = server
            .iter()
            .zip(&garbled.orders)
            .map(|(x, pi)| x ^ pi)
            .collect();
        let opened =
            evaluate::evaluate_on(path, tests, &garbled.tables, &keys, &labels, &positions)
                .unwrap();
        let top = tests.sign_bits - 1;
        let signs =
            opened
                .iter()
                .zip(garbled.outputs.iter())
                .enumerate()
                .map(|(i, (label, zero))| {
                    let hit = [0, 1].map(|bit| zero.active(bit, delta).0 == label.0);
                    assert!(hit[0] != hit[1], "test {i}: not one of the two labels");
                    assert_eq!(u8::from(hit[1]), label.colour() ^ zero.colour());
                    u64::from(hit[1]) ^ (masked[i] ^ client[i]) >> top & 1
                });
        (garbled.tables, signs.collect())
    }
}

#[test]
fn sizes_are_those_of_the_description() {
    let rows = [
        (1, 0, 0),
        (2, 1, 1),
        (5, 1, 15),
        (6, 2, 3 + 15),
        (8, 2, 30),
        (14, 4, 60),
        (16, 5, 67),
    ];
    for (l, digits, n) in rows {
        assert_eq!((n_digits(l), n_rows(l)), (digits, n), "l = {l}");
    }
    for sign_bits in 1..=64 {
        let tests = DigitTests {
            sign_bits,
            ..case(1, 0, 1).tests
        };
        let digits: Vec<Digit> = tests.digits().collect();
        assert_eq!(digits.len(), tests.n_digits());
        assert_eq!(digits.iter().map(|d| d.bits).sum::<u32>(), sign_bits - 1);
        assert_eq!(
            digits.iter().map(|d| d.n_values() - 1).sum::<usize>(),
            n_rows(sign_bits)
        );
        assert!(
            digits
                .iter()
                .all(|d| (1..=4).contains(&d.bits) && d.n_values() <= RADIX)
        );
    }
}

#[test]
fn every_path_finds_the_sign() {
    for sign_bits in [1, 2, 3, 5, 6, 13, 14, 15, 33, 64] {
        for n in [1, 7, 8, 9, 32, 40, 71] {
            let case = case(sign_bits, n, u64::from(sign_bits) * 100 + n as u64);
            let want: Vec<u64> = case
                .client
                .iter()
                .zip(&case.server)
                .map(|(c, s)| c.wrapping_add(*s) >> (sign_bits - 1) & 1)
                .collect();
            let mut first = None;
            for (name, path) in Path::all() {
                let (tables, signs) = case.run(path);
                assert_eq!(signs, want, "{name}: {n} tests of {sign_bits} bits");
                assert!(
                    first.get_or_insert_with(|| tables.clone()) == &tables,
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn all_pairs_of_small_shares() {
    for sign_bits in 2..=6u32 {
        let side = 1u64 << sign_bits;
        let mut case = case(sign_bits, (side * side) as usize, 7);
        for i in 0..side * side {
            (case.client[i as usize], case.server[i as usize]) = (i / side, i % side);
        }
        let (_, signs) = case.run(Path::best());
        for (i, sign) in signs.iter().enumerate() {
            let sum = case.client[i] + case.server[i];
            assert_eq!(*sign, sum >> (sign_bits - 1) & 1);
        }
    }
}

#[test]
fn multiplication_is_that_of_the_field() {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    for _ in 0..100 {
        let (a, b) = (Block::random(&mut rng), Block::random(&mut rng));
        assert_eq!(times_x(a, 3), times_x(times_x(times_x(a, 1), 1), 1));
        assert_eq!(times_x(a ^ b, 2), times_x(a, 2) ^ times_x(b, 2));
        let high = a.0 >> 127 & 1;
        assert_eq!(times_x(a, 1).0, (a.0 << 1) ^ (0x87 * high));
    }
    let multiples = Multiples::new(Block(0x8000_0000_0000_0000_0000_0000_0000_0001));
    let all: Vec<u128> = (0..16).map(|d| multiples.of(d).0).collect();
    for i in 0..16 {
        assert!(!all[..i].contains(&all[i]), "two digits share a label");
    }
    assert_eq!(join(&[Block(1), Block(2), Block(4)]).0, 1 ^ 2 << 1 ^ 4 << 2);
}

/// Tables, orders and offsets say nothing by themselves: they change with the seed while shares stay.
#[test]
fn what_is_sent_depends_on_fresh_randomness_in_every_row() {
    // More than two batches.
    let n = 71;
    let case = case(14, n, 5);
    let of = |seed| {
        garble_digits(
            &case.tests,
            &case.delta,
            &Seed::from([seed; 32]),
            &case.ots,
            &case.client,
        )
        .unwrap()
    };
    let (a, b) = (of(1), of(2));
    let blocks = |tables: &[u8]| tables.as_chunks::<16>().0.to_vec();
    let (a_rows, b_rows) = (blocks(&a.tables), blocks(&b.tables));
    assert!(a_rows.iter().zip(&b_rows).all(|(x, y)| x != y));
    assert!(a.offsets.iter().zip(b.offsets.iter()).all(|(x, y)| x != y));
    assert!(a.orders != b.orders && a.orders.iter().all(|o| *o < 1 << 13));
    let mut rows = a_rows;
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), n * 60, "a row repeats");
    // The tables' own labels: what is left of an offset without what the evaluator has.
    let keys = evaluator_keys(&case.tests, &case.ots).unwrap();
    let multiples = Multiples::new(case.delta.block());
    let mut labels: Vec<u128> = (0..n)
        .flat_map(|i| {
            case.tests
                .digits()
                .enumerate()
                .map(move |(j, digit)| (i, j, digit))
        })
        .map(|(i, j, digit)| {
            let order = multiples.of(digit.of(a.orders[i]));
            (a.offsets[4 * i + j] ^ keys[5 * i + j] ^ order).0
        })
        .collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), n * 4, "a label repeats");
    let mut keys: Vec<u128> = (0..3).flat_map(|batch| case.tests.keys(batch)).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 3 * KEYS, "two groups share a hash key");
}

#[test]
fn wrong_lengths_are_errors() {
    let case = case(14, 4, 6);
    let Case {
        tests,
        delta,
        ots,
        client,
        ..
    } = &case;
    let seed = Seed::from([1; 32]);
    assert!(garble_digits(tests, delta, &seed, &ots[1..], client).is_err());
    assert!(garble_digits(tests, delta, &seed, ots, &client[1..]).is_err());
    let wide = DigitTests {
        sign_bits: 65,
        ..*tests
    };
    assert!(garble_digits(&wide, delta, &seed, ots, client).is_err());
    assert!(evaluator_keys(&wide, ots).is_err() && evaluator_keys(tests, &ots[1..]).is_err());
    let garbled = garble_digits(tests, delta, &seed, ots, client).unwrap();
    assert!(digit_labels(tests, &garbled.offsets[1..], delta, client).is_err());
    let keys = evaluator_keys(tests, ots).unwrap();
    let (tables, labels) = (&garbled.tables, vec![0; tests.label_bytes()]);
    let evaluate = |tables: &[u8], keys: &[Block], labels: &[u8], n: usize| {
        evaluate_digits(tests, tables, keys, labels, &client[n..])
    };
    assert!(evaluate(tables, &keys, &labels, 0).is_ok());
    assert!(matches!(
        evaluate(&tables[1..], &keys, &labels, 0),
        Err(Error::Peer { .. })
    ));
    assert!(matches!(
        evaluate(tables, &keys, &labels[1..], 0),
        Err(Error::Peer { .. })
    ));
    assert!(matches!(
        evaluate(tables, &keys[1..], &labels, 0),
        Err(Error::Misuse(_))
    ));
    assert!(matches!(
        evaluate(tables, &keys, &labels, 1),
        Err(Error::Misuse(_))
    ));
}
