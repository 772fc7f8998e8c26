//! Blends of two training images: mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019).
//!
//! Each image meets its neighbour in the shuffled minibatch; labels become probabilities. What is drawn
//! depends on (seed, epoch, minibatch) alone.

use super::batch::mix as hash;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How much is blended: the parameters of the Beta distributions; 0 for none. Where both are given,
/// each minibatch takes one or the other with equal chances.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Mix {
    /// Of mixup.
    pub mixup: f64,
    /// Of CutMix.
    pub cutmix: f64,
}

/// Beta(a, a) by Johnk's method; quick for a up to about 2.
fn beta(rng: &mut impl Rng, a: f64) -> f64 {
    for _ in 0..1000 {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        let (x, y) = (u.powf(1.0 / a), v.powf(1.0 / a));
        if x + y > 0.0 && x + y <= 1.0 {
            return x / (x + y);
        }
    }
    0.5
}

impl Mix {
    /// Blends a minibatch [N, C, H, W]; returns images and targets: class indices where nothing is
    /// blended, probabilities [N, classes] where it is.
    pub fn apply(
        &self,
        x: Tensor,
        labels: &Tensor,
        n_classes: usize,
        at: (u64, usize, usize),
    ) -> (Tensor, Tensor) {
        if self.mixup <= 0.0 && self.cutmix <= 0.0 {
            return (x, labels.shallow_clone());
        }
        let (seed, epoch, batch) = at;
        let seed = hash(seed ^ 0x6d69_7800, epoch as u64, batch as u64);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let cut = self.cutmix > 0.0 && (self.mixup <= 0.0 || rng.random());
        let share = beta(&mut rng, if cut { self.cutmix } else { self.mixup });
        let other = x.roll([1i64], [0i64]);
        let (x, share) = if cut {
            paste(&x, &other, share, &mut rng)
        } else {
            (&x * share + other * (1.0 - share), share)
        };
        let one_hot = labels.one_hot(n_classes as i64).to_kind(Kind::Float);
        let target = &one_hot * share + one_hot.roll([1i64], [0i64]) * (1.0 - share);
        (x, target)
    }
}

/// Pastes a box of the other images that leaves about `share` of each; returns the share that is left.
fn paste(x: &Tensor, other: &Tensor, share: f64, rng: &mut impl Rng) -> (Tensor, f64) {
    let size = x.size();
    let (h, w) = (size[2], size[3]);
    let side = (1.0 - share).sqrt();
    let span = |n: i64, rng: &mut dyn rand::RngCore| {
        let half = (n as f64 * side / 2.0).round() as i64;
        let centre = rng.random_range(0..n);
        ((centre - half).max(0), (centre + half).min(n))
    };
    let (top, bottom) = span(h, rng);
    let (left, right) = span(w, rng);
    let y = x.copy();
    if bottom > top && right > left {
        let cut = |t: &Tensor| t.narrow(2, top, bottom - top).narrow(3, left, right - left);
        cut(&y).copy_(&cut(other));
    }
    let gone = ((bottom - top).max(0) * (right - left).max(0)) as f64;
    (y, 1.0 - gone / (h * w) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_shares_of_what_is_in_the_image() {
        // Image k is the constant k, so its mean tells the shares.
        let labels = Tensor::from_slice(&[0i64, 1, 2, 3]);
        let x = labels
            .view([4, 1, 1, 1])
            .to_kind(Kind::Float)
            .expand([4, 1, 8, 8], false);
        for (mixup, cutmix) in [(1.0, 0.0), (0.0, 1.0), (0.4, 0.8)] {
            let mix = Mix { mixup, cutmix };
            for batch in 0..20 {
                let (y, t) = mix.apply(x.copy(), &labels, 4, (3, 1, batch));
                assert_eq!(t.size(), [4, 4]);
                let means = y.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float);
                let want = (&t * labels.to_kind(Kind::Float)).sum_dim_intlist(
                    [1i64].as_slice(),
                    false,
                    Kind::Float,
                );
                assert!((means - want).abs().max().double_value(&[]) < 1e-5);
                let again = mix.apply(x.copy(), &labels, 4, (3, 1, batch));
                assert_eq!((again.0, again.1), (y, t));
            }
        }
        let same = Mix::default().apply(x.copy(), &labels, 4, (3, 1, 0));
        assert_eq!((same.0, same.1), (x.copy(), labels));
    }
}
