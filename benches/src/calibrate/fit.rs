//! Least squares with a few unknowns, none of them negative: from the times of mixed work to the time of each kind.

/// Coefficients x >= 0 for which the sums of `row . x` come closest to the measured values, errors taken relative to the
/// values. The best of all subsets of unknowns that has no negative one; with so few unknowns that is the exact answer.
#[must_use]
pub fn fit<const N: usize>(rows: &[([f64; N], f64)]) -> [f64; N] {
    let scaled: Vec<([f64; N], f64)> = rows
        .iter()
        .filter(|(_, y)| *y > 0.0)
        .map(|(row, y)| (row.map(|v| v / y), 1.0))
        .collect();
    let mut best = ([0.0; N], f64::INFINITY);
    for subset in 1u32..1 << N {
        let used = |i: usize| subset >> i & 1 == 1;
        let Some(x) = solve(&scaled, used) else {
            continue;
        };
        if x.iter().any(|v| *v < 0.0) {
            continue;
        }
        let error = |(row, y): &([f64; N], f64)| (dot(row, &x) - y).powi(2);
        let residual = scaled.iter().map(error).sum();
        if residual < best.1 {
            best = (x, residual);
        }
    }
    best.0
}

fn dot<const N: usize>(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Normal equations over the used unknowns, by Gauss and Jordan with the largest pivot; none where they have no one
/// solution.
fn solve<const N: usize>(
    rows: &[([f64; N], f64)],
    used: impl Fn(usize) -> bool,
) -> Option<[f64; N]> {
    let names: Vec<usize> = (0..N).filter(|&i| used(i)).collect();
    // Columns of unit length: multiply-adds are many, round trips few.
    let lengths: Vec<f64> = names
        .iter()
        .map(|&i| rows.iter().map(|(r, _)| r[i] * r[i]).sum::<f64>().sqrt())
        .collect();
    if lengths.contains(&0.0) {
        return None;
    }
    let n = names.len();
    let mut system = vec![vec![0.0; n + 1]; n];
    for (row, y) in rows {
        for a in 0..n {
            let left = row[names[a]] / lengths[a];
            for b in 0..n {
                system[a][b] += left * row[names[b]] / lengths[b];
            }
            system[a][n] += left * y;
        }
    }
    for column in 0..n {
        let size = |row: &usize| system[*row][column].abs();
        let pivot = (column..n).max_by(|a, b| size(a).total_cmp(&size(b)))?;
        system.swap(column, pivot);
        if system[column][column].abs() < 1e-9 {
            return None;
        }
        let lead = system[column].clone();
        for (row, line) in system.iter_mut().enumerate() {
            if row != column {
                let factor = line[column] / lead[column];
                line.iter_mut()
                    .zip(&lead)
                    .for_each(|(v, l)| *v -= factor * l);
            }
        }
    }
    let mut x = [0.0; N];
    for (row, &name) in names.iter().enumerate() {
        x[name] = system[row][n] / system[row][row] / lengths[row];
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_work_are_told_apart_and_none_costs_less_than_nothing() {
        let truth = [3e-11, 0.0, 5e-6];
        let work = [
            [1e9, 5.0, 10.0],
            [2e7, 7.0, 400.0],
            [5e8, 1.0, 90.0],
            [1e6, 90.0, 3.0],
        ];
        let rows = work.map(|row| (row, dot(&row, &truth)));
        for (x, y) in fit(&rows).iter().zip(&truth) {
            assert!((x - y).abs() <= 1e-6 * y.max(1e-12), "{x} {y}");
        }
        // The second kind would have to be negative.
        let x = fit(&[([1.0, 1.0], 1.0), ([1.0, 2.0], 0.9)]);
        assert!(x[0] > 0.9 && x[1] == 0.0, "{x:?}");
        assert_eq!(fit::<2>(&[]), [0.0, 0.0]);
    }
}
