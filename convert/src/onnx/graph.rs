//! The graph of a file: its nodes in an order in which they can run, its constants, its one input and its one output.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use pi_model::text::shown;

use super::constant::{Constant, Values};
use super::error::{ImportError, Result};
use super::file::Constants;
use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// A graph that is ready to be read from the first node to the last.
#[derive(Debug)]
pub struct Graph {
    /// Nodes that the output depends on, each after those that it reads.
    pub nodes: Vec<Node>,
    /// Constants that nodes read, by name.
    pub constants: HashMap<String, Rc<Constant>>,
    /// Name of the input.
    pub input: String,
    /// Its shape, with a batch of one.
    pub input_dims: Vec<usize>,
    /// Name of the output.
    pub output: String,
}

/// One operator.
#[derive(Debug)]
pub struct Node {
    /// Its name, or that of its first result if it has none.
    pub name: String,
    proto: NodeProto,
}

impl Node {
    fn new(proto: NodeProto) -> Self {
        let name = if proto.name.is_empty() {
            proto.output.first().cloned().unwrap_or_default()
        } else {
            proto.name.clone()
        };
        // It is printed, and becomes the name of an operation.
        let name = shown(&name);
        Self { name, proto }
    }

    /// Its operator.
    #[must_use]
    pub fn op_type(&self) -> &str {
        &self.proto.op_type
    }

    /// Whether the operator is one of the standard set.
    #[must_use]
    pub fn is_standard(&self) -> bool {
        self.proto.domain.is_empty() || self.proto.domain == "ai.onnx"
    }

    /// Names of what it reads.
    #[must_use]
    pub fn inputs(&self) -> &[String] {
        &self.proto.input
    }

    /// Names of what it makes.
    #[must_use]
    pub fn outputs(&self) -> &[String] {
        &self.proto.output
    }

    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.proto.attribute.iter().find(|a| a.name == name)
    }

    /// An integer parameter.
    #[must_use]
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|a| a.i)
    }

    /// A parameter that is a list of integers.
    #[must_use]
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    /// A real parameter.
    #[must_use]
    pub fn float(&self, name: &str) -> Option<f32> {
        self.attribute(name).map(|a| a.f)
    }

    /// A parameter that is a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        let attribute = self.attribute(name)?;
        Some(String::from_utf8_lossy(&attribute.s).into_owned())
    }

    /// A parameter that is a tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorProto> {
        self.attribute(name)?.t.as_ref()
    }

    /// What a `Constant` node holds, if it is one that can be read.
    fn constant(&self, constants: &mut Constants) -> Result<Option<Constant>> {
        if self.op_type() != "Constant" {
            return Ok(None);
        }
        if let Some(proto) = self.tensor("value") {
            let mut proto = proto.clone();
            if proto.name.is_empty() {
                proto.name.clone_from(&self.name);
            }
            return constants.read(&proto).map(Some);
        }
        let one = |values| Constant {
            dims: vec![],
            values,
        };
        let floats = |a: &AttributeProto| Constant {
            dims: vec![a.floats.len()],
            values: Values::Floats(a.floats.clone()),
        };
        let float = self
            .float("value_float")
            .map(|f| one(Values::Floats(vec![f])));
        let int = self.int("value_int").map(|i| one(Values::Ints(vec![i])));
        let ints = self.ints("value_ints").map(|v| Constant::ints(v.to_vec()));
        Ok(float
            .or(int)
            .or(ints)
            .or_else(|| self.attribute("value_floats").map(floats)))
    }
}

impl Graph {
    /// Takes `proto` apart. `shape` is (C, H, W) of the input where the file leaves it open.
    ///
    /// # Errors
    /// [`ImportError::Graph`] when it has not one input and one output or its nodes form no order, [`ImportError::DynamicInput`], and
    /// those of [`Constants::read`].
    pub fn new(
        proto: GraphProto,
        constants: &mut Constants,
        shape: Option<[usize; 3]>,
    ) -> Result<Self> {
        if !proto.sparse_initializer.is_empty() {
            return Err(ImportError::Graph(
                "the file holds sparse constants, which are not read; export it with dense ones"
                    .into(),
            ));
        }
        let mut known: HashMap<String, Rc<Constant>> = HashMap::new();
        let nodes: Vec<Node> = proto.node.into_iter().map(Node::new).collect();
        let read: HashSet<&String> = nodes.iter().flat_map(Node::inputs).collect();
        let initialised: HashSet<String> =
            proto.initializer.iter().map(|t| t.name.clone()).collect();
        for tensor in proto.initializer {
            if read.contains(&tensor.name) {
                known.insert(tensor.name.clone(), Rc::new(constants.read(&tensor)?));
            }
        }
        for node in &nodes {
            if let Some((constant, output)) = node.constant(constants)?.zip(node.outputs().first())
            {
                known.insert(output.clone(), Rc::new(constant));
            }
        }
        let inputs = proto
            .input
            .iter()
            .filter(|i| !initialised.contains(&i.name));
        let input = only("input", "image", inputs)?;
        let output = only("output", "result", proto.output.iter())?;
        let (input_dims, input) = (dims(input, shape)?, input.name.clone());
        let output = output.name.clone();
        let nodes = nodes
            .into_iter()
            .filter(|n| n.outputs().first().is_none_or(|o| !known.contains_key(o)));
        let nodes = needed(order(nodes.collect(), &known, &input)?, &output);
        Ok(Self {
            nodes,
            constants: known,
            input,
            input_dims,
            output,
        })
    }
}

fn only<'a>(
    kind: &str,
    what: &str,
    values: impl Iterator<Item = &'a ValueInfoProto>,
) -> Result<&'a ValueInfoProto> {
    let values: Vec<_> = values.collect();
    match values.as_slice() {
        [value] => Ok(value),
        _ => {
            let names: Vec<_> = values.iter().map(|v| format!("'{}'", v.name)).collect();
            Err(ImportError::Graph(format!(
                "the network has {} {kind}s ({}), and one {what} is served; export it with one {kind}",
                names.len(),
                names.join(", ")
            )))
        }
    }
}

/// Shape of the input with a batch of one.
fn dims(input: &ValueInfoProto, shape: Option<[usize; 3]>) -> Result<Vec<usize>> {
    let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let file = tensor
        .and_then(|t| t.shape.as_ref())
        .map(|s| s.dim.as_slice());
    let fixed = |value: Option<i64>| {
        value
            .and_then(|v| usize::try_from(v).ok())
            .filter(|&v| v > 0)
    };
    let file: Option<Vec<Option<usize>>> =
        file.map(|dims| dims.iter().map(|d| fixed(d.dim_value)).collect());
    let text = file.as_ref().map_or_else(
        || "(unknown)".to_owned(),
        |dims| {
            let dims = dims.iter().map(|d| d.map_or("?".into(), |n| n.to_string()));
            format!("({})", dims.collect::<Vec<_>>().join(", "))
        },
    );
    let name = &input.name;
    let wanted = shape.map(|[c, h, w]| match file.as_ref().map(Vec::len) {
        Some(2) => vec![1, c * h * w],
        Some(3) => vec![1, c, h * w],
        _ => vec![1, c, h, w],
    });
    let Some(mut file) = file else {
        return wanted.ok_or_else(|| ImportError::DynamicInput {
            input: name.clone(),
            shape: text,
        });
    };
    if !(2..=4).contains(&file.len()) {
        return Err(ImportError::Graph(format!(
            "the input '{name}' has the shape {text}; one image is needed, of shape (1, channels, rows, columns), or a vector"
        )));
    }
    if let Some(batch @ 2..) = file[0] {
        return Err(ImportError::Graph(format!(
            "the input '{name}' has the shape {text}, a fixed batch of {batch}; export the network with a batch of 1 or an open one"
        )));
    }
    file[0] = Some(1);
    if let Some(wanted) = wanted {
        if file
            .iter()
            .zip(&wanted)
            .any(|(f, w)| f.is_some_and(|f| f != *w))
        {
            return Err(ImportError::Option(format!(
                "--input-shape does not fit the input '{name}', whose shape is {text} in the file; leave it out, or export the network at that size"
            )));
        }
        return Ok(wanted);
    }
    let dims = file.into_iter().collect::<Option<Vec<_>>>();
    dims.ok_or_else(|| ImportError::DynamicInput {
        input: name.clone(),
        shape: text,
    })
}

/// Puts each node after those that it reads; otherwise in the order of the file.
fn order(
    nodes: Vec<Node>,
    known: &HashMap<String, Rc<Constant>>,
    input: &str,
) -> Result<Vec<Node>> {
    let makers: HashMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .flat_map(|(i, n)| n.outputs().iter().map(move |o| (o.as_str(), i)))
        .collect();
    let mut waits = vec![0usize; nodes.len()];
    let mut readers = vec![vec![]; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for name in node.inputs() {
            if name.is_empty() || name == input || known.contains_key(name) {
                continue;
            }
            let Some(&maker) = makers.get(name.as_str()) else {
                return Err(ImportError::Graph(format!(
                    "node '{}' reads '{name}', which nothing makes; the file is damaged, export it again",
                    node.name
                )));
            };
            waits[i] += 1;
            readers[maker].push(i);
        }
    }
    let mut ready: std::collections::BTreeSet<usize> =
        (0..nodes.len()).filter(|&i| waits[i] == 0).collect();
    let mut sorted = Vec::with_capacity(nodes.len());
    while let Some(i) = ready.pop_first() {
        sorted.push(i);
        for &reader in &readers[i] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    if let Some(stuck) = waits.iter().position(|&w| w > 0) {
        return Err(ImportError::Graph(format!(
            "node '{}' reads its own result, by way of others; loops are not supported",
            nodes[stuck].name
        )));
    }
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    let sorted = sorted.into_iter().filter_map(|i| nodes[i].take());
    Ok(sorted.collect())
}

/// The nodes that `output` depends on; `nodes` are in order.
fn needed(nodes: Vec<Node>, output: &str) -> Vec<Node> {
    let mut names = HashSet::from([output.to_owned()]);
    let mut kept: Vec<Node> = vec![];
    for node in nodes.into_iter().rev() {
        if node.outputs().iter().any(|o| names.contains(o)) {
            names.extend(node.inputs().iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    kept
}
