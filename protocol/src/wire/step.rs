//! The one table of all kinds of messages: number, phase, direction and name of each.

use serde::{Deserialize, Serialize};

/// The three phases of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Once for a session.
    Setup,
    /// Once for a batch of inferences, before their inputs are known.
    Offline,
    /// Once for an inference.
    Online,
}

/// Who sends: up is client to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $phase:ident, $direction:ident, $text:literal;)*) => {
        /// One kind of message. The code is its number on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Step { $($(#[$doc])* $name = $code),* }

        impl Step {
            /// All kinds, in the order of the protocol.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name used in the ledger, in errors and in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The phase the step belongs to.
            #[must_use]
            pub const fn phase(self) -> Phase {
                match self { $(Self::$name => Phase::$phase),* }
            }

            /// Who sends it.
            #[must_use]
            pub const fn direction(self) -> Direction {
                match self { $(Self::$name => Direction::$direction),* }
            }

            /// The kind with this number.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

steps! {
    /// Client: protocol version, nonce, plan hash.
    Hello = 1, Setup, Up, "hello";
    /// Server: protocol version, nonce, first message of the base OTs behind the extension in which the server receives.
    HelloReply = 2, Setup, Down, "hello reply";
    /// Client: one RLWE public key for each source.
    PublicKeys = 3, Setup, Up, "public keys";
    /// Client: its base-OT answer for the multiplexer's extension.
    MuxBase = 4, Setup, Up, "multiplexer base OT";
    /// Server: corrections of the punctured trees for the multiplexer's extension.
    MuxTrees = 5, Setup, Down, "multiplexer OT trees";
    /// Client: which operation follows: prepare a batch, run one inference, or end.
    Request = 10, Setup, Up, "request";
    /// Client: noise bits of one source.
    HeNoise = 20, Offline, Up, "HE noise bits";
    /// Client: masks at the positions that must encrypt zero, of one source.
    HeCorrections = 21, Offline, Up, "HE corrections";
    /// Client: first message of the base OTs for the labels.
    LabelBase = 22, Offline, Up, "label base OT";
    /// Server: one linear term's response.
    HeResponse = 23, Offline, Down, "HE response";
    /// Server: its base-OT answer for the labels.
    LabelBaseReply = 24, Offline, Down, "label base OT reply";
    /// Server: extension and check for the multiplexer.
    MuxExtension = 25, Offline, Down, "multiplexer OT extension";
    /// Client: punctured-tree corrections for the labels.
    LabelTrees = 26, Offline, Up, "label OT trees";
    /// Client: extension and check for the labels.
    LabelExtension = 27, Offline, Up, "label OT extension";
    /// Client: derandomisation bits of its labels, of one layer.
    LabelBits = 28, Offline, Up, "label derandomisation";
    /// Client: corrections of the k-bit OTs, of one layer.
    MuxCorrections = 29, Offline, Up, "multiplexer corrections";
    /// Client: shares at the positions without a ReLU, of one layer.
    Identity = 30, Offline, Up, "identity positions";
    /// Server: public start key of the garbling hash.
    HashKey = 31, Offline, Down, "garbling hash key";
    /// Server: garbled tables of one layer.
    Tables = 32, Offline, Down, "garbled tables";
    /// Client: with silent OT, the trees of the multiplexer's extension.
    MuxReply = 33, Offline, Up, "multiplexer silent OT";
    /// Server: with silent OT, the trees of the labels' extension.
    LabelReply = 34, Offline, Down, "label silent OT";
    /// Server: whether it keeps the batch beyond the session; only when asked to.
    Kept = 35, Offline, Down, "kept";
    /// Client, when it garbles: order of the rows of its digits and one bit besides, `l` for each ReLU of one layer.
    DigitOrders = 36, Offline, Up, "digit orders";
    /// Client, when it garbles: tables of digits of one layer.
    DigitTables = 37, Offline, Up, "digit tables";
    /// Client, when it garbles: what the two answers of each ReLU of one layer add up to, under both hashes.
    AnswerSums = 38, Offline, Up, "answer sums";
    /// Client, when it garbles: its base-OT answer for the labels of its digits.
    DigitBase = 39, Offline, Up, "digit base OT";
    /// Server, when the client garbles: corrections of the punctured trees for the labels of digits.
    DigitTrees = 51, Offline, Down, "digit OT trees";
    /// Server, when the client garbles: first message of the base OTs of the next batch.
    DigitPoint = 52, Offline, Down, "next digit base OT";
    /// Client: the masked input.
    Input = 40, Online, Up, "masked input";
    /// Server: active labels of its own shares, of one layer.
    Labels = 41, Online, Down, "labels";
    /// Server: the multiplexer's ciphertexts, of one layer.
    MuxCiphertexts = 42, Online, Down, "multiplexer ciphertexts";
    /// Client: masked ReLU results, of one layer.
    ReluResults = 43, Online, Up, "ReLU results";
    /// Server, when the client garbles: the bits of its shares, masked, of one layer.
    MaskedDigits = 47, Online, Down, "masked digits";
    /// Server, when the client garbles: its truncated shares, masked, of one layer.
    MaskedShares = 48, Online, Down, "masked shares";
    /// Client, when it garbles: labels of the masked digits, of one layer.
    DigitLabels = 49, Online, Up, "digit labels";
    /// Client, when it garbles: answers of colour 0, masked, of one layer.
    Answers = 50, Online, Up, "answers";
    /// Server: decoding bits of the garbled argmax. They come with the labels and not with the tables, so that the tables fix
    /// no output before the input is chosen.
    DecodeBits = 45, Online, Down, "argmax decoding";
    /// Server: whether a kept inference is there; only for those.
    Found = 46, Online, Down, "kept inference";
    /// Server: its share of the logits.
    Logits = 44, Online, Down, "logits";
}

impl Step {
    /// Whether its messages belong to one layer. The others belong to a session or to a whole batch.
    #[must_use]
    pub const fn is_of_a_layer(self) -> bool {
        match self {
            Self::Hello | Self::HelloReply | Self::PublicKeys | Self::MuxBase | Self::MuxTrees => {
                false
            }
            Self::Request | Self::Kept | Self::Found => false,
            Self::LabelBase | Self::LabelBaseReply | Self::LabelTrees | Self::LabelExtension => {
                false
            }
            Self::DigitBase | Self::DigitTrees | Self::DigitPoint => false,
            Self::MuxExtension | Self::MuxReply | Self::LabelReply | Self::HashKey => false,
            Self::HeNoise | Self::HeCorrections | Self::HeResponse => true,
            Self::LabelBits | Self::MuxCorrections | Self::Tables => true,
            Self::DigitOrders | Self::DigitTables | Self::AnswerSums | Self::Identity => true,
            Self::Input | Self::Labels | Self::MuxCiphertexts | Self::ReluResults => true,
            Self::MaskedDigits | Self::MaskedShares | Self::DigitLabels | Self::Answers => true,
            Self::DecodeBits | Self::Logits => true,
        }
    }

    /// The kind with this name, as in reports.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let all = Self::ALL.iter();
        all.copied().find(|step| step.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_codes_are_distinct() {
        for step in Step::ALL {
            assert_eq!(Step::from_code(*step as u8), Some(*step));
            assert_eq!(Step::from_name(step.name()), Some(*step));
        }
    }
}
