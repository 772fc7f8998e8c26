//! An image or a tensor as its owner has it, and how it becomes what the model takes.
//!
//! The model's card gives size, mean and standard deviation. Pixels of another size are cropped at the centre to the card's
//! aspect ratio and resized with one filter: bilinear with antialiasing (each pixel of the result is a triangle-weighted mean of
//! all those it covers). Then each becomes (p / 255 - mean) / std. A tensor of floats is taken as already normalised, and has to
//! have the card's shape. Whatever was guessed comes back as a note.
//!
//! Security: everything here is the client's secret and stays in this process. No text names a pixel.

use image::imageops::{self, FilterType};
use image::{GrayImage, RgbImage};
use pi_model::PublicModel;

use crate::error::ClientError;
use crate::input::Input;

mod files;

pub use files::MAX_FILE_BYTES;

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
    Pixels {
        width: usize,
        height: usize,
        channels: usize,
        /// Row by row, channels interleaved.
        bytes: Vec<u8>,
        /// What reading them had to guess.
        notes: Vec<String>,
    },
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
        let area = width.checked_mul(height);
        if bytes.is_empty() || area.and_then(|a| a.checked_mul(channels)) != Some(bytes.len()) {
            return Err(refused(
                "pixels",
                format!(
                    "{} bytes are not {width} x {height} pixels of {channels}",
                    bytes.len()
                ),
            ));
        }
        Ok(Self {
            name: "pixels".into(),
            content: Content::Pixels {
                width,
                height,
                channels,
                bytes,
                notes: vec![],
            },
        })
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
            Content::Pixels {
                width,
                height,
                channels,
                bytes,
                notes,
            } => {
                let mut notes = notes.clone();
                let size = (*width, *height);
                let values = self.fit_pixels(model, sizing, size, *channels, bytes, &mut notes)?;
                (values, notes)
            }
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

    fn fit_pixels(
        &self,
        model: &PublicModel,
        sizing: Sizing,
        (width, height): (usize, usize),
        channels: usize,
        bytes: &[u8],
        notes: &mut Vec<String>,
    ) -> Result<Vec<i64>, ClientError> {
        let wanted = &model.spec().input;
        let mut bytes = std::borrow::Cow::Borrowed(bytes);
        match (channels, wanted.channels) {
            (has, wants) if has == wants => {}
            (1, 3) => {
                notes.push("it is grey: red, green and blue were made equal".to_owned());
                bytes = bytes.iter().flat_map(|&b| [b; 3]).collect();
            }
            (3, 1) => {
                notes.push("it is in colour: its luminance was taken".to_owned());
                bytes = luminance(&bytes).into();
            }
            (has, wants) => {
                return Err(refused(
                    &self.name,
                    format!("the model takes {wants} channels, this has {has}"),
                ));
            }
        }
        if (width, height) != (wanted.width, wanted.height) {
            if sizing == Sizing::Exact {
                // The model says what it takes.
                let refusal = model.quantise(&bytes, width, height).err();
                return Err(refused(
                    &self.name,
                    refusal.map_or_else(String::new, |e| e.to_string()),
                ));
            }
            bytes = self
                .resize(
                    (width, height),
                    (wanted.width, wanted.height),
                    &bytes,
                    notes,
                )?
                .into();
        }
        model
            .quantise(&bytes, wanted.width, wanted.height)
            .map_err(|e| refused(&self.name, e.to_string()))
    }

    fn resize(
        &self,
        (width, height): (usize, usize),
        (to_width, to_height): (usize, usize),
        bytes: &[u8],
        notes: &mut Vec<String>,
    ) -> Result<Vec<u8>, ClientError> {
        // The largest part of the middle that has the model's aspect ratio.
        let (w, h) = if width * to_height > height * to_width {
            ((height * to_width / to_height).max(1), height)
        } else {
            (width, (width * to_height / to_width).max(1))
        };
        notes.push(if (w, h) == (width, height) {
            format!("it was resized from {width} x {height} to {to_width} x {to_height}")
        } else {
            format!(
                "{width} x {height} is not of the model's aspect ratio: the middle {w} x {h} was taken and resized to {to_width} x {to_height}"
            )
        });
        let [x, y, w, h, full_w, full_h, to_w, to_h] = [
            (width - w) / 2,
            (height - h) / 2,
            w,
            h,
            width,
            height,
            to_width,
            to_height,
        ]
        .map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let filter = FilterType::Triangle;
        let resized = if bytes.len() == width * height {
            GrayImage::from_raw(full_w, full_h, bytes.to_vec()).map(|image| {
                let part = imageops::crop_imm(&image, x, y, w, h).to_image();
                imageops::resize(&part, to_w, to_h, filter).into_raw()
            })
        } else {
            RgbImage::from_raw(full_w, full_h, bytes.to_vec()).map(|image| {
                let part = imageops::crop_imm(&image, x, y, w, h).to_image();
                imageops::resize(&part, to_w, to_h, filter).into_raw()
            })
        };
        resized.ok_or_else(|| {
            refused(
                &self.name,
                "only images of one or three channels can be resized",
            )
        })
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
        let scale = f64::from(spec.activation_fraction_bits).exp2();
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

fn luminance(rgb: &[u8]) -> Vec<u8> {
    let (pixels, _) = rgb.as_chunks::<3>();
    pixels
        .iter()
        .map(|p| {
            let [r, g, b] = p.map(u32::from);
            // ITU-R BT.709, in ten thousandths.
            ((2126 * r + 7152 * g + 722 * b + 5000) / 10_000) as u8
        })
        .collect()
}

fn refused(name: &str, reason: impl Into<String>) -> ClientError {
    ClientError::Input {
        name: name.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
