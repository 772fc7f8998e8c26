//! An image or a tensor as its owner has it, and how it becomes what the model takes.
//!
//! The model's card gives size, mean and standard deviation. Pixels of another size are cropped and resized (`pi_images`, as the
//! trainer does it too). Then each becomes (p / 255 - mean) / std. A tensor of floats is taken as already normalised, and has to
//! have the card's shape. Whatever was guessed comes back as a note.
//!
//! Security: everything here is the client's secret and stays in this process. No text names a pixel.

use pi_images::{ImageError, Picture};
use pi_model::PublicModel;

use crate::error::ClientError;
use crate::input::Input;

mod files;

pub use pi_images::MAX_FILE_BYTES;

/// What to do with pixels of another size than the model's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sizing {
    /// Crop to the aspect ratio and resize.
    #[default]
    Resize,
    /// Refuse them.
    Exact,
}

/// An image or a tensor.
#[derive(Clone, PartialEq)]
pub struct Image {
    name: String,
    content: Content,
}

#[derive(Clone, PartialEq)]
enum Content {
    Picture(Picture),
    Tensor {
        /// (C, H, W).
        shape: [usize; 3],
        values: Vec<f32>,
    },
}

/// What the protocol takes, and what had to be guessed on the way there.
#[derive(Debug)]
pub struct Fitted {
    /// The input.
    pub input: Input,
    /// One sentence for each guess.
    pub notes: Vec<String>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({})", self.name)
    }
}

impl Image {
    /// Pixels of `channels` bytes each, row by row: red, green, blue, or one grey.
    ///
    /// # Errors
    /// [`ClientError::Input`] when sizes and bytes do not agree.
    pub fn from_pixels(
        width: usize,
        height: usize,
        channels: usize,
        bytes: Vec<u8>,
    ) -> Result<Self, ClientError> {
        let picture = Picture::from_pixels(width, height, channels, bytes)
            .map_err(|e| refused("pixels", e.to_string()))?;
        Ok(Self::of_picture(picture).named("pixels"))
    }

    const fn of_picture(picture: Picture) -> Self {
        Self {
            name: String::new(),
            content: Content::Picture(picture),
        }
    }

    /// A normalised tensor of this (C, H, W) shape: what the network itself takes.
    ///
    /// # Errors
    /// [`ClientError::Input`] when the shape and the values do not agree, or a value is not finite.
    pub fn from_tensor(shape: [usize; 3], values: Vec<f32>) -> Result<Self, ClientError> {
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if values.is_empty() || n != Some(values.len()) {
            return Err(refused(
                "tensor",
                format!("{} values do not have the shape {shape:?}", values.len()),
            ));
        }
        Ok(Self {
            name: "tensor".into(),
            content: Content::Tensor { shape, values },
        })
    }

    /// The same under this name, which messages and results use.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes it what `model` takes.
    ///
    /// # Errors
    /// [`ClientError::Input`] with what the model takes instead.
    pub fn fit(&self, model: &PublicModel, sizing: Sizing) -> Result<Fitted, ClientError> {
        let (values, notes) = match &self.content {
            Content::Picture(picture) => self.fit_picture(model, sizing, picture)?,
            Content::Tensor { shape, values } => (self.fit_tensor(model, *shape, values)?, vec![]),
        };
        Ok(Fitted {
            input: Input {
                name: self.name.clone(),
                values,
                label: None,
            },
            notes,
        })
    }

    fn fit_picture(
        &self,
        model: &PublicModel,
        sizing: Sizing,
        picture: &Picture,
    ) -> Result<(Vec<i64>, Vec<String>), ClientError> {
        let wanted = &model.spec().input;
        let unfit = |e: ImageError| refused(&self.name, e.to_string());
        let sized = match sizing {
            Sizing::Resize => picture.fit(wanted.width, wanted.height).map_err(unfit)?,
            Sizing::Exact => picture.clone(),
        };
        let picture = sized.with_channels(wanted.channels).map_err(unfit)?;
        let (width, height) = picture.size();
        // Of another size, the model says what it takes.
        let values = model
            .quantise(picture.bytes(), width, height)
            .map_err(|e| refused(&self.name, e.to_string()))?;
        Ok((values, picture.notes().to_vec()))
    }

    fn fit_tensor(
        &self,
        model: &PublicModel,
        shape: [usize; 3],
        values: &[f32],
    ) -> Result<Vec<i64>, ClientError> {
        let spec = model.spec();
        let input = &spec.input;
        let wanted = [input.channels, input.height, input.width];
        if shape != wanted {
            return Err(refused(
                &self.name,
                format!(
                    "its shape is {shape:?}, the model takes float tensors of {wanted:?} (C, H, W)"
                ),
            ));
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let what = if values.iter().any(|v| v.is_nan()) {
                "NaN"
            } else {
                "infinity"
            };
            return Err(refused(
                &self.name,
                format!("it holds {what}; the first value that is not finite is number {at}"),
            ));
        }
        let area = input.height * input.width;
        let channels = values.chunks(area).zip(input.mean.iter().zip(&input.std));
        let scale = f64::from(model.activation_fraction_bits()).exp2();
        let mut quantised = Vec::with_capacity(values.len());
        for (channel, (mean, std)) in channels {
            // What pixels 0 and 255 become, and a little more for rounding elsewhere.
            let slack = 0.01 / std;
            let (low, high) = (-mean / std - slack, (1.0 - mean) / std + slack);
            if let Some(v) = channel
                .iter()
                .find(|&&v| !(low..=high).contains(&f64::from(v)))
            {
                let side = if f64::from(*v) < low {
                    "below"
                } else {
                    "above"
                };
                return Err(refused(
                    &self.name,
                    format!(
                        "a value is {side} {low:.2} to {high:.2}, the range of normalised pixels; normalise it as the model's card says: (pixel / 255 - mean) / std, mean {:?}, std {:?}",
                        input.mean, input.std
                    ),
                ));
            }
            let rounded = channel
                .iter()
                .map(|&v| (f64::from(v) * scale).round() as i64);
            quantised.extend(rounded);
        }
        Ok(quantised)
    }
}

fn refused(name: &str, reason: impl Into<String>) -> ClientError {
    ClientError::Input {
        name: name.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
