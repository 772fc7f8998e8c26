//! From an image file to the pixels that a model takes: one way, for training, for measuring and for asking.
//!
//! A PNG or JPEG file becomes a [`Picture`] as a viewer shows it: turned as the camera says, white behind what is transparent. A
//! picture that did not come from the file whole is an error ([`jpeg`] says how that is known). [`Picture::fit`] makes it
//! the model's size: cropped at the centre to the aspect ratio, then resized with one filter. Every guess on the way is told as a note.
//!
//! An array in a NumPy file ([`npy`]) is taken as it is.
//!
//! Security: a picture is its owner's secret. No text here names a pixel, and a file is bounded before it is decoded.

mod decode;
mod error;
mod fit;
pub mod jpeg;
pub mod npy;

pub use decode::{MAX_FILE_BYTES, look};
pub use error::ImageError;

/// Pixels, and what reading them had to guess.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    /// Row by row, channels interleaved.
    bytes: Vec<u8>,
    notes: Vec<String>,
    n_unread: usize,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            width,
            height,
            channels,
            ..
        } = self;
        write!(f, "Picture({width} x {height}, {channels} channels)")
    }
}

impl Picture {
    /// Pixels of `channels` bytes each, row by row: red, green, blue, or one grey.
    ///
    /// # Errors
    /// [`ImageError::Bytes`] when sizes and bytes do not agree.
    pub fn from_pixels(
        width: usize,
        height: usize,
        channels: usize,
        bytes: Vec<u8>,
    ) -> Result<Self, ImageError> {
        let area = width.checked_mul(height);
        if bytes.is_empty() || area.and_then(|a| a.checked_mul(channels)) != Some(bytes.len()) {
            return Err(ImageError::Bytes {
                n_bytes: bytes.len(),
                width,
                height,
                channels,
            });
        }
        Ok(Self {
            width,
            height,
            channels,
            bytes,
            notes: vec![],
            n_unread: 0,
        })
    }

    /// Width and height in pixels.
    #[must_use]
    pub const fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Bytes of each pixel: 3 for colour, 1 for grey.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.channels
    }

    /// Row by row, channels interleaved (H, W, C).
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes among the data of its file that belong to no pixel: where there are any, it may be damaged, and a note says so.
    #[must_use]
    pub const fn n_unread_bytes(&self) -> usize {
        self.n_unread
    }

    /// A sentence for each guess so far.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}
