//! ONNX files to float models.
//!
//! `file` and `constant` read, `graph` orders, `lower` makes an operation of each node, `rewrite` folds and swaps without changing the
//! function, `report` says what was found. Weights are secrets of their owner: no error or note shows one.

mod constant;
mod error;
mod file;
mod fold;
mod graph;
mod lower;
mod network;
pub mod proto;
mod report;
mod rewrite;
mod shape;

use std::collections::BTreeMap;
use std::path::Path;

use pi_model::FloatModel;
use pi_model::spec::{Card, FORMAT_VERSION, InputSpec, ModelSpec, OutputMode};

pub use error::{ImportError, Refusal, Result};
pub use file::{MAX_FILE_BYTES, NEWEST_OPSET, OLDEST_OPSET};
pub use report::Summary;

use file::Constants;
use graph::Graph;
use network::Network;
use rewrite::Choice;

/// What the file does not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name under which the model is served; that of the file if absent.
    pub name: Option<String>,
    /// Channels, rows and columns of the image, where the file leaves them open.
    pub input_shape: Option<[usize; 3]>,
    /// Mean of each channel of pixels from 0 to 1; one for all channels is enough.
    pub mean: Option<Vec<f64>>,
    /// Standard deviation of each channel.
    pub std: Option<Vec<f64>>,
    /// Least and largest value of an input that is no image.
    pub range: Option<[f64; 2]>,
    /// A label for each class; an empty list where outputs are no classes.
    pub labels: Option<Vec<String>>,
    /// Max pools become average pools.
    pub average_pools: bool,
}

/// Reads the network in the ONNX file at `path`.
///
/// # Errors
/// [`ImportError`]: before any work when the file is not readable, is of an unknown version or has several outputs; all operators that
/// cannot be run privately in one.
pub fn import(path: &Path, options: &Options) -> Result<(FloatModel, Summary)> {
    let proto = file::read(path)?;
    let producer = proto.producer_name.clone();
    let graph = proto.graph.unwrap_or_default();
    let architecture = if graph.name.is_empty() {
        producer
    } else {
        graph.name.clone()
    };
    let graph = Graph::new(graph, &mut Constants::beside(path), options.input_shape)?;
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
    let name = options.name.clone().or(stem).unwrap_or_default();
    let spec = ModelSpec {
        format_version: FORMAT_VERSION,
        name,
        input: input(&graph, options)?,
        labels: vec![],
        output: OutputMode::Logits,
        ops: vec![],
        fixed_point: None,
        card: Card {
            architecture,
            ..Card::default()
        },
    };
    let network = Network {
        spec,
        weights: BTreeMap::new(),
        statistics: BTreeMap::new(),
    };
    let lowered = lower::lower(&graph, network)?;
    let (mut network, mut notes) = (lowered.network, lowered.notes);
    let choice = Choice {
        average: options.average_pools,
        normalised: options.mean.is_some() || options.std.is_some(),
    };
    notes.extend(input_note(&network.spec.input, options));
    notes.extend(rewrite::run(&mut network, &lowered.output, choice)?);
    network.spec.labels = labels(&network, options)?;
    network.spec.card.notes = notes.join(". ");
    let n_relus = rewrite::count_relus(&network)?;
    let model = network.finish()?;
    let summary = Summary::new(&model, n_relus, notes);
    Ok((model, summary))
}

/// What is told of an input that is taken for no image.
fn input_note(input: &InputSpec, options: &Options) -> Option<String> {
    let [channels, height, width] = input.shape();
    let shape = format!("{channels} x {height} x {width}");
    match (input.takes_images(), options.range) {
        (true, _) => None,
        (_, Some([low, high])) => Some(format!(
            "inputs are tensors of {shape} with values from {low} to {high}"
        )),
        (_, None) => Some(format!(
            "inputs of {shape} are taken for tensors, not images, with values in the range of those that it is calibrated on; say --range if you know it, or --mean and --std if they are pixels"
        )),
    }
}

/// The input as the user states it. Where nothing is said, one or three maps are an image, whose normalisation is 0 and 1 until it is
/// guessed.
fn input(graph: &Graph, options: &Options) -> Result<InputSpec> {
    let (channels, height, width) = match *graph.input_dims.as_slice() {
        [_, c] => (c, 1, 1),
        [_, c, w] => (c, 1, w),
        [_, c, h, w] => (c, h, w),
        _ => (0, 0, 0),
    };
    let each = |stated: &Option<Vec<f64>>, flag: &str, default: f64| match stated.as_deref() {
        None => Ok(vec![default; channels]),
        Some(&[one]) => Ok(vec![one; channels]),
        Some(all) if all.len() == channels => Ok(all.to_vec()),
        Some(all) => Err(ImportError::Option(format!(
            "{flag} has {} numbers, the image has {channels} channels; give one for each, or one for all",
            all.len()
        ))),
    };
    let stated = options.mean.is_some() || options.std.is_some();
    let is_image = stated || matches!(channels, 1 | 3) && height.min(width) > 1;
    if stated && options.range.is_some() {
        return Err(ImportError::Option(
            "--mean and --std are for images, --range for tensors that are none; leave one of them out".into(),
        ));
    }
    if let Some([low, high]) = options.range.filter(|[low, high]| {
        let ordered = low < high && low.is_finite() && high.is_finite();
        !ordered
    }) {
        return Err(ImportError::Option(format!(
            "--range {low},{high} needs two numbers, the lower one first"
        )));
    }
    if options.range.is_some() || !is_image {
        return Ok(InputSpec {
            channels,
            height,
            width,
            mean: vec![],
            std: vec![],
            range: options.range,
        });
    }
    let (mean, std) = (
        each(&options.mean, "--mean", 0.0)?,
        each(&options.std, "--std", 1.0)?,
    );
    if !mean.iter().all(|m| m.is_finite()) || !std.iter().all(|s| s.is_finite() && *s > 0.0) {
        return Err(ImportError::Option(
            "--mean must hold numbers and --std numbers above 0".into(),
        ));
    }
    Ok(InputSpec {
        channels,
        height,
        width,
        mean,
        std,
        range: None,
    })
}

fn labels(network: &Network, options: &Options) -> Result<Vec<String>> {
    let shapes = network.shapes()?;
    let last = network
        .spec
        .ops
        .last()
        .map_or(network::IMAGE, |op| op.name());
    let n = shapes[last].n_values();
    match &options.labels {
        None => Ok((0..n).map(|i| format!("class {i}")).collect()),
        Some(labels) if labels.is_empty() || labels.len() == n => Ok(labels.clone()),
        Some(labels) => Err(ImportError::Option(format!(
            "the file of labels has {} lines, the network {n} classes; give a line for each",
            labels.len()
        ))),
    }
}
