//! What is fitted, what is guessed, and what is refused.

use super::*;
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;

fn model(channels: usize) -> PublicModel {
    residual_network("m", [channels, 8, 8], &[4], 1, 5, 9, OutputMode::Logits)
        .unwrap()
        .public()
        .clone()
}

fn says(outcome: Result<impl std::fmt::Debug, ClientError>, what: &str) {
    let said = outcome.unwrap_err().to_string();
    assert!(said.contains(what), "{said}");
}

#[test]
fn sizes_shapes_and_colours_are_fitted_and_guesses_are_told() {
    let rgb = model(3);
    let image = Image::from_pixels(8, 8, 3, vec![7; 192]).unwrap();
    let fitted = image.fit(&rgb, Sizing::Exact).unwrap();
    assert!(fitted.notes.is_empty());
    // A uniform image stays what it is, whatever its size.
    for (width, height) in [(16, 16), (31, 20), (3, 9), (1, 1)] {
        let image = Image::from_pixels(width, height, 3, vec![7; width * height * 3]).unwrap();
        let other = image.fit(&rgb, Sizing::Resize).unwrap();
        assert_eq!(other.input.values, fitted.input.values);
        let note = other.notes.join("\n");
        assert_eq!(note.contains("aspect ratio"), width != height, "{note}");
        says(image.fit(&rgb, Sizing::Exact), "8 x 8");
    }
    let grey = Image::from_pixels(8, 8, 1, vec![7; 64]).unwrap();
    let other = grey.fit(&rgb, Sizing::Exact).unwrap();
    assert_eq!(other.input.values, fitted.input.values);
    assert!(other.notes[0].contains("grey"));
    let fitted = image.fit(&model(1), Sizing::Exact).unwrap();
    assert!(fitted.notes[0].contains("luminance"));
    assert!(Image::from_pixels(8, 8, 3, vec![7; 191]).is_err());
    says(
        Image::from_pixels(8, 8, 2, vec![7; 128])
            .unwrap()
            .fit(&rgb, Sizing::Exact),
        "3 channels",
    );
}

#[test]
fn tensors_are_checked() {
    let model = model(3);
    let spec = &model.spec().input;
    let zero: Vec<f32> = (0..192)
        .map(|i| (-spec.mean[i / 64] / spec.std[i / 64]) as f32)
        .collect();
    let tensor = |values| Image::from_tensor(&[3, 8, 8], values).unwrap();
    let black = Image::from_pixels(8, 8, 3, vec![0; 192]).unwrap();
    assert_eq!(
        tensor(zero.clone())
            .fit(&model, Sizing::Exact)
            .unwrap()
            .input
            .values,
        black.fit(&model, Sizing::Exact).unwrap().input.values
    );
    for (value, what) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "infinity"),
        (255.0, "normalise"),
        (-99.0, "normalise"),
    ] {
        let mut values = zero.clone();
        values[100] = value;
        says(tensor(values).fit(&model, Sizing::Exact), what);
    }
    let wrong = Image::from_tensor(&[8, 8, 3], zero).unwrap();
    says(wrong.fit(&model, Sizing::Exact), "[3, 8, 8]");
    assert!(Image::from_tensor(&[3, 8, 8], vec![0.0; 5]).is_err());
}

#[test]
fn a_model_may_take_tensors_alone() {
    let mut spec = model(3).spec().clone();
    spec.input.mean.clear();
    spec.input.std.clear();
    spec.input.range = Some([-8.0, 8.0]);
    let masks = model(3).masks().clone().into_iter().collect();
    let model = PublicModel::new(spec, masks).unwrap();
    let tensor = |value| Image::from_tensor(&[1, 3, 8, 8], vec![value; 192]).unwrap();
    let fitted = tensor(-7.5).fit(&model, Sizing::Exact).unwrap();
    let scale = 1 << model.activation_fraction_bits();
    assert_eq!(fitted.input.values[..], [-15 * scale / 2; 192]);
    says(
        tensor(9.0).fit(&model, Sizing::Exact),
        "above -8.01 to 8.01",
    );
    let picture = Image::from_pixels(8, 8, 3, vec![0; 192]).unwrap();
    says(picture.fit(&model, Sizing::Resize), "takes no images");
}

#[test]
fn what_is_no_image_is_refused() {
    says(Image::decode("x", b""), "empty");
    says(Image::decode("x", b"hello"), "neither");
    says(Image::decode("x", b"GIF89a......"), "Gif");
    says(Image::decode("x", b"\x89PNG\r\n\x1a\n...."), "broken PNG");
    says(Image::open("no/such.png"), "no/such.png");
}

#[test]
fn arrays_have_the_axes_of_an_image() {
    let file = |dtype: &str, shape: &str, n: usize| {
        let header =
            format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.bytes());
        file.resize(file.len() + n, 0);
        file
    };
    for (dtype, shape, n) in [
        ("|u1", "(2, 2)", 4),
        ("|u1", "(2, 1, 3)", 6),
        ("|u1", "(1, 2, 1, 3)", 6),
        ("<f4", "(3, 2, 1)", 24),
        ("<f4", "(1, 3, 2, 1)", 24),
        ("<f4", "(4,)", 16),
    ] {
        Image::decode("a.npy", &file(dtype, shape, n)).unwrap();
    }
    for (dtype, shape, n, what) in [
        ("<f4", "(4,)", 12, "broken"),
        ("|u1", "(2, 1, 2, 1)", 4, "(H, W, C) or (H, W)"),
        ("|u1", "(2, 2)", 3, "broken"),
    ] {
        says(Image::decode("a.npy", &file(dtype, shape, n)), what);
    }
}
