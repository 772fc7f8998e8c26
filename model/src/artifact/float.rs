//! A float model on disk: the same `model.json` without its fixed point, and `f32` tensors beside it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::tensors::Tensors;
use super::{SPEC_FILE, WEIGHTS_FILE, read, read_spec, write};
use crate::error::{ModelError, Result};
use crate::graph::{Shape, shapes};
use crate::relu_set::ReluSet;
use crate::spec::{ModelSpec, Op};

/// Real weights of one operation.
#[derive(Clone, PartialEq)]
pub struct FloatWeights {
    /// (O, C / groups, kh, kw) of a convolution, (O, features) of a fully connected layer, nothing of a `bias`.
    pub weight: Vec<f32>,
    /// (O), or (C) of a `bias`.
    pub bias: Vec<f32>,
}

impl std::fmt::Debug for FloatWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FloatWeights({} weights)", self.weight.len())
    }
}

/// A network with real weights: what importers write, and what is quantised.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatModel {
    /// Its operations; `fixed_point` is absent.
    pub spec: ModelSpec,
    /// The positions that keep their ReLU, by operation.
    pub masks: HashMap<String, ReluSet>,
    /// Weights by operation.
    pub weights: BTreeMap<String, FloatWeights>,
}

impl FloatModel {
    /// Checks that operations, masks and weights fit together.
    ///
    /// # Errors
    /// [`ModelError::Op`] naming the operation.
    pub fn check(&self) -> Result<BTreeMap<String, Shape>> {
        if self.spec.fixed_point.is_some() {
            return Err(ModelError::Plan(
                "it has integer weights already; a float model is needed here".into(),
            ));
        }
        self.spec.input.check()?;
        let shapes = shapes(&self.spec)?;
        for op in &self.spec.ops {
            let name = op.name();
            if let Some((weight, bias)) = weight_shapes(op, &shapes) {
                let w = self.weights.get(name).ok_or_else(|| {
                    ModelError::op(name, format!("there is no tensor '{name}.bias'"))
                })?;
                let n = weight.map_or(0, |shape| shape.iter().product());
                if (w.weight.len(), w.bias.len()) != (n, bias) {
                    return Err(ModelError::op(
                        name,
                        format!(
                            "it needs {n} weights and {bias} biases, and has {} and {}",
                            w.weight.len(),
                            w.bias.len()
                        ),
                    ));
                }
                if !w.weight.iter().chain(&w.bias).all(|v| v.is_finite()) {
                    return Err(ModelError::op(
                        name,
                        "a weight is infinite or not a number; train the network again, or repair its file",
                    ));
                }
            }
            if let Some(kept) = op.relus_kept() {
                let mask = self.masks.get(name).ok_or_else(|| {
                    ModelError::op(name, format!("there is no tensor '{name}.mask'"))
                })?;
                let n = shapes[name].n_values();
                if (mask.n_positions(), mask.kept().len()) != (n, kept) {
                    return Err(ModelError::op(
                        name,
                        format!(
                            "its mask keeps {} of {} positions; the model says {kept} of {n}",
                            mask.kept().len(),
                            mask.n_positions()
                        ),
                    ));
                }
            }
        }
        Ok(shapes)
    }

    /// Reads the float model in folder `dir`.
    ///
    /// # Errors
    /// [`ModelError::File`] or [`ModelError::Format`] with the file's name, [`ModelError::Op`] when the parts do not fit.
    pub fn load(dir: &Path) -> Result<Self> {
        let spec = read_spec(&dir.join(SPEC_FILE))?;
        if spec.fixed_point.is_some() {
            return Err(ModelError::format(
                &dir.join(SPEC_FILE),
                "it has integer weights already; a float model is needed here",
            ));
        }
        let shapes = shapes(&spec)?;
        let path = dir.join(WEIGHTS_FILE);
        let bytes = read(&path)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| ModelError::format(&path, e))?;
        let mut tensors = Tensors::new(&path, &file);
        let masks = tensors.masks()?;
        let mut weights = BTreeMap::new();
        for op in &spec.ops {
            if let Some((weight, bias)) = weight_shapes(op, &shapes) {
                let weight = match weight {
                    Some(shape) => tensors.floats(op.name(), "weight", &shape)?,
                    None => vec![],
                };
                let bias = tensors.floats(op.name(), "bias", &[bias])?;
                weights.insert(op.name().to_owned(), FloatWeights { weight, bias });
            }
        }
        tensors.finish()?;
        let model = Self {
            spec,
            masks,
            weights,
        };
        model.check()?;
        Ok(model)
    }

    /// Writes the model into folder `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// As [`Self::check`], and [`ModelError::File`] with the file's name.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let shapes = self.check()?;
        std::fs::create_dir_all(dir).map_err(|e| ModelError::file(dir, e))?;
        let mut data: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for op in &self.spec.ops {
            let name = op.name();
            if let Some((weight, bias)) = weight_shapes(op, &shapes) {
                let w = &self.weights[name];
                if let Some(shape) = weight {
                    data.push((
                        format!("{name}.weight"),
                        Dtype::F32,
                        shape,
                        bytes(&w.weight),
                    ));
                }
                data.push((
                    format!("{name}.bias"),
                    Dtype::F32,
                    vec![bias],
                    bytes(&w.bias),
                ));
            }
            if op.relus_kept().is_some() {
                let s = shapes[name];
                let shape = vec![s.channels, s.height, s.width];
                let mask = self.masks[name].to_mask();
                data.push((format!("{name}.mask"), Dtype::U8, shape, mask));
            }
        }
        let path = dir.join(WEIGHTS_FILE);
        let views = data.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            Ok((name, view.map_err(|e| ModelError::format(&path, e))?))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let file = safetensors::serialize(views, None).map_err(|e| ModelError::format(&path, e))?;
        write(&path, &file, 0o600)?;
        let spec_path = dir.join(SPEC_FILE);
        let json =
            serde_json::to_vec_pretty(&self.spec).map_err(|e| ModelError::format(&spec_path, e))?;
        write(&spec_path, &json, 0o644)
    }
}

/// Shape of the weights of an operation, if it has any, and number of its biases.
pub(super) fn weight_shapes(
    op: &Op,
    shapes: &BTreeMap<String, Shape>,
) -> Option<(Option<Vec<usize>>, usize)> {
    let read = shapes[op.inputs().first()?];
    match op {
        Op::Conv2d {
            out_channels,
            window,
            groups,
            ..
        } => {
            let [rows, columns] = window.kernel;
            let shape = vec![*out_channels, read.channels / groups, rows, columns];
            Some((Some(shape), *out_channels))
        }
        Op::Linear { out_features, .. } => {
            Some((Some(vec![*out_features, read.channels]), *out_features))
        }
        Op::Bias { .. } => Some((None, read.channels)),
        _ => None,
    }
}
