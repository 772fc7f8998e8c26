//! Replays the corpora of `fuzz/` through the same functions that libFuzzer calls, each input as it is and altered in fixed
//! ways; and whole sessions that were recorded just now, altered too. That nothing panics is the test. With `PI_FUZZ_SECONDS` each
//! target, or each of `PI_FUZZ_TARGETS`, gets altered inputs for so long, and their number is printed: a search for those who have no
//! nightly compiler.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pi_protocol::Result;
use pi_protocol::channel::{Channel, MemoryChannel, pair};
use pi_protocol::client::ClientSession;
use pi_protocol::server::ServerSession;
use pi_protocol::wire::Frame;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// Draws mutations, the same ones every time.
struct Mutator(u64);

impl Mutator {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }

    /// Makes `bytes` shorter or longer, or alters bits or whole runs.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let (at, n) = (self.below(bytes.len()), bytes.len());
        match self.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.extend((0..=self.below(40)).map(|i| i as u8)),
            2 if n > 0 => bytes[at] ^= 1 << self.below(8),
            3 => bytes.iter_mut().skip(at).take(8).for_each(|b| *b = 0xff),
            4 => bytes.iter_mut().skip(at).take(8).for_each(|b| *b = 0),
            _ => drop(bytes.drain(at..(at + 5).min(n))),
        }
    }
}

/// `input`, and copies of it, altered.
fn altered(input: &[u8], n_copies: usize) -> Vec<Vec<u8>> {
    let mut mutator = Mutator(0x9e37_79b9_7f4a_7c15_u64 ^ input.len() as u64);
    let mut all = vec![input.to_vec()];
    for copy in 0..n_copies {
        let mut bytes = input.to_vec();
        (0..=copy % 3).for_each(|_| mutator.mutate(&mut bytes));
        all.push(bytes);
    }
    all
}

/// Alters inputs, and ends of one put behind beginnings of another, for so long; the number of inputs that were tried.
fn search(target: targets::Target, inputs: &[Vec<u8>], time: Duration) -> u64 {
    let (since, mut n) = (Instant::now(), 0);
    let mut mutator = Mutator(0x2545_f491_4f6c_dd1d ^ time.as_secs());
    while since.elapsed() < time {
        let mut bytes = inputs[mutator.below(inputs.len())].clone();
        if mutator.below(8) == 0 {
            let other = &inputs[mutator.below(inputs.len())];
            bytes.truncate(mutator.below(bytes.len() + 1));
            bytes.extend_from_slice(&other[mutator.below(other.len())..]);
        }
        (0..=mutator.below(6)).for_each(|_| mutator.mutate(&mut bytes));
        target(&bytes);
        n += 1;
    }
    n
}

#[test]
fn every_input_of_every_corpus_is_survived() {
    let seconds = std::env::var("PI_FUZZ_SECONDS").map(|n| n.parse().unwrap());
    let names: BTreeSet<_> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    let only = std::env::var("PI_FUZZ_TARGETS").ok();
    let is_meant = |name: &str| {
        let mut names = only.iter().flat_map(|only| only.split(','));
        only.is_none() || names.any(|n| n == name)
    };
    for (name, target) in targets::TARGETS.iter().filter(|(name, _)| is_meant(name)) {
        target(&[]);
        let mut inputs = vec![];
        for entry in std::fs::read_dir(corpora().join(name)).unwrap() {
            inputs.push(std::fs::read(entry.unwrap().path()).unwrap());
        }
        assert!(!inputs.is_empty(), "{name} has no corpus");
        if let Ok(seconds) = seconds {
            let n = search(*target, &inputs, Duration::from_secs(seconds));
            println!("{name}: {n} inputs");
            continue;
        }
        for input in inputs {
            let n_copies = if input.len() > 10_000 { 12 } else { 120 };
            altered(&input, n_copies)
                .iter()
                .for_each(|bytes| target(bytes));
        }
    }
    for entry in std::fs::read_dir(corpora()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(name.as_str()), "{name} is no target");
    }
}

#[test]
fn every_target_is_a_program_of_the_fuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in targets::TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let program =
            std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            program.contains(&format!("targets::{name}(bytes)")),
            "{name}"
        );
    }
}

/// Keeps what one side said.
struct Recorded {
    channel: MemoryChannel,
    said: Arc<Mutex<Vec<Frame>>>,
}

impl Channel for Recorded {
    fn send(&mut self, frame: Frame) -> Result<()> {
        self.said.lock().unwrap().push(frame.clone());
        self.channel.send(frame)
    }

    fn recv(&mut self) -> Result<Frame> {
        self.channel.recv()
    }

    fn is_ready(&mut self) -> bool {
        self.channel.is_ready()
    }

    fn expect(&mut self, n_bytes: usize) {
        self.channel.expect(n_bytes);
    }
}

/// What client and server say in a session of one inference.
fn session() -> [Vec<Frame>; 2] {
    let (here, there) = pair();
    let said: [Arc<Mutex<Vec<Frame>>>; 2] = Default::default();
    let record = |channel, i: usize| Recorded {
        channel,
        said: Arc::clone(&said[i]),
    };
    let (here, there) = (record(here, 0), record(there, 1));
    let plan = targets::plan();
    let public = Arc::clone(plan.public());
    let serving = std::thread::spawn(move || {
        ServerSession::accept(there, plan).unwrap().serve().unwrap();
    });
    let mut client = ClientSession::connect(here, public).unwrap();
    let mut prepared = client.prepare().unwrap();
    let n = targets::model().public().spec().input.n_values();
    client.infer(prepared.remove(0), &vec![0; n]).unwrap();
    client.close().unwrap();
    serving.join().unwrap();
    said.map(|frames| frames.lock().unwrap().clone())
}

#[test]
fn recorded_sessions_are_survived_whole_and_altered() {
    let [client, server] = session();
    for (frames, target) in [
        (client, targets::server_session as targets::Target),
        (server, targets::client_session),
    ] {
        let bytes = targets::encode(&frames);
        assert_eq!(targets::decode(&bytes), frames);
        altered(&bytes, 30).iter().for_each(|bytes| target(bytes));
        // Frames that come again, are missing, or change places.
        for i in 0..frames.len() {
            let mut others = frames.clone();
            match i % 3 {
                0 => others.insert(i, frames[i].clone()),
                1 => drop(others.remove(i)),
                _ => others.swap(i, i / 2),
            }
            target(&targets::encode(&others));
        }
    }
}

/// Writes the inputs that begin the corpora: `cargo test -p pi-server --test fuzz -- --ignored seeds`.
#[test]
#[ignore = "writes into the repository"]
fn seeds_are_written() {
    use pi_protocol::primitives::hello::{encode_client_hello, encode_hello};
    use pi_protocol::session::{Request, SessionOptions};
    use prost::Message as _;
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpora().join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    };
    let frame = |tag, payload: &[u8]| Frame {
        tag,
        payload: payload.to_vec(),
    };
    let tag = 41 | 1 << 8 | 1 << 24;
    let message = targets::encode(&[frame(tag, &[5; 97])]);
    write("wire", "message", &[&[41, 1, 0, 0][..], &message].concat());
    write(
        "wire",
        "other-tag",
        &[&[42, 1, 0, 0][..], &message].concat(),
    );
    let requests = [
        Request::Prepare { batch: 1 },
        Request::Infer { batch: 1, index: 3 },
        Request::End,
    ];
    let requests = requests.map(|r| frame(r.encode().0.to_u64(), &r.encode().1));
    write("request", "all", &targets::encode(&requests));
    let hello = encode_client_hello(&[1; 32], &[2; 32], SessionOptions::default());
    write("hello", "client", &hello);
    write("hello", "reply", &encode_hello(&[1; 32], &[2; 32]));
    write(
        "packed_bits",
        "narrow",
        &[&[7, 9][..], &pi_model::bits::pack(&[77; 9], 7)].concat(),
    );
    write(
        "packed_bits",
        "wide",
        &[
            &[109, 3][..],
            &pi_model::bits::pack_wide(&[1 << 108; 3], 109),
        ]
        .concat(),
    );
    write("packed_bits", "none", &[200, 3, 1]);
    let model = targets::model();
    write("public_model", "tiny.json", &model.public().to_json());
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let [json, tensors] =
        ["model.json", "model.safetensors"].map(|f| std::fs::read(dir.path().join(f)).unwrap());
    let folder = [&(json.len() as u32).to_le_bytes()[..], &json, &tensors].concat();
    write("model_loader", "tiny", &folder);
    let open = pi_proto::v1::Frame {
        open: Some(pi_proto::v1::Open {
            model: "tiny".into(),
            batch: 1,
            plan_hash: vec![3; 32].into(),
            protocol_version: 1,
        }),
        ..Default::default()
    };
    write("protobuf", "open", &open.encode_to_vec());
    let [client, server] = session();
    let head = |frames: &[Frame], n: usize| targets::encode(&frames[..n.min(frames.len())]);
    write("server_session", "hello", &head(&client, 1));
    write("client_session", "reply", &head(&server, 1));
    let key = client.iter().find(|f| f.tag & 0xff == 3).unwrap();
    let n = pi_protocol::primitives::he::public_key_bytes();
    write("public_key", "one", &key.payload[..n]);
    write(
        "settings",
        "default.toml",
        pi_server::Settings::default_file().as_bytes(),
    );
    let (_, line) = pi_server::identity::new_token("alice").unwrap();
    write(
        "tokens",
        "quota",
        format!("# tokens\n{line} sessions=2 bytes-per-day=1000\n").as_bytes(),
    );
    let made = pi_server::certificate::make(dir.path(), &["localhost".into()]).unwrap();
    let certificate = std::fs::read(made.certificate).unwrap();
    write("certificate", "development", &certificate);
    let mut record = vec![1; 3073];
    record[0] = 0;
    write("image", "record", &record);
    let png = [
        &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x04\0\0\0\x04\x08\0\0\0\0"[..],
        &[0; 40],
    ];
    write("image", "broken.png", &png.concat());
}
