//! What a file becomes, and what is refused.

use image::{DynamicImage, GrayImage, ImageEncoder as _, Luma, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
    let mut file = Cursor::new(vec![]);
    picture
        .into()
        .write_to(&mut file, ImageFormat::Png)
        .unwrap();
    file.into_inner()
}

#[test]
fn what_is_transparent_becomes_white_and_is_told() {
    let clear = Picture::decode(&png(RgbaImage::from_pixel(2, 2, Rgba([9, 9, 9, 0])))).unwrap();
    assert!(clear.notes()[0].contains("transparent"));
    assert_eq!(clear.bytes(), [255; 12]);
    let solid = Picture::decode(&png(RgbaImage::from_pixel(2, 2, Rgba([9, 9, 9, 255])))).unwrap();
    assert!(solid.notes().is_empty());
    assert_eq!((solid.channels(), solid.bytes()[0]), (3, 9));
    let grey = Picture::decode(&png(GrayImage::from_pixel(2, 2, Luma([7])))).unwrap();
    assert_eq!((grey.channels(), grey.bytes()), (1, &[7; 4][..]));
}

#[test]
fn a_picture_is_turned_as_its_camera_says() {
    // Red above, blue below; stored lying on its side.
    let stored = RgbImage::from_fn(16, 8, |x, _| {
        Rgb(if x < 8 { [255, 0, 0] } else { [0, 0, 255] })
    });
    let mut file = vec![];
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 95);
    // TIFF, little-endian; one entry: orientation (0x0112), SHORT, one value, 6: turn by 90 degrees.
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0".to_vec();
    exif.extend([0; 4]);
    encoder.set_exif_metadata(exif).unwrap();
    encoder.encode_image(&stored).unwrap();
    let picture = Picture::decode(&file).unwrap();
    assert_eq!((picture.size(), look(&file).unwrap()), ((8, 16), (8, 16)));
    assert!(picture.bytes()[0] > 200 && picture.bytes()[picture.bytes().len() - 3] < 50);
}

#[test]
fn sizes_and_colours_are_fitted_and_told() {
    for (width, height) in [(16, 16), (31, 20), (3, 9), (1, 1)] {
        let picture = Picture::from_pixels(width, height, 3, vec![7; width * height * 3]).unwrap();
        let fitted = picture.fit(8, 8).unwrap();
        assert_eq!((fitted.size(), fitted.bytes()), ((8, 8), &[7; 192][..]));
        assert_eq!(fitted.notes()[0].contains("aspect ratio"), width != height);
        assert_eq!(fitted.with_channels(1).unwrap().bytes(), [7; 64]);
    }
    let same = Picture::from_pixels(8, 8, 1, vec![7; 64]).unwrap();
    assert!(same.fit(8, 8).unwrap().notes().is_empty());
    assert_eq!(same.with_channels(3).unwrap().bytes(), [7; 192]);
    let two = Picture::from_pixels(8, 8, 2, vec![7; 128]).unwrap();
    assert_eq!(two.fit(4, 4), Err(ImageError::Resize));
    assert_eq!(
        two.with_channels(3),
        Err(ImageError::Channels { has: 2, wanted: 3 })
    );
    assert!(Picture::from_pixels(8, 8, 3, vec![7; 191]).is_err());
}

#[test]
fn what_is_no_picture_is_refused() {
    assert_eq!(Picture::decode(b""), Err(ImageError::Empty));
    assert_eq!(Picture::decode(b"hello"), Err(ImageError::Unknown));
    let gif = Picture::decode(b"GIF89a......").unwrap_err().to_string();
    assert!(gif.contains("Gif"), "{gif}");
    let whole = png(RgbImage::from_fn(32, 32, |x, y| {
        Rgb([x as u8, y as u8, (x * y) as u8])
    }));
    for n in [8, 30, 60, whole.len() / 2, whole.len() * 9 / 10] {
        let cut = Picture::decode(&whole[..n]);
        assert!(
            matches!(cut, Err(ImageError::Broken { format: "PNG", .. })),
            "{n}"
        );
    }
    let huge = {
        let mut file = vec![];
        let encoder = image::codecs::png::PngEncoder::new(&mut file);
        encoder
            .write_image(&[0], 1, 1, image::ExtendedColorType::L8)
            .unwrap();
        // Width and height stand at 16 to 24; the checksum of their chunk follows at 29.
        file[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        let crc = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&crc.to_be_bytes());
        file
    };
    let refused = Picture::decode(&huge);
    assert!(
        matches!(refused, Err(ImageError::TooLarge { width: 65_536, .. })),
        "{refused:?}"
    );
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| {
            if c & 1 == 1 {
                c >> 1 ^ 0xEDB8_8320
            } else {
                c >> 1
            }
        })
    })
}
