//! A picture in the size and the colours that a model takes.

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma, Pixel, Rgb};

use crate::{ImageError, Picture};

impl Picture {
    /// The same picture with `channels` channels: grey becomes equal red, green and blue, colour its luminance. Notes say which.
    ///
    /// # Errors
    /// [`ImageError::Channels`] where there is no rule.
    pub fn with_channels(mut self, channels: usize) -> Result<Self, ImageError> {
        match (self.channels, channels) {
            (has, wanted) if has == wanted => {}
            (1, 3) => {
                self.notes
                    .push("it is grey: red, green and blue were made equal".to_owned());
                self.bytes = self.bytes.iter().flat_map(|&b| [b; 3]).collect();
            }
            (3, 1) => {
                self.notes
                    .push("it is in colour: its luminance was taken".to_owned());
                self.bytes = luminance(&self.bytes);
            }
            (has, wanted) => return Err(ImageError::Channels { has, wanted }),
        }
        self.channels = channels;
        Ok(self)
    }

    /// The middle of the picture that has the aspect ratio of `width` x `height`, resized to it: bilinear with antialiasing (each pixel of
    /// the result is a triangle-weighted mean of all those it covers). A note says what was cut.
    ///
    /// # Errors
    /// [`ImageError::Resize`] for other than one or three channels.
    pub fn fit(&self, width: usize, height: usize) -> Result<Self, ImageError> {
        if self.size() == (width, height) {
            return Ok(self.clone());
        }
        let (has_width, has_height) = self.size();
        // The largest part of the middle that has the wanted aspect ratio.
        let (w, h) = if has_width * height > has_height * width {
            ((has_height * width / height).max(1), has_height)
        } else {
            (has_width, (has_width * height / width).max(1))
        };
        let mut notes = self.notes.clone();
        notes.push(if (w, h) == (has_width, has_height) {
            format!("it was resized from {w} x {h} to {width} x {height}")
        } else {
            format!(
                "{has_width} x {has_height} is not of the model's aspect ratio: the middle {w} x {h} was taken and resized to {width} x {height}"
            )
        });
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let cut = Cut {
            x: number((has_width - w) / 2),
            y: number((has_height - h) / 2),
            size: (number(w), number(h)),
            to: (number(width), number(height)),
        };
        let full = (number(has_width), number(has_height));
        let resized = match self.channels {
            1 => cut.out_of::<Luma<u8>>(full, &self.bytes),
            3 => cut.out_of::<Rgb<u8>>(full, &self.bytes),
            _ => None,
        };
        Ok(Self {
            width,
            height,
            channels: self.channels,
            bytes: resized.ok_or(ImageError::Resize)?,
            notes,
            n_unread: self.n_unread,
        })
    }
}

/// Which part is taken, and how large it becomes.
struct Cut {
    x: u32,
    y: u32,
    size: (u32, u32),
    to: (u32, u32),
}

impl Cut {
    fn out_of<P: Pixel<Subpixel = u8> + 'static>(
        &self,
        (width, height): (u32, u32),
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        let image = ImageBuffer::<P, _>::from_raw(width, height, bytes)?;
        let part = imageops::crop_imm(&image, self.x, self.y, self.size.0, self.size.1);
        let resized = imageops::resize(&*part, self.to.0, self.to.1, FilterType::Triangle);
        Some(resized.into_raw())
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
