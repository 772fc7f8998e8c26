//! An image or a tensor as its owner has it, and how it becomes what the model takes.
//!
//! The model's card gives size, mean and standard deviation. Pixels of another size are cropped and resized (`pi_images`, as the
//! trainer does it too). Then each becomes (p / 255 - mean) / std. A tensor of floats is taken as already normalised, and has to
//! have the card's shape; it is all that a model takes whose inputs are no images. Whatever was guessed comes back as a note.
//!
//! Security: everything here is the client's secret and stays in this process. No text names a pixel.

use pi_images::{ImageError, Picture};
use pi_model::{ModelError, PublicModel};

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
        /// (C, H, W), perhaps without dimensions of one.
        shape: Vec<usize>,
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

    /// A tensor of this shape: what the network itself takes, (C, H, W), where dimensions of one may be missing; of an image normalised.
    ///
    /// # Errors
    /// [`ClientError::Input`] when the shape and the values do not agree, or a value is not finite.
    pub fn from_tensor(shape: &[usize], values: Vec<f32>) -> Result<Self, ClientError> {
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if values.is_empty() || n != Some(values.len()) {
            return Err(refused(
                "tensor",
                format!("{} values do not have the shape {shape:?}", values.len()),
            ));
        }
        Ok(Self {
            name: "tensor".into(),
            content: Content::Tensor {
                shape: shape.to_vec(),
                values,
            },
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
            Content::Tensor { shape, values } => (self.fit_tensor(model, shape, values)?, vec![]),
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
        wanted.check_images().map_err(|e| unfit(&self.name, &e))?;
        let failed = |e: ImageError| refused(&self.name, e.to_string());
        let sized = match sizing {
            Sizing::Resize => picture.fit(wanted.width, wanted.height).map_err(failed)?,
            Sizing::Exact => picture.clone(),
        };
        let picture = sized.with_channels(wanted.channels).map_err(failed)?;
        let (width, height) = picture.size();
        // Of another size, the model says what it takes.
        let values = model
            .quantise(picture.bytes(), width, height)
            .map_err(|e| unfit(&self.name, &e))?;
        Ok((values, picture.notes().to_vec()))
    }

    fn fit_tensor(
        &self,
        model: &PublicModel,
        shape: &[usize],
        values: &[f32],
    ) -> Result<Vec<i64>, ClientError> {
        let input = &model.spec().input;
        if !input.takes_shape(shape) {
            return Err(refused(
                &self.name,
                format!(
                    "its shape is {shape:?}, the model takes float tensors of {:?} (C, H, W)",
                    input.shape()
                ),
            ));
        }
        let bits = model.activation_fraction_bits();
        let quantised = input.quantise_tensor(values, bits);
        quantised.map_err(|e| unfit(&self.name, &e))
    }
}

/// What the model says of an input, under the input's name.
fn unfit(name: &str, error: &ModelError) -> ClientError {
    match error {
        ModelError::Input(reason) => refused(name, reason.as_str()),
        e => refused(name, e.to_string()),
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
