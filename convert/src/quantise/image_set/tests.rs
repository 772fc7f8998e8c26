use super::*;
use crate::testing::Net;
use pi_model::spec::Window;

fn spec(labels: &[&str]) -> ModelSpec {
    let mut net = Net::new([3, 4, 4], 0);
    net.conv("out", "input", labels.len(), Window::square(4, 1, 0));
    net.model.spec.labels = labels.iter().map(|&l| l.to_owned()).collect();
    net.model.spec
}

fn png(path: &Path, colour: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels = image::RgbImage::from_pixel(8, 6, image::Rgb([colour, 0, 255]));
    pixels.save(path).unwrap();
}

fn npy(path: &Path, dtype: &str, shape: &str, data: &[u8]) {
    let header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let n = (header.len() as u16).to_le_bytes();
    let file = [npy::MAGIC, &[1, 0], &n, header.as_bytes(), data].concat();
    std::fs::write(path, file).unwrap();
}

fn says(outcome: Result<ImageSet>, what: &[&str]) {
    let said = outcome.unwrap_err().to_string();
    for what in what {
        assert!(said.contains(what), "{said}");
    }
}

#[test]
fn folders_are_read_with_their_labels() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(&["dog", "cat"]);
    says(ImageSet::open(dir.path(), &spec), &["holds no images"]);
    for (file, colour) in [("cat/1.png", 0), ("cat/2.png", 51), ("dog/1.png", 255)] {
        png(&dir.path().join(file), colour);
    }
    let set = ImageSet::open(dir.path(), &spec).unwrap();
    let labels: Vec<_> = (0..set.len()).map(|i| set.label(i)).collect();
    assert_eq!(labels, [Some(1), Some(1), Some(0)]);
    let image = set.image(1, 8).unwrap();
    assert_eq!(image.floats[0], (0.2 - 0.5) / 0.25);
    assert_eq!(image.integers[0], -307);
    assert_eq!((image.floats[16], image.floats[47]), (-2.0, 2.0));
    // The same from memory.
    let pixels = [51u8, 0, 255].repeat(16);
    let one = || std::iter::once((pixels.clone(), 1));
    let of_pixels = ImageSet::of_pixels(one(), &spec.input).unwrap();
    let same = of_pixels.image(0, 8).unwrap();
    assert_eq!(
        (&same.floats, &same.integers),
        (&image.floats, &image.integers)
    );
    assert_eq!(of_pixels.label(0), Some(1));
    let short = one().map(|(p, label)| (p[1..].to_vec(), label));
    says(
        ImageSet::of_pixels(short, &spec.input),
        &["47 values", "3 x 4 x 4"],
    );
    assert_eq!(set.clone().spread(2).len(), 2);
    assert_eq!(set.spread(9).len(), 3);
    // Other names: by their place.
    std::fs::rename(dir.path().join("dog"), dir.path().join("bird")).unwrap();
    let set = ImageSet::open(dir.path(), &spec).unwrap();
    assert_eq!((set.label(0), set.label(2)), (Some(0), Some(1)));
    png(&dir.path().join("cow/1.png"), 0);
    let what = ["3 folders", "2 classes", "'bird'"];
    says(ImageSet::open(dir.path(), &spec), &what);
    let mut embedding = spec.clone();
    embedding.labels.clear();
    let set = ImageSet::open(dir.path(), &embedding).unwrap();
    assert_eq!((set.len(), set.label(0)), (4, None));
    png(&dir.path().join("1.png"), 0);
    let set = ImageSet::open(dir.path(), &spec).unwrap();
    assert_eq!((set.len(), set.label(0)), (1, None));
    std::fs::write(dir.path().join("1.png"), "no picture").unwrap();
    let set = ImageSet::open(dir.path(), &spec).unwrap();
    let said = set.image(0, 8).err().unwrap().to_string();
    assert!(said.contains("1.png: it is neither"), "{said}");
}

#[test]
fn arrays_are_read_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (path, spec) = (dir.path().join("a.npy"), spec(&["one"]));
    let of = |value: f32| value.to_le_bytes().repeat(2 * 48);
    npy(&path, "<f4", "(2, 3, 4, 4)", &of(1.5));
    let set = ImageSet::open(&path, &spec).unwrap();
    assert_eq!((set.len(), set.image(1, 4).unwrap().integers[0]), (2, 24));
    for (dtype, shape, data, what) in [
        (
            "<f4",
            "(2, 3, 8, 2)",
            of(0.0),
            "[2, 3, 8, 2]; float32 tensors",
        ),
        ("<f4", "(2, 3, 4, 4)", of(f32::NAN), "image 0: it holds NaN"),
        (
            "<f4",
            "(2, 3, 4, 4)",
            of(255.0),
            "image 0: a value is above",
        ),
        ("<f4", "(0, 3, 4, 4)", vec![], "holds no images"),
        ("|u1", "(2, 3, 4, 4)", vec![0; 96], "it holds bytes"),
    ] {
        npy(&path, dtype, shape, &data);
        says(ImageSet::open(&path, &spec), &["a.npy", what]);
    }
    std::fs::write(&path, "text").unwrap();
    says(ImageSet::open(&path, &spec), &["it is no .npy file"]);
    let input = &spec.input;
    says(ImageSet::of_tensors(vec![], input), &["there are none"]);
    let short = ImageSet::of_tensors(vec![vec![0.0; 3]], input);
    says(short, &["tensor 0", "3 values"]);
}
#[test]
fn tensors_that_are_no_images() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    let mut net = Net::new([5, 1, 1], 0);
    net.conv("out", "input", 2, Window::square(1, 1, 0));
    let spec = &mut net.model.spec;
    (spec.input.mean, spec.input.std) = (vec![], vec![]);
    let rows: Vec<u8> = (0u8..10).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    npy(&path, "<f4", "(2, 5)", &rows);
    let set = ImageSet::open(&path, spec).unwrap();
    assert_eq!((set.len(), set.image(1, 4).unwrap().floats[0]), (2, 5.0));
    // From 0 to 9, a quarter more, one digit.
    assert_eq!(set.range(), Some([-3.0, 20.0]));
    for (value, up) in [
        (0.0, 0.0),
        (11.25, 20.0),
        (0.021, 0.03),
        (-2.25, -2.0),
        (-11.0, -10.0),
        (4.0, 4.0),
    ] {
        assert!((round_up(value) - up).abs() < 1e-12, "{value}");
    }
    npy(&path, "<f4", "(5,)", &rows[..20]);
    assert_eq!(ImageSet::open(&path, spec).unwrap().len(), 1);
    npy(&path, "<f4", "(5, 2)", &rows);
    says(
        ImageSet::open(&path, spec),
        &["[5, 2]; float32", "[5, 1, 1]"],
    );
    says(ImageSet::open(dir.path(), spec), &["takes no images"]);
    spec.input.range = Some([0.0, 5.0]);
    npy(&path, "<f4", "(2, 5)", &rows);
    says(ImageSet::open(&path, spec), &["image 1: a value is above"]);
}
