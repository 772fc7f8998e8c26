//! Entries of a zip archive whose files are stored, not packed (PKWARE's APPNOTE, 4.3): the end record, the
//! central directory, and the local headers in front of the data.

use std::collections::BTreeMap;

const CUT: &str = "is cut or damaged; copy it again from where it was made";
const END: &[u8] = b"PK\x05\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
/// The end record with the longest comment.
const LONGEST_END: usize = 22 + 65_535;

fn part(bytes: &[u8], at: usize, n: usize) -> Result<&[u8], String> {
    let end = at.checked_add(n).ok_or(CUT)?;
    bytes.get(at..end).ok_or_else(|| CUT.into())
}

/// A little-endian number of `n` bytes.
fn number(bytes: &[u8], at: usize, n: usize) -> Result<usize, String> {
    let bytes = part(bytes, at, n)?;
    Ok(bytes.iter().rev().fold(0, |v, &b| v << 8 | usize::from(b)))
}

/// Name and data of every file.
pub(super) fn entries(bytes: &[u8]) -> Result<BTreeMap<&str, &[u8]>, String> {
    let tail = bytes.len().saturating_sub(LONGEST_END);
    let found = bytes[tail..].windows(4).rposition(|w| w == END);
    let end = tail + found.ok_or(CUT)?;
    part(bytes, end, 22)?;
    if number(bytes, end + 20, 2)? != bytes.len() - end - 22 {
        return Err(CUT.into());
    }
    let n_entries = number(bytes, end + 10, 2)?;
    let mut at = number(bytes, end + 16, 4)?;
    if n_entries == 0xffff || at == 0xffff_ffff {
        return Err("is larger than 4 GB; save the weights by themselves: torch.save(model.state_dict(), OUT)".into());
    }
    let mut entries = BTreeMap::new();
    for _ in 0..n_entries {
        if part(bytes, at, 4)? != CENTRAL {
            return Err(CUT.into());
        }
        let [flags, method] = [number(bytes, at + 8, 2)?, number(bytes, at + 10, 2)?];
        let [packed, size] = [number(bytes, at + 20, 4)?, number(bytes, at + 24, 4)?];
        let [name, extra, comment] = [28, 30, 32].map(|o| number(bytes, at + o, 2));
        let (name, local) = (part(bytes, at + 46, name?)?, number(bytes, at + 42, 4)?);
        if flags & 1 != 0 || method != 0 || packed != size || size == 0xffff_ffff {
            return Err("is packed or encrypted, which torch.save does not do".into());
        }
        if part(bytes, local, 4)? != LOCAL {
            return Err(CUT.into());
        }
        let before = 30 + number(bytes, local + 26, 2)? + number(bytes, local + 28, 2)?;
        let name = std::str::from_utf8(name).map_err(|_| CUT)?;
        entries.insert(name, part(bytes, local + before, size)?);
        at += 46 + name.len() + extra? + comment?;
    }
    Ok(entries)
}
