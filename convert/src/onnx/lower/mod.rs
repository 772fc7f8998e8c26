//! From the nodes of a graph to operations, one node after another. Nothing is optimised here: see `rewrite`.
//!
//! All nodes that cannot be run privately are collected, so that one message names them all.

mod builder;
mod channels;
mod elementwise;
mod linear;
mod refusals;
mod windows;

use std::collections::HashMap;
use std::rc::Rc;

use pi_model::spec::OutputMode;

use self::builder::{Builder, Call, Ended, Value, View};
use super::constant::Constant;
use super::error::{ImportError, Refusal, Result};
use super::fold;
use super::graph::{Graph, Node};
use super::network::{IMAGE, Network};

/// What was made of a graph.
#[derive(Debug)]
pub struct Lowered {
    /// The operations, of which not all may be needed.
    pub network: Network,
    /// The one that is the result.
    pub output: String,
    /// What the user should know.
    pub notes: Vec<String>,
}

type Handler = fn(&mut Builder, &Call) -> builder::Result<Vec<Value>>;

/// What makes an operation of a node that reads the image.
fn handler(op_type: &str) -> Option<Handler> {
    Some(match op_type {
        "Conv" => linear::conv,
        "Gemm" | "MatMul" => linear::matrix,
        "BatchNormalization" => linear::batch_normalization,
        "Add" | "Sum" => elementwise::add,
        "Sub" => elementwise::sub,
        "Mul" | "Div" | "Neg" => elementwise::scale,
        "Relu" => elementwise::relu,
        "Clip" | "Max" => elementwise::clip,
        "LeakyRelu" | "PRelu" => elementwise::leaky_relu,
        "MaxPool" | "GlobalMaxPool" => windows::max_pool,
        "AveragePool" => windows::average_pool,
        "GlobalAveragePool" => windows::global_average_pool,
        "ReduceMean" => windows::reduce_mean,
        "Pad" => windows::pad,
        "Concat" => channels::concat,
        "Split" => channels::split,
        "Slice" => channels::slice,
        "Gather" => channels::gather,
        "Transpose" => channels::transpose,
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" | "Dropout" | "Cast" => {
            channels::reshape
        }
        "Shape" => sizes,
        "Softmax" | "LogSoftmax" | "ArgMax" => end,
        _ => return None,
    })
}

/// Makes operations of `graph`, after those that `network` has (none), with its input.
///
/// # Errors
/// [`ImportError::Unsupported`] with all nodes that cannot be run privately, [`ImportError::Graph`] when the result does not depend on
/// the image.
pub fn lower(graph: &Graph, network: Network) -> Result<Lowered> {
    let mut builder = Builder::new(network);
    let mut values: HashMap<&str, Value> = HashMap::new();
    for (name, constant) in &graph.constants {
        values.insert(name, Value::Constant(Rc::clone(constant)));
    }
    let image = View {
        op: IMAGE.to_owned(),
        dims: graph.input_dims.clone(),
        ended: None,
    };
    values.insert(&graph.input, Value::View(image));
    let mut refusals: Vec<Refusal> = vec![];
    for node in &graph.nodes {
        let inputs = node
            .inputs()
            .iter()
            .map(|name| values.get(name.as_str()).cloned());
        let call = Call {
            node,
            inputs: inputs.collect(),
        };
        let unknown = call
            .inputs
            .iter()
            .any(|v| matches!(v, Some(Value::Unknown)));
        let lowered = if unknown && refusals.is_empty() {
            Err(Refusal {
                node: node.name.clone(),
                op_type: node.op_type().to_owned(),
                reason: "it reads a second result of an operator, such as the positions of a MaxPool, which is not supported; export the network without it".into(),
            })
        } else {
            lower_node(&mut builder, &call)
        };
        let results = match lowered {
            Ok(results) => results,
            Err(refusal) => {
                if !refusals.contains(&refusal) {
                    refusals.push(refusal);
                }
                refusals::result(&call)
            }
        };
        let results = results.into_iter().chain(std::iter::repeat(Value::Unknown));
        for (name, value) in node.outputs().iter().zip(results) {
            values.insert(name, value);
        }
    }
    if !refusals.is_empty() {
        return Err(ImportError::Unsupported(refusals));
    }
    match values.remove(graph.output.as_str()) {
        Some(Value::View(view)) if view.op != IMAGE => Ok(finish(builder, &view)),
        _ => Err(ImportError::Graph(format!(
            "the output '{}' is not computed from the input '{}'",
            graph.output, graph.input
        ))),
    }
}

fn finish(mut builder: Builder, view: &View) -> Lowered {
    if let Some(Ended { node, op_type }) = &view.ended {
        let text = if op_type == "ArgMax" {
            builder.network.spec.output = OutputMode::Argmax;
            "dropped: the client learns the class and nothing else"
        } else {
            "dropped: the client computes it from the logits"
        };
        builder.notes.push(format!("{node} ({op_type}) {text}"));
    }
    Lowered {
        network: builder.network,
        output: view.op.clone(),
        notes: builder.notes,
    }
}

fn lower_node(builder: &mut Builder, call: &Call) -> std::result::Result<Vec<Value>, Refusal> {
    let node = call.node;
    let refuse = |reason: String| Refusal {
        node: node.name.clone(),
        op_type: node.op_type().to_owned(),
        reason,
    };
    if !node.is_standard() {
        return Err(refuse(
            "it is of another set of operators than that of ONNX; export the network without it"
                .into(),
        ));
    }
    if let Some(result) = known(node, &call.inputs) {
        let constant = result.map_err(refuse)?;
        return Ok(vec![Value::Constant(Rc::new(constant))]);
    }
    let Some(handler) = handler(node.op_type()) else {
        return Err(refuse(refusals::reason(node.op_type())));
    };
    if call
        .inputs
        .iter()
        .any(|v| matches!(v, Some(Value::Unknown)))
    {
        return Ok(vec![]);
    }
    let keeps_elements = matches!(
        node.op_type(),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" | "Dropout" | "Cast"
    );
    for value in call.inputs.iter().flatten() {
        if let Value::View(View {
            ended: Some(ended), ..
        }) = value
            && !keeps_elements
        {
            return Err(Refusal {
                node: ended.node.clone(),
                op_type: ended.op_type.clone(),
                reason: "it is not at the end, where the client would compute it; export the network without it, or without what follows".into(),
            });
        }
    }
    handler(builder, call).map_err(refuse)
}

/// Result of a node that depends on no image.
fn known(node: &Node, inputs: &[Option<Value>]) -> Option<builder::Result<Constant>> {
    let constants = inputs.iter().map(|value| match value {
        Some(Value::Constant(c)) => Some(Some(&**c)),
        None => Some(None),
        Some(_) => None,
    });
    fold::fold(node, &constants.collect::<Option<Vec<_>>>()?)
}

/// `Shape`, which is known since all shapes are.
fn sizes(_: &mut Builder, call: &Call) -> builder::Result<Vec<Value>> {
    let sizes = fold::sizes(call.node, &call.view(0)?.dims)?;
    Ok(vec![Value::Constant(Rc::new(sizes))])
}

/// `Softmax`, `LogSoftmax` and `ArgMax`, which must be last: the client computes them.
fn end(b: &mut Builder, call: &Call) -> builder::Result<Vec<Value>> {
    let view = call.view(0)?;
    let shape = b.shape(view)?;
    if (shape.height, shape.width) != (1, 1) {
        return Err(format!(
            "it is taken over a map of shape {shape}, and the client does so over a vector; export the network without it"
        ));
    }
    let mut view = view.clone();
    view.ended = Some(Ended {
        node: call.node.name.clone(),
        op_type: call.node.op_type().to_owned(),
    });
    Ok(vec![Value::View(view)])
}
