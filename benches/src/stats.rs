//! Medians and quantiles of a few samples, with outliers kept and flagged.

use serde::{Deserialize, Serialize};

/// Raw samples and what they say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Every sample, in the order of measurement, warm-up left out.
    pub samples_s: Vec<f64>,
    /// Half of the samples are at most this.
    pub median_s: f64,
    /// Nine tenths of the samples are at most this (nearest rank).
    pub p90_s: f64,
    /// Quartile distance: the spread.
    pub quartile_distance_s: f64,
    /// Indices of samples further than 1.5 quartile distances outside the quartiles (Tukey). They are counted.
    pub outliers: Vec<usize>,
}

impl Latency {
    /// Summarises `samples_s`.
    #[must_use]
    pub fn new(samples_s: Vec<f64>) -> Self {
        let (low, high) = (quantile(&samples_s, 0.25), quantile(&samples_s, 0.75));
        let reach = 1.5 * (high - low);
        let outside = |s: f64| s < low - reach || s > high + reach;
        let outliers = if samples_s.len() >= 4 {
            (0..samples_s.len())
                .filter(|&i| outside(samples_s[i]))
                .collect()
        } else {
            vec![]
        };
        Self {
            median_s: median(&samples_s),
            p90_s: quantile(&samples_s, 0.9),
            quartile_distance_s: high - low,
            outliers,
            samples_s,
        }
    }
}

/// The middle sample, or the mean of the two in the middle; zero of none.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The least sample such that at least the fraction `q` of all is not greater; zero of none.
#[must_use]
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let sorted = sorted(samples);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Intercept and slope of the least-squares line through `points`; none for fewer than two different abscissas.
#[must_use]
pub fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let (mx, my) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let sxx: f64 = points.iter().map(|p| (p.0 - mx).powi(2)).sum();
    let sxy: f64 = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
    (sxx > 0.0).then(|| (my - sxy / sxx * mx, sxy / sxx))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_quantiles_outliers_and_lines() {
        let latency = Latency::new(vec![3.0, 1.0, 2.0, 4.0, 100.0, 2.5, 2.2, 3.1, 2.9, 2.6]);
        assert!((latency.median_s - 2.75).abs() < 1e-12, "{latency:?}");
        assert_eq!(latency.p90_s, 4.0);
        assert_eq!(latency.outliers, [4]);
        assert_eq!(latency.samples_s.len(), 10);
        assert_eq!(Latency::new(vec![]).median_s, 0.0);
        let (floor, slope) = line(&[(0.0, 1.0), (2.0, 5.0), (4.0, 9.0)]).unwrap();
        assert!((floor - 1.0).abs() < 1e-12 && (slope - 2.0).abs() < 1e-12);
        assert!(line(&[(1.0, 1.0), (1.0, 2.0)]).is_none());
    }
}
