//! The same before PyTorch 1.6.

use super::*;

const HEAD: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.";

/// Storages as they follow a pickle: their names, then of each how many values and the values.
fn stored(storages: &[(&str, usize, &[u8])]) -> Vec<u8> {
    let names: Vec<u8> = storages.iter().flat_map(|(key, ..)| text(key)).collect();
    let mut out = program(&[b"](", &names[..], b"e"].concat());
    for (_, n, data) in storages {
        out.extend([&(*n as u64).to_le_bytes(), *data].concat());
    }
    out
}

/// A file whose object is this, with the storages of [`file`] in another order.
fn old(value: &[u8]) -> Vec<u8> {
    let (first, second) = (floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), floats(&[7.0, 8.0]));
    let storages = stored(&[("1", 2, &second), ("0", 6, &first)]);
    [HEAD, &program(value), &storages].concat()
}

/// `torch._utils._rebuild_tensor`, as PyTorch 0.3 wrote it, of a storage or of a part of one.
fn tensor_of_part(key: &str, class: &str, part: &[u8], size: &[u8], stride: &[u8]) -> Vec<u8> {
    let mut new = tensor_of(key, size, stride);
    let replace = |new: &mut Vec<u8>, from: &[u8], to: &[u8]| {
        let at = new.windows(from.len()).position(|w| w == from).unwrap();
        new.splice(at..at + from.len(), to.iter().copied());
    };
    replace(&mut new, b"_rebuild_tensor_v2", b"_rebuild_tensor");
    replace(&mut new, b"FloatStorage", class.as_bytes());
    replace(&mut new, b"K\x06tQ", &[b"K\x06", part, b"tQ"].concat());
    replace(&mut new, b"\x89ccollections\nOrderedDict\n)R", b"");
    new
}

fn tensor_v1(key: &str, size: &[u8], stride: &[u8]) -> Vec<u8> {
    tensor_of_part(key, "FloatStorage", b"N", size, stride)
}

#[test]
fn every_form_of_a_state_dict_is_read() {
    is_state(&read(&old(&state())).unwrap());
    let v1 = dict(&[
        ("conv1.weight", tensor_v1("0", &[2, 3], &[3, 1])),
        ("bn1.bias", tensor_v1("1", &[2], &[1])),
    ]);
    is_state(&read(&old(&v1)).unwrap());
    let checkpoint = dict(&[
        ("best_prec1", b"G@V\xf1\xeb\x8c\xcc\xcc\xcd".to_vec()),
        ("state_dict", v1),
        ("arch", text("resnet20")),
    ]);
    let weights = read(&old(&checkpoint)).unwrap();
    is_state(&weights);
    assert_eq!(weights.home, "[\"state_dict\"]");
    // What follows the storages is not looked at, as torch.load does not.
    is_state(&read(&[&old(&state())[..], b"rest"].concat()).unwrap());
}

#[test]
fn a_part_of_a_storage_starts_where_it_says() {
    let part = [b"(", &text("9")[..], b"K\x02K\x04t"].concat();
    let of = |class: &str, part: &[u8]| {
        let tensor = tensor_of_part("0", class, part, &[3], &[1]);
        read(&old(&dict(&[
            ("a.b", tensor),
            ("bn1.bias", tensor_v1("1", &[2], &[1])),
        ])))
    };
    let weights = of("FloatStorage", &part).unwrap();
    assert_eq!(
        weights.tensors[0].1,
        Tensor::from_slice(&[3.0f32, 4.0, 5.0])
    );
    let far = [b"(", &text("9")[..], b"K\x04K\x04t"].concat();
    let (name, why) = of("FloatStorage", &far).unwrap().unread.remove(0);
    assert!(
        name == "a.b" && why.contains("does not fit its 6 values"),
        "{why}"
    );
    // What is no part says nothing of the storage.
    assert!(of("FloatStorage", b"K\x02").is_err());
}

#[test]
fn storages_of_every_type_are_passed_over() {
    let classes = [
        ("DoubleStorage", 8),
        ("HalfStorage", 2),
        ("LongStorage", 8),
        ("ByteStorage", 1),
        ("BFloat16Storage", 2),
        ("QUInt8Storage", 1),
        ("QInt32Storage", 4),
        ("ComplexFloatStorage", 8),
        ("ComplexDoubleStorage", 16),
    ];
    let last = floats(&[7.0, 8.0]);
    for (class, bytes) in classes {
        let other = tensor_of_part("0", class, b"N", &[3], &[1]);
        let object = dict(&[("a.b", other), ("c.d", tensor_v1("1", &[2], &[1]))]);
        let data = vec![0; 3 * bytes];
        let storages = stored(&[("0", 3, &data), ("1", 2, &last)]);
        let weights = read(&[HEAD, &program(&object), &storages].concat()).unwrap();
        let (_, read) = weights.tensors.iter().find(|(n, _)| n == "c.d").unwrap();
        assert_eq!(read, &Tensor::from_slice(&[7.0f32, 8.0]), "{class}");
    }
}

#[test]
fn what_is_damaged_or_another_format_is_refused() {
    let refused = |object: &[u8], storages: &[u8]| {
        let all = [HEAD, &program(object), storages].concat();
        read(&all).unwrap_err()
    };
    let (six, two) = (floats(&[0.0; 6]), floats(&[0.0; 2]));
    let huge = stored(&[("0", usize::MAX, &six), ("1", 2, &two)]);
    assert!(refused(&state(), &huge).contains("cut or damaged"));
    let more = stored(&[("0", 6, &six), ("1", 3, &two)]);
    assert!(refused(&state(), &more).contains("cut or damaged"));
    let stranger = stored(&[("2", 6, &six)]);
    assert!(refused(&state(), &stranger).contains("cut or damaged"));
    assert!(refused(&state(), &program(b"N")).contains("cut or damaged"));
    let unknown = dict(&[("a.b", tensor_of_part("0", "NewStorage", b"N", &[1], &[1]))]);
    assert!(refused(&unknown, &stored(&[("0", 6, &six)])).contains("NewStorage"));
    let double = tensor_of_part("0", "DoubleStorage", b"N", &[1], &[1]);
    let twice = dict(&[("a.b", double), ("c.d", tensor_v1("0", &[1], &[1]))]);
    assert!(refused(&twice, &stored(&[("0", 6, &six)])).contains("two types"));
    let mut newer = old(&state());
    newer[18] += 1;
    assert!(read(&newer).unwrap_err().contains("format 1002"));
    // A module saved whole: what it is, and what to do.
    let module = [
        &b"("[..],
        &text("module"),
        b"cresnet\nResNet\n",
        &text("f"),
        &text("s"),
        b"tQ)\x81}b",
    ];
    let e = refused(&module.concat(), &stored(&[]));
    assert!(
        e.contains("made by resnet.ResNet") && e.contains("state_dict()"),
        "{e}"
    );
}

#[test]
fn no_cut_and_no_changed_byte_makes_it_panic() {
    let file = old(&state());
    for n in 0..file.len() {
        assert!(read(&file[..n]).is_err(), "cut after {n}");
        for change in [1u8, 0x80, 0xff] {
            let mut bytes = file.clone();
            bytes[n] ^= change;
            let _ = read(&bytes);
        }
    }
}
