//! Tensors of a file that `torch.save` wrote, without running what it says.
//!
//! Since PyTorch 1.6 such a file is a zip archive of stored entries: `NAME/data.pkl`, a pickle that describes the
//! tensors, and `NAME/data/K`, the bytes of storage K; before, pickles and storages followed each other ([`legacy`]). A
//! pickle is a program; ours is only looked at, and what is neither a dictionary nor a tensor is passed over, so nothing in
//! the file is ever called. The file is read whole; sizes are checked against it before anything is allocated.

mod home;
mod legacy;
mod pickle;
#[cfg(test)]
mod tests;
mod value;
mod zip;

use crate::import::Weights;
use std::collections::BTreeMap;
use std::rc::Rc;
use tch::{Kind, Tensor};
use value::{Described, Ref, Value, Values, shown};

/// The bytes of each storage.
type Storages<'a> = BTreeMap<Rc<str>, &'a [u8]>;

/// True for a file of `torch.save`.
pub(crate) fn is_ours(bytes: &[u8]) -> bool {
    is_zip(bytes) || legacy::is_legacy(bytes)
}

/// True for a pickle of any kind. A safetensors file can begin with the same bytes, but then its header comes.
pub(crate) fn is_pickle(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80) && bytes.get(8) != Some(&b'{')
}

fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// The tensors by name. An error says what the file holds, and what to do.
pub(crate) fn read(bytes: &[u8]) -> Result<Weights, String> {
    let (values, root, storages) = match is_zip(bytes) {
        true => parts_of_zip(bytes)?,
        false => legacy::parts(bytes)?,
    };
    let found = home::find(&values, root)?;
    let mut weights = Weights {
        home: found.home,
        others: found.others,
        ..Weights::default()
    };
    let mut n_bytes = 0;
    for (name, value) in found.entries {
        match values.at(value) {
            Value::Tensor(described) => match tensor(described, &storages) {
                Ok(tensor) => {
                    n_bytes += tensor.numel() * tensor.kind().elt_size_in_bytes();
                    // Some share a storage; all of them together are not much more than the file.
                    if n_bytes > 2 * bytes.len() {
                        return Err("describes more weights than it holds".into());
                    }
                    weights.tensors.push((name.to_string(), tensor));
                }
                Err(why) => weights.unread.push((name.to_string(), why)),
            },
            // What is no weight, unless the network asks for it by this name.
            _ => {
                let why = format!("is no plain tensor but {}", values.kind(value));
                weights.unread.push((name.to_string(), why));
            }
        }
    }
    Ok(weights)
}

fn parts_of_zip(bytes: &[u8]) -> Result<(Values, Ref, Storages<'_>), String> {
    let entries = zip::entries(bytes)?;
    let pickle = entries.keys().find(|n| n.ends_with("/data.pkl"));
    let name = pickle.ok_or("holds no data.pkl: it is no file of torch.save")?;
    let archive = name.trim_end_matches("data.pkl");
    if let Some(order) = entries.get(format!("{archive}byteorder").as_str())
        && *order != b"little"
    {
        return Err("was written in another byte order; save it on a machine of this one's".into());
    }
    if entries.contains_key(format!("{archive}constants.pkl").as_str()) {
        return Err(
            "is a TorchScript program; save its weights: torch.save(torch.jit.load(IN).state_dict(), OUT)"
                .into(),
        );
    }
    let (values, root, _) = pickle::read(entries[name])?;
    let home = format!("{archive}data/");
    let storages = entries.iter();
    let storages = storages.filter_map(|(n, &data)| Some((n.strip_prefix(&home)?.into(), data)));
    Ok((values, root, storages.collect()))
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

fn tensor(d: &Described, storages: &Storages) -> Result<Tensor, String> {
    let kind = kind(&d.storage)
        .ok_or_else(|| format!("is of {}, a type that is not read", shown(&d.storage)))?;
    let bytes = storages
        .get(&d.key)
        .ok_or_else(|| format!("lacks its storage {}", shown(&d.key)))?;
    let n = bytes.len() / kind.elt_size_in_bytes();
    let fits = || {
        let (mut n_values, mut last) = (1usize, d.offset);
        for (&size, &stride) in d.size.iter().zip(&d.stride) {
            n_values = n_values.checked_mul(size)?;
            last = last.checked_add(size.saturating_sub(1).checked_mul(stride)?)?;
        }
        // Values from the first one to the last.
        let span = match n_values {
            0 => d.offset..d.offset,
            _ => d.offset..last.checked_add(1)?,
        };
        (d.size.len() == d.stride.len() && n_values <= n && span.end <= n).then_some(span)
    };
    let misfit = || {
        format!(
            "has a shape, {:?}, that does not fit its {n} values",
            d.size
        )
    };
    let span = fits().ok_or_else(misfit)?;
    let part = &bytes[span.start * kind.elt_size_in_bytes()..span.end * kind.elt_size_in_bytes()];
    let signed = |v: &[usize]| v.iter().map(|&n| n as i64).collect::<Vec<_>>();
    let flat = Tensor::f_from_data_size(part, &[span.len() as i64], kind);
    let view = flat.and_then(|t| {
        t.f_as_strided(signed(&d.size), signed(&d.stride), 0)?
            .f_contiguous()
    });
    view.map_err(|e| e.to_string())
}
