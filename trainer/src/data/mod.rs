//! Image sets: 8-bit pixels in channel, row, column order and their labels, read whole into memory.

mod batch;
mod cifar;
mod folder;
mod idx;
mod mix;
mod resident;

pub use batch::{Augment, Batches, EpochPlan, Normaliser};
pub use mix::Mix;

use crate::error::{Error, Result, io_error};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The image sets that the trainer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetKind {
    /// CIFAR-10, official binary version (`data_batch_1.bin` ... `test_batch.bin`).
    #[value(name = "cifar10")]
    #[serde(rename = "cifar10")]
    Cifar10,
    /// CIFAR-100, official binary version (`train.bin`, `test.bin`), fine labels.
    #[value(name = "cifar100")]
    #[serde(rename = "cifar100")]
    Cifar100,
    /// Fashion-MNIST, IDX files, gzipped or not.
    FashionMnist,
    /// Tiny-ImageNet-200, official folder (`wnids.txt`, `train`, `val`); tested on `val`.
    TinyImagenet,
    /// Images in class folders under `train` and `val`, as ImageNet has them.
    Folder,
}

impl DatasetKind {
    /// The name used on the command line and in model cards.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::FashionMnist => "fashion-mnist",
            Self::TinyImagenet => "tiny-imagenet",
            Self::Folder => "folder",
        }
    }

    /// Channels, height, width without reading anything; `image_size` as [`load`] takes it.
    pub fn shape(self, image_size: Option<usize>) -> [usize; 3] {
        let square = |default: usize| {
            [
                3,
                image_size.unwrap_or(default),
                image_size.unwrap_or(default),
            ]
        };
        match self {
            Self::Cifar10 | Self::Cifar100 => [3, 32, 32],
            Self::FashionMnist => [1, 28, 28],
            Self::TinyImagenet => square(64),
            Self::Folder => square(224),
        }
    }

    /// Class names, in label order. CIFAR-100's are read from `fine_label_names.txt` in `dir`.
    pub fn labels(self, dir: &Path) -> Result<Vec<String>> {
        let fixed = |names: &str| names.split(',').map(str::to_owned).collect();
        match self {
            Self::TinyImagenet => folder::tiny_imagenet_names(dir),
            Self::Folder => folder::class_names(dir),
            Self::Cifar10 => Ok(fixed(
                "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck",
            )),
            Self::FashionMnist => Ok(fixed(
                "t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot",
            )),
            Self::Cifar100 => {
                let path = dir.join("fine_label_names.txt");
                let text = String::from_utf8_lossy(&read(&path)?).into_owned();
                let names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                if names.len() != 100 {
                    return Err(bad(
                        &path,
                        0,
                        format!("{} names, expected 100", names.len()),
                    ));
                }
                Ok(names)
            }
        }
    }
}

/// Images with labels, and the SHA-256 of the files they came from.
#[derive(Clone)]
pub struct Images {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Number of classes.
    pub n_classes: usize,
    /// Pixels, image after image, each in channel, row, column order.
    pub pixels: Vec<u8>,
    /// One label an image.
    pub labels: Vec<u16>,
    /// SHA-256 of the source files' bytes in order, in hex.
    pub checksum: String,
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of one image.
    pub fn image_bytes(&self) -> usize {
        self.shape.iter().product()
    }

    /// The pixels of image `i`; empty if there is no such image.
    pub fn image(&self, i: usize) -> &[u8] {
        let n = self.image_bytes();
        self.pixels.get(i * n..(i + 1) * n).unwrap_or(&[])
    }

    /// The images `from..to`, copied.
    pub fn slice(&self, from: usize, to: usize) -> Images {
        let n = self.image_bytes();
        let (from, to) = (from.min(self.len()), to.min(self.len()));
        Images {
            shape: self.shape,
            n_classes: self.n_classes,
            pixels: self.pixels[from * n..to * n].to_vec(),
            labels: self.labels[from..to].to_vec(),
            checksum: self.checksum.clone(),
        }
    }
}

/// The two halves of an image set.
pub struct Dataset {
    /// Training images.
    pub train: Images,
    /// Test images, never trained or selected on.
    pub test: Images,
}

/// Reads an image set from `dir`; `image_size` is the side to which images in folders are scaled
/// [default: 64 Tiny-ImageNet, 224 other folders].
pub fn load(kind: DatasetKind, dir: &Path, image_size: Option<usize>) -> Result<Dataset> {
    if image_size.is_some_and(|n| n == 0 || n > 1024) {
        return Err(Error::Usage("--image-size: 1 to 1024 pixels".into()));
    }
    match kind {
        DatasetKind::TinyImagenet => folder::load_tiny_imagenet(dir, image_size.unwrap_or(64)),
        DatasetKind::Folder => folder::load_folder(dir, image_size.unwrap_or(224)),
        DatasetKind::Cifar10 => cifar::load_cifar10(dir),
        DatasetKind::Cifar100 => cifar::load_cifar100(dir),
        DatasetKind::FashionMnist => idx::load_fashion_mnist(dir),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(io_error(path))
}

fn bad(path: &Path, offset: usize, what: impl Into<String>) -> Error {
    Error::Data {
        path: path.to_owned(),
        offset: offset as u64,
        what: what.into(),
    }
}

fn hex(digest: Sha256) -> String {
    digest
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}
