//! Constants of a graph: their values as `f32` or `i64`, decoded from any of the ways in which a file may hold them.

use super::error::{ImportError, Result};
use super::proto::{TensorProto, data_type as t};

/// Most values of one constant.
pub const MAX_VALUES: usize = 1 << 30;

/// Values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Weights, of whatever precision.
    Floats(Vec<f32>),
    /// Sizes, axes, indices, truth values.
    Ints(Vec<i64>),
}

/// A tensor that is known before the network runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Its shape; none for a single number.
    pub dims: Vec<usize>,
    /// Its values.
    pub values: Values,
}

impl Constant {
    /// A list of integers.
    #[must_use]
    pub fn ints(values: Vec<i64>) -> Self {
        Self {
            dims: vec![values.len()],
            values: Values::Ints(values),
        }
    }

    /// Number of values.
    #[must_use]
    pub const fn n_values(&self) -> usize {
        match &self.values {
            Values::Floats(v) => v.len(),
            Values::Ints(v) => v.len(),
        }
    }

    /// Its values as real numbers.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "integers here are sizes")]
    pub fn to_floats(&self) -> Vec<f32> {
        match &self.values {
            Values::Floats(v) => v.clone(),
            Values::Ints(v) => v.iter().map(|&n| n as f32).collect(),
        }
    }

    /// Its values as integers, if they are some.
    #[must_use]
    pub fn to_ints(&self) -> Option<Vec<i64>> {
        match &self.values {
            Values::Ints(v) => Some(v.clone()),
            Values::Floats(_) => None,
        }
    }

    /// The elements at `positions`, in their order, with a new shape.
    #[must_use]
    pub fn pick(&self, dims: Vec<usize>, positions: &[usize]) -> Self {
        let values = match &self.values {
            Values::Floats(v) => Values::Floats(positions.iter().map(|&i| v[i]).collect()),
            Values::Ints(v) => Values::Ints(positions.iter().map(|&i| v[i]).collect()),
        };
        Self { dims, values }
    }

    /// The constant that `proto` holds; `raw` are the bytes of its file if it lies in another.
    ///
    /// # Errors
    /// [`ImportError::Tensor`] naming it.
    pub fn decode(proto: &TensorProto, raw: Option<&[u8]>) -> Result<Self> {
        let fault = |reason: String| ImportError::Tensor {
            tensor: proto.name.clone(),
            reason,
        };
        let dims = proto.dims.iter().map(|&d| usize::try_from(d).ok());
        let dims = dims.collect::<Option<Vec<usize>>>();
        let n = dims.as_ref().and_then(|dims| {
            let mut product = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            product = product.filter(|&n| n <= MAX_VALUES);
            product
        });
        let Some((dims, n)) = dims.zip(n) else {
            let reason = format!("its shape {:?} is not possible", proto.dims);
            return Err(fault(reason));
        };
        let raw = raw.unwrap_or(&proto.raw_data);
        let values = if raw.is_empty() {
            typed(proto)
        } else {
            untyped(proto.data_type, raw)
        };
        let values = values.map_err(&fault)?;
        let constant = Self { dims, values };
        if constant.n_values() != n {
            let reason = format!(
                "it has {} values, its shape {:?} needs {n}; the file is damaged, export it again",
                constant.n_values(),
                constant.dims
            );
            return Err(fault(reason));
        }
        if let Values::Floats(v) = &constant.values
            && v.iter().any(|v| v.is_nan())
        {
            return Err(fault(
                "a value is not a number (NaN); train the network again, or repair its file".into(),
            ));
        }
        Ok(constant)
    }
}

fn unknown(data_type: i32) -> String {
    format!(
        "its elements are of ONNX type {data_type}, which is not supported; export the network in floating point"
    )
}

/// Values in the fields of their types.
fn typed(p: &TensorProto) -> std::result::Result<Values, String> {
    let bits = |v: &i32| *v as u16;
    Ok(match p.data_type {
        t::FLOAT => Values::Floats(p.float_data.clone()),
        t::DOUBLE => Values::Floats(p.double_data.iter().map(|&v| v as f32).collect()),
        t::FLOAT16 => Values::Floats(p.int32_data.iter().map(|v| half(bits(v))).collect()),
        t::BFLOAT16 => Values::Floats(p.int32_data.iter().map(|v| brain(bits(v))).collect()),
        t::INT64 => Values::Ints(p.int64_data.clone()),
        t::INT32 | t::INT16 | t::INT8 | t::UINT16 | t::UINT8 | t::BOOL => {
            Values::Ints(p.int32_data.iter().map(|&v| v.into()).collect())
        }
        t::UINT32 | t::UINT64 => {
            let values = p.uint64_data.iter().map(|&v| i64::try_from(v));
            Values::Ints(
                values
                    .collect::<std::result::Result<_, _>>()
                    .map_err(|_| "it holds an integer above 2^63".to_owned())?,
            )
        }
        other => return Err(unknown(other)),
    })
}

/// Values as bytes.
fn untyped(data_type: i32, raw: &[u8]) -> std::result::Result<Values, String> {
    fn each<const N: usize, T>(
        raw: &[u8],
        f: impl Fn([u8; N]) -> T,
    ) -> std::result::Result<Vec<T>, String> {
        let (chunks, rest) = raw.as_chunks::<N>();
        if !rest.is_empty() {
            return Err(format!("its {} bytes are no multiple of {N}", raw.len()));
        }
        Ok(chunks.iter().map(|&c| f(c)).collect())
    }
    Ok(match data_type {
        t::FLOAT => Values::Floats(each(raw, f32::from_le_bytes)?),
        t::DOUBLE => Values::Floats(each(raw, |c| f64::from_le_bytes(c) as f32)?),
        t::FLOAT16 => Values::Floats(each(raw, |c| half(u16::from_le_bytes(c)))?),
        t::BFLOAT16 => Values::Floats(each(raw, |c| brain(u16::from_le_bytes(c)))?),
        t::INT64 | t::UINT64 => Values::Ints(each(raw, i64::from_le_bytes)?),
        t::INT32 => Values::Ints(each(raw, |c| i32::from_le_bytes(c).into())?),
        t::UINT32 => Values::Ints(each(raw, |c| u32::from_le_bytes(c).into())?),
        t::INT16 => Values::Ints(each(raw, |c| i16::from_le_bytes(c).into())?),
        t::UINT16 => Values::Ints(each(raw, |c| u16::from_le_bytes(c).into())?),
        t::INT8 => Values::Ints(each(raw, |c| i8::from_le_bytes(c).into())?),
        t::UINT8 | t::BOOL => Values::Ints(each(raw, |[b]| b.into())?),
        other => return Err(unknown(other)),
    })
}

/// The upper half of an `f32`.
fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// IEEE half precision: 1 sign bit, 5 of exponent, 10 of fraction.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023) / 1024.0);
    sign * match exponent {
        0 => fraction * (-14f32).exp2(),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1.0 + fraction) * ((e - 15) as f32).exp2(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision() {
        for (bits, value) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x0001, 5.960_464_5e-8),
            (0x7bff, 65504.0),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(half(bits), value, "{bits:x}");
        }
        assert!(half(0x7e00).is_nan());
        assert_eq!(brain(0x3fc0), 1.5);
    }

    #[test]
    fn every_way_to_hold_values() {
        let base = |data_type| TensorProto {
            name: "w".into(),
            dims: vec![2],
            data_type,
            ..Default::default()
        };
        let floats = Values::Floats(vec![1.5, -2.0]);
        let ints = Values::Ints(vec![3, -4]);
        let cases = [
            (
                TensorProto {
                    float_data: vec![1.5, -2.0],
                    ..base(t::FLOAT)
                },
                &floats,
            ),
            (
                TensorProto {
                    double_data: vec![1.5, -2.0],
                    ..base(t::DOUBLE)
                },
                &floats,
            ),
            (
                TensorProto {
                    int32_data: vec![0x3e00, 0xc000],
                    ..base(t::FLOAT16)
                },
                &floats,
            ),
            (
                TensorProto {
                    raw_data: vec![0xc0, 0x3f, 0x00, 0xc0],
                    ..base(t::BFLOAT16)
                },
                &floats,
            ),
            (
                TensorProto {
                    int64_data: vec![3, -4],
                    ..base(t::INT64)
                },
                &ints,
            ),
            (
                TensorProto {
                    int32_data: vec![3, -4],
                    ..base(t::INT32)
                },
                &ints,
            ),
            (
                TensorProto {
                    raw_data: vec![3, 0xfc],
                    ..base(t::INT8)
                },
                &ints,
            ),
        ];
        for (proto, values) in cases {
            assert_eq!(
                &Constant::decode(&proto, None).unwrap().values,
                values,
                "{proto:?}"
            );
        }
    }

    #[test]
    fn damaged_constants_are_named() {
        let mut proto = TensorProto {
            name: "fc.weight".into(),
            dims: vec![2],
            data_type: t::FLOAT,
            raw_data: vec![0; 7],
            ..Default::default()
        };
        let error = |p: &TensorProto| Constant::decode(p, None).unwrap_err().to_string();
        assert!(error(&proto).contains("'fc.weight' cannot be read: its 7 bytes"));
        proto.raw_data = vec![0; 12];
        assert!(error(&proto).contains("3 values, its shape [2] needs 2"));
        proto.raw_data = [f32::NAN.to_le_bytes(), [0; 4]].concat();
        assert!(error(&proto).contains("NaN"));
        proto.dims = vec![i64::MAX, i64::MAX];
        assert!(error(&proto).contains("not possible"));
        proto.data_type = 8;
        proto.dims = vec![2];
        assert!(error(&proto).contains("type 8"));
    }
}
