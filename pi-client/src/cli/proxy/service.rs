//! What both services of the proxy stand on: the client, the name of its model, and images answered one after the other.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use pi_client::{Client, ClientError, Prediction};

use super::tensor;

/// Largest request. 64 images of 224 x 224 as floats are 39 MB.
pub(super) const MAX_REQUEST_BYTES: usize = 64 << 20;
/// Most notes that are told.
const MAX_NOTES: usize = 100;

/// What both services need.
pub(super) struct Proxy {
    pub(super) client: Client,
    /// Listening on loopback alone.
    pub(super) is_local: bool,
    /// Notes of what was guessed that were told already.
    pub(super) told: Mutex<HashSet<String>>,
}

impl Proxy {
    /// Whether this is the model that is served here.
    pub(super) fn knows(&self, model: &str, version: &str) -> bool {
        model == self.name() && matches!(version, "" | "1")
    }

    /// What is said of a model that is not.
    pub(super) fn unknown(&self, model: &str, version: &str) -> String {
        let version = match version {
            "" => String::new(),
            version => format!(" of version {version}"),
        };
        let name = self.name();
        format!("no model '{model}'{version}; this proxy serves '{name}'")
    }

    pub(super) fn name(&self) -> &str {
        &self.client.description().model.spec().name
    }

    pub(super) fn is_ready(&self) -> bool {
        self.client.trouble().is_none()
    }

    /// Answers all images of a request, in order.
    pub(super) async fn infer(
        &self,
        inputs: Vec<tensor::Tensor>,
    ) -> Result<Vec<Prediction>, ClientError> {
        let [input] = <[_; 1]>::try_from(inputs).map_err(|inputs| {
            tensor::refused(format!(
                "{} inputs; the model takes one, called '{}'",
                inputs.len(),
                tensor::INPUT
            ))
        })?;
        let images = input.images(&self.client.description().model)?;
        let mut answers = Vec::with_capacity(images.len());
        let mut series = self.client.series(images.len());
        for image in images {
            let answer = series.infer(&image?).await?;
            for note in &answer.notes {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                // A client may send another size each time.
                if told.len() < MAX_NOTES && told.insert(note.clone()) {
                    eprintln!("note: {note} (told once)");
                }
            }
            answers.push(answer);
        }
        Ok(answers)
    }
}
