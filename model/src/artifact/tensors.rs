//! The tensors of a weights file: what each says of itself is compared with what its operation needs.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::ConvWeights;
use super::float::weight_shapes;
use crate::error::{ModelError, Result};
use crate::graph::shapes;
use crate::public::PublicModel;
use crate::relu_set::ReluSet;
use crate::spec::Op;

/// Those that nobody has taken yet, by name.
pub(super) struct Tensors<'a> {
    path: &'a Path,
    left: BTreeMap<String, TensorView<'a>>,
    /// Declared shapes of the masks that were taken.
    masks: HashMap<String, Vec<usize>>,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(path: &'a Path, tensors: &SafeTensors<'a>) -> Self {
        Self {
            path,
            left: tensors.tensors().into_iter().collect(),
            masks: HashMap::new(),
        }
    }

    /// Takes all masks; their shapes are compared in [`Self::weights`], when the graph is known.
    pub(super) fn masks(&mut self) -> Result<HashMap<String, ReluSet>> {
        let mut masks = HashMap::new();
        for (name, view) in std::mem::take(&mut self.left) {
            match name.strip_suffix(".mask") {
                Some(relu) => {
                    self.is_of(&name, &view, &[Dtype::U8])?;
                    masks.insert(relu.to_owned(), ReluSet::from_mask(relu, view.data())?);
                    self.masks.insert(relu.to_owned(), view.shape().to_vec());
                }
                None => {
                    self.left.insert(name, view);
                }
            }
        }
        Ok(masks)
    }

    /// Takes the weights of every convolution and fully connected layer; nothing may be left.
    pub(super) fn weights(mut self, model: &PublicModel) -> Result<HashMap<String, ConvWeights>> {
        let shapes = shapes(model.spec())?;
        let mut weights = HashMap::new();
        for op in &model.spec().ops {
            let name = op.name();
            if let Some(has) = self.masks.get(name) {
                let shape = shapes[name];
                let due = [shape.channels, shape.height, shape.width];
                let op = format!("operation '{name}'");
                self.has_shape(&format!("{name}.mask"), has, &op, &[&due], "(C, H, W)")?;
            }
            if let Some((weight, bias)) = weight_shapes(op, &shapes) {
                let taken = self.integers(op, weight, bias)?;
                weights.insert(name.to_owned(), taken);
            }
        }
        self.finish()?;
        Ok(weights)
    }

    /// Refuses what nobody took.
    pub(super) fn finish(&self) -> Result<()> {
        let names: Vec<&str> = self.left.keys().map(|n| n.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let shown = names[..names.len().min(8)].join("', '");
        let more = match names.len().saturating_sub(8) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        Err(self.refused(format!(
            "no operation of model.json reads the tensors '{shown}'{more}; leave them out, or name their operations"
        )))
    }

    /// Takes tensor `<op>.<what>` of real numbers.
    pub(super) fn floats(&mut self, op: &str, what: &str, due: &[usize]) -> Result<Vec<f32>> {
        let name = format!("{op}.{what}");
        let view = self.take(op, &name)?;
        self.is_of(&name, &view, &[Dtype::F32])?;
        self.has_shape(
            &name,
            view.shape(),
            &format!("operation '{op}'"),
            &[due],
            "",
        )?;
        let words = view.data().as_chunks().0.iter();
        Ok(words.map(|&c| f32::from_le_bytes(c)).collect())
    }

    fn integers(
        &mut self,
        op: &Op,
        weight: Option<Vec<usize>>,
        n_biases: usize,
    ) -> Result<ConvWeights> {
        let kind = match op {
            Op::Linear { .. } => "linear",
            Op::Conv2d { .. } => "conv2d",
            _ => "bias",
        };
        let (name, op) = (op.name(), format!("{kind} '{}'", op.name()));
        let weight = match weight {
            Some(due) => self.weight(name, &op, &due)?,
            None => vec![],
        };
        let tensor = format!("{name}.bias");
        let view = self.take(name, &tensor)?;
        self.is_of(&tensor, &view, &[Dtype::I64])?;
        self.has_shape(&tensor, view.shape(), &op, &[&[n_biases]], "(O)")?;
        let words = view.data().as_chunks().0.iter();
        let bias = words.map(|&c| i64::from_le_bytes(c)).collect();
        Ok(ConvWeights { weight, bias })
    }

    fn weight(&mut self, of: &str, op: &str, due: &[usize]) -> Result<Vec<i32>> {
        let name = format!("{of}.weight");
        let long = [due, &[1, 1]].concat();
        let (dues, axes): (&[&[usize]], _) = if due.len() == 2 {
            (&[due, &long], "(O, features)")
        } else {
            (&[due], "(O, C / groups, kh, kw)")
        };
        let view = self.take(of, &name)?;
        self.is_of(&name, &view, &[Dtype::I8, Dtype::I16])?;
        self.has_shape(&name, view.shape(), op, dues, axes)?;
        Ok(match view.dtype() {
            Dtype::I8 => view.data().iter().map(|&b| i32::from(b as i8)).collect(),
            _ => {
                let words = view.data().as_chunks().0.iter();
                words.map(|&c| i32::from(i16::from_le_bytes(c))).collect()
            }
        })
    }

    fn take(&mut self, op: &str, name: &str) -> Result<TensorView<'a>> {
        let found = self.left.remove(name);
        found.ok_or_else(|| ModelError::op(op, format!("there is no tensor '{name}'")))
    }

    fn is_of(&self, name: &str, view: &TensorView<'_>, types: &[Dtype]) -> Result<()> {
        if types.contains(&view.dtype()) {
            return Ok(());
        }
        let due: Vec<String> = types.iter().map(|t| format!("{t:?}")).collect();
        Err(self.refused(format!(
            "tensor '{name}' is of type {:?}, it has to be {}",
            view.dtype(),
            due.join(" or ")
        )))
    }

    fn has_shape(
        &self,
        name: &str,
        has: &[usize],
        op: &str,
        dues: &[&[usize]],
        axes: &str,
    ) -> Result<()> {
        if dues.contains(&has) {
            return Ok(());
        }
        Err(self.refused(format!(
            "tensor '{name}' has shape {has:?}, {op} needs {:?} {axes}",
            dues[0]
        )))
    }

    fn refused(&self, reason: String) -> ModelError {
        ModelError::format(self.path, reason)
    }
}
