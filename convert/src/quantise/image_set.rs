//! Images to calibrate and compare with: a folder of PNG or JPEG files, or one .npy file of tensors as the network takes them.
//!
//! A folder holds images, or one folder of images for each class. Files are decoded when they are asked for, as a client decodes them,
//! so that a large set needs no memory.

use std::path::{Path, PathBuf};

use pi_images::Picture;
use pi_images::npy::{self, Array};
use pi_model::ModelError;
use pi_model::graph::shapes;
use pi_model::spec::{InputSpec, ModelSpec, Op};

use super::error::{Error, Result};

/// Images for one model.
#[derive(Clone)]
pub struct ImageSet {
    input: InputSpec,
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    name: String,
    label: Option<usize>,
    content: Content,
}

#[derive(Clone)]
enum Content {
    File(PathBuf),
    Tensor(Vec<f32>),
    /// Row by row, channels interleaved.
    Pixels(Vec<u8>),
}

/// One image as the model takes it.
#[derive(Clone)]
pub struct Image {
    /// Normalised, (C, H, W).
    pub floats: Vec<f32>,
    /// The same with the fraction bits that were asked for.
    pub integers: Vec<i64>,
}

impl std::fmt::Debug for ImageSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImageSet({} images)", self.entries.len())
    }
}

impl ImageSet {
    /// The images in folder or .npy file `path`, for a model with this `spec`.
    ///
    /// # Errors
    /// [`Error::Images`] with the file's or folder's name: no images, tensors of another shape or not normalised, folders of unknown classes.
    pub fn open(path: &Path, spec: &ModelSpec) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|e| Error::images(path, e.to_string()))?;
        let entries = if metadata.is_dir() {
            if !spec.input.takes_images() {
                let reason = format!(
                    "it is a folder, and the model takes no images; give a .npy file of float32 tensors {}",
                    of_shape(&spec.input)
                );
                return Err(Error::images(path, reason));
            }
            folder(path, spec)?
        } else {
            array(path, &spec.input)?
        };
        Ok(Self {
            input: spec.input.clone(),
            entries,
        })
    }

    /// Normalised tensors, (C, H, W) each.
    ///
    /// # Errors
    /// [`Error::Images`] when one has another size or is not normalised, or there are none.
    pub fn of_tensors(tensors: Vec<Vec<f32>>, input: &InputSpec) -> Result<Self> {
        let entries = tensors.into_iter().enumerate().map(|(i, values)| {
            let name = format!("tensor {i}");
            check_tensor(&name, &values, input)?;
            Ok(Entry {
                name,
                label: None,
                content: Content::Tensor(values),
            })
        });
        let entries = entries.collect::<Result<Vec<_>>>()?;
        if entries.is_empty() {
            return Err(Error::named("tensors", "there are none; give some"));
        }
        Ok(Self {
            input: input.clone(),
            entries,
        })
    }

    /// Pixels, row by row with interleaved channels, and the class of each image.
    ///
    /// # Errors
    /// [`Error::Images`] when one has another size, or there are none.
    pub fn of_pixels(
        images: impl Iterator<Item = (Vec<u8>, usize)>,
        input: &InputSpec,
    ) -> Result<Self> {
        let entries = images.enumerate().map(|(i, (pixels, label))| {
            let name = format!("image {i}");
            match pixels.len() == input.n_values() {
                true => Ok(Entry {
                    name,
                    label: Some(label),
                    content: Content::Pixels(pixels),
                }),
                false => Err(Error::named(
                    &name,
                    format!(
                        "it has {} values, the model takes {} x {} x {}; scale it to that",
                        pixels.len(),
                        input.channels,
                        input.height,
                        input.width
                    ),
                )),
            }
        });
        let entries = entries.collect::<Result<Vec<_>>>()?;
        if entries.is_empty() {
            return Err(Error::named("images", "there are none; give some"));
        }
        Ok(Self {
            input: input.clone(),
            entries,
        })
    }

    /// At most `most` of them, spread evenly over all.
    #[must_use]
    pub fn spread(mut self, most: usize) -> Self {
        let n = self.entries.len();
        if most < n {
            let mut i = 0;
            self.entries.retain(|_| {
                i += 1;
                i * most / n > (i - 1) * most / n
            });
        }
        self
    }

    /// Range of the values of inputs that are no images: that of these, a quarter more at either end, rounded outwards to one
    /// significant digit, since clients see it and it shall not tell the extremes of these; none where there are only files.
    #[must_use]
    pub fn range(&self) -> Option<[f64; 2]> {
        let tensors = self.entries.iter().filter_map(|e| match &e.content {
            Content::Tensor(values) => Some(values),
            Content::File(_) | Content::Pixels(_) => None,
        });
        let values = tensors.flatten().map(|&v| f64::from(v));
        let ends = values.fold(None, |ends: Option<[f64; 2]>, v| {
            let [low, high] = ends.unwrap_or([v; 2]);
            Some([low.min(v), high.max(v)])
        });
        ends.map(|[low, high]| {
            // All alike: any span will do.
            let more = if low < high { (high - low) / 4.0 } else { 1.0 };
            [-round_up(more - low), round_up(high + more)]
        })
    }

    /// Number of images.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// File name of image `i`, for messages.
    #[must_use]
    pub fn name(&self, i: usize) -> &str {
        &self.entries[i].name
    }

    /// Class of image `i`, where its folder says so.
    #[must_use]
    pub fn label(&self, i: usize) -> Option<usize> {
        self.entries[i].label
    }

    /// Image `i`, with integers of `fraction_bits`.
    ///
    /// # Errors
    /// [`Error::Images`] with the file's name when it cannot be read.
    pub fn image(&self, i: usize, fraction_bits: u32) -> Result<Image> {
        let entry = &self.entries[i];
        let scale = f64::from(fraction_bits).exp2();
        match &entry.content {
            Content::Tensor(values) => Ok(Image {
                floats: values.clone(),
                integers: values
                    .iter()
                    .map(|&v| (f64::from(v) * scale).round() as i64)
                    .collect(),
            }),
            Content::File(path) => {
                let input = &self.input;
                let (width, height) = (input.width, input.height);
                let bytes = std::fs::read(path).map_err(|e| Error::images(path, e.to_string()))?;
                let picture = Picture::decode(&bytes)
                    .and_then(|p| p.fit(width, height)?.with_channels(input.channels))
                    .map_err(|e| Error::images(path, e.to_string()))?;
                self.of_bytes(picture.bytes(), fraction_bits)
            }
            Content::Pixels(pixels) => self.of_bytes(pixels, fraction_bits),
        }
    }

    fn of_bytes(&self, pixels: &[u8], fraction_bits: u32) -> Result<Image> {
        let input = &self.input;
        let (width, height) = (input.width, input.height);
        Ok(Image {
            floats: normalised(input, pixels),
            integers: input.quantise(pixels, width, height, fraction_bits)?,
        })
    }
}

/// Pixels, channels interleaved, as the network takes them.
fn normalised(input: &InputSpec, pixels: &[u8]) -> Vec<f32> {
    let channels = input.mean.iter().zip(&input.std).enumerate();
    let planes = channels.map(|(c, (mean, std))| {
        let own = pixels.iter().skip(c).step_by(input.channels);
        own.map(move |&p| ((f64::from(p) / 255.0 - mean) / std) as f32)
    });
    planes.flatten().collect()
}

fn folder(dir: &Path, spec: &ModelSpec) -> Result<Vec<Entry>> {
    let (files, folders) = entries(dir)?;
    let mut found = Vec::new();
    if files.is_empty() {
        let mut classes = Vec::new();
        for folder in folders {
            let (files, _) = entries(&folder)?;
            if !files.is_empty() {
                classes.push((folder, files));
            }
        }
        let folders: Vec<&Path> = classes.iter().map(|(folder, _)| folder.as_path()).collect();
        let labels = labels(dir, &folders, spec)?;
        for ((_, files), label) in classes.into_iter().zip(labels) {
            found.extend(files.into_iter().map(|file| (file, label)));
        }
    } else {
        found.extend(files.into_iter().map(|file| (file, None)));
    }
    if found.is_empty() {
        return Err(Error::images(
            dir,
            "it holds no images: put .png, .jpg or .jpeg files into it, or one folder of them for each class",
        ));
    }
    let entry = |(path, label): (PathBuf, _)| Entry {
        name: path.display().to_string(),
        label,
        content: Content::File(path),
    };
    Ok(found.into_iter().map(entry).collect())
}

/// The class of each folder, where the outputs are classes: by its name if all are labels of the model, else by its place if there are as many as the model has classes.
fn labels(dir: &Path, folders: &[&Path], spec: &ModelSpec) -> Result<Vec<Option<usize>>> {
    if spec.labels.is_empty() {
        return Ok(vec![None; folders.len()]);
    }
    let name = |folder: &Path| {
        let name = folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let label = |folder: &&Path| {
        let name = name(folder);
        spec.labels.iter().position(|label| *label == name)
    };
    let named: Vec<Option<usize>> = folders.iter().map(label).collect();
    if named.iter().all(Option::is_some) {
        return Ok(named);
    }
    let shapes = shapes(spec)?;
    let last = spec.ops.last().map_or("input", Op::name);
    let n_classes = shapes[last].n_values();
    if n_classes == folders.len() {
        return Ok((0..n_classes).map(Some).collect());
    }
    let stranger = named.iter().position(Option::is_none).unwrap_or(0);
    Err(Error::images(
        dir,
        format!(
            "it has {} folders of images, the model {n_classes} classes, and none is called '{}'; name the folders after the model's labels, or put all images into one folder",
            folders.len(),
            name(folders[stranger])
        ),
    ))
}

/// Images and folders in `dir`, in the order of their names.
fn entries(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let failed = |e: std::io::Error| Error::images(dir, e.to_string());
    let (mut files, mut folders) = (vec![], vec![]);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        if path.is_dir() {
            folders.push(path);
        } else if extension.is_some_and(|e| ["png", "jpg", "jpeg"].contains(&e.as_str())) {
            files.push(path);
        }
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}

fn array(path: &Path, input: &InputSpec) -> Result<Vec<Entry>> {
    let bytes = std::fs::read(path).map_err(|e| Error::images(path, e.to_string()))?;
    if !bytes.starts_with(npy::MAGIC) {
        return Err(Error::images(
            path,
            "it is no .npy file; give one of tensors, or a folder of PNG or JPEG images",
        ));
    }
    let array = npy::parse(&bytes).map_err(|e| Error::images(path, e.to_string()))?;
    let wanted = format!("float32 tensors {} are needed", of_shape(input));
    let (shape, values) = match array {
        Array::Floats { shape, values } => (shape, values),
        Array::Bytes { .. } => {
            return Err(Error::images(path, format!("it holds bytes; {wanted}")));
        }
    };
    let many = shape.get(1..).is_some_and(|one| input.takes_shape(one));
    if !many && !input.takes_shape(&shape) {
        let reason = format!("its shape is {shape:?}; {wanted}");
        return Err(Error::images(path, reason));
    }
    if values.is_empty() {
        return Err(Error::images(path, "it holds no images"));
    }
    let tensors = values.chunks(input.n_values()).enumerate();
    let entries = tensors.map(|(i, values)| {
        let name = format!("{}, image {i}", path.display());
        check_tensor(&name, values, input)?;
        Ok(Entry {
            name,
            label: None,
            content: Content::Tensor(values.to_vec()),
        })
    });
    entries.collect()
}

/// The next number above that has one significant digit.
fn round_up(value: f64) -> f64 {
    let digit = 10f64.powf(value.abs().log10().floor());
    if digit > 0.0 && digit.is_finite() {
        (value / digit).ceil() * digit
    } else {
        value
    }
}

/// What a file of tensors has to hold.
fn of_shape(input: &InputSpec) -> String {
    let normalised = if input.takes_images() {
        ", normalised"
    } else {
        ""
    };
    format!("(N, C, H, W) of {:?} each{normalised}", input.shape())
}

/// Refuses what a client could not send.
fn check_tensor(name: &str, values: &[f32], input: &InputSpec) -> Result<()> {
    let checked = input.check_values(values);
    checked.map_err(|e| match e {
        ModelError::Input(reason) => Error::named(name, reason),
        e => e.into(),
    })
}

#[cfg(test)]
mod tests;
