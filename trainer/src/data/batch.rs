//! Minibatches: normalised float pixels with random crop and flip.
//!
//! Everything random is a function of (seed, epoch, batch), so a run that resumes in the middle of
//! an epoch sees the same images, crops and flips as one that was never stopped.

use super::Images;
use super::resident::{Draw, Resident};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

/// Per-channel mean and standard deviation of the training pixels, in units of 1 (pixel / 255).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Normaliser {
    /// Mean for each channel.
    pub mean: Vec<f64>,
    /// Standard deviation for each channel.
    pub std: Vec<f64>,
}

impl Normaliser {
    /// Measures a set of images, rounded to four decimals so that a card can state them exactly.
    pub fn measure(images: &Images) -> Normaliser {
        let [c, h, w] = images.shape;
        let mut histogram = vec![[0u64; 256]; c];
        for (i, plane) in images.pixels.chunks_exact(h * w).enumerate() {
            plane
                .iter()
                .for_each(|&p| histogram[i % c][usize::from(p)] += 1);
        }
        let round = |v: f64| (v * 1e4).round() / 1e4;
        let moments = histogram.iter().map(|hist| {
            let n = hist.iter().sum::<u64>().max(1) as f64;
            let value = |p: usize| p as f64 / 255.0;
            let mean = hist
                .iter()
                .enumerate()
                .map(|(p, &k)| value(p) * k as f64)
                .sum::<f64>()
                / n;
            let var = hist
                .iter()
                .enumerate()
                .map(|(p, &k)| (value(p) - mean).powi(2) * k as f64);
            (round(mean), round((var.sum::<f64>() / n).sqrt()).max(1e-4))
        });
        let (mean, std) = moments.unzip();
        Normaliser { mean, std }
    }

    /// The normalised value of every pixel value, for each channel.
    fn table(&self) -> Vec<[f32; 256]> {
        let row =
            |(m, s): (&f64, &f64)| std::array::from_fn(|p| ((p as f64 / 255.0 - m) / s) as f32);
        self.mean.iter().zip(&self.std).map(row).collect()
    }
}

/// Random changes to training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Augment {
    /// Rows and columns of zeros around the image before a random crop of the original size.
    pub crop_pad: usize,
    /// Mirror left and right with probability one half.
    pub flip: bool,
    /// Each image in every other epoch instead (K. Jordan 2024): two epochs in a row show both sides of all.
    #[serde(default)]
    pub alternate: bool,
}

/// Cuts an image set into minibatches.
pub struct Batches<'a> {
    images: &'a Images,
    table: Vec<[f32; 256]>,
    batch: usize,
    seed: u64,
    augment: Option<Augment>,
    device: Device,
    resident: Option<Resident>,
}

/// The images of an epoch in their order, and what is done to each.
pub struct EpochPlan {
    draws: Vec<Draw>,
    on_device: Option<Tensor>,
}

impl<'a> Batches<'a> {
    /// Shuffled, augmented minibatches; the last one, if partial, is left out.
    pub fn training(
        images: &'a Images,
        normaliser: &Normaliser,
        batch: usize,
        seed: u64,
        augment: Augment,
    ) -> Self {
        Batches {
            images,
            table: normaliser.table(),
            batch,
            seed,
            augment: Some(augment),
            device: Device::Cpu,
            resident: None,
        }
    }

    /// All images in order, unchanged; the last minibatch may be partial.
    pub fn plain(images: &'a Images, normaliser: &Normaliser, batch: usize) -> Self {
        Batches {
            images,
            table: normaliser.table(),
            batch,
            seed: 0,
            augment: None,
            device: Device::Cpu,
            resident: None,
        }
    }

    /// Minibatches come out on `device`. Unless that is the processor, the set itself moves there once.
    pub fn on(mut self, device: Device) -> Self {
        if device != Device::Cpu {
            self.resident = Resident::new(self.images, &self.table, device);
        }
        self.device = device;
        self
    }

    /// Minibatches in an epoch.
    pub fn n_batches(&self) -> usize {
        match self.augment {
            Some(_) => self.images.len() / self.batch,
            None => self.images.len().div_ceil(self.batch),
        }
    }

    /// The order of the images in an epoch.
    fn order(&self, epoch: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.images.len() as u32).collect();
        if self.augment.is_some() {
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(mix(
                self.seed,
                epoch as u64,
                u64::MAX,
            )));
        }
        order
    }

    /// What an epoch does.
    pub fn epoch(&self, epoch: usize) -> EpochPlan {
        let order = self.order(epoch);
        let mut draws = Vec::with_capacity(order.len());
        for (i, chosen) in order.chunks(self.batch.max(1)).enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(mix(self.seed, epoch as u64, i as u64));
            for &index in chosen {
                let (dy, dx, flip) = match self.augment {
                    Some(a) => {
                        let p = a.crop_pad as i32;
                        let mut shift = || rng.random_range(-p..=p);
                        let (dy, dx) = (shift(), shift());
                        let flip = match a.alternate {
                            true => mix(self.seed, index.into(), 0) % 2 != epoch as u64 % 2,
                            false => a.flip && rng.random(),
                        };
                        (dy, dx, a.flip && flip)
                    }
                    None => (0, 0, false),
                };
                draws.push(Draw {
                    index,
                    dy,
                    dx,
                    flip,
                });
            }
        }
        let on_device = self.resident.as_ref().map(|r| r.upload(&draws));
        EpochPlan { draws, on_device }
    }

    /// Minibatch `i` of an epoch: images [N, C, H, W] (stored channels last) and labels `[N]`.
    pub fn get(&self, epoch: &EpochPlan, i: usize) -> (Tensor, Tensor) {
        let from = i * self.batch;
        let n = self.batch.min(epoch.draws.len().saturating_sub(from));
        if let (Some(resident), Some(draws)) = (&self.resident, &epoch.on_device) {
            return resident.get(draws, from, n);
        }
        let [c, h, w] = self.images.shape;
        let mut data = vec![0f32; n * c * h * w];
        let mut labels = Vec::with_capacity(n);
        let chosen = epoch.draws.iter().skip(from).take(n);
        for (draw, out) in chosen.zip(data.chunks_exact_mut(c * h * w)) {
            labels.push(i64::from(self.images.labels[draw.index as usize]));
            self.write(draw, out);
        }
        let size = [n as i64, h as i64, w as i64, c as i64];
        let x = Tensor::from_slice(&data).view(size).permute([0, 3, 1, 2]);
        let labels = Tensor::from_slice(&labels);
        (x.to_device(self.device), labels.to_device(self.device))
    }

    /// One image, moved, mirrored and normalised, in row, column, channel order over zeros.
    fn write(&self, draw: &Draw, out: &mut [f32]) {
        let [c, h, w] = self.images.shape;
        let source = self.images.image(draw.index as usize);
        for y in 0..h {
            let sy = y as isize + draw.dy as isize;
            if !(0..h as isize).contains(&sy) {
                continue;
            }
            for x in 0..w {
                let sx = if draw.flip { w - 1 - x } else { x } as isize + draw.dx as isize;
                if !(0..w as isize).contains(&sx) {
                    continue;
                }
                for (k, table) in self.table.iter().enumerate() {
                    let pixel = source[(k * h + sy as usize) * w + sx as usize];
                    out[(y * w + x) * c + k] = table[usize::from(pixel)];
                }
            }
        }
    }
}

pub(super) fn mix(seed: u64, epoch: u64, batch: u64) -> u64 {
    // SplitMix64's finaliser: three counters to one well spread seed.
    let mut z = seed ^ epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ batch.rotate_left(32);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(n: usize) -> Images {
        let pixels = (0..n * 48).map(|i| (i * 7 % 251) as u8).collect();
        Images {
            shape: [3, 4, 4],
            n_classes: 10,
            pixels,
            labels: (0..n as u16).collect(),
            checksum: String::new(),
        }
    }

    #[test]
    fn plain_batches_hold_normalised_pixels_in_place() {
        let set = images(5);
        let norm = Normaliser {
            mean: vec![0.5, 0.25, 0.0],
            std: vec![0.5, 1.0, 2.0],
        };
        let batches = Batches::plain(&set, &norm, 2);
        assert_eq!(batches.n_batches(), 3);
        let (x, y) = batches.get(&batches.epoch(0), 2);
        assert_eq!((x.size(), y.int64_value(&[0])), (vec![1, 3, 4, 4], 4));
        let want = (f64::from(set.image(4)[16 + 4 + 3]) / 255.0 - 0.25) / 1.0;
        assert!((x.double_value(&[0, 1, 1, 3]) - want).abs() < 1e-6);
    }

    #[test]
    fn a_batch_depends_only_on_seed_epoch_and_index() {
        let set = images(20);
        let norm = Normaliser::measure(&set);
        let a = Augment {
            crop_pad: 1,
            flip: true,
            alternate: false,
        };
        let one = Batches::training(&set, &norm, 4, 9, a);
        let x = one.get(&one.epoch(3), 2).0;
        let again = Batches::training(&set, &norm, 4, 9, a);
        assert_eq!(x, again.get(&again.epoch(3), 2).0);
        assert_ne!(x, one.get(&one.epoch(4), 2).0);
        assert_ne!(one.order(3), one.order(4));
    }

    #[test]
    fn alternating_flips_show_both_sides_in_two_epochs() {
        let set = images(40);
        let a = Augment {
            crop_pad: 0,
            flip: true,
            alternate: true,
        };
        let batches = Batches::training(&set, &Normaliser::measure(&set), 4, 9, a);
        let flips = |epoch| {
            let mut flips = vec![false; set.len()];
            for draw in batches.epoch(epoch).draws {
                flips[draw.index as usize] = draw.flip;
            }
            flips
        };
        let (first, second) = (flips(0), flips(1));
        assert!(first.iter().zip(&second).all(|(a, b)| a != b));
        assert_eq!(first, flips(2));
        let n = first.iter().filter(|&&f| f).count();
        assert!((10..=30).contains(&n), "{n}");
    }

    #[test]
    fn a_set_on_the_device_gives_the_same_minibatches() {
        let set = images(21);
        let norm = Normaliser::measure(&set);
        for (crop_pad, flip) in [(0, false), (1, true), (3, true)] {
            let a = Augment {
                crop_pad,
                flip,
                alternate: false,
            };
            for host in [
                Batches::training(&set, &norm, 4, 9, a),
                Batches::plain(&set, &norm, 4),
            ] {
                let resident = Resident::new(&set, &host.table, Device::Cpu).unwrap();
                let epoch = host.epoch(1);
                let draws = resident.upload(&epoch.draws);
                for i in 0..host.n_batches() {
                    let (x, labels) = host.get(&epoch, i);
                    let got = resident.get(&draws, i * 4, labels.size()[0] as usize);
                    assert_eq!(got, (x, labels));
                    assert_eq!(got.0.stride()[1], 1, "channels last");
                }
            }
        }
    }
}
