//! The official binary versions of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): records of one or two
//! label bytes and 3,072 pixel bytes (red, green, blue planes of 32 x 32).

use super::{Dataset, Images, bad, hex, read};
use crate::error::Result;
use sha2::{Digest, Sha256};
use std::path::Path;

const PIXELS: usize = 3 * 32 * 32;

/// Layout of one record: how many label bytes, which one counts, and its bound.
struct Layout {
    label_bytes: usize,
    label_at: usize,
    n_classes: usize,
}

const CIFAR10: Layout = Layout {
    label_bytes: 1,
    label_at: 0,
    n_classes: 10,
};
const CIFAR100: Layout = Layout {
    label_bytes: 2,
    label_at: 1,
    n_classes: 100,
};

/// Reads CIFAR-10 from the folder of the official binary archive.
pub fn load_cifar10(dir: &Path) -> Result<Dataset> {
    let train: Vec<String> = (1..=5).map(|i| format!("data_batch_{i}.bin")).collect();
    Ok(Dataset {
        train: load(dir, &train, 10_000, &CIFAR10)?,
        test: load(dir, &["test_batch.bin".into()], 10_000, &CIFAR10)?,
    })
}

/// Reads CIFAR-100 (fine labels) from the folder of the official binary archive.
pub fn load_cifar100(dir: &Path) -> Result<Dataset> {
    Ok(Dataset {
        train: load(dir, &["train.bin".into()], 50_000, &CIFAR100)?,
        test: load(dir, &["test.bin".into()], 10_000, &CIFAR100)?,
    })
}

fn load(dir: &Path, names: &[String], n_records: usize, layout: &Layout) -> Result<Images> {
    let mut images = Images {
        shape: [3, 32, 32],
        n_classes: layout.n_classes,
        pixels: Vec::with_capacity(names.len() * n_records * PIXELS),
        labels: Vec::with_capacity(names.len() * n_records),
        checksum: String::new(),
    };
    let mut digest = Sha256::new();
    for name in names {
        let path = dir.join(name);
        let bytes = read(&path)?;
        digest.update(&bytes);
        append(&path, &bytes, n_records, layout, &mut images)?;
    }
    images.checksum = hex(digest);
    Ok(images)
}

fn append(
    path: &Path,
    bytes: &[u8],
    n_records: usize,
    layout: &Layout,
    out: &mut Images,
) -> Result<()> {
    let record = layout.label_bytes + PIXELS;
    if bytes.len() != n_records * record {
        let what = format!(
            "{} bytes, expected {} ({n_records} records of {record}); take the \"binary version\" archive again",
            bytes.len(),
            n_records * record
        );
        return Err(bad(path, bytes.len().min(n_records * record), what));
    }
    for (i, r) in bytes.chunks_exact(record).enumerate() {
        let label = r[layout.label_at];
        if usize::from(label) >= layout.n_classes {
            let what = format!(
                "label {label} in record {i}, expected 0 to {}",
                layout.n_classes - 1
            );
            return Err(bad(path, i * record + layout.label_at, what));
        }
        out.labels.push(label.into());
        out.pixels.extend_from_slice(&r[layout.label_bytes..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Images {
        Images {
            shape: [3, 32, 32],
            n_classes: 10,
            pixels: vec![],
            labels: vec![],
            checksum: String::new(),
        }
    }

    #[test]
    fn reads_records_and_names_file_and_offset() {
        let mut bytes = vec![7u8; 2 * 3073];
        bytes[0] = 3;
        bytes[3073] = 9;
        let path = Path::new("some/test_batch.bin");
        let mut images = empty();
        append(path, &bytes, 2, &CIFAR10, &mut images).unwrap();
        assert_eq!(
            (images.labels.as_slice(), images.pixels.len()),
            ([3u16, 9].as_slice(), 2 * PIXELS)
        );

        let short = append(path, &bytes[..6000], 2, &CIFAR10, &mut empty())
            .unwrap_err()
            .to_string();
        assert!(short.contains("test_batch.bin, byte 6000"), "{short}");
        bytes[3073] = 10;
        let label = append(path, &bytes, 2, &CIFAR10, &mut empty())
            .unwrap_err()
            .to_string();
        assert!(label.contains("byte 3073: label 10 in record 1"), "{label}");
    }

    #[test]
    fn cifar100_takes_the_fine_label() {
        let mut bytes = vec![0u8; 3074];
        (bytes[0], bytes[1]) = (200, 99);
        let mut images = empty();
        append(Path::new("train.bin"), &bytes, 1, &CIFAR100, &mut images).unwrap();
        assert_eq!(images.labels, [99]);
        bytes[1] = 100;
        let e = append(Path::new("train.bin"), &bytes, 1, &CIFAR100, &mut images).unwrap_err();
        assert!(e.to_string().contains("byte 1:"), "{e}");
    }
}
