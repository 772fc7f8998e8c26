//! What the client may see of a model: its operations, shapes, scales and the positions of its ReLUs.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};
use crate::graph::{Graph, Layer, shapes};
use crate::relu_set::ReluSet;
use crate::spec::{Card, FORMAT_VERSION, ModelSpec, OutputMode};

/// A model without its weights, checked and compiled.
#[derive(Clone, Debug)]
pub struct PublicModel {
    spec: ModelSpec,
    masks: BTreeMap<String, ReluSet>,
    graph: Graph,
}

/// The form in which it travels. Fields have a fixed order, so its JSON is canonical.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    spec: ModelSpec,
    masks: Vec<EncodedMask>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EncodedMask {
    relu: String,
    n_positions: usize,
    bits: String,
}

impl PublicModel {
    /// Checks and compiles `spec` with the masks named after their ReLUs.
    ///
    /// # Errors
    /// [`ModelError::Op`] or [`ModelError::Plan`] saying what cannot be run.
    pub fn new(spec: ModelSpec, masks: HashMap<String, ReluSet>) -> Result<Self> {
        if spec.format_version != FORMAT_VERSION {
            return Err(ModelError::Plan(format!(
                "it has format version {}, this program reads {FORMAT_VERSION}; export it again",
                spec.format_version
            )));
        }
        spec.input.check()?;
        let is_open = !spec.input.takes_images() && spec.input.range.is_none();
        if is_open && spec.fixed_point.is_some() {
            return Err(ModelError::op(
                "input",
                "it needs mean and std if it is an image, or a range of values if it is none",
            ));
        }
        let bits = spec
            .fixed_point
            .as_ref()
            .map(|f| f.activation_fraction_bits);
        if let Some(bits) = bits.filter(|bits| !(1..=16).contains(bits)) {
            return Err(ModelError::Plan(format!(
                "{bits} fraction bits of the activations; 1 to 16 are supported"
            )));
        }
        let masks: BTreeMap<_, _> = masks.into_iter().collect();
        let graph = Graph::compile(&spec, &masks)?;
        let has_mask = |name: &str| {
            let mut ops = spec.ops.iter();
            ops.any(|op| op.name() == name && op.relus_kept().is_some())
        };
        if let Some(name) = masks.keys().find(|name| !has_mask(name)) {
            return Err(ModelError::Plan(format!(
                "there is a mask '{name}.mask', and no masked_relu, clip or leaky_relu '{name}'"
            )));
        }
        let model = Self { spec, masks, graph };
        if model.encode().is_err() {
            return Err(ModelError::Plan("it cannot be encoded as JSON".into()));
        }
        Ok(model)
    }

    /// The card says nothing that is checked or compiled.
    pub(crate) fn set_card(&mut self, card: Card) {
        self.spec.card = card;
    }

    /// The content of `model.json`.
    #[must_use]
    pub const fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Fraction bits of every activation.
    #[must_use]
    pub fn activation_fraction_bits(&self) -> u32 {
        let numbers = self.spec.fixed_point.as_ref();
        numbers.map_or(0, |f| f.activation_fraction_bits)
    }

    /// The positions that keep their ReLU, by operation.
    #[must_use]
    pub const fn masks(&self) -> &BTreeMap<String, ReluSet> {
        &self.masks
    }

    /// ReLUs that `layer` has if none is removed: the positions of its mask, or the comparisons of a max pool.
    #[must_use]
    pub fn possible_relus(&self, layer: &Layer) -> usize {
        let mask = self.masks.get(&layer.name);
        mask.map_or_else(|| layer.n_relus(), ReluSet::n_positions)
    }

    /// Values that an inference puts out; the number of classes, where they are classes.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.graph.layers.last().map_or(0, |l| l.shape.n_values())
    }

    /// Whether the outputs are classes, of which one is the answer; otherwise they are values, such as an embedding or a regression.
    #[must_use]
    pub fn has_classes(&self) -> bool {
        !self.spec.labels.is_empty() || self.spec.output == OutputMode::Argmax
    }

    /// Channels of the result of operation `name`; 0 if there is none.
    #[must_use]
    pub(crate) fn channels_of(&self, name: &str) -> usize {
        let shapes = shapes(&self.spec).unwrap_or_default();
        shapes.get(name).map_or(0, |s| s.channels)
    }

    /// The compiled layers.
    #[must_use]
    pub const fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Normalises and rounds one image of bytes in (H, W, C) order; the result is in (C, H, W) order.
    ///
    /// # Errors
    /// [`ModelError::Input`] when the image has another size.
    pub fn quantise(&self, pixels: &[u8], width: usize, height: usize) -> Result<Vec<i64>> {
        self.spec
            .input
            .quantise(pixels, width, height, self.activation_fraction_bits())
    }

    /// The canonical encoding, which is also what the server sends.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // An encoding that fails is empty, which `new` refuses; so no two models share an encoding.
        self.encode().unwrap_or_default()
    }

    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let encoded = Encoded {
            spec: self.spec.clone(),
            masks: self
                .masks
                .iter()
                .map(|(name, relu)| EncodedMask {
                    relu: name.clone(),
                    n_positions: relu.n_positions(),
                    bits: base64::engine::general_purpose::STANDARD
                        .encode(pack_mask(&relu.to_mask())),
                })
                .collect(),
        };
        serde_json::to_vec(&encoded)
    }

    /// Reads what a server sent.
    ///
    /// # Errors
    /// Any [`ModelError`] when it is not a valid model.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let format = |reason: String| ModelError::Format {
            path: "the server's model description".into(),
            reason,
        };
        let encoded: Encoded = serde_json::from_slice(json).map_err(|e| format(e.to_string()))?;
        let mut masks = HashMap::new();
        for mask in encoded.masks {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(&mask.bits)
                .map_err(|e| format(e.to_string()))?;
            if bytes.len() != mask.n_positions.div_ceil(8) {
                return Err(format(format!(
                    "the mask of '{}' has {} bytes for {} positions",
                    mask.relu,
                    bytes.len(),
                    mask.n_positions
                )));
            }
            let bits: Vec<u8> = (0..mask.n_positions)
                .map(|i| bytes[i / 8] >> (i % 8) & 1)
                .collect();
            let set = ReluSet::from_mask(&mask.relu, &bits)?;
            masks.insert(mask.relu, set);
        }
        Self::new(encoded.spec, masks)
    }
}

fn pack_mask(mask: &[u8]) -> Vec<u8> {
    mask.chunks(8)
        .map(|c| c.iter().rev().fold(0, |byte, bit| byte << 1 | bit))
        .collect()
}
