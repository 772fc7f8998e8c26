//! `pi-convert import`: an ONNX file to the folder of a float model.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use pi_convert::onnx::{Options, import};
use pi_convert::quantise::ImageSet;

use super::quantise::{Numbers, calibrated};

/// What becomes of max pools.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pool {
    /// They stay: each comparison costs a ReLU.
    Max,
    /// They become average pools, which cost no ReLU, but are another function.
    Average,
}

/// Arguments of the command.
#[derive(Args)]
pub struct Import {
    /// The ONNX file.
    model: PathBuf,
    /// Folder of the model, which is made: a float model, or with --calibrate an integer model.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name under which the model is served; that of the file by default.
    #[arg(long)]
    name: Option<String>,
    /// Channels, rows and columns of the image, where the file leaves them open.
    #[arg(long, value_name = "C,H,W", value_delimiter = ',', num_args = 1)]
    input_shape: Option<Vec<usize>>,
    /// Mean of each channel of pixels from 0 to 1, or one for all; that of ImageNet by default if there are three channels.
    #[arg(
        long,
        value_name = "M,M,M",
        value_delimiter = ',',
        num_args = 1,
        allow_hyphen_values = true
    )]
    mean: Option<Vec<f64>>,
    /// Standard deviation of each channel, or one for all.
    #[arg(long, value_name = "S,S,S", value_delimiter = ',', num_args = 1)]
    std: Option<Vec<f64>>,
    /// Inputs are tensors with values from LOW to HIGH, not images. Without it, an input of one or three maps is an image.
    #[arg(
        long,
        value_name = "LOW,HIGH",
        value_delimiter = ',',
        num_args = 1,
        allow_hyphen_values = true
    )]
    range: Option<Vec<f64>>,
    /// Labels of the classes, a line each; `none` if outputs are no classes, such as those of an embedding or a regression.
    #[arg(long, value_name = "FILE|none")]
    labels: Option<PathBuf>,
    /// What becomes of max pools.
    #[arg(long, value_enum, default_value = "max")]
    pool: Pool,
    /// Go on to an integer model, as `quantise --calibrate IMAGES` does.
    #[arg(long, value_name = "IMAGES")]
    calibrate: Option<PathBuf>,
    #[command(flatten)]
    numbers: Numbers,
}

impl Import {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the import, and of files that cannot be read or written.
    pub fn run(self) -> anyhow::Result<()> {
        let input_shape = match self.input_shape.as_deref() {
            None => None,
            Some(&[c, h, w]) if c.min(h).min(w) > 0 => Some([c, h, w]),
            Some(_) => {
                anyhow::bail!("--input-shape needs three sizes above 0: channels, rows, columns")
            }
        };
        let range = match self.range.as_deref() {
            None => None,
            Some(&[low, high]) => Some([low, high]),
            Some(_) => anyhow::bail!("--range needs two numbers: LOW,HIGH"),
        };
        let labels = match &self.labels {
            None => None,
            Some(path) if path.as_os_str() == "none" => Some(vec![]),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
                let labels: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
                if labels.is_empty() {
                    anyhow::bail!("{} is empty; write a label on each line", path.display());
                }
                Some(labels)
            }
        };
        let options = Options {
            name: self.name,
            input_shape,
            mean: self.mean,
            std: self.std,
            range,
            labels,
            average_pools: self.pool == Pool::Average,
        };
        let (mut model, summary) = import(&self.model, &options)?;
        let file = self
            .model
            .file_name()
            .map(|n| n.to_string_lossy().into_owned());
        let command = format!("pi-convert import {}", file.unwrap_or_default());
        model.spec.card.recipe.push(command);
        if let Some(images) = &self.calibrate {
            write!(std::io::stdout(), "{summary}")?;
            let images = ImageSet::open(images, &model.spec)?;
            return calibrated(&model, images, &self.out, &self.numbers);
        }
        // Saved first: whoever reads the summary may close the pipe.
        model.save(&self.out)?;
        writeln!(
            std::io::stdout(),
            "{summary}{}: a float model; `pi-convert quantise` makes one to serve",
            self.out.display()
        )?;
        Ok(())
    }
}
