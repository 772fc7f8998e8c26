//! `pi-convert quantise`: a float model and some images to an integer model, and what it will cost.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use pi_convert::quantise::{self, Comparison, ImageSet, Options, Quantised};
use pi_model::text::{Table, thousands};
use pi_model::{FloatModel, PublicPlan};
use pi_protocol::cost::Cost;

use super::progress::Progress;

/// Images that ranges are calibrated on.
const N_IMAGES: u32 = 200;
/// Bits of a weight.
const WEIGHT_BITS: u32 = 8;

/// Arguments of the command.
#[derive(Args)]
pub struct Quantise {
    /// Folder of the float model.
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// Calibrate on the PNG or JPEG images in this folder, or in one folder of it for each class, or on a .npy file of normalised
    /// tensors (N, C, H, W).
    #[arg(long, value_name = "IMAGES")]
    calibrate: PathBuf,
    /// Folder of the integer model, which is made.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    numbers: Numbers,
}

/// How integers are chosen.
#[derive(Args)]
pub struct Numbers {
    /// Calibrate on at most N images, spread evenly over all.
    #[arg(long, value_name = "N", default_value_t = N_IMAGES, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    /// Bits of a weight, 2 to 16. More come nearer to the float model, and make the error of the encryption larger.
    #[arg(long, value_name = "N", default_value_t = WEIGHT_BITS, value_parser = clap::value_parser!(u32).range(2..=16))]
    weight_bits: u32,
    /// Fraction bits of an activation, 1 to 16; by default 8, or fewer but at least 4 if values are so large that their truncation might wrap.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    activation_bits: Option<u32>,
}

/// As the command line has them.
impl Default for Numbers {
    fn default() -> Self {
        Self {
            images: N_IMAGES,
            weight_bits: WEIGHT_BITS,
            activation_bits: None,
        }
    }
}

impl Quantise {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of [`calibrated`], and a float model that cannot be read.
    pub fn run(self) -> anyhow::Result<()> {
        let model = FloatModel::load(&self.model)?;
        let images = ImageSet::open(&self.calibrate, &model.spec)?;
        calibrated(&model, images, &self.out, &self.numbers)
    }
}

/// Makes an integer model of `model`, calibrated on `images`, in folder `out`; says what was given up, how well the two agree, and what an inference will cost.
///
/// # Errors
/// What the images or the network lack, or why it cannot be served.
pub fn calibrated(
    model: &FloatModel,
    images: ImageSet,
    out: &Path,
    numbers: &Numbers,
) -> anyhow::Result<()> {
    let images = images.spread(numbers.images as usize);
    let given = numbers.activation_bits;
    let given = given.map_or(String::new(), |n| format!(" --activation-bits {n}"));
    let options = Options {
        activation_bits: numbers.activation_bits,
        weight_bits: numbers.weight_bits,
        // Without the names of folders: clients see it.
        command: format!(
            "pi-convert quantise --images {} --weight-bits {}{given}",
            images.len(),
            numbers.weight_bits
        ),
        ..Options::default()
    };
    let progress = Progress::new("calibrating");
    let made = quantise::quantise(model, &images, &options, &|n, of| progress.at(n, of))?;
    drop(progress);
    let plan = PublicPlan::new(made.model.public(), 1)
        .with_context(|| format!("'{}' cannot be served", model.spec.name))?;
    let progress = Progress::new("comparing");
    let same = quantise::compare(model, &made.model, &images, &|n, of| progress.at(n, of))?;
    drop(progress);
    made.model.save(out)?;
    println!("{}\n{}", summary(&made, &same), Cost::of(&plan)?);
    println!("{}: an integer model, which can be served", out.display());
    Ok(())
}

/// What was made, in a few lines.
fn summary(made: &Quantised, same: &Comparison) -> String {
    let public = made.model.public();
    let card = &public.spec().card;
    let mut text = format!(
        "{}: {} operations, {} of {} ReLUs ({} with those of pools and clips).\n",
        public.spec().name,
        public.spec().ops.len(),
        thousands(card.relus_kept as u64),
        thousands(card.relus_total as u64),
        thousands(public.graph().n_relus() as u64),
    );
    let numbers = public.spec().fixed_point.as_ref();
    if let Some([low, high]) = public.spec().input.range {
        text += &format!("Inputs are tensors with values from {low:.4} to {high:.4}.\n");
    }
    let what = match public.spec().input.takes_images() {
        true => "images",
        false => "tensors",
    };
    let agree = match public.has_classes() {
        true => format!(
            "on {} of these the top class is that of the float model, the logits differ",
            same.n_agree
        ),
        false => "on these the outputs differ".to_owned(),
    };
    text += &format!(
        "Activations have {} fraction bits. Calibrated on {} {what}; {agree} by {:.2} % (root mean square).\n",
        numbers.map_or(0, |n| n.activation_fraction_bits),
        made.report.n_images,
        100.0 * same.logits.relative()
    );
    if !made.report.dropped.is_empty() {
        text += "Fraction bits of weights that were given up for ranges to fit:\n";
        let mut table = Table::new(&[]).spaced(3, 2);
        for (name, n) in &made.report.dropped {
            let left = made.report.fraction_bits.get(name).copied().unwrap_or(0);
            table.row([name.clone(), n.to_string()], format!("   {left} are left"));
        }
        text += &table.to_string();
    }
    text
}
