//! What the mask search scores a position by, and how many positions it keeps as the epochs pass.
//!
//! With z the pre-activation, a the post-activation (student), t the teacher's post-activation and g the
//! gradient of the loss by a, summed over the images of an epoch:
//!
//! | selection | score | kept |
//! |---|---|---|
//! | `senet` | abs(t - a) (Kundu et al., ICLR 2023, section 3.2) | the budget |
//! | `removal` | abs(t - z): the mismatch without the ReLU, whether it is kept now or not | the budget |
//! | `taylor` | abs((t - z) g): that mismatch by its first-order effect on the loss | the budget |
//! | `kink` | abs(min(z, 0) g): first-order effect of the ReLU on the student's own loss (of a clip or a leaky ReLU: what it cuts off) | the budget |
//! | `anneal` | as `removal` | from all down to the budget |
//! | `anneal-taylor`, `anneal-kink` | as `taylor`, `kink` | from all down to the budget |
//!
//! The published score is small wherever the student has its ReLU at the moment, so the next mask is
//! drawn from the other positions, and successive masks of a short search avoid each other.

use crate::error::{Error, Result};
use crate::net::Mask;
use clap::ValueEnum;
use pi_model::spec::Op;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// How the positions are chosen; the module's table says what each does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// The student's mismatch with the teacher, as published.
    Senet,
    /// The mismatch that the removal of the ReLU would leave.
    Removal,
    /// The mismatch of the removal times the gradient of the loss.
    Taylor,
    /// What the ReLU cuts off times the gradient of the loss.
    Kink,
    /// `removal`, from all ReLUs down to the budget.
    Anneal,
    /// `taylor`, from all ReLUs down to the budget.
    AnnealTaylor,
    /// `kink`, from all ReLUs down to the budget.
    AnnealKink,
}

/// Share of an annealed search after which the budget is reached.
const ANNEALED: f64 = 0.8;

impl Selection {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Senet => "senet",
            Self::Removal => "removal",
            Self::Taylor => "taylor",
            Self::Kink => "kink",
            Self::Anneal => "anneal",
            Self::AnnealTaylor => "anneal-taylor",
            Self::AnnealKink => "anneal-kink",
        }
    }

    /// The masks shrink during the search.
    pub fn anneals(self) -> bool {
        matches!(self, Self::Anneal | Self::AnnealTaylor | Self::AnnealKink)
    }

    /// The score needs the gradients by the activations.
    pub fn needs_gradients(self) -> bool {
        !matches!(self, Self::Senet | Self::Removal | Self::Anneal)
    }

    /// The factor of the score that is known before the gradients, for one layer of activation `op`.
    pub fn mismatch(self, teacher: &Tensor, before: &Tensor, after: &Tensor, op: &Op) -> Tensor {
        match self {
            Self::Senet => teacher - after,
            Self::Removal | Self::Anneal | Self::Taylor | Self::AnnealTaylor => teacher - before,
            Self::Kink | Self::AnnealKink => match op {
                Op::Clip { max, .. } => before - before.clamp(0.0, *max),
                Op::LeakyRelu { slope, .. } => before.clamp_max(0.0) * (1.0 - slope),
                _ => before.clamp_max(0.0),
            },
        }
    }

    /// Positions to keep after `epoch` of `epochs`, out of `size`: a cubic descent (Zhu, Gupta 2017).
    pub fn n_kept(self, size: usize, budget: usize, epoch: usize, epochs: usize) -> usize {
        if !self.anneals() {
            return budget;
        }
        // The last epoch trains under the masks that are the result.
        let arrived = (ANNEALED * epochs as f64).min(epochs as f64 - 1.0);
        let t = epoch as f64 / arrived.max(1.0);
        let rest = (1.0 - t.min(1.0)).powi(3);
        budget + ((size - budget) as f64 * rest).round() as usize
    }
}

/// Sum over the batch of |values|, added to a score.
pub fn accumulate(score: &mut Tensor, values: &Tensor) {
    *score += if values.device() == Device::Cpu {
        values
            .abs()
            .sum_dim_intlist([0i64].as_slice(), false, Kind::Float)
    } else {
        one_pass(values)
    };
}

/// The same without the absolute values in memory: a third of a GPU's traffic, but slower on a processor.
fn one_pass(values: &Tensor) -> Tensor {
    values.norm_scalaropt_dim_dtype(1.0, [0i64].as_slice(), false, Kind::Float)
}

/// Scores of every layer as numbers.
pub fn values(scores: &[Tensor]) -> Result<Vec<Vec<f32>>> {
    let one = |s: &Tensor| Ok(Vec::<f32>::try_from(s.contiguous().flatten(0, -1))?);
    scores.iter().map(one).collect()
}

/// How many positions each layer keeps when the `total` highest scores of the whole network survive;
/// closed layers keep none.
pub fn revisit(scores: &[Vec<f32>], closed: &[bool], total: usize) -> Vec<usize> {
    let mut order: Vec<(f32, u32, u32)> = Vec::new();
    for (l, layer) in scores.iter().enumerate().filter(|(l, _)| !closed[*l]) {
        let entry = |(i, &s): (usize, &f32)| (s, l as u32, i as u32);
        order.extend(layer.iter().enumerate().map(entry));
    }
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut kept = vec![0; scores.len()];
    order
        .iter()
        .take(total)
        .for_each(|e| kept[e.1 as usize] += 1);
    kept
}

/// Refuses to close `n` of the layers where those left could not hold `total` ReLUs, whichever they are.
pub fn check_closing(sizes: &[usize], total: usize, n: usize) -> Result<()> {
    let room = room_without(sizes, &vec![false; sizes.len()], n);
    if room.is_some_and(|room| room >= total) {
        return Ok(());
    }
    Err(Error::Budget(format!(
        "{total} ReLUs do not fit the {} positions that are left when {n} of {} layers are emptied",
        room.unwrap_or(0),
        sizes.len()
    )))
}

/// Positions of the layers that stay open when the `n` smallest open ones close as well.
fn room_without(sizes: &[usize], closed: &[bool], n: usize) -> Option<usize> {
    let layers = sizes.iter().zip(closed);
    let mut open: Vec<usize> = layers.filter(|(_, c)| !**c).map(|(s, _)| *s).collect();
    open.sort_unstable();
    Some(open.get(n..)?.iter().sum())
}

/// The `n` layers whose kept positions score least in sum, closed for good, and the budget with their
/// ReLUs spread over the others in proportion, as far as they have room. A layer without which the
/// others would have too little room stays open.
pub fn close_layers(
    scores: &[Vec<f32>],
    budget: &[usize],
    n: usize,
) -> Result<(Vec<bool>, Vec<usize>)> {
    let worth = |l: usize| -> f64 {
        let mut sorted = scores[l].clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted.iter().take(budget[l]).map(|&s| f64::from(s)).sum()
    };
    let mut order: Vec<(f64, usize)> = (0..scores.len()).map(|l| (worth(l), l)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut closed = vec![false; scores.len()];
    let total: usize = budget.iter().sum();
    let all: Vec<usize> = scores.iter().map(Vec::len).collect();
    check_closing(&all, total, n)?;
    let mut n_left = n;
    for (_, l) in order {
        if n_left == 0 {
            break;
        }
        closed[l] = true;
        if room_without(&all, &closed, n_left - 1).is_some_and(|room| room >= total) {
            n_left -= 1;
        } else {
            closed[l] = false;
        }
    }
    let room = |l: usize| if closed[l] { 0 } else { all[l] };
    let sizes: Vec<usize> = (0..scores.len()).map(room).collect();
    // The rule's spreading with the old budgets as shares.
    let most = budget.iter().copied().max().unwrap_or(1).max(1) as f64;
    let densities: Vec<f64> = budget.iter().map(|&b| 1.0 - b as f64 / most).collect();
    Ok((closed, crate::budget::allocate(&sizes, &densities, total)?))
}

/// Masks of the highest scores.
pub fn masks(
    shapes: &[[i64; 3]],
    scores: &[Vec<f32>],
    kept: &[usize],
    per_channel: bool,
) -> Vec<Mask> {
    let select = if per_channel {
        Mask::top_channels
    } else {
        Mask::top
    };
    let layers = shapes.iter().zip(scores).zip(kept);
    layers
        .map(|((shape, s), &n)| select(*shape, s, n))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annealing_falls_from_all_to_the_budget_and_stays() {
        let s = Selection::Anneal;
        let kept: Vec<usize> = (0..=10).map(|e| s.n_kept(1000, 200, e, 10)).collect();
        assert_eq!((kept[0], kept[8], kept[10]), (1000, 200, 200));
        assert!(kept.is_sorted_by(|a, b| a >= b), "{kept:?}");
        assert_eq!(s.n_kept(1000, 200, 1, 1), 200);
        assert_eq!(Selection::Removal.n_kept(1000, 200, 0, 10), 200);
    }

    #[test]
    fn budgets_follow_the_scores_and_closed_layers_give_theirs_away() {
        let scores = [
            vec![9.0, 8.0, 1.0],
            vec![7.0, 0.5],
            vec![0.1, 0.2, 0.3, 0.4],
        ];
        assert_eq!(revisit(&scores, &[false; 3], 4), [3, 1, 0]);
        assert_eq!(revisit(&scores, &[false, true, false], 4), [3, 0, 1]);
        let (closed, kept) = close_layers(&scores, &[1, 1, 2], 1).unwrap();
        assert_eq!(
            (closed, kept.iter().sum::<usize>()),
            (vec![false, false, true], 4)
        );
        assert_eq!(kept[2], 0);
        // The layer of four scores least, but without it there is no room for six.
        let (closed, kept) = close_layers(&scores, &[2, 1, 3], 1).unwrap();
        assert_eq!(closed, [false, true, false]);
        assert_eq!((kept[1], kept.iter().sum::<usize>()), (0, 6));
        let e = close_layers(&scores, &[3, 2, 4], 1)
            .unwrap_err()
            .to_string();
        assert!(e.contains("7 positions"), "{e}");
        assert!(check_closing(&[3, 2, 4], 1, 2).is_ok());
        assert!(check_closing(&[3, 2, 4], 1, 3).is_err());
        assert!(check_closing(&[3, 2, 4], 1, 4).is_err());
    }

    #[test]
    fn both_sums_of_absolute_values_agree() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let v = Tensor::randn([9, 3, 4, 4], (Kind::Float, Device::Cpu)).to_kind(kind);
            let mut score = Tensor::zeros([3, 4, 4], (Kind::Float, Device::Cpu));
            accumulate(&mut score, &v);
            let error = (one_pass(&v) - score).abs().max().double_value(&[]);
            assert!(error < 1e-3, "{kind:?}: {error}");
        }
    }

    #[test]
    fn the_scores_follow_their_definitions() {
        let t = |v: &[f32]| Tensor::from_slice(v);
        let (teacher, before, after) = (t(&[1.0, 0.0]), t(&[-2.0, -3.0]), t(&[0.0, -3.0]));
        let (name, input) = ("relu".to_owned(), "input".to_owned());
        let relu = Op::MaskedRelu {
            name: name.clone(),
            input: input.clone(),
            relus_kept: 2,
        };
        let of = |s: Selection| {
            Vec::<f32>::try_from(s.mismatch(&teacher, &before, &after, &relu)).unwrap()
        };
        let clip = Op::Clip {
            name: name.clone(),
            input: input.clone(),
            max: 1.0,
            relus_kept: 2,
        };
        let leaky = Op::LeakyRelu {
            name,
            input,
            slope: 0.25,
            relus_kept: 2,
        };
        let before_two = t(&[-2.0, 3.0]);
        let cut = |op: &Op| {
            let cut = Selection::Kink.mismatch(&teacher, &before_two, &after, op);
            Vec::<f32>::try_from(cut).unwrap()
        };
        assert_eq!(cut(&clip), [-2.0, 2.0]);
        assert_eq!(cut(&leaky), [-1.5, 0.0]);
        assert_eq!(of(Selection::Senet), [1.0, 3.0]);
        assert_eq!(of(Selection::Taylor), [3.0, 3.0]);
        assert_eq!(of(Selection::Kink), [-2.0, -3.0]);
    }
}
