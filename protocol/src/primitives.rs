//! The primitives, for benchmarks, calibration, fuzzing and examples alone. Nothing here is an interface to build on.

pub use crate::block::{ActiveLabel, Block, Delta, ZeroLabel};
pub use crate::gc::{
    Instances, Scheme, active_label_hash, evaluate, garble, label_hash, sign_circuit,
};
pub use crate::hash::{Domain, TweakBase, hash_to_bits};
pub use crate::layout::Layout;
pub use crate::prg::{Seed, os_seed};
pub use crate::ring::Ring;

/// The first messages of a session, for fuzzing.
pub mod hello {
    pub use crate::session::hello::{
        Opening, decode_client_hello, decode_hello, encode_client_hello, encode_hello,
        encode_kept_hello,
    };
}

/// Signs by digits.
pub mod digits {
    pub use crate::gc::digits::{
        DigitTests, digit_labels, evaluate_digits, evaluator_keys, garble_digits,
    };
}

/// Encryption of linear layers.
pub mod he {
    pub use crate::he::{
        ClientSource, DEGREE, PublicKey, RlweParams, SecretKey, ServerSource, decrypt,
        public_key_bytes,
    };
}

/// Oblivious transfer.
pub mod ot {
    pub use crate::ot::correlated::{receiver_pads, sender_pads};
    pub use crate::ot::softspoken::{self, ReceiverSetup, SenderSetup};
    pub use crate::ot::{CotReceiver, CotSender, silent};
}

/// The multiplexer's algebra.
pub mod multiplexer {
    pub use crate::relu::multiplexer::algebra::{
        ServerKeys, client_decrypt, client_products, server_encrypt, server_products,
    };
}
