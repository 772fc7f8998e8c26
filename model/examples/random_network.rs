//! Writes a small residual network with random weights to a folder, for tests of programs that need a model and no accuracy:
//! `random_network DIR NAME logits|class|values`. It takes 8 x 8 pixels of three channels and knows five classes; with `values` it takes
//! five features from -2 to 2 and gives three values that are no classes.

use pi_model::random::{features_network, residual_network};
use pi_model::spec::OutputMode;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, name, output] = &args[..] else {
        return Err("usage: random_network DIR NAME logits|class|values".into());
    };
    let mode = match output.as_str() {
        "logits" => OutputMode::Logits,
        "class" => OutputMode::Argmax,
        "values" => {
            std::fs::create_dir_all(dir)?;
            return features_network(name)?
                .save(dir.as_ref())
                .map_err(Into::into);
        }
        _ => return Err("the output is logits, class or values".into()),
    };
    std::fs::create_dir_all(dir)?;
    residual_network(name, [3, 8, 8], &[4, 8], 1, 5, 150, mode)?.save(dir.as_ref())?;
    Ok(())
}
