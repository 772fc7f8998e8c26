//! `--arch FOLDER`: a float model that `pi-convert import` or an export has written, as the network to linearize.

use crate::cli::ModelArgs;
use anyhow::{Context, Result, bail};
use pi_model::FloatModel;
use pi_model::artifact::SPEC_FILE;
use pi_model::spec::ModelSpec;
use pi_trainer::checkpoint;
use pi_trainer::data::{DatasetKind, Images};
use pi_trainer::net::{self, Arch};
use std::path::Path;
use tch::Tensor;

impl ModelArgs {
    /// The folder that it is; none where it is a name.
    fn folder(&self) -> Option<&Path> {
        let path = Path::new(self.arch());
        let folder = path.join(SPEC_FILE).is_file() || self.arch().contains(['/', '\\']);
        (folder && !Arch::is_name(self.arch())).then_some(path)
    }

    /// The float model that it is; none where it is a name.
    pub fn imported(&self) -> Result<Option<FloatModel>> {
        Ok(self.folder().map(net::read_model).transpose()?)
    }

    /// The network's name, for records.
    pub fn network(&self) -> Result<String> {
        let Some(folder) = self.folder() else {
            return Ok(self.arch().into());
        };
        let path = folder.join(SPEC_FILE);
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let spec: ModelSpec =
            serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        Ok(spec.name)
    }

    /// Side of the images read from folders for a float model.
    pub fn size_for(&self, model: &FloatModel) -> Result<Option<usize>> {
        let input = &model.spec.input;
        let scaled = matches!(
            self.dataset,
            DatasetKind::Folder | DatasetKind::TinyImagenet
        );
        match self.image_size {
            _ if scaled && input.height != input.width => bail!(
                "{} takes images of {} x {}, and folders are read as squares: import it for a square input",
                model.spec.name,
                input.height,
                input.width
            ),
            Some(side) if side != input.height => bail!(
                "--image-size {side}: {} takes images of {} x {}; leave it out",
                model.spec.name,
                input.height,
                input.width
            ),
            _ => Ok(Some(input.height)),
        }
    }
}

/// Refuses images that are not those of a float model.
pub fn fits(
    model: &FloatModel,
    n_outputs: usize,
    images: &Images,
    labels: &[String],
) -> Result<()> {
    let spec = &model.spec;
    let input = &spec.input;
    input.check_images()?;
    if images.shape != [input.channels, input.height, input.width] {
        bail!(
            "{} takes images of {} x {} x {} (channels, rows, columns), and these are {:?}: give its --dataset, or import it for this size",
            spec.name,
            input.channels,
            input.height,
            input.width,
            images.shape
        );
    }
    if n_outputs != images.n_classes {
        bail!(
            "{} has {n_outputs} outputs, and these images have {} classes: give the images that it was trained for (as --data and --dataset)",
            spec.name,
            images.n_classes
        );
    }
    let misplaced = |(own, theirs): &(&String, &String)| own != theirs && labels.contains(own);
    match spec.labels.iter().zip(labels).find(misplaced) {
        Some((own, theirs)) => bail!(
            "{} calls a class '{own}' that these images call '{theirs}', in another order: put the labels of its model.json into the order of the image set's if the outputs are in that",
            spec.name
        ),
        None => Ok(()),
    }
}

/// A digest of a float model's weights.
pub fn fingerprint(model: &FloatModel) -> Result<String> {
    let tensors = model.weights.iter().flat_map(|(name, own)| {
        let part =
            |part: &str, values: &[f32]| (format!("{name}.{part}"), Tensor::from_slice(values));
        [part("weight", &own.weight), part("bias", &own.bias)]
    });
    Ok(checkpoint::fingerprint(&tensors.collect())?)
}
