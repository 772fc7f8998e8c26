//! Calls of the program, and a folder of a few small images.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test program uses some of it")]

use std::path::Path;
use std::process::{Command, Output};

pub fn trainer(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_pi-trainer");
    Command::new(program).args(args).output().unwrap()
}

pub fn ok(args: &[&str]) -> String {
    let out = trainer(args);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {errors}");
    String::from_utf8(out.stdout).unwrap()
}

pub fn fails(args: &[&str], with: &str) {
    let out = trainer(args);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{args:?} succeeded");
    assert!(errors.contains(with), "{args:?}: {errors}");
}

/// Three classes of 8 x 8 images, told apart by their colour.
pub fn images(dir: &Path) {
    for (part, n) in [("train", 12), ("val", 4)] {
        for class in 0..3usize {
            let folder = dir.join(part).join(format!("class{class}"));
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..n {
                let picture = image::RgbImage::from_fn(8, 8, |x, y| {
                    let noise = ((x * 7 + y * 13 + i * 29) % 60) as u8;
                    let mut pixel = [noise; 3];
                    pixel[class] += 150;
                    image::Rgb(pixel)
                });
                picture.save(folder.join(format!("{i}.png"))).unwrap();
            }
        }
    }
}
