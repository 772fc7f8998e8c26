use super::*;
use crate::he::field::FIELDS;
use crate::he::params::DEGREE;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// Lanes below `bound`, with its extremes among them.
fn random(rng: &mut ChaCha20Rng, n: usize, bound: u64) -> Vec<Lanes> {
    let word = |rng: &mut ChaCha20Rng| match rng.random_range(0..8) {
        0 => 0,
        1 => bound - 1,
        _ => rng.random_range(0..bound),
    };
    (0..n)
        .map(|_| Lanes(std::array::from_fn(|_| word(rng))))
        .collect()
}

fn residue(a: u64, p: u64) -> u64 {
    a % p
}

#[test]
fn both_compilations_give_equal_bits() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for round in 0..30 {
        for field in FIELDS.iter() {
            let p = field.p;
            let k = rng.random_range(0..7);
            let r = rng.random_range(0..1usize << k);
            let check = |fast: &[Lanes], slow: &[Lanes], what: &str| {
                assert!(fast == slow, "{what} in round {round}, node ({k}, {r})");
            };

            let mut fast = random(&mut rng, VECTORS >> k, 4 * p);
            let mut slow = fast.clone();
            forward(field, k, r, &mut fast);
            generic::forward::<Portable>(field, k, r, &mut slow);
            check(&fast, &slow, "forward");
            assert!(fast.iter().flat_map(|v| v.0).all(|a| a < 4 * p));

            let mut fast = random(&mut rng, VECTORS, 2 * p);
            let mut slow = fast.clone();
            backward(field, &mut fast);
            generic::backward::<Portable>(field, &mut slow);
            check(&fast, &slow, "backward");
            assert!(fast.iter().flat_map(|v| v.0).all(|a| a < 2 * p));

            let mut fast = random(&mut rng, VECTORS, 1 << 52);
            let mut slow = fast.clone();
            matrix(field, &field.from_lanes, &mut fast);
            generic::matrix::<Portable>(field, &field.from_lanes, &mut slow);
            check(&fast, &slow, "matrix");
            assert!(fast.iter().flat_map(|v| v.0).all(|a| a < 2 * p));

            let [a, b, mut fast] = [(); 3].map(|()| random(&mut rng, 40, 1 << 52));
            let start = fast.clone();
            let mut slow = fast.clone();
            multiply_add(field, &mut fast, &a, &b);
            generic::multiply_add::<Portable>(field, &mut slow, &a, &b);
            check(&fast, &slow, "multiply_add");
            for i in 0..40 {
                for lane in 0..8 {
                    let product = u128::from(a[i].0[lane]) * u128::from(b[i].0[lane]);
                    let sum = (product + u128::from(start[i].0[lane])) % u128::from(p);
                    assert_eq!(u128::from(residue(fast[i].0[lane], p)), sum);
                }
            }
        }
    }
}

#[test]
fn sums_of_terms_are_right_for_weights_of_any_size() {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    for round in 0..60 {
        let field = &FIELDS[round % 2];
        let p = field.p;
        let n_terms = rng.random_range(1..40);
        let largest = [1i64, 127, 2047, i64::from(i32::MAX)][round % 4];
        let table = random(&mut rng, 12, p);
        let mut at: Vec<usize> = (0..n_terms).map(|_| rng.random_range(0..16)).collect();
        at.sort_unstable();
        let rows: Vec<u16> = (0..n_terms).map(|_| rng.random_range(0..12)).collect();
        let weights: Vec<i64> = (0..n_terms)
            .map(|i| match i % 3 {
                0 => largest,
                1 => -largest,
                _ => rng.random_range(-largest..=largest),
            })
            .collect();
        let runs = (0..16).filter(|v| at.contains(v));
        let runs = runs
            .map(|v| (v, at.iter().filter(|&&a| a <= v).count()))
            .collect();
        let terms = Terms { runs, rows };
        let mut expected = vec![[0i128; 8]; 16];
        for ((&v, &row), &weight) in at.iter().zip(&terms.rows).zip(&weights) {
            for (sum, &x) in expected[v].iter_mut().zip(&table[row as usize].0) {
                *sum += i128::from(weight) * i128::from(x);
            }
        }
        let check = |out: &[Lanes], what: &str| {
            for (out, expected) in out.iter().zip(&expected) {
                for (&a, e) in out.0.iter().zip(expected) {
                    assert!(a < 2 * p, "{what}: {a} is too large");
                    assert_eq!(
                        i128::from(residue(a, p)),
                        e.rem_euclid(i128::from(p)),
                        "{what}, round {round}"
                    );
                }
            }
        };
        let mut fast = vec![Lanes::ZERO; 16];
        let mut slow = fast.clone();
        evaluate_wide(field, &terms, &table, &weights, &mut fast);
        generic::evaluate_wide::<Portable>(field, &terms, &table, &weights, &mut slow);
        assert_eq!(fast, slow);
        check(&fast, "wide");
        let at_once = MAX_WEIGHTS / largest as u64;
        if at_once > 0 {
            let at_once = at_once as usize;
            evaluate(field, &terms, at_once, &table, &weights, &mut fast);
            generic::evaluate::<Portable>(field, &terms, at_once, &table, &weights, &mut slow);
            assert_eq!(fast, slow);
            check(&fast, "narrow");
        }
        if n_terms as u64 * largest as u64 <= MAX_WEIGHTS {
            let table = random(&mut rng, TILE * n_terms, p);
            evaluate_direct(field, &table, &weights, &mut fast[..TILE]);
            generic::evaluate_direct::<Portable>(field, &table, &weights, &mut slow[..TILE]);
            assert_eq!(fast, slow);
            for (v, out) in fast[..TILE].iter().enumerate() {
                for (lane, &a) in out.0.iter().enumerate() {
                    let products = weights.iter().enumerate();
                    let sum: i128 = products
                        .map(|(t, &w)| i128::from(w) * i128::from(table[TILE * t + v].0[lane]))
                        .sum();
                    assert!(a < 2 * p);
                    assert_eq!(i128::from(residue(a, p)), sum.rem_euclid(i128::from(p)));
                }
            }
        }
    }
}

#[test]
fn sums_of_products_are_right_up_to_their_most() {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    for (n, stride) in [(1, 8), (2, 8), (7, 16), (100, 8), (MAX_PRODUCTS, 8)] {
        let field = &FIELDS[n % 2];
        let p = field.p;
        let most = n == MAX_PRODUCTS;
        let mut draw = |n: usize| {
            if most {
                vec![Lanes([MASK_52; 8]); n]
            } else {
                random(&mut rng, n, 1 << 52)
            }
        };
        let (w, c) = (draw(n * stride), draw(n * 2 * TILE));
        let mut fast = vec![Lanes::ZERO; 4 * TILE];
        let mut slow = fast.clone();
        accumulate(&mut fast, &w, stride, &c);
        generic::accumulate::<Portable>(&mut slow, &w, stride, &c);
        assert_eq!(fast, slow, "{n} products");
        let mut out = vec![Lanes::ZERO; 2 * TILE];
        let mut portable = out.clone();
        settle(field, &fast, &mut out);
        generic::settle::<Portable>(field, &slow, &mut portable);
        assert_eq!(out, portable);
        for (i, out) in out.iter().enumerate() {
            let (half, v) = (i / TILE, i % TILE);
            for (lane, &a) in out.0.iter().enumerate() {
                let sum = (0..n).fold(0u128, |sum, i| {
                    let w = u128::from(w[i * stride + v].0[lane]);
                    let c = u128::from(c[2 * TILE * i + TILE * half + v].0[lane]);
                    (sum + w * c % u128::from(p)) % u128::from(p)
                });
                assert!(a < 2 * p);
                assert_eq!(u128::from(residue(a, p)), sum, "{n} products");
            }
        }
    }
}

#[test]
fn transforms_multiply() {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    for field in FIELDS.iter() {
        // X^i X^j = X^(i + j), negated beyond N.
        for _ in 0..20 {
            let (i, j) = (rng.random_range(0..DEGREE), rng.random_range(0..DEGREE));
            let transform = |i: usize| {
                let mut data = vec![Lanes::ZERO; VECTORS];
                data[i % VECTORS].0[i / VECTORS] = 1;
                matrix(field, &field.to_lanes, &mut data);
                forward(field, 0, 0, &mut data);
                data
            };
            let mut product = vec![Lanes::ZERO; VECTORS];
            multiply_add(field, &mut product, &transform(i), &transform(j));
            backward(field, &mut product);
            matrix(field, &field.from_lanes, &mut product);
            let at = (i + j) % DEGREE;
            let value = if i + j < DEGREE { 1 } else { field.p - 1 };
            for (b, vector) in product.iter().enumerate() {
                for (a, &got) in vector.0.iter().enumerate() {
                    let due = if VECTORS * a + b == at { value } else { 0 };
                    assert_eq!(residue(got, field.p), due);
                }
            }
        }
    }
}

#[test]
fn words_are_joined_shifted_and_sampled_alike() {
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    const MASK_72: u128 = (1 << 72) - 1;
    for bits in 1..72 {
        let mut x = random(&mut rng, 20, 2 * FIELDS[0].p);
        let mut y = random(&mut rng, 20, 2 * FIELDS[1].p);
        let (mut slow_x, mut slow_y) = (x.clone(), y.clone());
        join(&FIELDS, &mut x, &mut y);
        generic::join::<Portable>(&FIELDS, &mut slow_x, &mut slow_y);
        assert!(x == slow_x && y == slow_y);

        let mut noise = random(&mut rng, 20, 1 << 50);
        for e in noise.iter_mut().flat_map(|v| &mut v.0) {
            *e = if *e % 2 == 0 { *e } else { e.wrapping_neg() };
        }
        let before = noise.clone();
        let mut slow = noise.clone();
        let offset = rng.random::<u128>() & MASK_72;
        shift(&x, &y, offset, bits, &mut noise);
        generic::shift::<Portable>(&x, &y, offset, bits, &mut slow);
        assert_eq!(noise, slow, "{bits} bits");
        for i in 0..20 {
            for lane in 0..8 {
                let value = u128::from(x[i].0[lane]) + (u128::from(y[i].0[lane]) << 52);
                let e = i128::from(before[i].0[lane] as i64) as u128;
                let sum = value.wrapping_add(e).wrapping_add(offset) & MASK_72;
                assert_eq!(noise[i].0[lane], (sum >> bits) as u64, "{bits} bits");
            }
        }

        let mut cumulative: [u64; 29] = std::array::from_fn(|_| rng.random::<u64>() >> 1);
        cumulative.sort_unstable();
        let words = random(&mut rng, 20, u64::MAX);
        let (mut fast, mut slow) = (words.clone(), words.clone());
        sample(&cumulative, &mut fast);
        generic::sample::<Portable>(&cumulative, &mut slow);
        assert_eq!(fast, slow);
        let words = words.iter().flat_map(|v| v.0);
        for (word, got) in words.zip(fast.iter().flat_map(|v| v.0)) {
            let magnitude = cumulative.iter().filter(|&&c| c <= word >> 1).count() as i64;
            let sign = if word & 1 == 1 { -1 } else { 1 };
            assert_eq!(got as i64, sign * magnitude);
        }
    }
}
