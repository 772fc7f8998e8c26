//! Inputs as the protocol takes them, and records of the official CIFAR-10 binary files. Images of one's own: see `image`.

use std::ops::Range;
use std::path::Path;

use pi_model::PublicModel;
use pi_model::plan;

use crate::error::ClientError;

/// Side of a CIFAR image.
const CIFAR_SIDE: usize = 32;
/// Bytes of a record: the label, then the red, green and blue planes.
const CIFAR_RECORD_BYTES: usize = 1 + 3 * CIFAR_SIDE * CIFAR_SIDE;

/// One image, ready for the protocol.
#[derive(Clone, PartialEq, Eq)]
pub struct Input {
    /// Where it comes from: a file name, or a file name and the number of a record.
    pub name: String,
    /// Fixed-point values in (C, H, W) order. This is the secret of the client.
    pub values: Vec<i64>,
    /// The true class, where the file tells.
    pub label: Option<usize>,
}

impl Input {
    /// Whether it is an input of `model`: asked before anything is spent on it.
    ///
    /// # Errors
    /// [`ClientError::Input`] for another number of values, or a value that no ring of the protocol holds.
    pub(crate) fn check(&self, model: &PublicModel) -> Result<(), ClientError> {
        let refused = |reason| {
            let name = self.name.clone();
            Err(ClientError::Input { name, reason })
        };
        let n_values = model.graph().tensors[0].n_values();
        if self.values.len() != n_values {
            let n = self.values.len();
            return refused(format!("it has {n} values; the model takes {n_values}"));
        }
        let bits = plan::input_bits(model.graph());
        let limit = 1i64 << (bits - 1);
        match self.values.iter().all(|v| (-limit..limit).contains(v)) {
            true => Ok(()),
            false => refused(format!(
                "a value needs more than {bits} bits; normalise it as the model says"
            )),
        }
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Input({}, {} values)", self.name, self.values.len())
    }
}

/// Reads `records` of a file of CIFAR-10's binary version.
///
/// # Errors
/// [`ClientError::Input`] when the file is something else or has fewer records.
pub fn cifar10(
    path: &Path,
    records: Range<usize>,
    model: &PublicModel,
) -> Result<Vec<Input>, ClientError> {
    let fail = |reason| refused(path, reason);
    let bytes = std::fs::read(path).map_err(|e| fail(format!("cannot read: {e}")))?;
    let n_records = bytes.len() / CIFAR_RECORD_BYTES;
    if bytes.is_empty() || bytes.len() % CIFAR_RECORD_BYTES != 0 {
        return Err(fail(format!(
            "{} bytes are not a whole number of CIFAR-10 records of {CIFAR_RECORD_BYTES}; take test_batch.bin of the binary version",
            bytes.len()
        )));
    }
    let chosen = bytes
        .chunks_exact(CIFAR_RECORD_BYTES)
        .enumerate()
        .take(records.end)
        .skip(records.start);
    if records.is_empty() || records.end > n_records {
        return Err(fail(format!(
            "records {}..{} were asked for, the file has 0..{n_records}",
            records.start, records.end
        )));
    }
    chosen
        .map(|(index, record)| {
            let (label, planes) = record.split_at(1);
            let label = label.first().copied().unwrap_or(u8::MAX) as usize;
            let n_labels = model.n_outputs();
            if model.has_classes() && label >= n_labels {
                return Err(fail(format!(
                    "record {index} has class {label}, the model knows {n_labels}"
                )));
            }
            let area = CIFAR_SIDE * CIFAR_SIDE;
            let pixels: Vec<u8> = (0..area)
                .flat_map(|i| (0..3).map(move |c| (i, c)))
                .map(|(i, c)| planes[c * area + i])
                .collect();
            let values = model
                .quantise(&pixels, CIFAR_SIDE, CIFAR_SIDE)
                .map_err(|e| fail(e.to_string()))?;
            Ok(Input {
                name: format!(
                    "{}[{index}]",
                    path.file_name().unwrap_or_default().to_string_lossy()
                ),
                values,
                label: Some(label),
            })
        })
        .collect()
}

/// Reads `0..10` or a single number.
///
/// # Errors
/// A message saying what to write.
pub fn parse_range(text: &str) -> Result<Range<usize>, String> {
    let wrong = |_| format!("'{text}' is not a range of records; write 0..10");
    match text.split_once("..") {
        Some((start, end)) => Ok(start.parse().map_err(wrong)?..end.parse().map_err(wrong)?),
        None => text.parse().map(|i: usize| i..i + 1).map_err(wrong),
    }
}

fn refused(path: &Path, reason: String) -> ClientError {
    ClientError::Input {
        name: path.display().to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Image, Sizing};
    use pi_model::random::residual_network;
    use pi_model::spec::OutputMode;

    fn model() -> PublicModel {
        let net = residual_network("n", [3, 32, 32], &[4], 1, 10, 10, OutputMode::Logits);
        net.unwrap().public().clone()
    }

    #[test]
    fn a_record_and_the_same_image_as_png_are_equal() {
        let model = model();
        let dir = tempfile::tempdir().unwrap();
        let area = CIFAR_SIDE * CIFAR_SIDE;
        let mut file = vec![0; CIFAR_RECORD_BYTES];
        file.push(7);
        file.extend((0..3 * area).map(|i| (i % 251) as u8));
        let bin = dir.path().join("test_batch.bin");
        std::fs::write(&bin, &file).unwrap();
        let inputs = cifar10(&bin, 1..2, &model).unwrap();
        assert_eq!(inputs[0].label, Some(7));
        let png_path = dir.path().join("a.png");
        let planes = &file[CIFAR_RECORD_BYTES + 1..];
        image::RgbImage::from_fn(32, 32, |x, y| {
            let i = (y * 32 + x) as usize;
            image::Rgb([planes[i], planes[area + i], planes[2 * area + i]])
        })
        .save(&png_path)
        .unwrap();
        let image = Image::open(&png_path).unwrap();
        let fitted = image.fit(&model, Sizing::Exact).unwrap();
        assert_eq!(fitted.input.values, inputs[0].values);
        assert!(cifar10(&bin, 1..3, &model).is_err());
    }

    #[test]
    fn wrong_files_say_what_is_needed() {
        let model = model();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small.png");
        image::RgbImage::new(8, 9).save(&path).unwrap();
        let image = Image::open(&path).unwrap();
        let said = image.fit(&model, Sizing::Exact).unwrap_err().to_string();
        assert!(said.contains("32 x 32") && said.contains("8 x 9"), "{said}");
        std::fs::write(&path, "no image").unwrap();
        assert!(
            Image::open(&path)
                .unwrap_err()
                .to_string()
                .contains("neither PNG")
        );
        assert!(
            cifar10(&path, 0..1, &model)
                .unwrap_err()
                .to_string()
                .contains("test_batch.bin")
        );
        assert_eq!(parse_range("2..5").unwrap(), 2..5);
        assert_eq!(parse_range("3").unwrap(), 3..4);
        assert!(parse_range("a..b").is_err());
    }
}
