//! IDX files (LeCun's MNIST format), gzipped or not: Fashion-MNIST (Xiao, Rasul, Vollgraf 2017).
//!
//! Header: two zero bytes, type (8 = unsigned byte), number of dimensions, each dimension as a
//! big-endian u32; then the bytes.

use super::{Dataset, Images, bad, hex, read};
use crate::error::Result;
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Unpacked files above this are refused before they fill the memory (the real ones are 47 MB).
const MAX_BYTES: u64 = 256 << 20;

/// Reads Fashion-MNIST from the folder that holds its four IDX files.
pub fn load_fashion_mnist(dir: &Path) -> Result<Dataset> {
    Ok(Dataset {
        train: load(dir, "train", 60_000)?,
        test: load(dir, "t10k", 10_000)?,
    })
}

fn load(dir: &Path, prefix: &str, n: usize) -> Result<Images> {
    let mut digest = Sha256::new();
    let mut part = |name: String, dims: &[usize]| -> Result<(PathBuf, Vec<u8>)> {
        let (path, bytes) = read_maybe_gz(dir, &name)?;
        digest.update(&bytes);
        let body = parse(&path, &bytes, dims)?.to_vec();
        Ok((path, body))
    };
    let (_, pixels) = part(format!("{prefix}-images-idx3-ubyte"), &[n, 28, 28])?;
    let (path, labels) = part(format!("{prefix}-labels-idx1-ubyte"), &[n])?;
    if let Some(i) = labels.iter().position(|&l| l > 9) {
        return Err(bad(
            &path,
            8 + i,
            format!("label {} of image {i}, expected 0 to 9", labels[i]),
        ));
    }
    Ok(Images {
        shape: [1, 28, 28],
        n_classes: 10,
        pixels,
        labels: labels.into_iter().map(u16::from).collect(),
        checksum: hex(digest),
    })
}

fn read_maybe_gz(dir: &Path, name: &str) -> Result<(PathBuf, Vec<u8>)> {
    let gz = dir.join(format!("{name}.gz"));
    if !gz.is_file() {
        let path = dir.join(name);
        return Ok((path.clone(), read(&path)?));
    }
    let packed = read(&gz)?;
    let mut bytes = Vec::new();
    let mut decoder = GzDecoder::new(packed.as_slice()).take(MAX_BYTES);
    if let Err(e) = decoder.read_to_end(&mut bytes) {
        return Err(bad(
            &gz,
            bytes.len(),
            format!("broken gzip stream after this many bytes: {e}"),
        ));
    }
    Ok((gz, bytes))
}

fn parse<'a>(path: &Path, bytes: &'a [u8], dims: &[usize]) -> Result<&'a [u8]> {
    let header = 4 + 4 * dims.len();
    let Some(head) = bytes.get(..header) else {
        return Err(bad(
            path,
            bytes.len(),
            format!("ends within the {header}-byte header"),
        ));
    };
    let magic = [0, 0, 8, dims.len() as u8];
    if head[..4] != magic {
        return Err(bad(
            path,
            0,
            format!("magic {:?}, expected {magic:?}", &head[..4]),
        ));
    }
    for (i, (field, &want)) in head[4..].chunks_exact(4).zip(dims).enumerate() {
        let got = field.iter().fold(0usize, |a, &b| a << 8 | usize::from(b));
        if got != want {
            return Err(bad(
                path,
                4 + 4 * i,
                format!("dimension {i} is {got}, expected {want}"),
            ));
        }
    }
    let want = header + dims.iter().product::<usize>();
    if bytes.len() != want {
        return Err(bad(
            path,
            bytes.len().min(want),
            format!("{} bytes, expected {want}", bytes.len()),
        ));
    }
    Ok(&bytes[header..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(dims: &[u32], body: usize) -> Vec<u8> {
        let mut v = vec![0, 0, 8, dims.len() as u8];
        dims.iter()
            .for_each(|d| v.extend_from_slice(&d.to_be_bytes()));
        v.resize(v.len() + body, 5);
        v
    }

    #[test]
    fn parses_and_refuses_by_offset() {
        let p = Path::new("x-idx3-ubyte");
        let good = file(&[2, 3, 4], 24);
        assert_eq!(parse(p, &good, &[2, 3, 4]).unwrap(), [5u8; 24]);
        let cases: [(Vec<u8>, &str); 5] = [
            (good[..10].to_vec(), "byte 10: ends within"),
            (file(&[2, 3, 5], 30), "byte 12: dimension 2 is 5"),
            (good[..30].to_vec(), "byte 30: 30 bytes, expected 40"),
            (
                [good.as_slice(), &[0]].concat(),
                "byte 40: 41 bytes, expected 40",
            ),
            ([&[0, 0, 9, 3], &good[4..]].concat(), "byte 0: magic"),
        ];
        for (bytes, want) in cases {
            let e = parse(p, &bytes, &[2, 3, 4]).unwrap_err().to_string();
            assert!(e.contains(want), "{e}");
        }
    }

    #[test]
    fn gzip_and_plain_read_the_same_and_a_cut_stream_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let body = file(&[2], 2);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&body).unwrap();
        let packed = gz.finish().unwrap();
        std::fs::write(dir.path().join("a"), &body).unwrap();
        std::fs::write(dir.path().join("b.gz"), &packed).unwrap();
        std::fs::write(dir.path().join("c.gz"), &packed[..packed.len() - 6]).unwrap();
        assert_eq!(
            read_maybe_gz(dir.path(), "a").unwrap().1,
            read_maybe_gz(dir.path(), "b").unwrap().1
        );
        let e = read_maybe_gz(dir.path(), "c").unwrap_err().to_string();
        assert!(e.contains("c.gz") && e.contains("broken gzip"), "{e}");
    }
}
