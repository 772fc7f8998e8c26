//! What is known while the nodes of a graph are read one after another: operations so far, and what each name stands for.
//!
//! A result of the network is a [`View`]: the elements of an operation's result, in its order, under the shape that ONNX gives them.
//! Reshapes change the view and nothing else.

use std::collections::HashSet;
use std::rc::Rc;

use pi_model::FloatWeights;
use pi_model::graph::Shape;
use pi_model::spec::Op;

use super::super::constant::Constant;
use super::super::graph::Node;
use super::super::network::{Affine, Network};

/// Result of lowering: a sentence that says what cannot be done, and the way out.
pub type Result<T> = std::result::Result<T, String>;

/// What a name in the graph stands for.
#[derive(Clone, Debug)]
pub enum Value {
    /// It is known before the network runs.
    Constant(Rc<Constant>),
    /// It depends on the image.
    View(View),
    /// It comes from an operator that was refused.
    Unknown,
}

/// A result of the network under a shape of ONNX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The operation that makes it.
    pub op: String,
    /// Its shape with the batch of one.
    pub dims: Vec<usize>,
    /// It has passed this node, which is left to the client and must be the last one.
    pub ended: Option<Ended>,
}

/// A node that is left to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its name.
    pub node: String,
    /// Its operator.
    pub op_type: String,
}

impl View {
    /// The same elements under another shape.
    #[must_use]
    pub fn with_dims(&self, dims: Vec<usize>) -> Self {
        Self {
            dims,
            ..self.clone()
        }
    }
}

/// A node with the values that it reads.
#[derive(Debug)]
pub struct Call<'a> {
    /// The node.
    pub node: &'a Node,
    /// What it reads; none where an optional input is absent.
    pub inputs: Vec<Option<Value>>,
}

impl Call<'_> {
    /// Input `i`, which must depend on the image.
    ///
    /// # Errors
    /// A sentence.
    pub fn view(&self, i: usize) -> Result<&View> {
        match self.inputs.get(i) {
            Some(Some(Value::View(view))) => Ok(view),
            _ => Err(format!(
                "its input {i} does not depend on the image, which is not supported"
            )),
        }
    }

    /// Input `i`, which must be known before the network runs; none if it is absent.
    ///
    /// # Errors
    /// A sentence.
    pub fn constant(&self, i: usize) -> Result<Option<&Constant>> {
        match self.inputs.get(i) {
            None | Some(None) => Ok(None),
            Some(Some(Value::Constant(c))) => Ok(Some(c)),
            Some(_) => Err(format!(
                "its input {i} is computed from the image; only operators with constant parameters can be run privately"
            )),
        }
    }

    /// Input `i`, which must be there and known before the network runs.
    ///
    /// # Errors
    /// A sentence.
    pub fn parameter(&self, i: usize) -> Result<&Constant> {
        self.constant(i)?
            .ok_or_else(|| format!("its input {i} is absent"))
    }

    /// Every constant after the first input.
    #[must_use]
    pub fn constants(&self) -> Vec<Option<&Constant>> {
        let rest = self.inputs.iter().skip(1);
        rest.map(|value| match value {
            Some(Value::Constant(c)) => Some(c.as_ref()),
            _ => None,
        })
        .collect()
    }
}

/// The network so far.
#[derive(Debug)]
pub struct Builder {
    /// Operations and weights.
    pub network: Network,
    /// What the user should know.
    pub notes: Vec<String>,
    names: HashSet<String>,
}

impl Builder {
    /// Begins with a network without operations.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self {
            network,
            notes: vec![],
            names: HashSet::from([super::super::network::IMAGE.to_owned()]),
        }
    }

    /// A name for an operation that no other has.
    pub fn name(&mut self, wanted: &str) -> String {
        let wanted = wanted.trim_start_matches('/');
        let wanted = if wanted.is_empty() { "op" } else { wanted };
        let mut name = wanted.to_owned();
        let mut n = 1;
        while !self.names.insert(name.clone()) {
            n += 1;
            name = format!("{wanted}.{n}");
        }
        name
    }

    /// Appends an operation.
    ///
    /// # Errors
    /// A sentence if it does not fit what it reads.
    pub fn push(&mut self, op: Op) -> Result<(String, Shape)> {
        let name = op.name().to_owned();
        self.network.spec.ops.push(op);
        match self.network.shapes() {
            Ok(shapes) => Ok((name.clone(), shapes[&name])),
            Err(e) => {
                self.network.spec.ops.pop();
                Err(e.to_string())
            }
        }
    }

    /// Appends an operation with weights.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_weights(&mut self, op: Op, weights: FloatWeights) -> Result<(String, Shape)> {
        let pushed = self.push(op)?;
        self.network.weights.insert(pushed.0.clone(), weights);
        Ok(pushed)
    }

    /// Appends a multiplication and an addition for each channel of `view`.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_affine(&mut self, name: &str, view: &View, affine: &Affine) -> Result<View> {
        let (op, weights) = affine.to_op(self.name(name), view.op.clone());
        let (op, _) = self.push_weights(op, weights)?;
        Ok(View { op, ..view.clone() })
    }

    /// Shape of the operation's result behind `view`.
    ///
    /// # Errors
    /// A sentence.
    pub fn shape(&self, view: &View) -> Result<Shape> {
        let shapes = self.network.shapes().map_err(|e| e.to_string())?;
        shapes
            .get(&view.op)
            .copied()
            .ok_or_else(|| format!("nothing makes '{}'", view.op))
    }

    /// The shape of `view` read as channels, rows and columns.
    ///
    /// # Errors
    /// A sentence if it has a batch, too many dimensions, or another order of elements.
    pub fn map(&self, view: &View) -> Result<Shape> {
        let shape = match *view.dims.as_slice() {
            [1, c] => Shape::new(c, 1, 1),
            [1, c, w] => Shape::new(c, 1, w),
            [1, c, h, w] => Shape::new(c, h, w),
            _ => {
                return Err(format!(
                    "it reads a tensor of shape {:?}; shapes (1, channels, rows, columns) can be run privately",
                    view.dims
                ));
            }
        };
        if self.shape(view)? == shape {
            return Ok(shape);
        }
        Err(format!(
            "it reads a tensor of shape {:?} that was reshaped from {}, which mixes channels and positions",
            view.dims,
            self.shape(view)?
        ))
    }

    /// Number of elements of `view`, which must be a vector.
    ///
    /// # Errors
    /// A sentence if it is a map.
    pub fn vector(&self, view: &View) -> Result<usize> {
        let shape = self.shape(view)?;
        if (shape.height, shape.width) == (1, 1) && view.dims.last() == Some(&shape.channels) {
            return Ok(shape.channels);
        }
        Err(format!(
            "it reads a tensor of shape {:?}; a matrix can only be multiplied with one vector (a flattened map)",
            view.dims
        ))
    }
}
