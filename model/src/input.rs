//! What a network takes: images that are normalised, or tensors within a range. Both parties may know it.

use crate::error::{ModelError, Result};
use crate::spec::InputSpec;

impl InputSpec {
    /// Whether it takes images. Otherwise it takes tensors alone.
    #[must_use]
    pub const fn takes_images(&self) -> bool {
        !self.mean.is_empty()
    }

    /// (C, H, W).
    #[must_use]
    pub const fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// Values of one input.
    #[must_use]
    pub const fn n_values(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether an array of this shape holds one input: (C, H, W), where dimensions of one may be missing or added.
    #[must_use]
    pub fn takes_shape(&self, shape: &[usize]) -> bool {
        let own = self.shape();
        let long = |d: &&usize| **d != 1;
        shape.iter().filter(long).eq(own.iter().filter(long))
    }

    /// Whether normalisation and range make sense; a served model needs one of the two.
    ///
    /// # Errors
    /// [`ModelError::Op`] saying what is wrong.
    pub(crate) fn check(&self) -> Result<()> {
        let refused = |what: &str| Err(ModelError::op("input", what));
        let finite = |values: &[f64]| values.iter().all(|v| v.is_finite());
        let n = self.mean.len();
        if n != self.std.len()
            || n != 0 && n != self.channels
            || !finite(&self.mean)
            || !finite(&self.std)
            || self.std.iter().any(|&s| s <= 0.0)
        {
            return refused(
                "mean and std need one finite value for each channel, and std must be positive",
            );
        }
        match self.range {
            Some(_) if self.takes_images() => {
                refused("it has mean and std of pixels and a range of tensors; leave one out")
            }
            Some([low, high]) if !finite(&[low, high]) || low >= high => {
                refused("its range needs two finite numbers, the lower one first")
            }
            _ => Ok(()),
        }
    }

    /// Least and largest value of channel `c`; none where that is not known yet.
    #[must_use]
    pub fn bounds(&self, c: usize) -> Option<[f64; 2]> {
        match (self.mean.get(c), self.std.get(c)) {
            (Some(mean), Some(std)) => Some([-mean / std, (1.0 - mean) / std]),
            _ => self.range,
        }
    }

    /// Largest absolute value of an input.
    #[must_use]
    pub fn largest(&self) -> f64 {
        let ends = (0..self.channels).filter_map(|c| self.bounds(c));
        ends.flatten().map(f64::abs).fold(0.0, f64::max)
    }

    /// Whether `values`, (C, H, W), are an input. The message names no value, as an input is its owner's secret.
    ///
    /// # Errors
    /// [`ModelError::Input`]: another number of values, one that is not finite, or one outside the range.
    pub fn check_values(&self, values: &[f32]) -> Result<()> {
        let refused = |what: String| Err(ModelError::Input(what));
        let (n, due) = (values.len(), self.n_values());
        if n != due {
            return refused(format!("it has {n} values, the model takes {due}"));
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let is_nan = values.iter().any(|v| v.is_nan());
            let what = if is_nan { "NaN" } else { "infinity" };
            return refused(format!(
                "it holds {what}; the first value that is not finite is number {at}"
            ));
        }
        let area = (self.height * self.width).max(1);
        for (c, channel) in values.chunks(area).enumerate() {
            let Some([low, high]) = self.bounds(c) else {
                continue;
            };
            // A little more for rounding elsewhere.
            let slack = 0.01
                * self
                    .std
                    .get(c)
                    .map_or((high - low).min(1.0), |std| 1.0 / std);
            let (low, high) = (low - slack, high + slack);
            let Some(v) = channel
                .iter()
                .find(|&&v| !(low..=high).contains(&f64::from(v)))
            else {
                continue;
            };
            let side = if f64::from(*v) < low {
                "below"
            } else {
                "above"
            };
            let why = match self.takes_images() {
                true => format!(
                    "the range of normalised pixels; normalise it as the model's card says: (pixel / 255 - mean) / std, mean {:?}, std {:?}",
                    self.mean, self.std
                ),
                false => "the range that the model was made for; scale it as the network's training did, or clip it".to_owned(),
            };
            return refused(format!("a value is {side} {low:.2} to {high:.2}, {why}"));
        }
        Ok(())
    }

    /// Rounds a tensor (C, H, W) to `fraction_bits`.
    ///
    /// # Errors
    /// Those of [`Self::check_values`].
    pub fn quantise_tensor(&self, values: &[f32], fraction_bits: u32) -> Result<Vec<i64>> {
        self.check_values(values)?;
        let scale = f64::from(fraction_bits).exp2();
        let rounded = values
            .iter()
            .map(|&v| (f64::from(v) * scale).round() as i64);
        Ok(rounded.collect())
    }

    /// Whether it takes images.
    ///
    /// # Errors
    /// [`ModelError::Input`] saying what it takes instead.
    pub fn check_images(&self) -> Result<()> {
        match self.takes_images() {
            true => Ok(()),
            false => Err(ModelError::Input(format!(
                "the model takes no images but float tensors of {:?} (C, H, W); save one as float32 in a .npy file",
                self.shape()
            ))),
        }
    }

    /// Normalises an image of bytes, row by row with interleaved channels, and rounds it to `fraction_bits`.
    ///
    /// Returns the values in (C, H, W) order.
    ///
    /// # Errors
    /// [`ModelError::Input`] when the image has another size than the model's input, or the model takes no images.
    pub fn quantise(
        &self,
        pixels: &[u8],
        width: usize,
        height: usize,
        fraction_bits: u32,
    ) -> Result<Vec<i64>> {
        self.check_images()?;
        if (width, height) != (self.width, self.height) || pixels.len() != self.n_values() {
            return Err(ModelError::Input(format!(
                "the model takes images of {} x {} pixels with {} channels, this one has {width} x {height} pixels with {} channels; resize it first",
                self.width,
                self.height,
                self.channels,
                pixels.len().checked_div(width * height).unwrap_or(0),
            )));
        }
        let scale = f64::from(fraction_bits).exp2();
        let mut values = Vec::with_capacity(pixels.len());
        for ((channel, mean), std) in (0..self.channels).zip(&self.mean).zip(&self.std) {
            values.extend(
                pixels
                    .iter()
                    .skip(channel)
                    .step_by(self.channels)
                    .map(|&p| ((f64::from(p) / 255.0 - mean) / std * scale).round() as i64),
            );
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: [usize; 3], range: Option<[f64; 2]>) -> InputSpec {
        let [channels, height, width] = shape;
        InputSpec {
            channels,
            height,
            width,
            mean: vec![],
            std: vec![],
            range,
        }
    }

    #[test]
    fn dimensions_of_one_may_be_missing() {
        let features = spec([5, 1, 1], None);
        for shape in [&[5][..], &[1, 5], &[5, 1, 1], &[1, 5, 1, 1]] {
            assert!(features.takes_shape(shape), "{shape:?}");
        }
        let sequence = spec([2, 1, 7], None);
        assert!(sequence.takes_shape(&[2, 7]) && sequence.takes_shape(&[1, 2, 7]));
        for shape in [&[7, 2][..], &[14], &[2, 7, 2]] {
            assert!(!sequence.takes_shape(shape), "{shape:?}");
        }
    }

    #[test]
    fn tensors_keep_to_their_range() {
        let input = spec([2, 1, 1], Some([-4.0, 8.0]));
        assert_eq!(input.quantise_tensor(&[-4.0, 7.5], 4).unwrap(), [-64, 120]);
        assert_eq!(input.largest(), 8.0);
        for (values, what) in [
            (vec![0.0], "1 values, the model takes 2"),
            (vec![0.0, f32::NAN], "NaN; the first"),
            (vec![0.0, f32::INFINITY], "infinity"),
            (vec![-4.5, 0.0], "below -4.01 to 8.01"),
            (
                vec![0.0, 9.0],
                "above -4.01 to 8.01, the range that the model",
            ),
        ] {
            let said = input.check_values(&values).unwrap_err().to_string();
            assert!(said.contains(what), "{said}");
        }
        let said = input.quantise(&[0, 0], 1, 1, 8).unwrap_err().to_string();
        assert!(
            said.contains("takes no images") && said.contains("[2, 1, 1]"),
            "{said}"
        );
        let open = spec([2, 1, 1], None);
        assert!(open.check_values(&[1e6, -1e6]).is_ok());
    }

    #[test]
    fn contradictions_are_refused() {
        let mut input = spec([2, 1, 1], Some([0.0, 1.0]));
        assert!(input.check().is_ok());
        input.mean = vec![0.0; 2];
        assert!(input.check().is_err());
        input.std = vec![1.0; 2];
        let said = input.check().unwrap_err().to_string();
        assert!(said.contains("leave one out"), "{said}");
        input.range = None;
        assert!(input.check().is_ok());
        let mut input = spec([2, 1, 1], Some([1.0, 1.0]));
        assert!(input.check().is_err());
        input.range = Some([0.0, f64::INFINITY]);
        assert!(input.check().is_err());
    }
}
