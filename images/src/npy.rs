//! The array of a NumPy file (format versions 1 to 3): bytes, or floats of 32 bits, of any shape.

/// How such a file begins.
pub const MAGIC: &[u8] = b"\x93NUMPY";

/// What a file may hold, row by row.
#[derive(Clone, PartialEq)]
pub enum Array {
    /// Pixels.
    Bytes {
        /// Lengths of the axes.
        shape: Vec<usize>,
        /// As many as the shape says.
        values: Vec<u8>,
    },
    /// A normalised tensor.
    Floats {
        /// Lengths of the axes.
        shape: Vec<usize>,
        /// As many as the shape says.
        values: Vec<f32>,
    },
}

impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes { shape, .. } => write!(f, "Bytes({shape:?})"),
            Self::Floats { shape, .. } => write!(f, "Floats({shape:?})"),
        }
    }
}

/// Why a file is not read, in words that follow its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NpyError(String);

/// Reads a whole file.
///
/// # Errors
/// [`NpyError`]: broken, or of a type that is no image.
pub fn parse(bytes: &[u8]) -> Result<Array, NpyError> {
    read(bytes).map_err(NpyError)
}

fn read(bytes: &[u8]) -> Result<Array, String> {
    let broken = || "it is a broken .npy file; save it again with numpy.save".to_owned();
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(broken)?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(broken)?;
    let (n_header, rest) = if version[0] == 1 {
        let (n, rest) = rest.split_first_chunk::<2>().ok_or_else(broken)?;
        (usize::from(u16::from_le_bytes(*n)), rest)
    } else {
        let (n, rest) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        (u32::from_le_bytes(*n) as usize, rest)
    };
    let (header, data) = rest.split_at_checked(n_header).ok_or_else(broken)?;
    let header = std::str::from_utf8(header).map_err(|_| broken())?;
    let dtype = value(header, "descr").ok_or_else(broken)?;
    let dtype = dtype
        .split(['\'', '"'])
        .nth(1)
        .ok_or("an array of records is no image; save uint8 or float32")?;
    if value(header, "fortran_order").is_none_or(|order| order.starts_with("True")) {
        return Err("its axes are in Fortran order; save numpy.ascontiguousarray(array)".into());
    }
    let shape = value(header, "shape").and_then(|v| v.strip_prefix('('));
    let shape = shape.and_then(|v| v.split_once(')')).ok_or_else(broken)?.0;
    let shape = shape
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .map(|d| d.parse::<usize>().map_err(|_| broken()))
        .collect::<Result<Vec<_>, _>>()?;
    let n_values = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let n_values = n_values.ok_or_else(broken)?;
    match dtype.trim_start_matches(['|', '<', '=']) {
        "u1" if data.len() == n_values => Ok(Array::Bytes {
            shape,
            values: data.to_vec(),
        }),
        "f4" if n_values.checked_mul(4) == Some(data.len()) => {
            let (values, _) = data.as_chunks::<4>();
            Ok(Array::Floats {
                shape,
                values: values.iter().map(|v| f32::from_le_bytes(*v)).collect(),
            })
        }
        "u1" | "f4" => Err(broken()),
        _ => Err(wrong_type(dtype)),
    }
}

/// What to save instead of an array of this type.
fn wrong_type(dtype: &str) -> String {
    let name = name_of(dtype);
    let kind = dtype.trim_start_matches(['|', '<', '=']);
    match kind.as_bytes().first().or(dtype.as_bytes().first()) {
        Some(b'i' | b'u' | b'b') => format!(
            "its type is {name}; pixels are read as uint8: array.astype(numpy.uint8), of shape (H, W, C)"
        ),
        Some(b'f' | b'>') => format!(
            "its type is {name}; normalised tensors are read as float32: array.astype('<f4'), of shape (C, H, W)"
        ),
        _ => format!(
            "its type is {name}; uint8 pixels (H, W, C) and normalised float32 tensors (C, H, W) are read"
        ),
    }
}

/// NumPy's own name of a type, where it is a usual one.
fn name_of(dtype: &str) -> String {
    let (order, kind) = match dtype.split_at_checked(1) {
        Some((">", kind)) => ("big-endian ", kind),
        Some(("<" | "|" | "=", kind)) => ("", kind),
        _ => ("", dtype),
    };
    let bits = || Some(8 * kind.get(1..)?.parse::<u32>().ok()?);
    let name = match (kind.as_bytes().first(), bits()) {
        (Some(b'u'), Some(n)) => format!("uint{n}"),
        (Some(b'i'), Some(n)) => format!("int{n}"),
        (Some(b'f'), Some(n)) => format!("float{n}"),
        (Some(b'b'), _) => "bool".into(),
        (Some(b'O'), _) => "object".into(),
        _ => kind.to_owned(),
    };
    format!("{order}{name}")
}

/// What stands behind `'key':` in the header, a Python dictionary.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{key}'"))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let n = (header.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0], &n, header.as_bytes(), data].concat()
    }

    #[test]
    fn bytes_and_floats_are_read_and_the_rest_is_refused() {
        let pixels = parse(&file("|u1", "(1, 2, 1, 3)", &[1, 2, 3, 4, 5, 6]));
        let expected = Array::Bytes {
            shape: vec![1, 2, 1, 3],
            values: vec![1, 2, 3, 4, 5, 6],
        };
        assert_eq!(pixels, Ok(expected));
        let tensor = parse(&file("<f4", "(2,)", &[0, 0, 128, 63, 0, 0, 0, 64]));
        let expected = Array::Floats {
            shape: vec![2],
            values: vec![1.0, 2.0],
        };
        assert_eq!(tensor, Ok(expected));
        for (file, what) in [
            (file("<f8", "(1, 1, 1)", &[0; 8]), "float32"),
            (file(">f4", "(1, 1, 1)", &[0; 4]), "big-endian float32"),
            (file("<i8", "(1, 1, 1)", &[0; 8]), "int64; pixels"),
            (file("|O", "(1, 1, 1)", &[0; 8]), "object"),
            (file("<f4", "(4,)", &[0; 15]), "broken"),
            (file("|u1", "(2, 2)", &[0; 3]), "broken"),
            (file("|u1", "(99999999999, 99999999999)", &[]), "broken"),
        ] {
            let said = parse(&file).unwrap_err().to_string();
            assert!(said.contains(what), "{said}");
        }
        let whole = file("|u1", "(2, 2)", &[0; 4]);
        for n in 0..whole.len() {
            assert!(parse(&whole[..n]).is_err(), "{n}");
        }
    }
}
