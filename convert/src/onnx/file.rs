//! Reads an ONNX file and the files beside it that hold its weights.
//!
//! Nothing outside the folder of the file is opened: locations with `..`, absolute ones and links that lead out are refused.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};

use prost::Message as _;

use super::constant::Constant;
use super::error::{ImportError, Result};
use super::proto::{ModelProto, TensorProto};

/// Most bytes of an ONNX file: the format itself ends there.
pub const MAX_FILE_BYTES: u64 = 2 << 30;
/// Oldest version of the operators: the first with broadcasting by shape.
pub const OLDEST_OPSET: i64 = 7;
/// Newest version of the operators that this code was written for.
pub const NEWEST_OPSET: i64 = 28;

/// Reads the file at `path`.
///
/// # Errors
/// [`ImportError::File`], [`ImportError::TooLarge`], [`ImportError::NotOnnx`] or [`ImportError::Opset`].
pub fn read(path: &Path) -> Result<ModelProto> {
    let not_onnx = |reason: String| ImportError::NotOnnx {
        path: path.display().to_string(),
        reason,
    };
    let bytes = read_limited(path)?;
    let model = ModelProto::decode(bytes.as_slice()).map_err(|e| not_onnx(e.to_string()))?;
    if model.graph.as_ref().is_none_or(|g| g.node.is_empty()) {
        return Err(not_onnx(
            "it holds no network. Give the .onnx file that an exporter wrote".into(),
        ));
    }
    let standard = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let opset = model.opset_import.iter().find(|o| standard(&o.domain));
    let version = opset.map_or(1, |o| o.version);
    if !(OLDEST_OPSET..=NEWEST_OPSET).contains(&version) {
        return Err(ImportError::Opset {
            path: path.display().to_string(),
            version,
            oldest: OLDEST_OPSET,
            newest: NEWEST_OPSET,
        });
    }
    Ok(model)
}

fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| ImportError::file(path, e))?;
    let bytes = file
        .metadata()
        .map_err(|e| ImportError::file(path, e))?
        .len();
    if bytes > MAX_FILE_BYTES {
        return Err(ImportError::TooLarge {
            path: path.display().to_string(),
            bytes,
            limit: MAX_FILE_BYTES,
        });
    }
    let mut all = Vec::new();
    let mut file = file.take(MAX_FILE_BYTES);
    file.read_to_end(&mut all)
        .map_err(|e| ImportError::file(path, e))?;
    Ok(all)
}

/// Reads constants, in the file or beside it.
#[derive(Debug)]
pub struct Constants {
    folder: PathBuf,
    open: HashMap<PathBuf, File>,
}

impl Constants {
    /// Of the model at `path`.
    #[must_use]
    pub fn beside(path: &Path) -> Self {
        Self {
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
            open: HashMap::new(),
        }
    }

    /// The constant that `proto` stands for.
    ///
    /// # Errors
    /// [`ImportError::External`] or [`ImportError::Tensor`].
    pub fn read(&mut self, proto: &TensorProto) -> Result<Constant> {
        if proto.data_location != 1 {
            return Constant::decode(proto, None);
        }
        let entry = |key: &str| proto.external_data.iter().find(|e| e.key == key);
        let location = entry("location").map_or("", |e| e.value.as_str());
        let fault = |reason: String| ImportError::External {
            tensor: proto.name.clone(),
            location: format!("'{}'", self.folder.join(location).display()),
            reason,
        };
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(e) => e.value.parse::<u64>().map(Some).map_err(|_| {
                fault(format!(
                    "its {key} '{}' is no number; export it again",
                    e.value
                ))
            }),
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let path = inside(&self.folder, location).map_err(&fault)?;
        let fault = |e: std::io::Error| {
            fault(format!(
                "{e}. Put the file that the exporter wrote with the .onnx file beside it"
            ))
        };
        if !self.open.contains_key(&path) {
            let file = File::open(&path).map_err(&fault)?;
            self.open.insert(path.clone(), file);
        }
        let mut raw = Vec::new();
        if let Some(file) = self.open.get_mut(&path) {
            file.seek(SeekFrom::Start(offset)).map_err(&fault)?;
            let mut part = file.take(length.unwrap_or(u64::MAX).min(MAX_FILE_BYTES));
            part.read_to_end(&mut raw).map_err(&fault)?;
        }
        Constant::decode(proto, Some(&raw))
    }
}

/// Path of the file `location` in `folder`; a sentence where it is not inside.
fn inside(folder: &Path, location: &str) -> std::result::Result<PathBuf, String> {
    let outside = "which is outside the folder of the model; only files beside it are read";
    let relative = Path::new(location);
    let normal = |c: Component| matches!(c, Component::Normal(_) | Component::CurDir);
    if location.is_empty() || !relative.components().all(normal) {
        return Err(outside.into());
    }
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let missing = |e: std::io::Error| {
        format!("{e}. Put the file that the exporter wrote with the .onnx file beside it")
    };
    let real = folder.join(relative).canonicalize().map_err(missing)?;
    let root = folder.canonicalize().map_err(missing)?;
    if real.starts_with(root) {
        Ok(real)
    } else {
        Err(outside.into())
    }
}
