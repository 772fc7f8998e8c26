//! Every byte of whole sessions with fixed seeds, pinned: a change that is not meant to be seen on the wire, or in what is
//! kept, must not change it. If it is meant, raise `PROTOCOL_VERSION` (or the format of kept items) and pin the new hashes.

use std::sync::Arc;

use pi_model::plan::Plan;
use pi_model::spec::OutputMode;

use super::kept::Memory;
use super::{inputs, small};
use crate::client::ClientSession;
use crate::error::Result;
use crate::prg::Seed;
use crate::server::ServerSession;
use crate::session::GarblingMode;
use crate::session::OtMode;
use crate::session::SessionOptions;
use crate::wire::Frame;
use crate::wire::channel::{Channel, MemoryChannel, pair};

/// A channel that hashes what it sends.
struct Hashed {
    inner: MemoryChannel,
    hasher: blake3::Hasher,
}

impl Channel for Hashed {
    fn send(&mut self, frame: Frame) -> Result<()> {
        self.hasher.update(&frame.tag.to_le_bytes());
        self.hasher
            .update(&(frame.payload.len() as u64).to_le_bytes());
        self.hasher.update(&frame.payload);
        self.inner.send(frame)
    }

    fn recv(&mut self) -> Result<Frame> {
        self.inner.recv()
    }

    fn is_ready(&mut self) -> bool {
        self.inner.is_ready()
    }

    fn expect(&mut self, n_bytes: usize) {
        self.inner.expect(n_bytes);
    }
}

/// Two batches and three inferences; the first bytes of the hashes of what the client and what the server sent.
fn transcript(relus: usize, mode: OutputMode, options: SessionOptions) -> [String; 2] {
    let images = inputs([3, 8, 8], 2);
    let plan = Arc::new(Plan::new(small(relus, mode), images.len()).unwrap());
    let public = plan.public().clone();
    let (to_server, to_client) = pair();
    let hashed = |inner| Hashed {
        inner,
        hasher: blake3::Hasher::new(),
    };
    let (to_server, to_client) = (hashed(to_server), hashed(to_client));
    let server = std::thread::spawn(move || {
        let mut session =
            ServerSession::accept_with_seed(to_client, plan, Seed::from([3; 32])).unwrap();
        session.serve().unwrap();
        session.wire.channel().hasher.finalize()
    });
    let mut client =
        ClientSession::connect_with_seed(to_server, public, options, Seed::from([4; 32])).unwrap();
    let first = client.prepare().unwrap();
    let second = client.prepare().unwrap();
    for (prepared, image) in first
        .into_iter()
        .chain(second)
        .zip(images.iter().cycle())
        .take(3)
    {
        client.infer(prepared, image).unwrap();
    }
    let sent = client.wire.channel().hasher.clone();
    client.close().unwrap();
    [sent.finalize(), server.join().unwrap()].map(|hash| hash.to_hex()[..16].to_owned())
}

#[test]
fn sessions_with_fixed_seeds_send_the_pinned_bytes() {
    use GarblingMode::{ClientDigits, HalfGates, ThreeHalves};
    use OtMode::{Silent, SoftSpoken};
    use OutputMode::{Argmax, Logits};
    let mut seen = vec![];
    for (relus, mode, ot, garbling) in [
        (150, Logits, SoftSpoken, HalfGates),
        (60, Argmax, Silent, ThreeHalves),
        (150, Logits, SoftSpoken, ClientDigits),
        (60, Argmax, Silent, ClientDigits),
        (0, Logits, SoftSpoken, HalfGates),
        (0, Argmax, SoftSpoken, ClientDigits),
    ] {
        let [client, server] = transcript(relus, mode, SessionOptions { ot, garbling });
        seen.push(format!(
            "{relus} {mode:?} {ot} {garbling}: {client} {server}"
        ));
    }
    let pinned = [
        "150 Logits softspoken half-gates: 3052429b7b6df53e a15f0066a4434102",
        "60 Argmax silent three-halves: e68e15a4c7959be9 44d2fe1f60094ac5",
        "150 Logits softspoken client-digits: df952fb0b9cfb721 044b090d9570bf95",
        "60 Argmax silent client-digits: 72ae1e712bb5a8e4 3f7fc0497e4aaead",
        "0 Logits softspoken half-gates: 3a7435005f194f18 5010754147e126df",
        "0 Argmax softspoken client-digits: b655486f9ba0ad0d ef2a5470b9b9eee4",
    ];
    assert_eq!(seen, pinned);
}

/// The halves of a kept batch as bytes: hashes of the client's and of the server's, each in the order of the batch.
fn kept_halves(relus: usize, mode: OutputMode, options: SessionOptions) -> [String; 2] {
    let plan = Arc::new(Plan::new(small(relus, mode), 2).unwrap());
    let public = plan.public().clone();
    let (to_server, to_client) = pair();
    let keeper = Memory::default();
    let kept = keeper.clone();
    let server = std::thread::spawn(move || {
        let mut session =
            ServerSession::accept_with_seed(to_client, plan, Seed::from([5; 32])).unwrap();
        session.keep_with(Box::new(keeper));
        session.serve().unwrap();
    });
    let mut client =
        ClientSession::connect_with_seed(to_server, public.clone(), options, Seed::from([6; 32]))
            .unwrap();
    let prepared = client.prepare_kept().unwrap();
    client.close().unwrap();
    server.join().unwrap();
    let mut hashers = [blake3::Hasher::new(), blake3::Hasher::new()];
    for half in prepared {
        let id = *half.kept_id().unwrap();
        hashers[0].update(&half.into_secret_bytes(&public).unwrap());
        hashers[1].update(&kept.items.lock().unwrap()[&id]);
    }

    hashers.map(|hasher| hasher.finalize().to_hex()[..16].to_owned())
}

#[test]
fn halves_of_kept_inferences_are_the_pinned_bytes() {
    use GarblingMode::{ClientDigits, HalfGates, ThreeHalves};
    use OtMode::{Silent, SoftSpoken};
    use OutputMode::{Argmax, Logits};
    let mut seen = vec![];
    for (relus, mode, ot, garbling) in [
        (150, Logits, SoftSpoken, HalfGates),
        (60, Argmax, Silent, ThreeHalves),
        (60, Argmax, SoftSpoken, ClientDigits),
        (0, Logits, SoftSpoken, HalfGates),
    ] {
        let [client, server] = kept_halves(relus, mode, SessionOptions { ot, garbling });
        seen.push(format!(
            "{relus} {mode:?} {ot} {garbling}: {client} {server}"
        ));
    }
    let pinned = [
        "150 Logits softspoken half-gates: 4b67c4a0553d0394 643b7931ab48077b",
        "60 Argmax silent three-halves: 55b7ba0bfafd574b a2f2544f9d096964",
        "60 Argmax softspoken client-digits: 923e35cfae510437 710d72eebb608f11",
        "0 Logits softspoken half-gates: bc5ba8683c7cce27 207977008b4bb6e5",
    ];
    assert_eq!(seen, pinned);
}
