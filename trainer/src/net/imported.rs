//! Networks from a float model: a folder that `pi-convert import`, or an export from here, has written.
//!
//! Such networks have no BatchNorm. Training at our learning rates needs it, so each convolution gets one whose statistics are those of
//! its results over training images, and whose scale and shift undo them: the function stays what it was.

use super::graph::{Graph, Parts, Trained};
use super::{Mask, MaskSet, Mode, Net};
use crate::data::Batches;
use crate::error::{Error, Result};
use pi_model::FloatModel;
use pi_model::graph::Shape;
use pi_model::spec::Op;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Kind, Tensor};

impl Graph {
    /// The operations of a float model, with a BatchNorm behind each convolution of more than one position if `norms`.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the operation that does not fit.
    pub fn of_model(model: &FloatModel, norms: bool) -> Result<Graph> {
        let spec = &model.spec;
        let shapes = model
            .check()
            .map_err(|e| Error::Usage(format!("the model {}: {e}", spec.name)))?;
        let parameters = |op: &Op| {
            let Shape { height, width, .. } = shapes[op.name()];
            let norm = norms && height * width > 1;
            let (weight, bias, norm) = match op {
                Op::Conv2d { .. } => (true, !norm, norm),
                Op::Linear { .. } => (true, true, false),
                Op::Bias { .. } => (false, true, false),
                _ => return None,
            };
            let name = op.name().to_owned();
            let trained = Trained {
                name: name.clone(),
                weight,
                bias,
                norm,
            };
            Some((name, trained))
        };
        let parts = Parts {
            name: spec.name.clone(),
            input: [spec.input.channels, spec.input.height, spec.input.width],
            ops: spec.ops.clone(),
            trained: spec.ops.iter().filter_map(parameters).collect(),
            stages: stages(&spec.ops, &shapes),
            arch: None,
        };
        Ok(Graph::new(parts, &shapes))
    }
}

/// The last ReLU layer of each size of the map.
fn stages(ops: &[Op], shapes: &BTreeMap<String, Shape>) -> Vec<String> {
    let relus = ops.iter().filter(|op| op.relus_kept().is_some());
    let names: Vec<&str> = relus.map(Op::name).collect();
    let size = |name: &str| (shapes[name].height, shapes[name].width);
    let last = |i: &usize| {
        let next = names.get(i + 1);
        next.is_none_or(|next| size(next) != size(names[*i]))
    };
    let last = (0..names.len()).filter(last);
    last.map(|i| names[i].to_owned()).collect()
}

/// The float model in folder `dir`, if it can be linearized.
///
/// # Errors
/// [`Error::Usage`] with the folder's name: no float model, no ReLU in it, or not all of its ReLUs.
pub fn read_model(dir: &Path) -> Result<FloatModel> {
    let refuse = |why: String| Err(Error::Usage(format!("{}: {why}", dir.display())));
    let model = match FloatModel::load(dir) {
        Ok(model) => model,
        Err(e) => return refuse(e.to_string()),
    };
    if model.masks.is_empty() {
        return refuse(
            "the network has no masked_relu, clip or leaky_relu, so that there is nothing to choose among; quantise it as it is".into(),
        );
    }
    let partial = model.spec.ops.iter().find_map(|op| {
        let mask = model.masks.get(op.name())?;
        (!mask.removed().is_empty()).then_some((op.name(), mask))
    });
    match partial {
        Some((name, mask)) => refuse(format!(
            "{name} keeps {} of {} ReLUs, so the network is linearized already; give the folder of the network with all of its ReLUs",
            mask.kept().len(),
            mask.n_positions()
        )),
        None => Ok(model),
    }
}

/// The masks of a float model, in the order of its ReLU layers.
pub fn model_masks(model: &FloatModel, graph: &Graph) -> Vec<Mask> {
    let layers = graph.relu_names().into_iter().zip(graph.relu_shapes());
    let mask = |(name, shape): (String, [i64; 3])| {
        let mut mask = Mask::zeros(shape);
        let kept = model.masks.get(&name).map_or(&[][..], |m| m.kept());
        kept.iter().for_each(|&i| mask.keep[i as usize] = true);
        mask
    };
    layers.map(mask).collect()
}

impl Net {
    /// Takes the weights of the float model whose graph this is. A BatchNorm adds the bias and changes nothing else; it shall not in
    /// training either, for which [`Net::measure_norms`] comes next.
    ///
    /// # Errors
    /// [`Error::Usage`] when an operation has no weights there.
    pub fn take_weights(&self, model: &FloatModel) -> Result<()> {
        for (op, layer) in self.trained() {
            let Some(own) = model.weights.get(op.name()) else {
                return Err(Error::Usage(format!(
                    "{} has no weights in the model {}",
                    op.name(),
                    model.spec.name
                )));
            };
            let bias = Tensor::from_slice(&own.bias);
            if let Some(weight) = &layer.weight {
                let values = Tensor::from_slice(&own.weight).view(weight.size().as_slice());
                tch::no_grad(|| weight.shallow_clone().copy_(&values));
            }
            if let Some(own) = &layer.bias {
                tch::no_grad(|| own.shallow_clone().copy_(&bias));
            }
            if let Some(norm) = &layer.norm {
                norm.undo(&bias.zeros_like(), &bias.ones_like(), &bias);
            }
        }
        Ok(())
    }

    /// Gives each BatchNorm, of which [`Net::take_weights`] has just made a shift, the mean and variance of what it reads over `images`.
    pub fn measure_norms(&self, images: &Batches, masks: &MaskSet) {
        let norm = |at: usize| self.layers[at].as_ref().and_then(|l| l.norm.as_ref());
        let moments = |x: &Tensor| x.mean_dim([0i64, 2, 3].as_slice(), false, Kind::Double);
        let epoch = images.epoch(0);
        let n_batches = images.n_batches();
        let mut sums: BTreeMap<usize, [Tensor; 2]> = BTreeMap::new();
        tch::no_grad(|| {
            for i in 0..n_batches {
                self.visit(&images.get(&epoch, i).0, masks, Mode::EVAL, &mut |at, y| {
                    let Some(norm) = norm(at) else { return };
                    let x = y - norm.beta.view([1, -1, 1, 1]);
                    let both = [moments(&x), moments(&x.square())];
                    let sum = match sums.remove(&at) {
                        Some([a, b]) => [a + &both[0], b + &both[1]],
                        None => both,
                    };
                    sums.insert(at, sum);
                });
            }
            for (at, [sum, squares]) in sums {
                let Some(norm) = norm(at) else { continue };
                let mean = sum / n_batches as f64;
                let var = (squares / n_batches as f64 - mean.square()).clamp_min(0.0);
                norm.undo(&mean, &var, &norm.beta.detach().copy());
            }
        });
    }
}
