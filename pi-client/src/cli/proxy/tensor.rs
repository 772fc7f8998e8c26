//! Tensors of the Open Inference Protocol: into images, and answers into tensors.
//!
//! Shapes are (N, C, H, W), or (N, H, W, C) for bytes, N left out for one image. UINT8 is pixels, of any size; FP32 is what the network
//! takes, of the model's size, where dimensions of one may be missing: normalised as the card says, if it takes images.

use pi_client::{ClientError, Image, Prediction};
use pi_model::PublicModel;
use pi_model::spec::OutputMode;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// Most images in one request.
const MAX_IMAGES: usize = 64;
/// Name of the only input. Others are taken, too, since there is only one.
pub(crate) const INPUT: &str = "image";
/// The extension of REST by which tensors follow the JSON as bytes.
pub(crate) const BINARY: &str = "binary_tensor_data";
/// What a metadata reader learns of how models are run.
pub(crate) const PLATFORM: &str = "private_inference_two_party";

/// What an input holds.
pub(crate) enum Data {
    U8(Vec<u8>),
    F32(Vec<f32>),
}

/// An input.
pub(crate) struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

pub(crate) fn refused(reason: impl Into<String>) -> ClientError {
    ClientError::Input {
        name: "the request".into(),
        reason: reason.into(),
    }
}

/// Refuses what `whose` parameters ask for and this proxy does not do: whoever sends one relies on what it means.
pub(crate) fn check_parameters<'a>(
    whose: &str,
    names: impl IntoIterator<Item = &'a String>,
    known: &[&str],
) -> Result<(), ClientError> {
    for name in names {
        if known.contains(&name.as_str()) {
            continue;
        }
        return Err(refused(match name.as_str() {
            "classification" => {
                format!(
                    "{whose} asks for classification, which this proxy does not do: take the class or the logits"
                )
            }
            shared if shared.starts_with("shared_memory") => {
                format!(
                    "{whose} stands in shared memory, which this proxy does not use: send the data along"
                )
            }
            other => format!("{whose} has a parameter '{other}', which this proxy does not know"),
        }));
    }
    Ok(())
}

impl Data {
    /// The values in little-endian bytes of `datatype`.
    pub(crate) fn from_bytes(datatype: &str, bytes: &[u8]) -> Result<Self, ClientError> {
        match datatype {
            "UINT8" => Ok(Self::U8(bytes.to_vec())),
            "FP32" => {
                let (values, []) = bytes.as_chunks::<4>() else {
                    return Err(refused(format!(
                        "{} bytes are no whole number of FP32 values",
                        bytes.len()
                    )));
                };
                let values = values.iter().map(|v| f32::from_le_bytes(*v));
                Ok(Self::F32(values.collect()))
            }
            other => Err(unknown(other)),
        }
    }

    /// The values of a JSON list.
    pub(crate) fn from_json(datatype: &str, Flat(numbers): Flat) -> Result<Self, ClientError> {
        match datatype {
            "UINT8" => {
                let bytes = numbers.iter().map(|&n| {
                    let whole = n.fract() == 0.0 && (0.0..=255.0).contains(&n);
                    whole.then_some(n as u8)
                });
                let bytes: Option<Vec<u8>> = bytes.collect();
                let wrong = || refused("a UINT8 value is no whole number of 0 to 255");
                Ok(Self::U8(bytes.ok_or_else(wrong)?))
            }
            "FP32" => Ok(Self::F32(numbers)),
            other => Err(unknown(other)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }
}

fn unknown(datatype: &str) -> ClientError {
    refused(format!(
        "datatype {datatype}: UINT8 (pixels) and FP32 (normalised) are taken"
    ))
}

/// The numbers of a JSON list, which may be nested, and nothing of the tree that they stand in, which takes ten times as much.
pub(crate) struct Flat(Vec<f32>);

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut numbers = Vec::new();
        Flatten(&mut numbers).deserialize(deserializer)?;
        Ok(Self(numbers))
    }
}

/// Appends what it reads. serde_json bounds the depth.
struct Flatten<'a>(&'a mut Vec<f32>);

impl<'de> DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of numbers as data")
    }

    fn visit_f64<E>(self, n: f64) -> Result<(), E> {
        self.0.push(n as f32);
        Ok(())
    }

    fn visit_u64<E>(self, n: u64) -> Result<(), E> {
        self.0.push(n as f32);
        Ok(())
    }

    fn visit_i64<E>(self, n: i64) -> Result<(), E> {
        self.0.push(n as f32);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Flatten(self.0))?.is_some() {}
        Ok(())
    }
}

impl Tensor {
    /// Checks that shape and data agree.
    pub(crate) fn new(shape: &[i64], data: Data) -> Result<Self, ClientError> {
        let shape = shape.iter().map(|&d| usize::try_from(d).ok());
        let shape: Option<Vec<usize>> = shape.collect();
        let n = shape
            .as_ref()
            .and_then(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d)));
        match shape {
            Some(shape) if n == Some(data.len()) && n != Some(0) => Ok(Self { shape, data }),
            _ => Err(refused(format!(
                "{} values do not have the shape that is stated",
                data.len()
            ))),
        }
    }

    /// The images in it. Each is made when its turn comes, so that a large request is held once and not as pictures, too.
    pub(crate) fn images(
        self,
        model: &PublicModel,
    ) -> Result<impl ExactSizeIterator<Item = Result<Image, ClientError>> + use<>, ClientError>
    {
        let input = &model.spec().input;
        let wrong = || {
            refused(format!(
                "its shape is {:?}; the model takes (N, {}, {}, {}), or UINT8 as (N, H, W, {})",
                self.shape, input.channels, input.height, input.width, input.channels
            ))
        };
        let (n, [a, b, c]) = match (&self.data, &self.shape[..]) {
            (Data::F32(_), shape) if input.takes_shape(shape) => (1, input.shape()),
            (Data::F32(_), [n, shape @ ..]) if input.takes_shape(shape) => (*n, input.shape()),
            (_, &[a, b, c]) => (1, [a, b, c]),
            (_, &[n, a, b, c]) => (n, [a, b, c]),
            _ => return Err(wrong()),
        };
        if n > MAX_IMAGES {
            return Err(refused(format!(
                "{n} images in a request; at most {MAX_IMAGES} are taken"
            )));
        }
        if matches!(self.data, Data::U8(_)) && !input.takes_images() {
            return Err(refused(
                "the model takes no images, so it takes FP32, not UINT8",
            ));
        }
        // Channels come first where the shape says so, and last otherwise.
        let is_planes = a == input.channels && (c != input.channels || b == input.height);
        if matches!(self.data, Data::U8(_)) && !is_planes && c != input.channels {
            return Err(wrong());
        }
        let size = a * b * c;
        Ok((0..n).map(move |i| {
            let range = i * size..(i + 1) * size;
            match &self.data {
                Data::F32(values) => Image::from_tensor(&[a, b, c], values[range].to_vec()),
                Data::U8(values) if is_planes => {
                    let (v, area) = (&values[range], b * c);
                    let pixels = (0..area).flat_map(|i| (0..a).map(move |ch| v[ch * area + i]));
                    Image::from_pixels(c, b, a, pixels.collect())
                }
                Data::U8(values) => Image::from_pixels(b, a, c, values[range].to_vec()),
            }
        }))
    }
}

/// An output: name, datatype, shape, and its values in either form.
pub(crate) struct Output {
    pub(crate) name: &'static str,
    pub(crate) datatype: &'static str,
    pub(crate) shape: Vec<i64>,
    pub(crate) values: Values,
}

/// Values of an output.
pub(crate) enum Values {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Output {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match &self.values {
            Values::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::I64(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match &self.values {
            Values::F32(values) => json!(values),
            Values::I64(values) => json!(values),
        }
    }
}

/// Names, datatypes and shapes of what the model answers; -1 stands for the number of images.
pub(crate) fn outputs_of(model: &PublicModel) -> Vec<(&'static str, &'static str, Vec<i64>)> {
    let logits = ("logits", "FP32", vec![-1, model.n_outputs() as i64]);
    let class = ("class", "INT64", vec![-1]);
    match model.spec().output {
        OutputMode::Logits if !model.has_classes() => vec![logits],
        OutputMode::Logits => vec![logits, class],
        OutputMode::Argmax => vec![class],
    }
}

/// Datatype and shape of the input; -1 stands for the number of images.
pub(crate) fn input_of(model: &PublicModel) -> (&'static str, Vec<i64>) {
    let input = &model.spec().input;
    let datatype = if input.takes_images() {
        "UINT8"
    } else {
        "FP32"
    };
    let shape = input.shape().map(|n| n as i64);
    (datatype, [&[-1], &shape[..]].concat())
}

/// The outputs called `names`, or all of them.
pub(crate) fn outputs(
    model: &PublicModel,
    answers: &[Prediction],
    names: &[&str],
) -> Result<Vec<Output>, ClientError> {
    check_names(model, names)?;
    let n = answers.len() as i64;
    let wanted = outputs_of(model)
        .into_iter()
        .filter(|(name, ..)| names.is_empty() || names.contains(name));
    let outputs = wanted.map(|(name, datatype, mut shape)| {
        if let Some(first) = shape.first_mut() {
            *first = n;
        }
        let values = match name {
            "logits" => {
                let logits = answers.iter().flat_map(|a| a.logits.iter());
                Values::F32(logits.map(|&l| l as f32).collect())
            }
            _ => {
                let classes = answers.iter().filter_map(|a| a.class);
                Values::I64(classes.map(|class| class as i64).collect())
            }
        };
        Output {
            name,
            datatype,
            shape,
            values,
        }
    });
    Ok(outputs.collect())
}

/// Whether the model has all outputs called `names`. Asked before anything is spent.
pub(crate) fn check_names(model: &PublicModel, names: &[&str]) -> Result<(), ClientError> {
    let known = outputs_of(model);
    match names.iter().find(|n| known.iter().all(|(k, ..)| k != *n)) {
        None => Ok(()),
        Some(name) => {
            let known: Vec<&str> = known.iter().map(|(k, ..)| *k).collect();
            let known = known.join(" and ");
            Err(refused(format!("no output '{name}'; there is {known}")))
        }
    }
}

/// What the answers cost together, by name.
pub(crate) fn costs(answers: &[Prediction]) -> Vec<(&'static str, f64)> {
    let sum = |f: fn(&Prediction) -> f64| answers.iter().map(f).sum::<f64>();
    vec![
        ("online_seconds", sum(|a| a.stats.online_seconds)),
        ("offline_seconds", sum(|a| a.stats.offline_seconds)),
        ("waited_seconds", sum(|a| a.stats.waited_seconds)),
        ("online_bytes", sum(|a| a.stats.online_bytes as f64)),
        ("offline_bytes", sum(|a| a.stats.offline_bytes as f64)),
        (
            "prepared_ahead",
            sum(|a| f64::from(u8::from(a.stats.prepared_ahead))),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use pi_model::random::features_network;

    #[test]
    fn what_is_no_image_comes_as_floats() {
        let model = features_network("features").unwrap();
        let model = model.public();
        assert_eq!(input_of(model), ("FP32", vec![-1, 5, 1, 1]));
        assert_eq!(outputs_of(model), [("logits", "FP32", vec![-1, 3])]);
        assert!(check_names(model, &["class"]).is_err());
        let tensor = |shape: &[i64], data| Tensor::new(shape, data).unwrap().images(model);
        for (shape, n) in [
            (&[5][..], 1),
            (&[2, 5], 2),
            (&[2, 5, 1, 1], 2),
            (&[1, 5], 1),
        ] {
            let images = tensor(shape, Data::F32(vec![0.5; 5 * n])).unwrap();
            assert_eq!(images.len(), n, "{shape:?}");
            for image in images {
                image.unwrap().fit(model, pi_client::Sizing::Exact).unwrap();
            }
        }
        let said = tensor(&[1, 5, 1, 1], Data::U8(vec![0; 5])).err().unwrap();
        assert!(said.to_string().contains("takes no images"), "{said}");
    }
}
