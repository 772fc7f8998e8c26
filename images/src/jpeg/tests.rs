//! Whole pictures pass with nothing left over; whatever is cut from them is missed.

use super::*;

const PROGRESSIVE: &[u8] = include_bytes!("../../tests/files/progressive.jpg");
const RESTARTS: &[u8] = include_bytes!("../../tests/files/restarts.jpg");

fn encoded(width: u32, height: u32, grey: bool, quality: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([x * 7 + y, y * 11, x * y].map(|v| (v.wrapping_mul(2_654_435_761) >> 9) as u8))
    });
    let picture = image::DynamicImage::from(picture);
    let picture = if grey { picture.grayscale() } else { picture };
    let mut file = vec![];
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, quality);
    picture.write_with_encoder(encoder).unwrap();
    file
}

/// Where the data of the last scan begins.
fn data_at(file: &[u8]) -> usize {
    let at = file.windows(2).rposition(|w| w == [0xFF, 0xDA]).unwrap();
    at + 2 + usize::from(u16::from_be_bytes([file[at + 2], file[at + 3]]))
}

fn corpus() -> Vec<Vec<u8>> {
    let mut files = vec![PROGRESSIVE.to_vec(), RESTARTS.to_vec()];
    for (width, height) in [(1, 1), (8, 8), (17, 9), (64, 48)] {
        for quality in [5, 75, 100] {
            files.push(encoded(width, height, false, quality));
            files.push(encoded(width, height, true, quality));
        }
    }
    files
}

#[test]
fn whole_pictures_pass_and_no_byte_is_left_over() {
    for file in corpus() {
        assert_eq!(check(&file), Ok(0));
        // What follows a picture, as phones write it, is none of its business.
        let followed = [&file[..], b"a film"].concat();
        assert_eq!(check(&followed), Ok(0));
    }
}

#[test]
fn a_file_that_ends_anywhere_is_refused() {
    for file in corpus() {
        for n in 0..file.len() {
            assert!(check(&file[..n]).is_err(), "{n} of {}", file.len());
        }
    }
}

#[test]
fn a_file_whose_middle_is_gone_is_refused() {
    for file in corpus().iter().filter(|f| f.len() > 900) {
        let (start, end) = (data_at(file), file.len() - 2);
        // What is left of the data ends where the picture does not.
        for keep in [0, 1, (end - start) / 2, (end - start) * 9 / 10] {
            let cut = [&file[..start + keep], &file[end..]].concat();
            let fault = check(&cut);
            assert!(
                matches!(fault, Err(Fault::Short | Fault::Code)),
                "{fault:?}"
            );
        }
    }
}

#[test]
fn zeros_in_the_data_are_refused_or_told() {
    let mut n_seen = 0;
    for file in corpus().iter().filter(|f| f.len() > 900) {
        let (start, end) = (data_at(file), file.len() - 2);
        let mut damaged = file.clone();
        damaged[start + (end - start) / 4..end - 16].fill(0);
        assert_ne!(check(&damaged), Ok(0));
        n_seen += 1;
    }
    assert!(n_seen > 3);
}

#[test]
fn noise_never_panics() {
    let mut state = 1u64;
    for file in corpus() {
        for _ in 0..300 {
            let mut file = file.clone();
            for _ in 0..3 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (state >> 33) as usize % file.len();
                file[at] = (state >> 20) as u8;
            }
            let _ = check(&file);
            let _ = crate::Picture::decode(&file);
        }
    }
}

#[test]
fn scans_beyond_what_a_decoder_takes_are_not_walked() {
    let starts: Vec<_> = (0..PROGRESSIVE.len() - 1)
        .filter(|&i| PROGRESSIVE[i..i + 2] == [0xFF, 0xDA])
        .collect();
    let first = &PROGRESSIVE[starts[0]..starts[1]];
    let head = &first[..2 + usize::from(u16::from_be_bytes([first[2], first[3]]))];
    let file = |n| {
        [
            &PROGRESSIVE[..starts[0]],
            &first.repeat(n),
            head,
            &[0xFF, 0xD9],
        ]
        .concat()
    };
    // The last one has no data, which is seen only if it is walked.
    assert_eq!(check(&file(MAX_SCANS - 1)), Err(Fault::Short));
    assert_eq!(check(&file(MAX_SCANS)), Ok(0));
}

#[test]
fn a_picture_that_leaves_its_tables_out_is_the_decoders_to_judge() {
    let mut file = encoded(17, 9, false, 75);
    while let Some(at) = file.windows(2).position(|w| w == [0xFF, 0xC4]) {
        let length = usize::from(u16::from_be_bytes([file[at + 2], file[at + 3]]));
        file.drain(at..at + 2 + length);
    }
    assert_eq!(check(&file), Ok(0));
}
