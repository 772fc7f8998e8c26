//! Prints what a float model and the integer model that was made of it compute, for tests that know what is right:
//! `outputs FLOAT INTEGER TENSORS.npy` writes a line of JSON for each tensor, both results in (C, H, W) order. Integers come from the
//! plaintext executor and are divided by their scale.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use pi_convert::float;
use pi_convert::quantise::ImageSet;
use pi_model::{FloatModel, Model, executor};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [float, integer, tensors] = &args[..] else {
        bail!("usage: outputs FLOAT INTEGER TENSORS.npy");
    };
    let float = FloatModel::load(Path::new(float))?;
    let integer = Model::load(Path::new(integer))?;
    let tensors = ImageSet::open(Path::new(tensors), &float.spec)?;
    let numbers = integer.public().spec().fixed_point.as_ref();
    let numbers = numbers.context("the second model has no integers")?;
    let last = integer.public().graph().layers.last();
    let scale = (-f64::from(last.map_or(0, |l| l.fraction_bits))).exp2();
    for i in 0..tensors.len() {
        let tensor = tensors.image(i, numbers.activation_fraction_bits)?;
        let real = float::run(&float, &tensor.floats)?.output;
        let run = executor::run(&integer, &tensor.integers)?;
        let rounded: Vec<f64> = run.logits.iter().map(|&v| v as f64 * scale).collect();
        writeln!(
            std::io::stdout(),
            "{{\"float\": {real:?}, \"integer\": {rounded:?}}}"
        )?;
    }
    Ok(())
}
