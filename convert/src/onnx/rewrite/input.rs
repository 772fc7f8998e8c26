//! A network that normalises its image itself: the numbers become those of the input.

use pi_model::spec::InputSpec;

use super::super::network::{IMAGE, Network};

/// Means and deviations of the pixels of ImageNet, which the networks of torchvision were trained with.
const IMAGENET: [[f64; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// Takes multiplications and additions right behind the image into its normalisation. `stated`: the user gave one, which comes before
/// that of the network; otherwise it is guessed.
pub fn fold(network: &mut Network, stated: bool, notes: &mut Vec<String>) {
    if !network.spec.input.takes_images() {
        return;
    }
    let mut folded = None;
    while let Some(affine) = first(network) {
        let (mut scale, mut shift) = folded.unwrap_or_else(|| {
            let n = network.spec.input.channels;
            (vec![1.0; n], vec![0.0; n])
        });
        for (c, (s, t)) in affine.1.into_iter().enumerate() {
            scale[c] *= s;
            shift[c] = shift[c] * s + t;
        }
        network.remove(affine.0);
        folded = Some((scale, shift));
    }
    if !stated {
        guess(&mut network.spec.input, folded.as_ref(), notes);
    }
    let Some((scale, shift)) = folded else {
        return;
    };
    let input = &mut network.spec.input;
    for c in 0..input.channels {
        // s ((p - mean) / std) + t = (p - (mean - t std / s)) / (std / s)
        input.mean[c] -= shift[c] * input.std[c] / scale[c];
        input.std[c] /= scale[c];
    }
    notes.push(format!(
        "the network normalises its image itself; pixels from 0 to 1: mean {:.4?}, std {:.4?}",
        input.mean, input.std
    ));
}

/// Number of the operation that alone reads the image and multiplies and adds, and what it does to each channel.
fn first(network: &Network) -> Option<(usize, Vec<(f64, f64)>)> {
    let readers = network.readers();
    let &[i] = readers.get(IMAGE)?.as_slice() else {
        return None;
    };
    if i + 1 == network.spec.ops.len() {
        return None;
    }
    let affine = network.affine(i)?;
    if affine.scale.iter().any(|&s| s <= 0.0) {
        return None;
    }
    Some((i, affine.scale.into_iter().zip(affine.shift).collect()))
}

/// Guesses what the network expects of its image.
fn guess(input: &mut InputSpec, own: Option<&(Vec<f64>, Vec<f64>)>, notes: &mut Vec<String>) {
    if let Some((scale, shift)) = own {
        // A mean above 2 or a scale near 1/255 can only be meant for pixels from 0 to 255.
        let bytes = scale
            .iter()
            .zip(shift)
            .any(|(s, t)| -t / s > 2.0 || *s < 1.0 / 16.0);
        input.mean = vec![0.0; input.channels];
        input.std = vec![if bytes { 1.0 / 255.0 } else { 1.0 }; input.channels];
        return;
    }
    if input.channels == 3 {
        [input.mean, input.std] = IMAGENET.map(|v| v.to_vec());
        notes.push(format!(
            "pixels are normalised as for ImageNet, which is a guess: mean {:?}, std {:?}; say --mean and --std if the network was trained otherwise",
            input.mean, input.std
        ));
    } else {
        input.mean = vec![0.0; input.channels];
        input.std = vec![1.0; input.channels];
        notes.push(
            "pixels go from 0 to 1, which is a guess; say --mean and --std if the network was trained otherwise".into(),
        );
    }
}
