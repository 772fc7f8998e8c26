//! Whether a network can be served at all, asked before it is trained.
//!
//! The untrained network goes through the export as far as its weights do not matter: the same operations, the smallest ranges that
//! a layer can have, and pi-model's own planner. What it refuses then, no training can change.

use super::{Precision, WIDE_BITS, quantise};
use crate::error::{Error, Result};
use crate::net::{Arch, MaskSet, Net};
use pi_model::spec::{Card, FORMAT_VERSION, InputSpec, ModelSpec, OutputMode, OutputSpec};
use pi_model::{PublicModel, PublicPlan};

/// Refuses an architecture that the server's planner refuses whatever its weights are. `sizable` says that the size of the
/// images can be chosen, by `--image-size`.
///
/// # Errors
/// [`Error::Usage`] with the planner's reason and the largest size that works.
pub fn check_servable(arch: &Arch, precision: Precision, sizable: bool) -> Result<()> {
    // Bits for which fresh weights are never too large; trained ones choose their own.
    let precision = Precision {
        weight_bits: Precision::DEFAULT.weight_bits,
        ..precision
    };
    let mut net = Net::new(arch, 0);
    let Err(why) = plan(&net, precision) else {
        return Ok(());
    };
    let [_, height, width] = arch.input;
    let name = &arch.name;
    let never = format!("could never be served on images of {width} x {height}: {why}");
    let sides = (1..height.max(width)).filter(|&side| arch.for_side(side).is_ok());
    let sides: Vec<usize> = sides.collect();
    // What is too large for a plan stays so when it grows.
    let mut fits = |side: usize| {
        arch.for_side(side).is_ok_and(|arch| {
            net.plan = arch.plan();
            net.arch = arch;
            plan(&net, precision).is_ok()
        })
    };
    let n_fit = sides.partition_point(|&side| fits(side));
    Err(Error::Usage(match n_fit.checked_sub(1).map(|i| sides[i]) {
        Some(most) if sizable => format!("--image-size: at most {most} for {name}, which {never}"),
        Some(most) => format!("--arch: {name} takes images of at most {most} x {most} and {never}"),
        None => format!("{name} {never}"),
    }))
}

/// Plans the network with every ReLU as the server would.
fn plan(net: &Net, precision: Precision) -> std::result::Result<(), String> {
    let masks = MaskSet::all_relu(&net.arch);
    let drops = vec![0; net.plan.len()];
    let public = |bits: &[u32]| -> std::result::Result<PublicModel, String> {
        let quantised = quantise(net, masks.masks(), precision, bits, &drops);
        let quantised = quantised.map_err(|e| e.to_string())?;
        let [channels, height, width] = net.arch.input;
        let spec = ModelSpec {
            format_version: FORMAT_VERSION,
            name: net.arch.name.clone(),
            input: InputSpec {
                channels,
                height,
                width,
                mean: vec![0.0; channels],
                std: vec![1.0; channels],
            },
            activation_fraction_bits: precision.activation_bits,
            labels: (0..net.arch.n_classes).map(|i| i.to_string()).collect(),
            output: OutputSpec {
                mode: OutputMode::Logits,
                accumulator_bits: precision.output_bits,
            },
            ops: quantised.ops,
            card: Card::default(),
        };
        PublicModel::new(spec, quantised.masks).map_err(|e| e.to_string())
    };
    let wide = public(&vec![WIDE_BITS; net.plan.len()])?;
    // The ranges are not known yet: the least that a calibration could find.
    let layers = &wide.graph().layers;
    let least: Vec<u32> = layers.iter().map(|l| l.truncated_bits + 2).collect();
    PublicPlan::new(&public(&least)?, 1).map_err(|e| e.to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrow(name: &str, side: usize) -> Arch {
        let mut arch = Arch::parse(name, [3, side, side], 2).unwrap();
        arch.widths.iter_mut().for_each(|w| *w = 4);
        arch.stem.width = 4;
        arch
    }

    #[test]
    fn what_is_too_large_is_refused_with_the_largest_that_works() {
        tch::set_num_threads(1);
        // A 3x3 convolution of stride 1 needs 64 x 64 of the 4096 coefficients for a map of 63 x 63.
        check_servable(&narrow("resnet8", 63), Precision::DEFAULT, true).unwrap();
        // Trained weights may fit two bits though fresh ones do not.
        let coarse = Precision {
            weight_bits: 2,
            ..Precision::DEFAULT
        };
        check_servable(&narrow("resnet8", 63), coarse, true).unwrap();
        let e = check_servable(&narrow("resnet8", 64), Precision::DEFAULT, true);
        let e = e.unwrap_err().to_string();
        for said in ["--image-size: at most 63 for resnet8", "64 x 64", "4225"] {
            assert!(e.contains(said), "{said}: {e}");
        }
        let e = check_servable(&narrow("resnet8", 64), Precision::DEFAULT, false);
        let e = e.unwrap_err().to_string();
        assert!(e.contains("--arch") && e.contains("63 x 63"), "{e}");
        let e = check_servable(&narrow("resnet18-imagenet", 224), Precision::DEFAULT, true);
        let e = e.unwrap_err().to_string();
        assert!(e.contains("--image-size: at most 124 for"), "{e}");
        // Fraction bits that no model has are no matter of the images' size.
        let wide = Precision {
            activation_bits: 17,
            ..Precision::DEFAULT
        };
        let e = check_servable(&narrow("resnet8", 32), wide, true);
        let e = e.unwrap_err().to_string();
        assert!(!e.contains("--image-size"), "{e}");
    }

    #[test]
    fn every_architecture_can_be_served_at_the_size_of_cifar() {
        tch::set_num_threads(1);
        for name in Arch::NAMES {
            let e = check_servable(&narrow(name, 32), Precision::DEFAULT, true);
            assert!(e.is_ok(), "{name}: {e:?}");
        }
    }
}
