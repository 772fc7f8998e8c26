//! A model on disk: `model.json` (public) beside `model.safetensors` (integer weights, biases, masks).
//!
//! Tensors: `<conv>.weight` i8 or i16 of shape (O, C / groups, kh, kw), `<linear>.weight` (O, features) or (O, features, 1, 1), `<op>.bias` i64 (O)
//! at the scale of the accumulator, `<relu>.mask` u8 (C, H, W). A tensor of another shape, or one that no operation names, is refused. Files are written under a temporary name and renamed.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{ModelError, Result};
use crate::graph::{Bias, Conv, shapes};
use crate::kernel::Conv2d;
use crate::linear;
use crate::public::PublicModel;
use crate::relu_set::ReluSet;
use crate::spec::{Card, FORMAT_VERSION, ModelSpec};

mod float;
mod tensors;

pub use float::{FloatModel, FloatWeights};

use tensors::Tensors;

/// Name of the public part.
pub const SPEC_FILE: &str = "model.json";
/// Name of the weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Bits of the widest ring that the kernels serve.
const KERNEL_BITS: u32 = 52;
/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 30;

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({})", self.public.spec().name)
    }
}

/// Weights of one convolution or fully connected layer. Private to the server.
#[derive(Clone, PartialEq, Eq)]
pub struct ConvWeights {
    /// (O, C / groups, kh, kw), each at most 16 bits with its sign.
    pub weight: Vec<i32>,
    /// (O), at the accumulator's scale.
    pub bias: Vec<i64>,
}

impl std::fmt::Debug for ConvWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConvWeights({} weights)", self.weight.len())
    }
}

/// A model with its weights.
pub struct Model {
    public: PublicModel,
    kernels: HashMap<String, Conv2d>,
    weights: HashMap<String, ConvWeights>,
    digest: OnceLock<[u8; 32]>,
}

impl Model {
    /// Checks that weights, masks and operations fit together.
    ///
    /// # Errors
    /// [`ModelError::Op`] naming the operation that does not fit.
    pub fn new(
        spec: ModelSpec,
        masks: HashMap<String, ReluSet>,
        weights: HashMap<String, ConvWeights>,
    ) -> Result<Self> {
        Self::with_weights(PublicModel::new(spec, masks)?, weights)
    }

    fn with_weights(public: PublicModel, weights: HashMap<String, ConvWeights>) -> Result<Self> {
        let mut kernels = HashMap::new();
        for conv in public.graph().layers.iter().flat_map(|l| &l.convs) {
            let w = weights.get(&conv.op).ok_or_else(|| {
                ModelError::op(&conv.op, format!("there is no tensor '{}.weight'", conv.op))
            })?;
            let geometry = linear::geometry(public.graph(), conv);
            let due = geometry.n_weights();
            if w.weight.len() != due || w.bias.len() != conv.out_channels {
                return Err(ModelError::op(
                    &conv.op,
                    format!(
                        "it needs {due} weights and {} biases, the file has {} and {}",
                        conv.out_channels,
                        w.weight.len(),
                        w.bias.len()
                    ),
                ));
            }
            if w.weight.iter().any(|&v| i16::try_from(v).is_err())
                || w.bias.iter().any(|b| b.unsigned_abs() >= 1 << 40)
            {
                return Err(ModelError::op(
                    &conv.op,
                    "a weight has more than 16 bits or a bias more than 40",
                ));
            }
            let kernel = Conv2d::new(geometry, &w.weight, KERNEL_BITS);
            kernels.insert(
                conv.op.clone(),
                kernel.map_err(|e| ModelError::op(&conv.op, e.to_string()))?,
            );
        }
        for bias in public.graph().layers.iter().flat_map(|l| &l.biases) {
            let own = weights.get(&bias.op).map(|w| w.bias.as_slice());
            let n = public.channels_of(&bias.op);
            if own
                .is_none_or(|own| own.len() != n || own.iter().any(|b| b.unsigned_abs() >= 1 << 40))
            {
                return Err(ModelError::op(
                    &bias.op,
                    format!(
                        "it needs tensor '{}.bias' with {n} constants of at most 40 bits",
                        bias.op
                    ),
                ));
            }
        }
        Ok(Self {
            public,
            kernels,
            weights,
            digest: OnceLock::new(),
        })
    }

    /// What the client may see.
    #[must_use]
    pub const fn public(&self) -> &PublicModel {
        &self.public
    }

    /// The same model with another card.
    #[must_use]
    pub fn with_card(mut self, card: Card) -> Self {
        self.public.set_card(card);
        self
    }

    /// A digest of all weights and biases, made at its first use: what was prepared with these is of no use with others.
    #[must_use]
    pub fn weights_digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new_derive_key("private inference: weights");
            for conv in self.public.graph().layers.iter().flat_map(|l| &l.convs) {
                let weights = self.weights(conv);
                hasher.update(&(weights.weight.len() as u64).to_le_bytes());
                for part in weights.weight.chunks(4096) {
                    let bytes: Vec<u8> = part.iter().flat_map(|w| w.to_le_bytes()).collect();
                    hasher.update(&bytes);
                }
                for bias in &weights.bias {
                    hasher.update(&bias.to_le_bytes());
                }
            }
            for bias in self.public.graph().layers.iter().flat_map(|l| &l.biases) {
                for constant in self.biases(bias) {
                    hasher.update(&constant.to_le_bytes());
                }
            }
            *hasher.finalize().as_bytes()
        })
    }

    /// Weights of a convolution.
    ///
    /// # Panics
    /// Never for a convolution of this model's graph: [`Self::new`] checked that its weights are there.
    #[must_use]
    pub fn weights(&self, conv: &Conv) -> &ConvWeights {
        &self.weights[&conv.op]
    }

    /// The constants that a `bias` operation adds.
    ///
    /// # Panics
    /// Never for one of this model's graph, as [`Self::weights`].
    #[must_use]
    pub fn biases(&self, bias: &Bias) -> &[i64] {
        &self.weights[&bias.op].bias
    }

    /// The kernel that computes a convolution, with its weights made ready.
    ///
    /// # Panics
    /// Never for a convolution of this model's graph, as [`Self::weights`].
    #[must_use]
    pub fn kernel(&self, conv: &Conv) -> &Conv2d {
        &self.kernels[&conv.op]
    }

    /// Reads the model in folder `dir`.
    ///
    /// # Errors
    /// [`ModelError::File`] or [`ModelError::Format`] with the file's name, [`ModelError::Op`] when the parts do not fit.
    pub fn load(dir: &Path) -> Result<Self> {
        let spec_path = dir.join(SPEC_FILE);
        let spec = read_spec(&spec_path)?;
        let path = dir.join(WEIGHTS_FILE);
        let bytes = read(&path)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| ModelError::format(&path, e))?;
        let mut tensors = Tensors::new(&path, &tensors);
        let public = PublicModel::new(spec, tensors.masks()?)?;
        let weights = tensors.weights(&public)?;
        Self::with_weights(public, weights)
    }

    /// Writes the model into folder `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`ModelError::File`] with the file's name.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| ModelError::file(dir, e))?;
        let mut data: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        let shapes = shapes(self.public.spec())?;
        for op in &self.public.spec().ops {
            let name = op.name();
            if let Some((weight, bias)) = float::weight_shapes(op, &shapes) {
                let own = &self.weights[name];
                if let Some(shape) = weight {
                    let (dtype, bytes) = narrow(&own.weight);
                    data.push((format!("{name}.weight"), dtype, shape, bytes));
                }
                let bytes = own.bias.iter().flat_map(|b| b.to_le_bytes()).collect();
                data.push((format!("{name}.bias"), Dtype::I64, vec![bias], bytes));
            }
            if let Some(relu) = self.public.masks().get(name) {
                let s = shapes[name];
                let shape = vec![s.channels, s.height, s.width];
                data.push((format!("{name}.mask"), Dtype::U8, shape, relu.to_mask()));
            }
        }
        let path = dir.join(WEIGHTS_FILE);
        let views = data.iter().map(|(name, dtype, shape, bytes)| {
            Ok((
                name.clone(),
                TensorView::new(*dtype, shape.clone(), bytes)
                    .map_err(|e| ModelError::format(&path, e))?,
            ))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let bytes =
            safetensors::serialize(views, None).map_err(|e| ModelError::format(&path, e))?;
        write(&path, &bytes, 0o600)?;
        let spec_path = dir.join(SPEC_FILE);
        let json = serde_json::to_vec_pretty(self.public.spec())
            .map_err(|e| ModelError::format(&spec_path, e))?;
        write(&spec_path, &json, 0o644)
    }
}

/// Weights as bytes if all of them are, else as pairs of bytes.
fn narrow(weights: &[i32]) -> (Dtype, Vec<u8>) {
    if weights.iter().all(|&v| i8::try_from(v).is_ok()) {
        return (Dtype::I8, weights.iter().map(|&v| v as u8).collect());
    }
    let words = weights.iter().flat_map(|&v| (v as i16).to_le_bytes());
    (Dtype::I16, words.collect())
}

/// Reads `model.json`; the version first, so that another one is named and not its first unknown key.
fn read_spec(path: &Path) -> Result<ModelSpec> {
    #[derive(serde::Deserialize)]
    struct Version {
        format_version: u32,
    }
    let bytes = read(path)?;
    let failed = |e: serde_json::Error| ModelError::format(path, e);
    let version: Version = serde_json::from_slice(&bytes).map_err(failed)?;
    if version.format_version != FORMAT_VERSION {
        return Err(ModelError::format(
            path,
            format!(
                "it has format version {}, this program reads {FORMAT_VERSION}",
                version.format_version
            ),
        ));
    }
    serde_json::from_slice(&bytes).map_err(failed)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let length = std::fs::metadata(path)
        .map_err(|e| ModelError::file(path, e))?
        .len();
    if length > MAX_FILE_BYTES {
        return Err(ModelError::format(
            path,
            format!("it has {length} bytes, more than the {MAX_FILE_BYTES} that a model may have"),
        ));
    }
    std::fs::read(path).map_err(|e| ModelError::file(path, e))
}

/// Writes `bytes` under a temporary name, then renames. The weights are for their owner's eyes only (`mode`).
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let fail = |e| ModelError::file(path, e);
    let mut file = tempfile::Builder::new()
        .suffix(".tmp")
        .tempfile_in(dir)
        .map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    #[cfg(not(unix))]
    let _ = mode;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file()
            .set_permissions(std::fs::Permissions::from_mode(mode))
            .map_err(fail)?;
    }
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}
