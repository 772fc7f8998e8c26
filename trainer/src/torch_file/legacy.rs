//! The format of `torch.save` before PyTorch 1.6, which later versions write on request.
//!
//! Five pickles: a magic number, the version, the machine's sizes, the object, and the list of its storages' names.
//! Then each of these storages: the number of its values in eight bytes, and the values, both little-endian on every machine.
//! How large a value is follows from the class by which the object names the storage.

use super::value::{Ref, Value, Values, shown};
use super::{Storages, kind, pickle};
use std::collections::HashMap;
use std::rc::Rc;

/// 0x1950a86a20f9469cfc6c.
const MAGIC: &[u8] = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// Where the magic number's pickle is over, whatever its protocol.
const MAGIC_ENDS: usize = 32;
const VERSION: i64 = 1001;
const CUT: &str = "is cut or damaged; copy it again from where it was made";

/// True for the first bytes of such a file.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(MAGIC_ENDS)];
    head.first() == Some(&0x80) && head.windows(MAGIC.len()).any(|w| w == MAGIC)
}

/// The values of the object, which of them it is, and its storages.
pub(super) fn parts(bytes: &[u8]) -> Result<(Values, Ref, Storages<'_>), String> {
    let (_, _, rest) = pickle::read(bytes)?;
    let (version, number, rest) = pickle::read(rest)?;
    match version.at(number) {
        Value::Int(VERSION) => {}
        Value::Int(other) => return Err(format!("is of format {other}, which is not known")),
        _ => return Err(CUT.into()),
    }
    let (_, _, rest) = pickle::read(rest)?;
    let (values, root, rest) = pickle::read(rest)?;
    let (names, list, rest) = pickle::read(rest)?;
    let storages = storages(&values, &names, list, rest)?;
    Ok((values, root, storages))
}

fn storages<'a>(
    values: &Values,
    names: &Values,
    list: Ref,
    mut rest: &'a [u8],
) -> Result<Storages<'a>, String> {
    let mut classes: HashMap<&Rc<str>, &Rc<str>> = HashMap::new();
    for stored in values.storages() {
        if *classes.entry(&stored.key).or_insert(&stored.class) != &stored.class {
            let key = shown(&stored.key);
            return Err(format!("names its storage {key} by two types"));
        }
    }
    let Value::List(list) = names.at(list) else {
        return Err(CUT.into());
    };
    let mut storages = Storages::new();
    for &name in list {
        let key = names.text(name).ok_or(CUT)?;
        let class = classes.get(key).ok_or(CUT)?;
        let n_bytes = value_bytes(class)
            .ok_or_else(|| format!("has a {}, a type that is not read", shown(class)))?;
        let (n, after) = rest.split_first_chunk::<8>().ok_or(CUT)?;
        let n = usize::try_from(u64::from_le_bytes(*n)).ok();
        let n = n.and_then(|n| n.checked_mul(n_bytes)).ok_or(CUT)?;
        let (data, after) = after.split_at_checked(n).ok_or(CUT)?;
        storages.insert(key.clone(), data);
        rest = after;
    }
    Ok(storages)
}

/// Bytes of a value, also of those types that no weight has: what follows them is to be found.
fn value_bytes(class: &str) -> Option<usize> {
    let bytes = kind(class).map(|kind| kind.elt_size_in_bytes());
    bytes.or(match class {
        "QInt8Storage" | "QUInt8Storage" => Some(1),
        "QInt32Storage" => Some(4),
        "ComplexFloatStorage" => Some(8),
        "ComplexDoubleStorage" => Some(16),
        _ => None,
    })
}
