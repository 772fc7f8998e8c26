//! Files of images: PNG, JPEG and .npy, told apart by their content and bounded before they are decoded.

use std::io::Read;
use std::path::Path;

use pi_images::npy::{self, Array};
use pi_images::{ImageError, MAX_FILE_BYTES, Picture};

use super::{Image, refused};
use crate::error::ClientError;

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
    /// As [`Self::open`]; a PNG image that is broken further on passes.
    pub fn look(path: impl AsRef<Path>) -> Result<Option<(usize, usize)>, ClientError> {
        of_file(path.as_ref(), |bytes| {
            if bytes.is_empty() || bytes.starts_with(npy::MAGIC) {
                return Self::decode("", bytes).map(|_| None);
            }
            pi_images::look(bytes)
                .map(Some)
                .map_err(|e| unreadable("", &e))
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
        if bytes.starts_with(npy::MAGIC) {
            let array = npy::parse(bytes).map_err(|e| refused(name, e.to_string()))?;
            return Self::of_array(name, array);
        }
        match Picture::decode(bytes) {
            Ok(picture) => Ok(Self::of_picture(picture).named(name)),
            Err(e) => Err(unreadable(name, &e)),
        }
    }
}

impl Image {
    /// Bytes are (H, W, C) or (H, W), with or without a leading dimension of one; floats have the model's shape.
    fn of_array(name: &str, array: Array) -> Result<Self, ClientError> {
        let one = |shape: Vec<usize>| match shape[..] {
            [1, a, b, c] => vec![a, b, c],
            _ => shape,
        };
        let image = match array {
            Array::Bytes { shape, values } => match one(shape)[..] {
                [height, width, channels] => Self::from_pixels(width, height, channels, values)?,
                [height, width] => Self::from_pixels(width, height, 1, values)?,
                ref shape => {
                    let said = format!(
                        "its shape is {shape:?}; an array of uint8 is taken as (H, W, C) or (H, W)"
                    );
                    return Err(refused(name, said));
                }
            },
            Array::Floats { shape, values } => Self::from_tensor(&shape, values)?,
        };
        Ok(image.named(name))
    }
}

/// What is wrong with a file; a client reads one format more.
fn unreadable(name: &str, error: &ImageError) -> ClientError {
    match error {
        ImageError::Unknown => refused(name, "it is neither PNG nor JPEG nor .npy"),
        ImageError::Format(format) => {
            refused(name, format!("it is {format}; PNG, JPEG and .npy are read"))
        }
        e => refused(name, e.to_string()),
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
