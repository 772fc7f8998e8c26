//! Tensors of a file that `torch.save` wrote (PyTorch 1.6 and later), without running what it says.
//!
//! Such a file is a zip archive of stored entries: `NAME/data.pkl`, a pickle that describes the tensors, and
//! `NAME/data/K`, the bytes of storage K. A pickle is a program; ours knows only the few operations and
//! names that a dictionary of tensors takes and refuses every other by name, so nothing in the file is
//! ever called. The file is read whole; sizes are checked against it before anything is allocated.

mod pickle;
mod zip;

use pickle::{Described, Value};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Names under which training scripts keep the state dict in a larger dictionary.
const HOMES: [&str; 4] = ["state_dict", "model_state_dict", "model", "net"];

/// True for the first bytes of a zip archive.
pub(crate) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// The tensors by name. An error says what the file holds that is not known here.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let entries = zip::entries(bytes)?;
    let pickle = entries.keys().find(|n| n.ends_with("/data.pkl"));
    let name = pickle.ok_or("holds no data.pkl: it is no file of torch.save")?;
    let home = name.trim_end_matches("data.pkl").to_owned();
    if let Some(order) = entries.get(format!("{home}byteorder").as_str())
        && *order != b"little"
    {
        return Err("was written in another byte order".into());
    }
    let Value::Dict(mut items) = pickle::read(entries[name])? else {
        return Err("holds no dictionary: save the model's state_dict()".into());
    };
    let inner = items
        .iter()
        .position(|(k, v)| HOMES.contains(&k.as_str()) && matches!(v, Value::Dict(_)));
    if let Some((_, Value::Dict(state))) = inner.map(|i| items.swap_remove(i)) {
        items = state;
    }
    let mut tensors = Vec::new();
    for (name, value) in items {
        if let Value::Tensor(described) = value {
            let tensor = tensor(&described, &home, &entries);
            tensors.push((name.clone(), tensor.map_err(|e| format!("{name}: {e}"))?));
        }
    }
    if tensors.is_empty() {
        return Err("holds no tensors by name: save the model's state_dict()".into());
    }
    Ok(tensors)
}

fn kind(storage: &str) -> Option<Kind> {
    Some(match storage {
        "DoubleStorage" => Kind::Double,
        "FloatStorage" => Kind::Float,
        "HalfStorage" => Kind::Half,
        "BFloat16Storage" => Kind::BFloat16,
        "LongStorage" => Kind::Int64,
        "IntStorage" => Kind::Int,
        "ShortStorage" => Kind::Int16,
        "CharStorage" => Kind::Int8,
        "ByteStorage" => Kind::Uint8,
        "BoolStorage" => Kind::Bool,
        _ => return None,
    })
}

fn tensor(d: &Described, home: &str, entries: &BTreeMap<&str, &[u8]>) -> Result<Tensor, String> {
    let kind = kind(&d.storage).ok_or_else(|| format!("a {} is not known here", d.storage))?;
    let bytes = entries
        .get(format!("{home}data/{}", d.key).as_str())
        .ok_or_else(|| format!("storage {} is missing", d.key))?;
    let n = bytes.len() / kind.elt_size_in_bytes();
    let fits = || {
        let (mut n_values, mut last) = (1usize, d.offset);
        for (&size, &stride) in d.size.iter().zip(&d.stride) {
            n_values = n_values.checked_mul(size)?;
            last = last.checked_add(size.saturating_sub(1).checked_mul(stride)?)?;
        }
        let held = n_values == 0 || last < n;
        (d.size.len() == d.stride.len() && n_values <= n && held).then_some(())
    };
    fits().ok_or_else(|| format!("its shape {:?} does not fit its {n} values", d.size))?;
    let signed = |v: &[usize]| v.iter().map(|&n| n as i64).collect::<Vec<_>>();
    let flat = Tensor::f_from_data_size(&bytes[..n * kind.elt_size_in_bytes()], &[n as i64], kind);
    let view = flat.and_then(|t| {
        t.f_as_strided(signed(&d.size), signed(&d.stride), d.offset as i64)?
            .f_contiguous()
    });
    view.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state dict within a checkpoint, in the layout of torch.save: a 2 x 3 parameter stored as the
    /// transpose of 3 x 2, half-precision values of which the first is cut off, and a scalar counter.
    const FILE: &[u8] = include_bytes!("../../tests/data/checkpoint.pth");

    #[test]
    fn tensors_come_with_their_shapes_strides_and_offsets() {
        let tensors = read(FILE).unwrap();
        let names: Vec<&str> = tensors.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(
            names,
            ["conv1.weight", "bn1.bias", "bn1.num_batches_tracked"]
        );
        let weight = Tensor::from_slice2(&[[1.0f32, 3.0, 5.0], [2.0, 4.0, 6.0]]);
        assert_eq!(tensors[0].1, weight);
        assert_eq!(tensors[1].1.kind(), Kind::Half);
        assert_eq!(
            tensors[1].1.to_kind(Kind::Float),
            Tensor::from_slice(&[0.5f32, -2.0])
        );
        assert_eq!(tensors[2].1, Tensor::from(7i64));
    }

    #[test]
    fn no_cut_and_no_changed_byte_makes_it_panic() {
        for n in 0..FILE.len() {
            assert!(read(&FILE[..n]).is_err(), "cut after {n}");
            for change in [1u8, 0x80, 0xff] {
                let mut bytes = FILE.to_vec();
                bytes[n] ^= change;
                let _ = read(&bytes);
            }
        }
    }

    #[test]
    fn a_pickle_that_calls_something_is_refused_by_name() {
        // The same length, so that the archive stays as it is.
        let at = FILE
            .windows(19)
            .position(|w| w == b"_rebuild_parameter\n")
            .unwrap();
        let mut bytes = FILE.to_vec();
        bytes[at..at + 18].copy_from_slice(b"_rebuild_parametrx");
        let e = read(&bytes).unwrap_err();
        assert!(e.contains("torch._utils._rebuild_parametrx"), "{e}");
    }
}
