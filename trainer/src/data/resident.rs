//! Image sets that live on the device: minibatches are cut, mirrored and normalised there.
//!
//! An epoch uploads four integers an image (index, two shifts, mirrored or not); after that no step
//! waits for the processor. Pixels stay bytes, so CIFAR takes 150 MB and Tiny-ImageNet 1.2 GB. The
//! values are those of the host's minibatches to the bit.

use super::Images;
use tch::{Device, Kind, Tensor};

/// Sets larger than this stay in the host's memory and travel batch by batch.
const MAX_BYTES: usize = 16 << 30;

/// What happens to one image of a minibatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Draw {
    /// Its index in the set.
    pub index: u32,
    /// Rows by which it moves up.
    pub dy: i32,
    /// Columns by which it moves left.
    pub dx: i32,
    /// Mirrored.
    pub flip: bool,
}

/// An image set on a device.
pub(super) struct Resident {
    /// [N, H, W, C] bytes.
    pixels: Tensor,
    labels: Tensor,
    /// The normalised value of channel c and pixel p at 256 c + p.
    table: Tensor,
    shape: [i64; 3],
}

impl Resident {
    /// Copies the set to `device`; none if it is too large.
    pub(super) fn new(images: &Images, table: &[[f32; 256]], device: Device) -> Option<Resident> {
        if images.pixels.len() > MAX_BYTES {
            return None;
        }
        let [c, h, w] = images.shape.map(|n| n as i64);
        let labels: Vec<i64> = images.labels.iter().map(|&l| i64::from(l)).collect();
        let pixels = Tensor::from_slice(&images.pixels).to_device(device);
        let pixels = pixels.view([-1, c, h, w]).permute([0, 2, 3, 1]);
        Some(Resident {
            pixels: pixels.contiguous(),
            labels: Tensor::from_slice(&labels).to_device(device),
            table: Tensor::from_slice(table.as_flattened()).to_device(device),
            shape: [c, h, w],
        })
    }

    /// What an epoch does to its images, on the device: [4, n].
    pub(super) fn upload(&self, draws: &[Draw]) -> Tensor {
        let row = |f: fn(&Draw) -> i64| draws.iter().map(f);
        let rows = row(|d| d.index.into()).chain(row(|d| d.dy.into()));
        let rows = rows
            .chain(row(|d| d.dx.into()))
            .chain(row(|d| d.flip.into()));
        let rows: Vec<i64> = rows.collect();
        let draws = Tensor::from_slice(&rows).view([4, draws.len() as i64]);
        draws.to_device(self.labels.device())
    }

    /// Images `from..from + n` of an epoch, [n, C, H, W] (stored channels last), and their labels.
    pub(super) fn get(&self, draws: &Tensor, from: usize, n: usize) -> (Tensor, Tensor) {
        let [c, h, w] = self.shape;
        let options = (Kind::Int64, draws.device());
        let draws = draws.narrow(1, from as i64, n as i64);
        let (index, flip) = (draws.get(0), draws.get(3).view([-1, 1]));
        let (dy, dx) = (draws.get(1).view([-1, 1]), draws.get(2).view([-1, 1]));
        let y = Tensor::arange(h, options) + dy;
        let x = Tensor::arange(w, options);
        let mirrored = &x + flip * ((w - 1) - &x * 2);
        let x = mirrored + dx;
        let inside = |v: &Tensor, n: i64| v.ge(0).logical_and(&v.lt(n));
        let seen = inside(&y, h)
            .unsqueeze(2)
            .logical_and(&inside(&x, w).unsqueeze(1));
        let places = [
            Some(index.view([-1, 1, 1])),
            Some(y.clamp(0, h - 1).unsqueeze(2)),
            Some(x.clamp(0, w - 1).unsqueeze(1)),
        ];
        let pixels = self.pixels.index(&places).to_kind(Kind::Int64);
        let channels = Tensor::arange(c, options) * 256;
        let values = self.table.index(&[Some(pixels + channels)]);
        let values = values.where_self(&seen.unsqueeze(3), &values.zeros_like());
        let labels = self.labels.index_select(0, &index);
        (values.permute([0, 3, 1, 2]), labels)
    }
}
