//! Files of pictures: PNG and JPEG, told apart by their content and bounded before they are decoded.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use crate::{ImageError, Picture, jpeg};

/// Largest file that should be read.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Most pixels that a picture may have; a small file can claim very many.
const MAX_PIXELS: u64 = 100_000_000;

impl Picture {
    /// Decodes the content of a PNG or JPEG file.
    ///
    /// # Errors
    /// [`ImageError`]: not one of these, broken or cut off, or too large.
    pub fn decode(file: &[u8]) -> Result<Self, ImageError> {
        let (decoder, orientation, format) = decoder(file)?;
        let (mut notes, mut n_unread) = (vec![], 0);
        if format == ImageFormat::Jpeg {
            n_unread = jpeg::check(file).map_err(|e| broken(format, &e))?;
            if n_unread > 0 {
                notes.push(format!(
                    "it holds {n_unread} bytes that belong to no pixel: it may be damaged"
                ));
            }
        }
        let picture = DynamicImage::from_decoder(decoder);
        let mut picture = picture.map_err(|e| broken(format, &e))?;
        picture.apply_orientation(orientation);
        Ok(Self {
            n_unread,
            ..Self::of(&picture, notes)
        })
    }

    fn of(picture: &DynamicImage, mut notes: Vec<String>) -> Self {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let color = picture.color();
        let (channels, bytes) = if color.has_alpha() {
            let rgba = picture.to_rgba8();
            if rgba.pixels().any(|p| p.0[3] != 255) {
                notes.push("it is partly transparent: white was put behind it".to_owned());
            }
            let over_white = rgba.pixels().flat_map(|p| {
                let [r, g, b, alpha] = p.0.map(u32::from);
                [r, g, b].map(|c| ((c * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
            });
            let colours: Vec<u8> = over_white.collect();
            match color.has_color() {
                true => (3, colours),
                false => (1, colours.into_iter().step_by(3).collect()),
            }
        } else if color.has_color() {
            (3, picture.to_rgb8().into_raw())
        } else {
            (1, picture.to_luma8().into_raw())
        };
        Self {
            width,
            height,
            channels,
            bytes,
            notes,
            n_unread: 0,
        }
    }
}

/// Width and height of the picture in a file, as a viewer shows it, without its pixels.
///
/// # Errors
/// As [`Picture::decode`]; a PNG image that is broken further on passes.
pub fn look(file: &[u8]) -> Result<(usize, usize), ImageError> {
    let (decoder, orientation, format) = decoder(file)?;
    if format == ImageFormat::Jpeg {
        jpeg::check(file).map_err(|e| broken(format, &e))?;
    }
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    Ok(match orientation {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => (height, width),
        _ => (width, height),
    })
}

/// A decoder of a picture that is not too large, and how the picture lies.
fn decoder(file: &[u8]) -> Result<(impl ImageDecoder + '_, Orientation, ImageFormat), ImageError> {
    if file.is_empty() {
        return Err(ImageError::Empty);
    }
    let format = match image::guess_format(file) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => format,
        Ok(other) => return Err(ImageError::Format(format!("{other:?}"))),
        Err(_) => return Err(ImageError::Unknown),
    };
    let mut decoder = ImageReader::with_format(Cursor::new(file), format)
        .into_decoder()
        .map_err(|e| broken(format, &e))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::TooLarge {
            width,
            height,
            most: MAX_PIXELS / 1_000_000,
        });
    }
    // A camera's picture may be stored lying on its side.
    let orientation = decoder.orientation().map_err(|e| broken(format, &e))?;
    Ok((decoder, orientation, format))
}

fn broken(format: ImageFormat, reason: &dyn std::fmt::Display) -> ImageError {
    ImageError::Broken {
        format: match format {
            ImageFormat::Png => "PNG",
            _ => "JPEG",
        },
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests;
