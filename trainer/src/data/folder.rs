//! Image sets kept as folders of JPEG or PNG files: ImageNet's layout (`train/<class>/*`,
//! `val/<class>/*`) and Tiny-ImageNet-200's official one (`wnids.txt`, `train/<wnid>/images/*.JPEG`,
//! `val/images/*.JPEG` with `val/val_annotations.txt`).
//!
//! Every image is decoded into memory as the client decodes it: turned as its camera says, white behind what is
//! transparent, the middle square resized to the wanted size. The test set is `val`: the official test folders have no labels.

use super::{Dataset, Images, bad, hex, read};
use crate::error::{Error, Result, io_error};
use pi_images::Picture;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Decoded pixels above this are refused before they fill the memory.
const MAX_BYTES: usize = 24 << 30;

/// Reads an ImageNet-style folder.
pub fn load_folder(dir: &Path, size: usize) -> Result<Dataset> {
    let classes = class_names(dir)?;
    let part = |name: &str| -> Result<Images> {
        let mut files = Vec::new();
        for (label, class) in classes.iter().enumerate() {
            for path in entries(&dir.join(name).join(class), &["jpeg", "jpg", "png"])? {
                files.push((path, label as u16));
            }
        }
        if name == "train" {
            shuffle(&mut files);
        }
        decode_all(&dir.join(name), &files, size, classes.len())
    };
    Ok(Dataset {
        train: part("train")?,
        test: part("val")?,
    })
}

/// Class names of an ImageNet-style folder: its training folders in order.
pub fn class_names(dir: &Path) -> Result<Vec<String>> {
    let train = dir.join("train");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&train).map_err(io_error(&train))? {
        let entry = entry.map_err(io_error(&train))?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    match names.len() {
        2..=65_535 => Ok(names),
        n => Err(bad(
            &train,
            0,
            format!("{n} class folders, expected 2 or more"),
        )),
    }
}

/// Reads Tiny-ImageNet-200 from its official folder.
pub fn load_tiny_imagenet(dir: &Path, size: usize) -> Result<Dataset> {
    let ids = wnids(dir)?;
    let mut train = Vec::new();
    for (label, id) in ids.iter().enumerate() {
        let folder = dir.join("train").join(id).join("images");
        let files = entries(&folder, &["jpeg"])?;
        train.extend(files.into_iter().map(|p| (p, label as u16)));
    }
    shuffle(&mut train);
    let test = validation_list(dir, &ids)?;
    Ok(Dataset {
        train: decode_all(&dir.join("train"), &train, size, ids.len())?,
        test: decode_all(&dir.join("val"), &test, size, ids.len())?,
    })
}

/// One fixed order in which the classes mix, so that images held out from the end are of all classes.
fn shuffle(files: &mut [(PathBuf, u16)]) {
    files.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
}

/// The class identifiers of Tiny-ImageNet, in label order.
fn wnids(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join("wnids.txt");
    let text = String::from_utf8_lossy(&read(&path)?).into_owned();
    let ids: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    match ids.len() {
        2..=65_535 => Ok(ids),
        n => Err(bad(
            &path,
            0,
            format!("{n} class identifiers, expected 200"),
        )),
    }
}

/// Class names of Tiny-ImageNet: the first word of `words.txt` for each identifier.
pub fn tiny_imagenet_names(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join("words.txt");
    let text = String::from_utf8_lossy(&read(&path)?).into_owned();
    let mut words = HashMap::new();
    for line in text.lines() {
        if let Some((id, names)) = line.split_once('\t') {
            words.insert(id, names.split(',').next().unwrap_or(names).trim());
        }
    }
    let name = |id: String| words.get(id.as_str()).map_or(id.clone(), |&n| n.to_owned());
    Ok(wnids(dir)?.into_iter().map(name).collect())
}

fn validation_list(dir: &Path, ids: &[String]) -> Result<Vec<(PathBuf, u16)>> {
    let path = dir.join("val/val_annotations.txt");
    let text = String::from_utf8_lossy(&read(&path)?).into_owned();
    let mut files = Vec::new();
    let mut offset = 0;
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (Some(file), Some(id)) = (fields.next(), fields.next()) else {
            return Err(bad(
                &path,
                offset,
                "expected a file name, a tab and a class",
            ));
        };
        let Some(label) = ids.iter().position(|i| i == id) else {
            return Err(bad(
                &path,
                offset,
                format!("class {id} is not in wnids.txt"),
            ));
        };
        if file.contains('/') {
            return Err(bad(&path, offset, format!("{file} is no plain file name")));
        }
        files.push((dir.join("val/images").join(file), label as u16));
        offset += line.len() + 1;
    }
    Ok(files)
}

/// Files with one of the extensions, sorted by name.
fn entries(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_error(dir))? {
        let path = entry.map_err(io_error(dir))?.path();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        if extension.is_some_and(|e| extensions.contains(&e.as_str())) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn decode_all(
    dir: &Path,
    files: &[(PathBuf, u16)],
    size: usize,
    n_classes: usize,
) -> Result<Images> {
    if files.is_empty() {
        return Err(bad(
            dir,
            0,
            "holds no images (.jpeg, .jpg or .png in class folders)",
        ));
    }
    let n_bytes = files.len().saturating_mul(3 * size * size);
    if n_bytes > MAX_BYTES {
        return Err(Error::Usage(format!(
            "{} holds {} images, {} GiB at {size} x {size}: more than fits; lower --image-size or take fewer classes",
            dir.display(),
            files.len(),
            n_bytes >> 30
        )));
    }
    let decoded = files.par_iter().map(|(path, _)| decode(path, size));
    let decoded = decoded.collect::<Result<Vec<Decoded>>>()?;
    let mut digest = Sha256::new();
    decoded.iter().for_each(|d| digest.update(d.digest));
    let damaged = files.iter().zip(&decoded);
    let mut damaged = damaged.filter(|(_, d)| d.n_unread > 0);
    if let Some(((path, _), first)) = damaged.next() {
        let n_unread = first.n_unread;
        eprintln!(
            "note: {} of {} images in {} may be damaged, such as {}: {n_unread} bytes of it belong to no pixel",
            1 + damaged.count(),
            files.len(),
            dir.display(),
            path.display()
        );
    }
    Ok(Images {
        shape: [3, size, size],
        n_classes,
        pixels: decoded.into_iter().flat_map(|d| d.planes).collect(),
        labels: files.iter().map(|(_, l)| *l).collect(),
        checksum: hex(digest),
    })
}

/// One image of a folder.
struct Decoded {
    /// Planes of pixels, as a client would make them of the same file.
    planes: Vec<u8>,
    /// SHA-256 of the file.
    digest: [u8; 32],
    /// Bytes of it that belong to no pixel: if there are any, its pixels may not be those that were written.
    n_unread: usize,
}

fn decode(path: &Path, size: usize) -> Result<Decoded> {
    let bytes = read(path)?;
    let picture = Picture::decode(&bytes)
        .and_then(|p| p.fit(size, size))
        .and_then(|p| p.with_channels(3))
        .map_err(|e| Error::Image {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
    let planes = (0..3).flat_map(|c| picture.bytes().iter().skip(c).step_by(3).copied());
    Ok(Decoded {
        planes: planes.collect(),
        digest: Sha256::digest(&bytes).into(),
        n_unread: picture.n_unread_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, side: u32, colour: [u8; 3]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let format = if path.extension().is_some_and(|e| e == "png") {
            image::ImageFormat::Png
        } else {
            image::ImageFormat::Jpeg
        };
        image::RgbImage::from_pixel(side, side, image::Rgb(colour))
            .save_with_format(path, format)
            .unwrap();
    }

    #[test]
    fn an_imagenet_style_folder_is_scaled_and_a_broken_image_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        for part in ["train", "val"] {
            write(&at(&format!("{part}/cat/1.png")), 20, [250, 0, 0]);
            write(&at(&format!("{part}/dog/1.jpg")), 16, [0, 0, 250]);
        }
        let set = load_folder(dir.path(), 8).unwrap();
        assert_eq!((set.train.shape, set.train.n_classes), ([3, 8, 8], 2));
        assert_eq!(set.test.labels, [0, 1]);
        let of = |class: u16| {
            let i = set.train.labels.iter().position(|&l| l == class).unwrap();
            set.train.image(i)
        };
        assert_eq!(of(0)[0], 250);
        assert!(of(1)[0] < 10 && of(1)[2 * 64] > 240);
        assert_eq!(class_names(dir.path()).unwrap(), ["cat", "dog"]);

        let good = std::fs::read(at("val/cat/1.png")).unwrap();
        std::fs::write(at("val/cat/1.png"), &good[..good.len() / 2]).unwrap();
        let e = load_folder(dir.path(), 8).err().unwrap().to_string();
        assert!(e.contains("cat/1.png: it is a broken PNG image"), "{e}");
    }

    /// A JPEG that is stored lying on its side: red above, blue below, as its camera says.
    fn turned() -> Vec<u8> {
        let stored = image::RgbImage::from_fn(24, 12, |x, y| {
            image::Rgb(if x < 12 {
                [255, 0, y as u8 * 9]
            } else {
                [0, y as u8 * 9, 255]
            })
        });
        let mut file = vec![];
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 95);
        // TIFF, little-endian; one entry: orientation (0x0112), SHORT, one value, 6: turn by 90 degrees.
        let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0".to_vec();
        exif.extend([0; 4]);
        image::ImageEncoder::set_exif_metadata(&mut encoder, exif).unwrap();
        encoder.encode_image(&stored).unwrap();
        file
    }

    #[test]
    fn an_image_is_the_same_in_a_folder_and_at_a_client() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        for part in ["train", "val"] {
            write(&at(&format!("{part}/a/0.png")), 8, [1, 2, 3]);
            write(&at(&format!("{part}/b/0.png")), 8, [1, 2, 3]);
        }
        std::fs::write(at("val/a/1.jpg"), turned()).unwrap();
        image::RgbaImage::from_fn(9, 20, |x, y| {
            image::Rgba([200, x as u8 * 20, 0, y as u8 * 12])
        })
        .save(at("val/a/2.png"))
        .unwrap();
        image::GrayImage::from_fn(31, 7, |x, y| image::Luma([(x * y) as u8]))
            .save(at("val/b/1.png"))
            .unwrap();
        let set = load_folder(dir.path(), 8).unwrap();
        let files = ["a/0.png", "a/1.jpg", "a/2.png", "b/0.png", "b/1.png"];
        assert_eq!(set.test.len(), files.len());
        for (i, file) in files.iter().enumerate() {
            let bytes = std::fs::read(at("val").join(file)).unwrap();
            let asked = Picture::decode(&bytes).and_then(|p| p.fit(8, 8)?.with_channels(3));
            let pixels = crate::export::interleave(&set.test, i);
            assert_eq!(pixels, asked.unwrap().bytes(), "{file}");
        }
        // Upright, red is above.
        assert!(set.test.image(1)[0] > 200 && set.test.image(1)[63] < 50);

        let whole = turned();
        std::fs::write(at("val/a/1.jpg"), &whole[..whole.len() * 3 / 4]).unwrap();
        let e = load_folder(dir.path(), 8).err().unwrap();
        assert!(
            matches!(&e, Error::Image { path, .. } if path.ends_with("a/1.jpg")),
            "{e}"
        );
        // Bytes that belong to no pixel are only told.
        let mut more = whole.clone();
        let end = more.len() - 2;
        more.splice(end..end, *b"12345678");
        std::fs::write(at("val/a/1.jpg"), &more).unwrap();
        assert_eq!(decode(&at("val/a/1.jpg"), 8).unwrap().n_unread, 8);
        assert_eq!(decode(&at("val/a/2.png"), 8).unwrap().n_unread, 0);
    }

    #[test]
    fn tiny_imagenet_takes_its_labels_from_the_annotations() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        for (id, colour) in [("n1", [240, 0, 0]), ("n2", [0, 240, 0])] {
            write(&at(&format!("train/{id}/images/{id}_0.JPEG")), 64, colour);
        }
        write(&at("val/images/val_0.JPEG"), 64, [0, 240, 0]);
        std::fs::write(at("wnids.txt"), "n1\nn2\n").unwrap();
        std::fs::write(at("words.txt"), "n2\tdog, hound\nn1\tcat\n").unwrap();
        let list = at("val/val_annotations.txt");
        std::fs::write(&list, "val_0.JPEG\tn2\t0\t0\t62\t62\n").unwrap();
        let set = load_tiny_imagenet(dir.path(), 64).unwrap();
        assert_eq!((set.train.len(), set.test.labels), (2, vec![1]));
        assert_eq!(tiny_imagenet_names(dir.path()).unwrap(), ["cat", "dog"]);
        std::fs::write(&list, "val_0.JPEG\tn2\t0\nval_1.JPEG\tn9\t0\n").unwrap();
        let e = load_tiny_imagenet(dir.path(), 64)
            .err()
            .unwrap()
            .to_string();
        assert!(
            e.contains("val_annotations.txt, byte 16") && e.contains("n9"),
            "{e}"
        );
    }
}
