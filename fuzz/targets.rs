//! What is fuzzed: everything that reads bytes of a peer, of a file or of an operator, each as a function of bytes that must
//! neither panic nor take or allocate without bound, whatever they are. libFuzzer calls them from `fuzz_targets/`; the
//! ordinary test `pi-server/tests/fuzz.rs` calls them with the corpora and with altered copies of them.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use pi_model::packing::PackingGoal;
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;
use pi_model::{Model, Plan, PublicModel, PublicPlan, bits};
use pi_protocol::channel::Channel;
use pi_protocol::client::ClientSession;
use pi_protocol::primitives::he::PublicKey;
use pi_protocol::primitives::hello::{decode_client_hello, decode_hello};
use pi_protocol::server::ServerSession;
use pi_protocol::session::Request;
use pi_protocol::wire::{Frame, Step, Tag, Wire};
use pi_protocol::{Error, Result};
use prost::Message as _;

/// What is done with an input.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("wire", wire),
    ("request", request),
    ("hello", hello),
    ("packed_bits", packed_bits),
    ("public_key", public_key),
    ("public_model", public_model),
    ("model_loader", model_loader),
    ("protobuf", protobuf),
    ("server_session", server_session),
    ("client_session", client_session),
    ("settings", settings),
    ("tokens", tokens),
    ("certificate", certificate),
    ("image", image),
];

/// The smallest network that has every kind of layer: what sessions are fuzzed with.
pub fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let made = || residual_network("tiny", [1, 4, 4], &[2], 1, 2, 6, OutputMode::Argmax);
    let model = MODEL.get_or_init(|| Arc::new(made().expect("a network that fits together")));
    Arc::clone(model)
}

/// Its plan for one inference.
pub fn plan() -> Arc<Plan> {
    static PLAN: OnceLock<Arc<Plan>> = OnceLock::new();
    let made = || Plan::new(model(), 1).expect("a network that can be planned");
    Arc::clone(PLAN.get_or_init(|| Arc::new(made())))
}

/// Frames as bytes: tag (8), length (4), payload.
pub fn encode(frames: &[Frame]) -> Vec<u8> {
    let of = |frame: &Frame| {
        let n = frame.payload.len() as u32;
        [
            &frame.tag.to_le_bytes()[..],
            &n.to_le_bytes(),
            &frame.payload,
        ]
        .concat()
    };
    frames.iter().flat_map(of).collect()
}

/// The frames of [`encode`], as far as they go.
pub fn decode(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = vec![];
    while let Some((head, rest)) = bytes.split_first_chunk::<12>() {
        let (tag, n) = head.split_at(8);
        let n = n.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
        let (payload, rest) = rest.split_at(n.min(rest.len()));
        frames.push(Frame {
            tag: tag.iter().rev().fold(0, |tag, &b| tag << 8 | u64::from(b)),
            payload: payload.to_vec(),
        });
        bytes = rest;
    }
    frames
}

/// A peer that says what is written and hears nothing.
pub struct Script(std::vec::IntoIter<Frame>);

impl Script {
    /// It says these.
    pub fn new(frames: Vec<Frame>) -> Self {
        Self(frames.into_iter())
    }
}

impl Channel for Script {
    fn send(&mut self, _: Frame) -> Result<()> {
        Ok(())
    }

    fn recv(&mut self) -> Result<Frame> {
        self.0
            .next()
            .ok_or_else(|| Error::Channel("the end".into()))
    }

    fn is_ready(&mut self) -> bool {
        true
    }

    fn expect(&mut self, _: usize) {}
}

/// The one place that joins frames: a message has the tag and the length that we expect, or is refused.
pub fn wire(bytes: &[u8]) {
    let Some((&[step, n, ..], frames)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let Some(step) = Step::from_code(step) else {
        return;
    };
    let tag = Tag {
        step,
        layer: 1,
        batch: 1,
        index: 0,
    };
    let n = usize::from(n) * 97;
    let mut wire = Wire::new(Script::new(decode(frames)));
    if let Ok(message) = wire.recv(tag, n) {
        assert_eq!(message.len(), n);
    }
}

/// Requests: what is understood is what would be written.
pub fn request(bytes: &[u8]) {
    for frame in decode(bytes) {
        if let Ok(request) = Request::decode(&frame) {
            let (tag, payload) = request.encode();
            assert_eq!((tag.to_u64(), &payload[..]), (frame.tag, &*frame.payload));
        }
    }
}

/// The first message of each side.
pub fn hello(bytes: &[u8]) {
    let _ = decode_client_hello(bytes);
    for step in [Step::Hello, Step::HelloReply] {
        let _ = decode_hello(step, bytes);
    }
}

/// Packed integers: what is read is what would be written.
pub fn packed_bits(bytes: &[u8]) {
    let Some((&[width, n], packed)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let (width, n) = (u32::from(width), usize::from(n));
    match width {
        1..=64 => {
            if let Ok(values) = bits::unpack(packed, n, width) {
                assert_eq!(bits::pack(&values, width), packed);
            }
        }
        65..=128 => {
            if let Ok(values) = bits::unpack_wide(packed, n, width) {
                assert_eq!(bits::pack_wide(&values, width), packed);
            }
        }
        // Widths come from the plan, and none is another.
        _ => {}
    }
}

/// A public key of the encryption.
pub fn public_key(bytes: &[u8]) {
    let _ = PublicKey::from_message(&[7; 32], 0, bytes);
}

/// A server's description of its model: what is valid survives being written again, and small ones can be planned or are
/// refused.
pub fn public_model(bytes: &[u8]) {
    let Ok(model) = PublicModel::from_json(bytes) else {
        return;
    };
    let json = model.to_json();
    let again = PublicModel::from_json(&json).expect("what we write can be read");
    assert_eq!(again.to_json(), json);
    let n_values: usize = model
        .graph()
        .layers
        .iter()
        .map(|l| l.shape.n_values())
        .sum();
    if n_values < 1 << 14 {
        let _ = PublicPlan::with_goal(&model, 1, PackingGoal::for_bandwidth(100_000_000));
    }
}

/// A model's folder: the length of model.json (4), model.json, model.safetensors.
pub fn model_loader(bytes: &[u8]) {
    let Some((n, rest)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let n = (u32::from_le_bytes(*n) as usize).min(rest.len());
    let (json, tensors) = rest.split_at(n);
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("model.json"), json).expect("a file");
    std::fs::write(dir.path().join("model.safetensors"), tensors).expect("a file");
    let _ = Model::load(dir.path());
}

/// The messages of the gRPC service.
pub fn protobuf(bytes: &[u8]) {
    let _ = pi_proto::v1::Frame::decode(bytes);
    let _ = pi_proto::v1::Open::decode(bytes);
    let _ = pi_proto::v1::DescribeResponse::decode(bytes);
    let _ = pi_proto::inference::ModelInferRequest::decode(bytes);
}

/// A whole session at the server: its client's frames.
pub fn server_session(bytes: &[u8]) {
    if let Ok(mut session) = ServerSession::accept(Script::new(decode(bytes)), plan()) {
        let _ = session.serve();
    }
}

/// Set-up and a batch at the client: its server's frames.
pub fn client_session(bytes: &[u8]) {
    let public = Arc::clone(plan().public());
    if let Ok(mut session) = ClientSession::connect(Script::new(decode(bytes)), public) {
        let _ = session.prepare().map(drop);
    }
}

fn as_file(bytes: &[u8], read: impl FnOnce(&Path)) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("room for it");
    read(file.path());
}

/// The operator's settings.
pub fn settings(bytes: &[u8]) {
    as_file(bytes, |path| {
        let _ = pi_server::Settings::read(path).map(pi_server::Settings::options);
    });
}

/// The operator's file of tokens.
pub fn tokens(bytes: &[u8]) {
    as_file(bytes, |path| {
        let _ = pi_server::identity::Tokens::load(path).map(drop);
    });
}

/// Certificates, in the place of the server's own.
pub fn certificate(bytes: &[u8]) {
    as_file(bytes, |path| {
        let files = pi_server::TlsFiles {
            certificate: path.to_owned(),
            key: path.to_owned(),
            client_ca: Some(path.to_owned()),
        };
        let _ = pi_server::tls::Tls::load(&files).map(drop);
    });
}

/// Images at the client: PNG, JPEG, .npy, and records of CIFAR-10.
pub fn image(bytes: &[u8]) {
    let model = model();
    if let Ok(image) = pi_client::Image::decode("fuzz", bytes) {
        for sizing in [pi_client::Sizing::Exact, pi_client::Sizing::Resize] {
            let _ = image.fit(model.public(), sizing);
        }
    }
    as_file(bytes, |path| {
        let _ = pi_client::input::cifar10(path, 0..1, model.public());
    });
}
