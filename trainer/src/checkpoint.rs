//! Checkpoints: one safetensors file of named tensors, with a JSON record in the tensor `meta`.
//!
//! Written to a temporary name and renamed, so that a kill at any moment leaves the old or the new
//! file, never half of one.

use crate::error::{Error, Result, io_error};
use crate::net::{Graph, Mask};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

const META: &str = "meta";
const PARTS: &str = "parts";

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

/// Keeps other processes from training into the same checkpoint for as long as the file is open.
pub fn lock(path: &Path) -> Result<File> {
    let name = path.with_extension("lock");
    if let Some(dir) = name.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(io_error(dir))?;
    }
    let file = File::create(&name).map_err(io_error(&name))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Checkpoint {
            path: path.to_owned(),
            what: "another process trains into it; wait for that, or choose another --out".into(),
        }),
        Err(TryLockError::Error(why)) => Err(Error::Io { path: name, why }),
    }
}

/// How checkpoints are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    /// Weights in 16-bit floats and everything that belongs to a weight alike in bfloat16. A run that
    /// resumes from such a checkpoint goes on from the rounded numbers.
    pub half: bool,
    /// Files of at most about this many bytes.
    pub part_bytes: Option<usize>,
}

impl Size {
    /// As a file holds the tensor. Statistics, biases, masks and scores stay as they are.
    fn narrow(self, name: &str, t: &Tensor) -> Tensor {
        let t = t.to_device(tch::Device::Cpu);
        let weights = t.kind() == Kind::Float && t.dim() >= 2 && !name.starts_with("score.");
        match (self.half && weights, name.starts_with("momentum.")) {
            (false, _) => t.contiguous(),
            (true, false) => t.to_kind(Kind::Half).contiguous(),
            // Momenta can be smaller than the smallest 16-bit float.
            (true, true) => t.to_kind(Kind::BFloat16).contiguous(),
        }
    }
}

fn write(path: &Path, tensors: &[(&str, Tensor)]) -> Result<()> {
    let temporary = temporary_name(path)?;
    let written = Tensor::write_safetensors(tensors, &temporary);
    let synced = written.map_err(|e| e.to_string()).and_then(|()| {
        let file = std::fs::File::open(&temporary);
        file.and_then(|f| f.sync_all()).map_err(|e| e.to_string())
    });
    if let Err(why) = synced {
        let _ = std::fs::remove_file(&temporary);
        return Err(Error::Checkpoint {
            path: path.to_owned(),
            what: format!(
                "could not be written ({why}); the one written before is intact. Make room and run the same command with --resume"
            ),
        });
    }
    std::fs::rename(&temporary, path).map_err(io_error(path))
}

/// Saves tensors and a record. Where they are split, `path` holds the record, the first tensors and the
/// names of the other files, which lie beside it. Those are written first under names not yet in use, so
/// that the old or the new set is whole at any moment.
pub fn save(path: &Path, meta: &impl Serialize, tensors: &State, size: Size) -> Result<()> {
    /// Of a tensor's entry in a file's header, besides its name.
    const ENTRY: usize = 150;
    let json = serde_json::to_vec(meta)?;
    let mut parts: Vec<Vec<(&str, Tensor)>> = vec![vec![]];
    let mut n_bytes = json.len() + 2 * ENTRY;
    for (name, t) in tensors {
        let t = size.narrow(name, t);
        let bytes = t.numel() * t.kind().elt_size_in_bytes() + name.len() + ENTRY;
        if size
            .part_bytes
            .is_some_and(|max| n_bytes + bytes > max && parts.last().is_some_and(|p| !p.is_empty()))
        {
            parts.push(vec![]);
            n_bytes = ENTRY;
        }
        n_bytes += bytes;
        if let Some(part) = parts.last_mut() {
            part.push((name, t));
        }
    }
    let old = part_names(path);
    let generation = if old.iter().any(|n| n.contains(".a.")) {
        'b'
    } else {
        'a'
    };
    // Of no use without the others, and on a full disk in the way.
    let remove = |names: &[String]| {
        for name in names {
            let _ = std::fs::remove_file(path.with_file_name(name));
        }
    };
    let mut names = Vec::new();
    for (i, part) in parts.iter().enumerate().skip(1) {
        let name = part_name(path, generation, i + 1);
        names.push(name);
        write(&path.with_file_name(&names[i - 1]), part).inspect_err(|_| remove(&names))?;
    }
    let list = serde_json::to_vec(&names)?;
    let mut first = vec![(META, Tensor::from_slice(&json))];
    if !names.is_empty() {
        first.push((PARTS, Tensor::from_slice(&list)));
    }
    first.extend(parts.into_iter().next().unwrap_or_default());
    write(path, &first).inspect_err(|_| remove(&names))?;
    for name in old.iter().filter(|n| !names.contains(n)) {
        // A file that stays behind costs room and nothing else.
        let _ = std::fs::remove_file(path.with_file_name(name));
    }
    Ok(())
}

fn part_name(path: &Path, generation: char, number: usize) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    format!("{stem}.{generation}.{number}.safetensors")
}

/// Names of the further files of a checkpoint on disk; none where there is none that can be read.
fn part_names(path: &Path) -> Vec<String> {
    let any = ['a', 'b']
        .iter()
        .any(|&g| path.with_file_name(part_name(path, g, 2)).is_file());
    let tensors = if any && path.is_file() {
        Tensor::read_safetensors(path).unwrap_or_default()
    } else {
        vec![]
    };
    let list = tensors.into_iter().find(|(n, _)| n == PARTS);
    let bytes = list.and_then(|(_, t)| Vec::<u8>::try_from(t).ok());
    bytes
        .and_then(|b| serde_json::from_slice(&b).ok())
        .unwrap_or_default()
}

/// Loads tensors and their record; 16-bit floats become 32-bit ones.
pub fn load<M: DeserializeOwned>(path: &Path) -> Result<(M, State)> {
    let fail = |what: String| Error::Checkpoint {
        path: path.to_owned(),
        what,
    };
    if !path.is_file() {
        return Err(fail(
            "no such file; run the stage that writes it first".into(),
        ));
    }
    let read = |p: &Path| {
        Tensor::read_safetensors(p).map_err(|e| Error::Checkpoint {
            path: p.to_owned(),
            what: format!("cannot be read as safetensors ({e}); it is cut or no checkpoint"),
        })
    };
    let mut tensors = read(path)?;
    let Some(at) = tensors.iter().position(|(n, _)| n == META) else {
        return Err(fail(
            "holds no record; it was not written by pi-trainer (import it first)".into(),
        ));
    };
    let json = Vec::<u8>::try_from(tensors.swap_remove(at).1)?;
    if let Some(at) = tensors.iter().position(|(n, _)| n == PARTS) {
        let list = Vec::<u8>::try_from(tensors.swap_remove(at).1)?;
        for name in serde_json::from_slice::<Vec<String>>(&list)? {
            if name.contains(['/', '\\']) {
                return Err(fail(format!(
                    "names the part {name}, which is no plain file name"
                )));
            }
            tensors.extend(read(&path.with_file_name(name))?);
        }
    }
    for (name, t) in &mut tensors {
        if matches!(t.kind(), Kind::Half | Kind::BFloat16) {
            *t = t.to_kind(Kind::Float);
        }
        if !is_finite(t) {
            return Err(fail(format!(
                "{name} holds values that are no numbers; the file is damaged: take a copy, or train it again"
            )));
        }
    }
    let meta = serde_json::from_slice(&json)
        .map_err(|e| fail(format!("its record is of another version or broken ({e})")))?;
    Ok((meta, tensors))
}

/// No infinity and nothing that is no number, in tensors that could hold any.
pub fn is_finite(t: &Tensor) -> bool {
    !t.is_floating_point() || t.isfinite().all().int64_value(&[]) == 1
}

/// The first 16 hex digits of SHA-256 over the tensors' names, shapes and values, in order of their names:
/// what a run started from, for its record.
pub fn fingerprint(state: &State) -> Result<String> {
    let mut sorted: Vec<&(String, Tensor)> = state.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hash = Sha256::new();
    for (name, t) in sorted {
        hash.update(format!("{name} {:?} {:?}\n", t.kind(), t.size()));
        let t = t.detach().to_device(tch::Device::Cpu).contiguous();
        let mut bytes = vec![0; t.numel() * t.kind().elt_size_in_bytes()];
        t.f_copy_data_u8(&mut bytes, t.numel())?;
        hash.update(&bytes);
    }
    let digest = hash.finalize();
    Ok(digest.iter().take(8).map(|b| format!("{b:02x}")).collect())
}

/// Masks as tensors.
pub fn mask_state(masks: &[Mask]) -> State {
    masks
        .iter()
        .enumerate()
        .map(|(i, m)| (format!("mask.{i}"), m.to_tensor()))
        .collect()
}

/// The masks that a state holds, whatever the network.
pub fn stored_masks(state: &State, path: &Path) -> Result<Vec<Mask>> {
    let mut masks = Vec::new();
    while let Some((name, t)) = state
        .iter()
        .find(|(n, _)| *n == format!("mask.{}", masks.len()))
    {
        let Ok(shape) = <[i64; 3]>::try_from(t.size()) else {
            return Err(Error::Checkpoint {
                path: path.to_owned(),
                what: format!("{name} has the shape {:?}", t.size()),
            });
        };
        let bytes = Vec::<u8>::try_from(t.flatten(0, -1))?;
        let keep = bytes.iter().map(|&b| b != 0).collect();
        masks.push(Mask { shape, keep });
    }
    Ok(masks)
}

/// Masks of every ReLU layer of `graph`; all-ReLU masks if the state holds none.
pub fn load_masks(graph: &Graph, state: &State, path: &Path) -> Result<Vec<Mask>> {
    if !state.iter().any(|(n, _)| n.starts_with("mask.")) {
        return Ok(graph.relu_shapes().into_iter().map(Mask::ones).collect());
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
    graph
        .relu_shapes()
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
        let graph = crate::net::Arch::custom(&[4], 1, [3, 4, 4], 2).graph();
        let masks: Vec<Mask> = graph
            .relu_shapes()
            .iter()
            .map(|s| Mask::random(*s, 17, 1))
            .collect();
        save(&path, &vec![1u32, 2], &mask_state(&masks), Size::default()).unwrap();
        let (meta, state) = load::<Vec<u32>>(&path).unwrap();
        assert_eq!(meta, [1, 2]);
        assert_eq!(load_masks(&graph, &state, &path).unwrap(), masks);
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

    fn weights(n: usize, value: f64) -> State {
        let one = |i| {
            let t = Tensor::full([40, 25], value, (Kind::Float, tch::Device::Cpu));
            (format!("w{i}"), t)
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn split_checkpoints_travel_in_small_files_and_leave_no_old_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let size = Size {
            half: true,
            part_bytes: Some(5_000),
        };
        for (n, n_files) in [(5, 3), (7, 4), (2, 1), (3, 2)] {
            save(&path, &n, &weights(n, 0.1), size).unwrap();
            let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
            assert_eq!(files.len(), n_files, "{files:?}");
            let longest = files
                .iter()
                .map(|f| f.as_ref().unwrap().metadata().unwrap().len());
            assert!(longest.max().unwrap() <= 5_000);
            let (meta, state) = load::<usize>(&path).unwrap();
            assert_eq!((meta, state.len()), (n, n));
            assert_eq!(state[0].1.kind(), Kind::Float);
            assert!((state[0].1.double_value(&[0, 0]) - 0.1).abs() < 1e-4);
        }
        std::fs::remove_file(dir.path().join(&part_names(&path)[0])).unwrap();
        let e = load::<usize>(&path).unwrap_err().to_string();
        assert!(
            e.contains("x.a.2.safetensors") || e.contains("x.b.2.safetensors"),
            "{e}"
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_leaves_the_last_checkpoint_intact() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        save(&path, &1, &weights(2, 1.0), Size::default()).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("x.safetensors.tmp")).unwrap();
        let e = save(&path, &2, &weights(2, 2.0), Size::default())
            .unwrap_err()
            .to_string();
        assert!(e.contains("intact"), "{e}");
        assert_eq!(load::<i32>(&path).unwrap().0, 1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_process_at_a_time_writes_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/x.safetensors");
        let held = lock(&path).unwrap();
        let e = lock(&path).unwrap_err().to_string();
        assert!(e.contains("another process"), "{e}");
        drop(held);
        lock(&path).unwrap();
    }

    #[test]
    fn a_fingerprint_follows_names_shapes_and_values_and_no_order() {
        let mut state = weights(3, 0.5);
        let first = fingerprint(&state).unwrap();
        assert_eq!(first.len(), 16);
        state.reverse();
        assert_eq!(fingerprint(&state).unwrap(), first);
        state[0].1 = state[0].1.view([25, 40]);
        let reshaped = fingerprint(&state).unwrap();
        assert_ne!(reshaped, first);
        let _ = state[1].1.get(3).fill_(0.25);
        assert_ne!(fingerprint(&state).unwrap(), reshaped);
    }

    #[test]
    fn a_cut_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        save(&path, &1, &weights(2, 1.0), Size::default()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let e = load::<i32>(&path).unwrap_err().to_string();
        assert!(e.contains("x.safetensors") && e.contains("cut"), "{e}");
    }
}
