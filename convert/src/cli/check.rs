//! `pi-convert check`: a float model against the integers that were made of it, over a set of images.

use std::path::PathBuf;

use clap::Args;
use pi_convert::quantise::{self, Comparison, ImageSet};
use pi_model::text::Table;
use pi_model::{FloatModel, Model};

use super::progress::Progress;

/// Arguments of the command.
#[derive(Args)]
pub struct Check {
    /// Folder of the float model.
    #[arg(value_name = "FLOAT")]
    float: PathBuf,
    /// Folder of the integer model.
    #[arg(value_name = "INTEGER")]
    integer: PathBuf,
    /// Folder of PNG or JPEG images, or of one folder of them for each class, which gives accuracies too; or a .npy file of
    /// tensors (N, C, H, W).
    #[arg(value_name = "IMAGES")]
    images: PathBuf,
    /// Print how far the results of each layer differ.
    #[arg(long)]
    layers: bool,
}

impl Check {
    /// Runs the command.
    ///
    /// # Errors
    /// Models that cannot be read or do not belong together, and images that cannot be read.
    pub fn run(self) -> anyhow::Result<()> {
        let float = FloatModel::load(&self.float)?;
        let integer = Model::load(&self.integer)?;
        let images = ImageSet::open(&self.images, &float.spec)?;
        let progress = Progress::new("comparing");
        let seen = quantise::compare(&float, &integer, &images, &|n, of| progress.at(n, of))?;
        drop(progress);
        print!("{}", table(&seen, integer.public().has_classes()));
        if self.layers {
            print!("\n{}", layers(&seen));
        }
        Ok(())
    }
}

fn table(seen: &Comparison, has_classes: bool) -> String {
    let percent = |n: usize, of: usize| format!("{:.2} %", 100.0 * n as f64 / of.max(1) as f64);
    let mut table = Table::new(&[]).spaced(3, 0);
    table.row(["images".into(), seen.n_images.to_string()], "");
    if has_classes {
        let agree = percent(seen.n_agree, seen.n_images);
        table.row(["same top class".into(), agree], "");
    }
    if seen.n_labelled > 0 {
        for (name, n) in [
            ("accuracy of the float model", seen.n_float_correct),
            ("accuracy of the integers", seen.n_fixed_correct),
        ] {
            table.row([name.into(), percent(n, seen.n_labelled)], "");
        }
    }
    let relative = format!("{:.2} %", 100.0 * seen.logits.relative());
    table.row(
        [
            "difference of the logits, root mean square".into(),
            relative,
        ],
        "",
    );
    if let Some((worst, image)) = &seen.worst {
        table.row(
            [
                "largest difference of a logit".into(),
                format!("{worst:.4}"),
            ],
            format!("   {image}"),
        );
    }
    table.row(
        [
            "accumulators out of range".into(),
            seen.n_range_violations.to_string(),
        ],
        "",
    );
    table.to_string()
}

fn layers(seen: &Comparison) -> String {
    let mut table = Table::new(&[]).spaced(3, 0);
    table.row(["layer", "root mean square", "largest"], "");
    for (name, difference) in &seen.layers {
        table.row(
            [
                name.clone(),
                format!("{:.2} %", 100.0 * difference.relative()),
                format!("{:.4}", difference.largest),
            ],
            "",
        );
    }
    table.to_string()
}
