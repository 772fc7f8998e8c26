//! Checkpoints: one safetensors file of named tensors, with a JSON record in the tensor `meta`.
//!
//! Written to a temporary name and renamed, so that a kill at any moment leaves the old or the new
//! file, never half of one.

use crate::error::{Error, Result, io_error};
use crate::net::{Arch, Mask};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use tch::Tensor;

const META: &str = "meta";

/// Named tensors.
pub type State = Vec<(String, Tensor)>;

/// Writes `bytes` to `path` by way of a temporary file beside it.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_name(path)?;
    std::fs::write(&temporary, bytes).map_err(io_error(&temporary))?;
    std::fs::rename(&temporary, path).map_err(io_error(path))
}

fn temporary_name(path: &Path) -> Result<PathBuf> {
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(io_error(dir))?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    Ok(name.into())
}

/// Saves tensors and a record.
pub fn save(path: &Path, meta: &impl Serialize, tensors: &State) -> Result<()> {
    let json = serde_json::to_vec(meta)?;
    let record = (META.to_owned(), Tensor::from_slice(&json));
    let contiguous: Vec<(&str, Tensor)> = tensors
        .iter()
        .chain([&record])
        .map(|(n, t)| (n.as_str(), t.contiguous()))
        .collect();
    let temporary = temporary_name(path)?;
    Tensor::write_safetensors(&contiguous, &temporary)?;
    std::fs::rename(&temporary, path).map_err(io_error(path))
}

/// Loads tensors and their record.
pub fn load<M: DeserializeOwned>(path: &Path) -> Result<(M, State)> {
    if !path.is_file() {
        let what = "no such file; run the stage that writes it first".to_owned();
        return Err(Error::Checkpoint {
            path: path.to_owned(),
            what,
        });
    }
    let mut tensors = Tensor::read_safetensors(path)?;
    let Some(at) = tensors.iter().position(|(n, _)| n == META) else {
        let what = "holds no record; it was not written by pi-trainer".to_owned();
        return Err(Error::Checkpoint {
            path: path.to_owned(),
            what,
        });
    };
    let json = Vec::<u8>::try_from(tensors.swap_remove(at).1)?;
    Ok((serde_json::from_slice(&json)?, tensors))
}

/// Masks as tensors.
pub fn mask_state(masks: &[Mask]) -> State {
    masks
        .iter()
        .enumerate()
        .map(|(i, m)| (format!("mask.{i}"), m.to_tensor()))
        .collect()
}

/// Masks of every ReLU layer of `arch`; all-ReLU masks if the state holds none.
pub fn load_masks(arch: &Arch, state: &State, path: &Path) -> Result<Vec<Mask>> {
    if !state.iter().any(|(n, _)| n.starts_with("mask.")) {
        return Ok(arch.relu_shapes().into_iter().map(Mask::ones).collect());
    }
    let one = |(i, shape): (usize, [i64; 3])| {
        let name = format!("mask.{i}");
        match state.iter().find(|(n, _)| *n == name) {
            Some((_, t)) if t.size() == shape => {
                let bytes = Vec::<u8>::try_from(t.flatten(0, -1))?;
                Ok(Mask {
                    shape,
                    keep: bytes.iter().map(|&b| b != 0).collect(),
                })
            }
            _ => {
                let what = format!("lacks {name} of shape {shape:?}");
                Err(Error::Checkpoint {
                    path: path.to_owned(),
                    what,
                })
            }
        }
    };
    arch.relu_shapes()
        .into_iter()
        .enumerate()
        .map(one)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_no_temporary_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/x.safetensors");
        let arch = Arch::custom(&[4], 1, [3, 4, 4], 2);
        let masks: Vec<Mask> = arch
            .relu_shapes()
            .iter()
            .map(|s| Mask::random(*s, 17, 1))
            .collect();
        save(&path, &vec![1u32, 2], &mask_state(&masks)).unwrap();
        let (meta, state) = load::<Vec<u32>>(&path).unwrap();
        assert_eq!(meta, [1, 2]);
        assert_eq!(load_masks(&arch, &state, &path).unwrap(), masks);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
        assert!(
            load::<Vec<u32>>(&dir.path().join("none"))
                .unwrap_err()
                .to_string()
                .contains("no such")
        );
    }
}
