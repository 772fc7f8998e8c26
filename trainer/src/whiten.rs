//! The first convolution of a lean network sees whitened patches.
//!
//! K. Jordan's CIFAR-10 networks (2024) begin with a frozen linear convolution whose outputs are uncorrelated,
//! so that the weights behind it are learnt equally fast in all directions. The same is had without that layer:
//! with C the covariance of the patches under the first convolution, training V in W = V C^(-1/2) moves W
//! by the gradient times C^(-1). So the network stays as it is, and only the gradient is multiplied.

use crate::data::{Batches, Images, Normaliser};
use crate::net::{Family, Net};
use pi_model::spec::Op;
use tch::{Kind, Tensor};

/// Added to the variances, in units of the normalised pixels' variance; the faintest directions of a
/// patch are noise.
const EPSILON: f64 = 1e-2;
/// Images measured.
const IMAGES: usize = 2_000;

/// Statistics of the patches under the first convolution of a network.
pub struct Whitening {
    /// The inverse covariance `[n, n]`, n = channels times kernel squared.
    inverse: Tensor,
    /// The directions scaled to unit variance, most frequent first `[n, n]`, one in each row.
    directions: Tensor,
    /// Index of the weight in the network's parameters.
    param: usize,
}

impl Whitening {
    /// Measures the first images of `images` for `net`; none unless the network is lean.
    pub fn of(net: &Net, images: &Images, normaliser: &Normaliser) -> Option<Whitening> {
        let arch = net.graph.arch.as_ref();
        if arch.is_none_or(|a| a.family != Family::Lean) {
            return None;
        }
        let (op, first) = net.trained().next()?;
        let Op::Conv2d { window, .. } = op else {
            return None;
        };
        let name = format!("{}.weight", first.name);
        let param = net.params.iter().position(|p| p.name == name)?;
        let [k, s] = [window.kernel, window.stride].map(|n| n.map(|n| n as i64));
        let pad = [window.padding.top as i64, window.padding.left as i64];
        let batches = Batches::plain(images, normaliser, 250);
        let epoch = batches.epoch(0);
        let n = net.params[param].tensor.size()[1..].iter().product::<i64>();
        let mut sum = Tensor::zeros([n, n], (Kind::Double, tch::Device::Cpu));
        let mut n_patches = 0;
        for i in 0..batches.n_batches().min(IMAGES.div_ceil(250)) {
            let x = batches.get(&epoch, i).0.to_kind(Kind::Double).contiguous();
            let patches = x.im2col(k, [1, 1], pad, s).transpose(0, 1).reshape([n, -1]);
            n_patches += patches.size()[1];
            sum += patches.matmul(&patches.tr());
        }
        let covariance = sum / n_patches as f64;
        let (values, vectors) = covariance.linalg_eigh("L");
        let scale = (values + EPSILON).rsqrt();
        // Columns are directions, of ascending variance.
        let scaled = &vectors * &scale;
        let float = |t: Tensor| t.contiguous().to_kind(Kind::Float).to_device(net.device());
        Some(Whitening {
            inverse: float(scaled.matmul(&scaled.tr())),
            directions: float(scaled.tr().flip([0])),
            param,
        })
    }

    /// The parameter that it is about.
    pub fn param(&self) -> usize {
        self.param
    }

    /// The gradient by the weight [out, in, k, k] as the update takes it.
    pub fn apply(&self, gradient: &Tensor) -> Tensor {
        let flat = gradient.flatten(1, -1).matmul(&self.inverse);
        flat.view_as(gradient)
    }

    /// Sets the first filters of a fresh network to the strongest directions and their opposites, of which a
    /// ReLU loses nothing.
    pub fn initialise(&self, net: &Net) {
        let weight = net.params[self.param].tensor.detach();
        let size = weight.size();
        let n = (size[0] / 2).min(self.directions.size()[0]);
        let filters = self.directions.narrow(0, 0, n);
        let both = Tensor::cat(&[&filters, &filters.neg()], 0);
        let both = both.view([2 * n, size[1], size[2], size[3]]);
        tch::no_grad(|| weight.narrow(0, 0, 2 * n).copy_(&both));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Arch;

    #[test]
    fn patches_come_out_uncorrelated() {
        let pixels = (0..40 * 3 * 64).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
        let images = Images {
            shape: [3, 8, 8],
            n_classes: 10,
            pixels: pixels.collect(),
            labels: vec![0; 40],
            checksum: String::new(),
        };
        let normaliser = Normaliser::measure(&images);
        let arch = Arch::parse("lean-small", images.shape, 10).unwrap();
        let net = Net::new(&arch, 1);
        let whitening = Whitening::of(&net, &images, &normaliser).unwrap();
        whitening.initialise(&net);
        let batches = Batches::plain(&images, &normaliser, 40);
        let x = batches.get(&batches.epoch(0), 0).0;
        let weight = &net.params[whitening.param()].tensor;
        let y = x.conv2d(weight, None::<&Tensor>, [2, 2], [2, 2], [1, 1], 1);
        let y = y.transpose(0, 1).reshape([weight.size()[0], -1]);
        let covariance = y.matmul(&y.tr()) / y.size()[1] as f64;
        let half = covariance.narrow(0, 0, 8).narrow(1, 0, 8);
        let error = half - Tensor::eye(8, (Kind::Float, tch::Device::Cpu));
        assert!(error.abs().max().double_value(&[]) < 0.05);
        let other = Net::new(&Arch::custom(&[4], 1, [3, 8, 8], 2), 1);
        assert!(Whitening::of(&other, &images, &normaliser).is_none());
    }

    #[test]
    fn the_update_is_that_of_whitened_weights() {
        let directions = Tensor::from_slice(&[2f32, 0.0, 0.0, 0.5]).view([2, 2]);
        let whitening = Whitening {
            inverse: directions.tr().matmul(&directions),
            directions,
            param: 0,
        };
        let gradient = Tensor::from_slice(&[1f32, 1.0]).view([1, 2, 1, 1]);
        let got = Vec::<f32>::try_from(whitening.apply(&gradient).flatten(0, -1)).unwrap();
        assert_eq!(got, [4.0, 0.25]);
    }
}
