//! Files as training scripts leave them, their pickles written by hand.

mod legacy;

use super::*;

/// A state dict within a checkpoint, in the layout of torch.save: a 2 x 3 parameter stored as the
/// transpose of 3 x 2, half-precision values of which the first is cut off, and a scalar counter.
const FILE: &[u8] = include_bytes!("../../tests/data/checkpoint.pth");

/// A zip archive of stored entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut central) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let sizes = [data.len() as u32, data.len() as u32].map(u32::to_le_bytes);
        let head = [
            &[0; 12][..],
            &sizes.concat(),
            &(name.len() as u16).to_le_bytes(),
            &[0; 2],
        ];
        let at = (out.len() as u32).to_le_bytes();
        let local = [&b"PK\x03\x04\x14\0"[..], &head.concat()].concat();
        let listed = [
            &b"PK\x01\x02\x14\0\x14\0"[..],
            &head.concat(),
            &[0; 10],
            &at,
        ]
        .concat();
        out.extend([&local, name.as_bytes(), data].concat());
        central.extend([&listed, name.as_bytes()].concat());
    }
    let n = (entries.len() as u16).to_le_bytes();
    let place = [central.len() as u32, out.len() as u32]
        .map(u32::to_le_bytes)
        .concat();
    out.extend([&central[..], b"PK\x05\x06\0\0\0\0", &n, &n, &place, &[0; 2]].concat());
    out
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A file whose pickle is this, with two storages: 0 holds 1 to 6, 1 holds 7 and 8.
fn file(pickle: &[u8]) -> Vec<u8> {
    archive(&[
        ("x/data.pkl", pickle),
        ("x/data/0", &floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("x/data/1", &floats(&[7.0, 8.0])),
    ])
}

fn text(t: &str) -> Vec<u8> {
    [b"X", &(t.len() as u32).to_le_bytes()[..], t.as_bytes()].concat()
}

/// `torch._utils._rebuild_tensor_v2` of floats, with what follows the stride.
fn tensor_with(key: &str, offset: u8, size: &[u8], stride: &[u8], rest: &[u8]) -> Vec<u8> {
    let tuple = |items: &[u8]| -> Vec<u8> {
        let numbers = items.iter().flat_map(|&n| [b'K', n]);
        [b"(".to_vec(), numbers.collect(), b"t".to_vec()].concat()
    };
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text(key),
        &text("cpu"),
        b"K\x06tQK",
        &[offset],
        &tuple(size),
        &tuple(stride),
        b"\x89ccollections\nOrderedDict\n)R",
        rest,
        b"tR",
    ]
    .concat()
}

fn tensor_of(key: &str, size: &[u8], stride: &[u8]) -> Vec<u8> {
    tensor_with(key, 0, size, stride, b"")
}

/// A dictionary of texts and values.
fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = b"}(".to_vec();
    for (key, value) in entries {
        out.extend([text(key), value.clone()].concat());
    }
    out.push(b'u');
    out
}

fn state() -> Vec<u8> {
    dict(&[
        ("conv1.weight", tensor_of("0", &[2, 3], &[3, 1])),
        ("bn1.bias", tensor_of("1", &[2], &[1])),
    ])
}

fn program(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

fn read_value(value: &[u8]) -> Result<Weights, String> {
    read(&file(&program(value)))
}

/// The state dict of [`state`].
fn is_state(weights: &Weights) {
    let names: Vec<&str> = weights.tensors.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["bn1.bias", "conv1.weight"]);
    let weight = Tensor::from_slice2(&[[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    assert_eq!(weights.tensors[1].1, weight);
    assert_eq!(weights.tensors[0].1, Tensor::from_slice(&[7.0f32, 8.0]));
}

#[test]
fn tensors_come_with_their_shapes_strides_and_offsets() {
    let weights = read(FILE).unwrap();
    let tensors = &weights.tensors;
    let names: Vec<&str> = tensors.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        names,
        ["bn1.bias", "bn1.num_batches_tracked", "conv1.weight"]
    );
    let weight = Tensor::from_slice2(&[[1.0f32, 3.0, 5.0], [2.0, 4.0, 6.0]]);
    assert_eq!(tensors[2].1, weight);
    assert_eq!(tensors[0].1.kind(), Kind::Half);
    let halves = tensors[0].1.to_kind(Kind::Float);
    assert_eq!(halves, Tensor::from_slice(&[0.5f32, -2.0]));
    assert_eq!(tensors[1].1, Tensor::from(7i64));
}

#[test]
fn no_cut_and_no_changed_byte_makes_it_panic() {
    for n in 0..FILE.len() {
        assert!(read(&FILE[..n]).is_err(), "cut after {n}");
        for change in [1u8, 0x80, 0xff] {
            let mut bytes = FILE.to_vec();
            bytes[n] ^= change;
            let _ = read(&bytes);
        }
    }
}

#[test]
fn what_lies_beside_the_weights_does_not_matter() {
    is_state(&read_value(&state()).unwrap());
    let scalar = b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tbc_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R\x86R";
    let beside: [&[u8]; 8] = [
        b"K\x03",
        scalar,
        b"cargparse\nNamespace\n)\x81}X\x02\0\0\0lrG?\xb9\x99\x99\x99\x99\x99\x9asb",
        b"\x8f(K\x01K\x02\x90",
        b"(K\x01K\x02\x91",
        b"c__main__\nConfig\n)\x81X\x01\0\0\0aK\x01s",
        b"\x8a\x0a0123456789",
        b"}(K\0}X\x07\0\0\0exp_avgK\x01su",
    ];
    for value in beside {
        let checkpoint = dict(&[("beside", value.to_vec()), ("state_dict", state())]);
        is_state(&read_value(&checkpoint).unwrap());
    }
}

#[test]
fn protocol_four_and_a_dictionary_under_two_keys_are_read() {
    let short = |t: &str| [&[0x8c, t.len() as u8], t.as_bytes(), &[0x94]].concat();
    let name = |m: &str, n: &str| [short(m), short(n), vec![0x93, 0x94]].concat();
    let tensor = |key: &str, size: &[u8], stride: &[u8]| {
        [
            name("torch._utils", "_rebuild_tensor_v2"),
            b"((".to_vec(),
            short("storage"),
            name("torch", "FloatStorage"),
            short(key),
            short("cpu"),
            b"K\x06t\x94QK\0".to_vec(),
            size.to_vec(),
            b"\x94".to_vec(),
            stride.to_vec(),
            b"\x94\x89".to_vec(),
            name("collections", "OrderedDict"),
            b")R\x94t\x94R\x94".to_vec(),
        ]
        .concat()
    };
    let state = [
        name("collections", "OrderedDict"),
        b")R\x94(".to_vec(),
        short("conv1.weight"),
        tensor("0", b"K\x02K\x03\x86", b"K\x03K\x01\x86"),
        short("bn1.bias"),
        tensor("1", b"K\x02\x85", b"K\x01\x85"),
        b"u}\x8c\x09_metadata}sb".to_vec(),
    ]
    .concat();
    let framed = |value: &[u8]| {
        let n = (value.len() as u64 + 1).to_le_bytes();
        [b"\x80\x04\x95", &n[..], value, b"."].concat()
    };
    is_state(&read(&file(&framed(&state))).unwrap());
    // Stored once, put into the memo, and said again.
    let twice = [
        b"}(".to_vec(),
        text("best"),
        super::tests::state(),
        b"r\0\x01\0\0".to_vec(),
        text("last"),
        b"j\0\x01\0\0u".to_vec(),
    ];
    let weights = read_value(&twice.concat()).unwrap();
    is_state(&weights);
    assert!(weights.others.is_empty());
}

#[test]
fn the_state_dict_is_found_where_it_is() {
    let optimizer = dict(&[
        ("exp_avg", tensor_of("0", &[6], &[1])),
        ("step", tensor_of("1", &[1], &[1])),
    ]);
    let optimizer = dict(&[(
        "state",
        [b"}K\0".to_vec(), optimizer, b"s".to_vec()].concat(),
    )]);
    for (key, home) in [
        ("state_dict_ema", "[\"state_dict_ema\"]"),
        ("weights", "[\"weights\"]"),
        ("model", "[\"model\"]"),
    ] {
        let checkpoint = dict(&[("optimizer", optimizer.clone()), (key, state())]);
        let weights = read_value(&checkpoint).unwrap();
        is_state(&weights);
        assert_eq!(weights.home, home);
    }
    let deep = dict(&[(
        "a",
        [b"](".to_vec(), dict(&[("b", state())]), b"e".to_vec()].concat(),
    )]);
    let weights = read_value(&dict(&[("optimizer", optimizer.clone()), ("nets", deep)])).unwrap();
    is_state(&weights);
    assert_eq!(weights.home, "[\"nets\"][\"a\"][0][\"b\"]");
    // A known key goes before an average, which is told.
    let average = dict(&[("conv1.weight", tensor_of("1", &[1], &[1]))]);
    let both = dict(&[("ema", average.clone()), ("state_dict", state())]);
    let weights = read_value(&both).unwrap();
    is_state(&weights);
    assert_eq!(weights.others, ["[\"ema\"]"]);
    for key in ["model_state_dict", "model_state", "model", "net"] {
        let both = dict(&[("ema", average.clone()), (key, state())]);
        is_state(&read_value(&both).unwrap());
    }
    // The same twice, in two dictionaries, is the same.
    is_state(&read_value(&dict(&[("a", state()), ("b", state())])).unwrap());
    let e = read_value(&dict(&[("ema", average), ("raw", state())])).unwrap_err();
    assert!(
        e.contains("[\"ema\"] (1 tensors), [\"raw\"] (2 tensors)"),
        "{e}"
    );
    let none = dict(&[("epoch", b"K\x03".to_vec()), ("optimizer", optimizer)]);
    let e = read_value(&none).unwrap_err();
    assert!(
        e.contains("epoch (a number), optimizer (a dictionary)"),
        "{e}"
    );
    let e = read_value(b"c__main__\nNet\n)\x81}b").unwrap_err();
    assert!(
        e.contains("made by __main__.Net") && e.contains("state_dict()"),
        "{e}"
    );
    let script = archive(&[
        ("x/data.pkl", &program(&state())),
        ("x/constants.pkl", b")"),
    ]);
    assert!(read(&script).unwrap_err().contains("torch.jit.load"));
}

#[test]
fn a_tensor_is_read_as_it_is_or_not_at_all() {
    let of = |value: Vec<u8>| {
        let both = dict(&[("a.good", tensor_of("0", &[6], &[1])), ("a.other", value)]);
        read_value(&both).unwrap()
    };
    let good = |value: Vec<u8>| {
        let weights = of(value);
        let found = weights.tensors.into_iter().find(|(n, _)| n == "a.other");
        found.unwrap().1
    };
    // Every second value from the second on; a transpose.
    let strided = good(tensor_with("0", 1, &[3], &[2], b""));
    assert_eq!(strided, Tensor::from_slice(&[2.0f32, 4.0, 6.0]));
    let transposed = good(tensor_of("0", &[3, 2], &[1, 3]));
    assert_eq!(
        transposed,
        Tensor::from_slice2(&[[1.0f32, 4.0], [2.0, 5.0], [3.0, 6.0]])
    );
    assert_eq!(
        good(tensor_with("0", 5, &[], &[], b"")),
        Tensor::from(6.0f32)
    );
    assert_eq!(good(tensor_with("0", 6, &[0], &[1], b"N")).numel(), 0);
    assert_eq!(good(tensor_with("1", 0, &[2], &[1], b"}")).numel(), 2);
    let negated = [b"}".to_vec(), text("neg"), b"\x88s".to_vec()].concat();
    let masked = [
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch.masked\nMaskedTensor\n".to_vec(),
        tensor_of("0", &[6], &[1]),
        b"}tR".to_vec(),
    ];
    let mut unknown = tensor_of("0", &[6], &[1]);
    let at = unknown.windows(5).position(|w| w == b"Float").unwrap();
    unknown[at..at + 5].copy_from_slice(b"Quint");
    let refused = [
        (
            tensor_with("0", 0, &[6], &[1], &negated),
            "made by torch._utils._rebuild_tensor_v2",
        ),
        (
            masked.concat(),
            "made by torch._tensor._rebuild_from_type_v2",
        ),
        (
            [tensor_of("0", &[6], &[1]), b"}b".to_vec()].concat(),
            "made by a call",
        ),
        (unknown, "QuintStorage"),
        (tensor_of("0", &[7], &[1]), "does not fit its 6 values"),
        (tensor_of("0", &[3], &[3]), "does not fit its 6 values"),
        (
            tensor_of("0", &[200, 200], &[0, 0]),
            "does not fit its 6 values",
        ),
        (tensor_of("0", &[6], &[]), "does not fit its 6 values"),
        (
            tensor_with("0", 7, &[0], &[1], b""),
            "does not fit its 6 values",
        ),
        (tensor_of("9", &[1], &[1]), "lacks its storage 9"),
        (b"N".to_vec(), "no plain tensor but a value"),
    ];
    for (value, why) in refused {
        let weights = of(value);
        let (name, said) = &weights.unread[0];
        assert!(name == "a.other" && said.contains(why), "{why}: {said}");
    }
    let e = read_value(&[tensor_of("0", &[6], &[1]), b"(K\x01K\x02u".to_vec()].concat());
    assert!(e.unwrap_err().contains("changes a tensor"));
    // Forty names for one tensor are more than twice the file.
    let names: Vec<String> = (0..40).map(|i| format!("a.{i}")).collect();
    let shared = names.iter().map(|n| (&**n, b"h\0".to_vec()));
    let first = [tensor_of("0", &[200], &[1]), b"q\0".to_vec()].concat();
    let many: Vec<_> = [("a.first", first)].into_iter().chain(shared).collect();
    let many = archive(&[
        ("x/data.pkl", &program(&dict(&many))),
        ("x/data/0", &[0; 800]),
    ]);
    assert!(
        read(&many)
            .unwrap_err()
            .contains("more weights than it holds")
    );
}
