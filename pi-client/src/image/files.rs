//! Files of images: PNG, JPEG and .npy, told apart by their content and bounded before they are decoded.

use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::{Content, Image, refused};
use crate::error::ClientError;
use crate::npy;

/// Largest file that is read.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Most pixels that an image may have; a small file can claim very many.
const MAX_PIXELS: u64 = 100_000_000;

impl Image {
    /// Reads a PNG, JPEG or .npy file; its content says which it is.
    ///
    /// # Errors
    /// [`ClientError::Input`] with what is wrong.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let image = of_file(path, |bytes| Self::decode("", bytes))?;
        Ok(image.named(file_name(path)))
    }

    /// Looks whether the file at `path` is an image, without its pixels: the width and height of a picture, as a viewer shows it, or
    /// `None` for an array, which is read whole.
    ///
    /// # Errors
    /// As [`Self::open`]; a picture that is broken further on passes.
    pub fn look(path: impl AsRef<Path>) -> Result<Option<(usize, usize)>, ClientError> {
        of_file(path.as_ref(), |bytes| {
            if bytes.is_empty() || bytes.starts_with(npy::MAGIC) {
                return Self::decode("", bytes).map(|_| None);
            }
            let (decoder, orientation, _) = decoder("", bytes)?;
            let (width, height) = decoder.dimensions();
            let lies = matches!(
                orientation,
                Orientation::Rotate90
                    | Orientation::Rotate270
                    | Orientation::Rotate90FlipH
                    | Orientation::Rotate270FlipH
            );
            let (width, height) = (width as usize, height as usize);
            Ok(Some(if lies {
                (height, width)
            } else {
                (width, height)
            }))
        })
    }

    /// Reads all of `source`, in the same formats.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(name: &str, source: impl Read) -> Result<Self, ClientError> {
        Self::decode(name, &all_of(name, source)?)
    }

    /// Decodes the content of a PNG, JPEG or .npy file. `name` stands in messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, ClientError> {
        if bytes.is_empty() {
            return Err(refused(name, "it is empty"));
        }
        if bytes.starts_with(npy::MAGIC) {
            return match npy::parse(bytes).map_err(|reason| refused(name, reason))? {
                npy::Array::Bytes {
                    height,
                    width,
                    channels,
                    values,
                } => Ok(Self::from_pixels(width, height, channels, values)?.named(name)),
                npy::Array::Floats { shape, values } => {
                    Ok(Self::from_tensor(shape, values)?.named(name))
                }
            };
        }
        let (decoder, orientation, format) = decoder(name, bytes)?;
        let picture = DynamicImage::from_decoder(decoder);
        let mut picture = picture.map_err(broken(name, format))?;
        picture.apply_orientation(orientation);
        Ok(Self::from_picture(&picture).named(name))
    }

    pub(super) fn from_picture(picture: &DynamicImage) -> Self {
        let mut notes = Vec::new();
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
            name: String::new(),
            content: Content::Pixels {
                width,
                height,
                channels,
                bytes,
                notes,
            },
        }
    }
}

/// What a file is called in results: without its folder.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Does `what` with the content of a file; its errors name the file.
fn of_file<T>(
    path: &Path,
    what: impl FnOnce(&[u8]) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let name = path.to_string_lossy();
    let unreadable = |e: std::io::Error| refused(&name, format!("cannot read it: {e}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    what(&all_of(&name, file)?).map_err(|e| match e {
        ClientError::Input { reason, .. } => refused(&name, reason),
        e => e,
    })
}

fn all_of(name: &str, source: impl Read) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    source
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| refused(name, format!("cannot read it: {e}")))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(refused(
            name,
            format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20),
        ));
    }
    Ok(bytes)
}

/// A decoder of a picture that is not too large, and how the picture lies.
fn decoder<'a>(
    name: &str,
    bytes: &'a [u8],
) -> Result<(impl ImageDecoder + 'a, Orientation, ImageFormat), ClientError> {
    let format = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => format,
        Ok(other) => {
            return Err(refused(
                name,
                format!("it is {other:?}; PNG, JPEG and .npy are read"),
            ));
        }
        Err(_) => return Err(refused(name, "it is neither PNG nor JPEG nor .npy")),
    };
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format)
        .into_decoder()
        .map_err(broken(name, format))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(refused(
            name,
            format!(
                "it has {width} x {height} pixels; at most {} million are read: make it smaller first",
                MAX_PIXELS / 1_000_000
            ),
        ));
    }
    // A camera's image may be stored lying on its side.
    let orientation = decoder.orientation().map_err(broken(name, format))?;
    Ok((decoder, orientation, format))
}

fn broken(name: &str, format: ImageFormat) -> impl Fn(image::ImageError) -> ClientError {
    move |e| refused(name, format!("it is a broken {format:?} image: {e}"))
}
