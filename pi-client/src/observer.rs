//! Who wants to know what a client is doing: a progress bar, a log, a measurement.
//!
//! An [`Observer`] hears of each piece of work when it begins and when it ends, of what is tried again, and of what became of kept
//! inferences. It changes nothing of what the client does.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use pi_proto::WireMeter;

use crate::error::ClientError;

/// Hears what a [`crate::Client`] does. It is called on the client's own threads, so it must not call the client and wait, and
/// what takes long in it makes the client slow. `()` hears nothing.
///
/// ```
/// use pi_client::observer::{Observer, Work};
///
/// #[derive(Debug)]
/// struct Log;
///
/// impl Observer for Log {
///     fn begins(&self, work: &Work) -> Box<dyn Send> {
///         eprintln!("{:?}", work.activity);
///         Box::new(())
///     }
/// }
///
/// let config = pi_client::Config::new("http://127.0.0.1:50051").observer(Log);
/// # drop(config);
/// ```
pub trait Observer: Debug + Send + Sync {
    /// Work begins. What is returned is dropped when it ends, well or not. With inferences kept prepared in the background, two
    /// pieces of work may overlap.
    fn begins(&self, _work: &Work) -> Box<dyn Send> {
        Box::new(())
    }

    /// Connecting or opening a session failed and is tried again after `wait`. Nothing was spent.
    fn tries_again(&self, _error: &ClientError, _wait: Duration) {}

    /// Something that the user should know. The same text stands in the notes of the answer
    /// ([`Prediction::notes`](crate::Prediction::notes)), if there is one.
    fn notes(&self, _note: &Note) {}
}

impl Observer for () {}

/// What a client does at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activity {
    /// Connecting, and reading the model's description.
    Connecting,
    /// Opening a session: keys and base OTs, or one round trip for kept inferences alone.
    SettingUp,
    /// Preparing a batch for the queries of this client.
    Preparing {
        /// Inferences in the batch.
        n: usize,
        /// Inferences that are still wanted, these included.
        n_left: usize,
    },
    /// Preparing a batch for the disk.
    Keeping {
        /// Inferences in the batch.
        n: usize,
        /// Inferences that are still wanted, these included.
        n_left: usize,
    },
    /// The online phase of one query.
    Inferring,
}

/// One piece of work, and how far it is.
#[derive(Clone, Debug)]
pub struct Work {
    /// What is done.
    pub activity: Activity,
    /// Bytes of payload that it sends and receives in all, where that is known.
    pub n_bytes: Option<u64>,
    meter: Option<(Arc<WireMeter>, u64)>,
}

impl Work {
    pub(crate) const fn new(activity: Activity) -> Self {
        Self {
            activity,
            n_bytes: None,
            meter: None,
        }
    }

    /// Work of `n_bytes` bytes that `meter` sees pass.
    pub(crate) fn metered(activity: Activity, n_bytes: u64, meter: &Arc<WireMeter>) -> Self {
        Self {
            activity,
            n_bytes: Some(n_bytes),
            meter: Some((Arc::clone(meter), wire_bytes(meter))),
        }
    }

    /// Bytes sent and received since it began; zero where none are counted. May be asked from any thread, at any time.
    #[must_use]
    pub fn n_bytes_done(&self) -> u64 {
        let meter = self.meter.as_ref();
        meter.map_or(0, |(meter, before)| wire_bytes(meter) - before)
    }
}

/// Bytes on the wire, both ways.
pub(crate) fn wire_bytes(meter: &WireMeter) -> u64 {
    meter.n_bytes_sent() + meter.n_bytes_received()
}

/// What the user should know: kept inferences that are of no use, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// The server says that it keeps nothing. Its store may come back, so nothing is removed.
    KeptUnused {
        /// How many wait.
        n: usize,
    },
    /// Files that cannot be opened were removed.
    KeptUnreadable {
        /// How many.
        n: usize,
    },
    /// The server does not have its half of one. All that waited are removed: see [`crate::Store::settle`].
    KeptGone {
        /// How many, the first included.
        n: usize,
    },
    /// The server had its half, but for other weights, or damaged. This one is used up; the others wait.
    KeptRefused,
    /// The server could not look for its half. This one is used up; the others wait.
    KeptNotLookedFor,
    /// None wait for this server, but some for the same model under another address. Whether that is the same service, only the user
    /// knows.
    KeptElsewhere {
        /// How many.
        n: usize,
        /// The other address.
        url: String,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::KeptUnused { n } => write!(
                f,
                "{n} kept inferences stay unused: the server keeps their other halves no more"
            ),
            Self::KeptUnreadable { n } => write!(
                f,
                "{n} kept inferences were dropped: their files are damaged, or of another key or model"
            ),
            Self::KeptGone { n } => write!(
                f,
                "{n} kept inferences were dropped: the server does not have the other half of the first, so its store was replaced, or this folder is an older copy"
            ),
            Self::KeptRefused => f.write_str(
                "1 kept inference was dropped: the server's half is for other weights, or damaged",
            ),
            Self::KeptNotLookedFor => f.write_str(
                "1 kept inference was dropped: the server's store of the other halves does not work at the moment; the others wait",
            ),
            Self::KeptElsewhere { n, url } => write!(
                f,
                "{n} kept inferences of this model wait under {url}: they are used under that address alone"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_how_many_and_why() {
        let text = Note::KeptGone { n: 4 }.to_string();
        assert!(text.starts_with("4 kept inferences were dropped"), "{text}");
        assert!(
            !text.contains("  ") && text.contains("older copy"),
            "{text}"
        );
        assert_eq!(Work::new(Activity::Connecting).n_bytes_done(), 0);
    }
}
