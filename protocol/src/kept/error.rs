//! Why a prepared inference is not kept, or not there any more, and how that is said on the wire.

/// Why an inference is not kept, or not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// No such item.
    #[error(
        "there is no such prepared inference at the server: it was used, has expired, or was never kept there; prepare another one"
    )]
    NotThere,
    /// The item was made for other weights, another plan or another client.
    #[error(
        "this prepared inference is for another model, plan or version of the weights; discard it and prepare another one"
    )]
    OtherModel,
    /// No room.
    #[error(
        "the server keeps no more prepared inferences for now; use some of them, or try again later"
    )]
    Full,
    /// The store does not work.
    #[error(
        "the server's store of prepared inferences does not work at the moment; prepare without keeping, or try again later"
    )]
    Unavailable,
    /// The bytes are not what was written.
    #[error(
        "this prepared inference is damaged, or written by another release; discard it and prepare another one"
    )]
    Damaged,
}

/// Result of a keeper.
pub type Kept<T> = Result<T, KeepError>;

impl KeepError {
    /// The number on the wire of an outcome; zero if all went well.
    pub(crate) fn code(outcome: Result<(), Self>) -> u8 {
        match outcome {
            Ok(()) => 0,
            Err(Self::NotThere) => 1,
            Err(Self::OtherModel) => 2,
            Err(Self::Full) => 3,
            Err(Self::Unavailable) => 4,
            Err(Self::Damaged) => 5,
        }
    }

    /// The outcome with this number, if there is one.
    pub(crate) const fn from_code(code: u8) -> Option<Result<(), Self>> {
        Some(match code {
            0 => Ok(()),
            1 => Err(Self::NotThere),
            2 => Err(Self::OtherModel),
            3 => Err(Self::Full),
            4 => Err(Self::Unavailable),
            5 => Err(Self::Damaged),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_the_wire() {
        for code in 0..=5 {
            let outcome = KeepError::from_code(code).unwrap();
            assert_eq!(KeepError::code(outcome), code);
        }
        assert_eq!(KeepError::from_code(6), None);
    }
}
