//! From a trained network to a float model: BatchNorms folded into the operations before them, masks as they are.

use crate::data::Normaliser;
use crate::error::{Error, Result};
use crate::net::{Mask, Net};
use pi_model::relu_set::ReluSet;
use pi_model::spec::{Card, FORMAT_VERSION, InputSpec, ModelSpec, Op, OutputMode};
use pi_model::{FloatModel, FloatWeights};
use std::collections::{BTreeMap, HashMap};
use tch::{Kind, Tensor};

/// What goes into `model.json` besides the operations.
pub struct Frame {
    /// Name under which the model is served.
    pub name: String,
    /// Pixel normalisation.
    pub normaliser: Normaliser,
    /// Class names.
    pub labels: Vec<String>,
}

/// The float model of a network with masks; its card is empty.
///
/// # Errors
/// [`Error::Export`] when a mask is missing or a weight is no number.
pub fn float_model(net: &Net, masks: &[Mask], frame: &Frame) -> Result<FloatModel> {
    let graph = &net.graph;
    let failed = |e: pi_model::ModelError| Error::Export(e.to_string());
    let (mut sets, mut ops) = (HashMap::new(), graph.ops.clone());
    let mut left = masks.iter();
    for op in &mut ops {
        let name = op.name().to_owned();
        let (Op::MaskedRelu { relus_kept, .. }
        | Op::Clip { relus_kept, .. }
        | Op::LeakyRelu { relus_kept, .. }) = op
        else {
            continue;
        };
        let Some(mask) = left.next() else {
            return Err(Error::Export(format!("there is no mask for {name}")));
        };
        *relus_kept = mask.n_kept();
        let bytes: Vec<u8> = mask.keep.iter().map(|&k| k.into()).collect();
        let set = ReluSet::from_mask(&name, &bytes).map_err(failed)?;
        sets.insert(name, set);
    }
    let mut weights = BTreeMap::new();
    for (op, layer) in net.trained() {
        let values =
            |t: &Tensor| Vec::<f32>::try_from(t.to_kind(Kind::Float).contiguous().flatten(0, -1));
        let (weight, bias) = layer.folded();
        let own = FloatWeights {
            weight: weight.as_ref().map(values).transpose()?.unwrap_or_default(),
            bias: values(&bias)?,
        };
        weights.insert(op.name().to_owned(), own);
    }
    let [channels, height, width] = graph.input;
    let spec = ModelSpec {
        format_version: FORMAT_VERSION,
        name: frame.name.clone(),
        input: InputSpec {
            channels,
            height,
            width,
            mean: frame.normaliser.mean.clone(),
            std: frame.normaliser.std.clone(),
            range: None,
        },
        labels: frame.labels.clone(),
        output: OutputMode::Logits,
        ops,
        fixed_point: None,
        card: Card::default(),
    };
    let model = FloatModel {
        spec,
        masks: sets,
        weights,
    };
    model.check().map_err(failed)?;
    Ok(model)
}
