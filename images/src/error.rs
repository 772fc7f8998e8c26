//! Why a file or an array is no picture.

/// What is wrong, in words that follow the name of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// There is not one byte.
    #[error("it is empty")]
    Empty,
    /// Its first bytes are those of no format that is read.
    #[error("it is neither PNG nor JPEG")]
    Unknown,
    /// A format that is known and not read.
    #[error("it is {0}; PNG and JPEG are read")]
    Format(String),
    /// More pixels than are read.
    #[error(
        "it has {width} x {height} pixels; at most {most} million are read: make it smaller first"
    )]
    TooLarge {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// Millions of pixels.
        most: u64,
    },
    /// The file does not hold a whole picture.
    #[error("it is a broken {format} image: {reason}")]
    Broken {
        /// PNG or JPEG.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// Sizes and bytes do not agree.
    #[error("{n_bytes} bytes are not {width} x {height} pixels of {channels}")]
    Bytes {
        /// Bytes that are there.
        n_bytes: usize,
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
        /// Bytes of each pixel.
        channels: usize,
    },
    /// No rule makes one number of channels of the other.
    #[error("the model takes {wanted} channels, this has {has}")]
    Channels {
        /// Of the picture.
        has: usize,
        /// Of the model.
        wanted: usize,
    },
    /// Pixels of neither one nor three channels, in another size.
    #[error("only images of one or three channels can be resized")]
    Resize,
}
