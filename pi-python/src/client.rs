//! The client as a Python class that takes and gives bytes, numbers and text.
//!
//! One-time values: what is prepared lives in this process's threads. A process made by `fork` has none of them, so it may not use
//! the client: it is told so instead of being left to wait for ever.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pi_client::retry::Retries;
use pi_client::{Client, ClientError, Config, ConnectOptions, Image, Prediction, Sizing, Token};
use pi_model::spec::OutputMode;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::runtime::Runtime;

use crate::error::{in_python, raise, usage};
use crate::facts::Facts;
use crate::wait::wait;

/// What one call of `predict` cost; sums over its images.
#[derive(Clone, Default, IntoPyObject)]
pub(crate) struct CallStats {
    n_images: usize,
    n_prepared_ahead: usize,
    seconds: f64,
    waited_seconds: f64,
    online_seconds: f64,
    offline_seconds: f64,
    online_bytes: u64,
    offline_bytes: u64,
}

/// Classes (none where the outputs are no classes), logits (8 bytes each in the machine's order, image by image; none if the model opens
/// the class alone), notes.
type Answers = (Vec<Option<usize>>, Py<PyBytes>, Vec<String>);

/// A connection to one model.
#[pyclass(frozen, module = "private_inference._native")]
pub(crate) struct NativeClient {
    client: Mutex<Option<Arc<Client>>>,
    runtime: Runtime,
    sizing: Sizing,
    last_stats: Mutex<Option<CallStats>>,
    process: u32,
}

#[pymethods]
impl NativeClient {
    /// Connects and reads the model's description.
    #[new]
    #[pyo3(signature = (url, model, *, token, token_file, ca, identity, keep_prepared, batch, resize, n_retries, timeout))]
    #[allow(
        clippy::too_many_arguments,
        reason = "the keywords of one call in Python"
    )]
    fn new(
        py: Python<'_>,
        url: String,
        model: Option<String>,
        token: Option<&str>,
        token_file: Option<PathBuf>,
        ca: Option<PathBuf>,
        identity: Option<(PathBuf, PathBuf)>,
        keep_prepared: usize,
        batch: Option<usize>,
        resize: bool,
        n_retries: u32,
        timeout: f64,
    ) -> PyResult<Self> {
        let timeout = Duration::try_from_secs_f64(timeout)
            .ok()
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| usage(py, "timeout is a number of seconds greater than 0"))?;
        let token = match (token, token_file) {
            (Some(text), _) => Some(Token::new(text)),
            (None, Some(path)) => Some(Token::read(&path)),
            (None, None) => None,
        };
        let server = ConnectOptions {
            token: token.transpose().map_err(|e| raise(py, &e))?,
            ca,
            identity,
            ..ConnectOptions::new(url).with_timeout(timeout)
        };
        let sizing = match resize {
            true => Sizing::Resize,
            false => Sizing::Exact,
        };
        let config = Config {
            model,
            keep_prepared,
            batch,
            sizing,
            retries: Retries {
                n: n_retries,
                ..Retries::default()
            },
            ..Config::for_server(server)
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let client = wait(py, &runtime, Client::connect(config))?;
        let client = client.map_err(|e| raise(py, &e))?;
        Ok(Self {
            client: Mutex::new(Some(Arc::new(client))),
            runtime,
            sizing,
            last_stats: Mutex::new(None),
            process: std::process::id(),
        })
    }

    /// Classifies the images that lie one behind the other in `data`, each of `shape`: bytes of pixels (H, W, C), or floats of
    /// 32 bits in little-endian order (C, H, W).
    fn predict(
        &self,
        py: Python<'_>,
        are_pixels: bool,
        shape: [usize; 3],
        data: &Bound<'_, PyBytes>,
    ) -> PyResult<Answers> {
        let client = self.open(py)?;
        let bytes = data.as_bytes();
        let work = async {
            let images = Images::new(are_pixels, shape, bytes)?;
            predict(&client, &images, self.sizing).await
        };
        let (answers, stats) = self.wait(py, work)?;
        *lock(&self.last_stats) = Some(stats);
        let logits = answers.iter().flat_map(|a| &a.logits);
        let logits: Vec<u8> = logits.flat_map(|l| l.to_ne_bytes()).collect();
        let mut notes = Vec::new();
        for note in answers.iter().flat_map(|a| &a.notes) {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        let classes = answers.iter().map(|a| a.class).collect();
        Ok((classes, PyBytes::new(py, &logits).unbind(), notes))
    }

    /// Prepares at least `n` more inferences.
    fn prepare(&self, py: Python<'_>, n: usize) -> PyResult<()> {
        let client = self.open(py)?;
        self.wait(py, async { client.prepare(n).await.map(|_| ()) })
    }

    /// Names of the server's models.
    fn models(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let client = self.open(py)?;
        self.wait(py, client.models())
    }

    /// What the server says about the model, and what a query will cost.
    fn facts(&self, py: Python<'_>) -> PyResult<Facts> {
        let client = self.open(py)?;
        py.detach(|| Facts::of(client.description()))
            .map_err(|e| raise(py, &e))
    }

    /// Labels of the classes, whether the model opens logits, and whether its outputs are classes.
    fn output(&self, py: Python<'_>) -> PyResult<(Vec<String>, bool, bool)> {
        let client = self.open(py)?;
        let model = &client.description().model;
        let opens_logits = model.spec().output == OutputMode::Logits;
        Ok((
            model.spec().labels.clone(),
            opens_logits,
            model.has_classes(),
        ))
    }

    /// (C, H, W) of what the model takes.
    fn input_shape(&self, py: Python<'_>) -> PyResult<[usize; 3]> {
        let client = self.open(py)?;
        Ok(client.description().model.spec().input.shape())
    }

    /// The model's name.
    fn model(&self, py: Python<'_>) -> PyResult<String> {
        let client = self.open(py)?;
        Ok(client.description().model.spec().name.clone())
    }

    /// Inferences that are ready.
    fn n_prepared(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.open(py)?.n_prepared())
    }

    /// Why preparing in the background does not work at present.
    fn trouble(&self, py: Python<'_>) -> PyResult<Option<String>> {
        Ok(self.open(py)?.trouble().map(in_python))
    }

    /// What the last answered call of `predict` cost.
    fn last_stats(&self) -> Option<CallStats> {
        lock(&self.last_stats).clone()
    }

    /// Ends the sessions: `in_good_order`, or at once. Calls of other threads that still run keep them until they return.
    fn close(&self, py: Python<'_>, in_good_order: bool) -> PyResult<()> {
        self.check_process(py)?;
        let client = lock(&self.client).take().and_then(Arc::into_inner);
        match client {
            Some(client) if in_good_order => {
                wait(py, &self.runtime, client.close())?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl NativeClient {
    fn open(&self, py: Python<'_>) -> PyResult<Arc<Client>> {
        self.check_process(py)?;
        let client = lock(&self.client).clone();
        client.ok_or_else(|| raise(py, &ClientError::Closed))
    }

    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.process == std::process::id() {
            return Ok(());
        }
        Err(usage(
            py,
            "this client was made before the process was forked, and its connection stayed behind: make a Client in the new process",
        ))
    }

    fn wait<T: Send>(
        &self,
        py: Python<'_>,
        work: impl Future<Output = Result<T, ClientError>> + Send,
    ) -> PyResult<T> {
        wait(py, &self.runtime, work)?.map_err(|e| raise(py, &e))
    }
}

impl Drop for NativeClient {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // The threads did not come along, and a lock that one of them held would never be free again.
            let client = self.client.get_mut();
            std::mem::forget(client.unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Images of one shape that lie one behind the other; each is copied when its turn comes.
struct Images<'a> {
    are_pixels: bool,
    shape: [usize; 3],
    bytes: &'a [u8],
    /// Of one image.
    n_bytes: usize,
}

impl<'a> Images<'a> {
    fn new(are_pixels: bool, shape: [usize; 3], bytes: &'a [u8]) -> Result<Self, ClientError> {
        let value_bytes = if are_pixels { 1 } else { size_of::<f32>() };
        let n_bytes = shape
            .iter()
            .try_fold(value_bytes, |n, &d| n.checked_mul(d))
            .filter(|n| *n > 0 && bytes.len().is_multiple_of(*n) && !bytes.is_empty());
        let n_bytes = n_bytes.ok_or_else(|| ClientError::Input {
            name: "array".into(),
            reason: format!("{} bytes are no images of {shape:?}", bytes.len()),
        })?;
        Ok(Self {
            are_pixels,
            shape,
            bytes,
            n_bytes,
        })
    }

    const fn len(&self) -> usize {
        self.bytes.len() / self.n_bytes
    }

    fn iter(&self) -> impl Iterator<Item = Result<Image, ClientError>> {
        let chunks = self.bytes.chunks_exact(self.n_bytes);
        chunks.enumerate().map(|(index, chunk)| {
            let image = match self.are_pixels {
                true => {
                    let [height, width, channels] = self.shape;
                    Image::from_pixels(width, height, channels, chunk.to_vec())?
                }
                false => {
                    let (values, _) = chunk.as_chunks::<4>();
                    let values = values.iter().map(|v| f32::from_le_bytes(*v));
                    Image::from_tensor(&self.shape, values.collect())?
                }
            };
            Ok(image.named(match self.len() {
                1 => "array".to_owned(),
                _ => format!("array[{index}]"),
            }))
        })
    }
}

/// Answers all `images`, or spends nothing if one of them cannot be used. What is missing is prepared in batches, as many as the
/// server holds at a time.
async fn predict(
    client: &Client,
    images: &Images<'_>,
    sizing: Sizing,
) -> Result<(Vec<Prediction>, CallStats), ClientError> {
    let called = Instant::now();
    for image in images.iter() {
        image?.fit(&client.description().model, sizing)?;
    }
    let n_ready = client.n_prepared();
    let mut series = client.series(images.len());
    let mut answers = Vec::with_capacity(images.len());
    let mut stats = CallStats {
        n_images: images.len(),
        ..CallStats::default()
    };
    for (index, image) in images.iter().enumerate() {
        let answer = series.infer(&image?).await?;
        let cost = &answer.stats;
        stats.n_prepared_ahead += usize::from(cost.prepared_ahead && index < n_ready);
        stats.waited_seconds += cost.waited_seconds;
        stats.online_seconds += cost.online_seconds;
        stats.offline_seconds += cost.offline_seconds;
        stats.online_bytes += cost.online_bytes;
        stats.offline_bytes += cost.offline_bytes;
        answers.push(answer);
    }
    stats.seconds = called.elapsed().as_secs_f64();
    Ok((answers, stats))
}
