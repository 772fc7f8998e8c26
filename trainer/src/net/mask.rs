//! Masked activation y = relu(x * m) + x * (1 - m): m = 1 keeps the ReLU, m = 0 is the identity.
//!
//! Kundu, Lu, Zhang, Liu, Beerel, ICLR 2023, section 3. Masks are per pixel [C, H, W] and shared over
//! the batch. Computed as max(x, floor) with floor = 0 where m = 1 and minus infinity where m = 0: the
//! same values and gradients (outside x = 0) in one operation instead of four.

use super::Graph;
use pi_model::spec::Op;
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

/// The mask of one ReLU layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Channels, height, width.
    pub shape: [i64; 3],
    /// One entry for each position in channel, row, column order: true keeps the ReLU.
    pub keep: Vec<bool>,
}

impl Mask {
    /// Every ReLU removed.
    pub fn zeros(shape: [i64; 3]) -> Mask {
        Mask {
            shape,
            keep: vec![false; shape.iter().product::<i64>() as usize],
        }
    }

    /// Every ReLU kept.
    pub fn ones(shape: [i64; 3]) -> Mask {
        Mask {
            shape,
            keep: vec![true; shape.iter().product::<i64>() as usize],
        }
    }

    /// Number of ReLUs kept.
    pub fn n_kept(&self) -> usize {
        self.keep.iter().filter(|&&k| k).count()
    }

    /// One random H x W map repeated over the channels, with exactly `n_kept` positions: where
    /// `n_kept` is no multiple of the channels, the first channels keep one position more.
    pub fn random(shape: [i64; 3], n_kept: usize, seed: u64) -> Mask {
        let [c, h, w] = shape.map(|n| n as usize);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let order = index::sample(&mut rng, h * w, h * w).into_vec();
        let mut mask = Mask::zeros(shape);
        for channel in 0..c {
            let n = n_kept / c + usize::from(channel < n_kept % c);
            order
                .iter()
                .take(n)
                .for_each(|&p| mask.keep[channel * h * w + p] = true);
        }
        mask
    }

    /// The same for whole channels, as many as fit into `n_kept`.
    pub fn random_channels(shape: [i64; 3], n_kept: usize, seed: u64) -> Mask {
        let plane = (shape[1] * shape[2]) as usize;
        // One row, for a map is drawn once and repeated over channels.
        let channels = Mask::random([1, shape[0], 1], n_kept / plane.max(1), seed);
        Mask::of_channels(shape, &channels.keep)
    }

    fn of_channels(shape: [i64; 3], channels: &[bool]) -> Mask {
        let plane = (shape[1] * shape[2]) as usize;
        let keep = channels.iter();
        let keep = keep.flat_map(|&k| std::iter::repeat_n(k, plane)).collect();
        Mask { shape, keep }
    }

    /// The `n_kept` positions of the largest scores; ties go to the lower index.
    pub fn top(shape: [i64; 3], scores: &[f32], n_kept: usize) -> Mask {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let mut mask = Mask::zeros(shape);
        order.iter().take(n_kept).for_each(|&i| mask.keep[i] = true);
        mask
    }

    /// The whole channels of the largest summed scores, as many as fit into `n_kept`.
    pub fn top_channels(shape: [i64; 3], scores: &[f32], n_kept: usize) -> Mask {
        let plane = (shape[1] * shape[2]) as usize;
        let sums: Vec<f32> = scores.chunks_exact(plane).map(|c| c.iter().sum()).collect();
        let channels = Mask::top([shape[0], 1, 1], &sums, n_kept / plane);
        Mask::of_channels(shape, &channels.keep)
    }

    /// Normalised Hamming distance: the share of the positions in which two masks differ.
    pub fn distance(&self, other: &Mask) -> f64 {
        let n = self
            .keep
            .iter()
            .zip(&other.keep)
            .filter(|(a, b)| a != b)
            .count();
        n as f64 / self.keep.len().max(1) as f64
    }

    /// As a byte tensor [C, H, W] for a checkpoint.
    pub fn to_tensor(&self) -> Tensor {
        let bytes: Vec<u8> = self.keep.iter().map(|&k| k.into()).collect();
        Tensor::from_slice(&bytes).view(self.shape)
    }
}

/// The masks of a whole network.
pub struct MaskSet {
    masks: Vec<Mask>,
    /// 32-bit and bfloat16 floors; none where every ReLU is kept.
    floors: Vec<Option<[Tensor; 2]>>,
}

impl MaskSet {
    /// Masks for each ReLU layer in order.
    pub fn new(masks: Vec<Mask>) -> MaskSet {
        let floor = |m: &Mask| {
            if m.n_kept() == m.keep.len() {
                return None;
            }
            let f: Vec<f32> = m
                .keep
                .iter()
                .map(|&k| if k { 0.0 } else { f32::NEG_INFINITY })
                .collect();
            // Channels last, like the activations it meets.
            let [c, h, w] = m.shape;
            let t = Tensor::from_slice(&f).view([1, c, h, w]);
            let t = t.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            Some([t.shallow_clone(), t.to_kind(Kind::BFloat16)])
        };
        let floors = masks.iter().map(floor).collect();
        MaskSet { masks, floors }
    }

    /// Moves what the activations need to a device.
    pub fn on(mut self, device: Device) -> MaskSet {
        for floor in self.floors.iter_mut().flatten() {
            *floor = floor.each_ref().map(|t| t.to_device(device));
        }
        self
    }

    /// The network with every ReLU, on any device.
    pub fn all_relu(graph: &Graph) -> MaskSet {
        MaskSet::new(graph.relu_shapes().into_iter().map(Mask::ones).collect())
    }

    /// The masks in order.
    pub fn masks(&self) -> &[Mask] {
        &self.masks
    }

    /// ReLUs kept in all layers.
    pub fn n_kept(&self) -> usize {
        self.masks.iter().map(Mask::n_kept).sum()
    }

    /// Applies `op`, the masked activation of layer `i`, to `x` [N, C, H, W].
    pub fn activate(&self, i: usize, op: &Op, x: &Tensor) -> Tensor {
        let floor = match self.floors.get(i) {
            Some(Some(floors)) => Some(&floors[usize::from(x.kind() == Kind::BFloat16)]),
            _ => None,
        };
        match (op, floor) {
            (Op::Clip { max, .. }, None) => x.clamp(0.0, *max),
            // Infinity where the ReLU was removed.
            (Op::Clip { max, .. }, Some(floor)) => floored(x, floor).minimum(&(*max - floor)),
            (Op::LeakyRelu { slope, .. }, None) => x.maximum(&(x * *slope)),
            // 1 where the ReLU was removed.
            (Op::LeakyRelu { slope, .. }, Some(floor)) => {
                x.maximum(&(x * (floor.exp() * (*slope - 1.0) + 1.0)))
            }
            (_, None) => x.relu(),
            (_, Some(floor)) => floored(x, floor),
        }
    }
}

/// Just below 0, so that the gradient at 0 is 1, as that of `clamp_min` is.
const BELOW_ZERO: f64 = -1e-40;

/// max(x, floor). The gradient of `clamp_min` by x takes libtorch a comparison and a selection that are not
/// vectorised, a sixth of a small network's step on a processor; that of `threshold` is one vectorised
/// pass. So the gradient comes from x - floor, which is infinite where x passes anyway, and the values,
/// which no gradient needs, are written over the result.
fn floored(x: &Tensor, floor: &Tensor) -> Tensor {
    if !x.requires_grad() {
        return x.clamp_min_tensor(floor);
    }
    let y = (x - floor).threshold(BELOW_ZERO, 0.0);
    let _ = tch::no_grad(|| x.detach().maximum_out(&y.data(), floor));
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activation_and_gradient_follow_the_definition() {
        let shape = [2, 2, 2];
        let keep = vec![true, false, true, false, false, true, true, false];
        let masks = MaskSet::new(vec![Mask {
            shape,
            keep: keep.clone(),
        }]);
        let values = [-1.0f32, -2.0, 3.0, 4.0, -5.0, -6.0, 7.0, -8.0];
        let x = Tensor::from_slice(&values)
            .view([1, 2, 2, 2])
            .set_requires_grad(true);
        let relu = Op::MaskedRelu {
            name: "relu".into(),
            input: "input".into(),
            relus_kept: 4,
        };
        let y = masks.activate(0, &relu, &x);
        let m = masks.masks()[0].to_tensor().to_kind(Kind::Float);
        let want = (&x * &m).relu() + &x * (1.0 - &m);
        assert_eq!(y, want);
        (&y * 3.0).sum(Kind::Float).backward();
        let grad = Vec::<f32>::try_from(x.grad().view([-1])).unwrap();
        let expect: Vec<f32> = values
            .iter()
            .zip(&keep)
            .map(|(&v, &k)| if k && v < 0.0 { 0.0 } else { 3.0 })
            .collect();
        assert_eq!(grad, expect);
    }

    #[test]
    fn top_k_is_exact_and_breaks_ties_by_index() {
        let scores = [1.0, 3.0, 3.0, 3.0, 0.5, 3.0, 2.0, 9.0];
        let m = Mask::top([2, 2, 2], &scores, 3);
        assert_eq!(
            m.keep,
            [false, true, true, false, false, false, false, true]
        );
        let c = Mask::top_channels([2, 2, 2], &scores, 7);
        assert_eq!(c.keep, [false, false, false, false, true, true, true, true]);
        for k in 0..=8 {
            assert_eq!(Mask::top([2, 2, 2], &[1.0; 8], k).n_kept(), k);
            assert_eq!(Mask::random([2, 2, 2], k, 3).n_kept(), k);
        }
    }

    #[test]
    fn random_channels_are_whole_and_follow_the_seed() {
        let of = |seed| Mask::random_channels([16, 2, 2], 23, seed);
        assert_eq!(of(1).n_kept(), 20, "five channels of four");
        assert!(of(1).keep.chunks(4).all(|c| c.iter().all(|&k| k == c[0])));
        assert_eq!(of(1), of(1));
        assert!((2..9).any(|seed| of(seed) != of(1)));
    }

    #[test]
    fn distance_counts_the_positions_that_differ() {
        let a = Mask::top([1, 2, 2], &[4.0, 3.0, 2.0, 1.0], 2);
        let b = Mask::top([1, 2, 2], &[1.0, 2.0, 3.0, 4.0], 2);
        assert_eq!((a.distance(&a), a.distance(&b)), (0.0, 1.0));
        let c = Mask::top([1, 2, 2], &[4.0, 3.0, 2.0, 1.0], 1);
        assert_eq!((c.distance(&a), c.distance(&b)), (0.25, 0.75));
    }
}
