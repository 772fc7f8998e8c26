//! The one place where this project's errors become gRPC status codes.
//!
//! Security: the texts name steps, layers and sizes. None of the errors holds a secret, and what is our own fault is
//! reported without detail.

use pi_model::ModelError;
use pi_protocol::Error;
use pi_protocol::kept::KeepError;
use tonic::Status;

/// The status that a server answers with when a session fails with `error`.
#[must_use]
pub fn from_protocol(error: &Error) -> Status {
    match error {
        Error::Peer { .. } => Status::invalid_argument(error.to_string()),
        Error::Plan(_) => Status::failed_precondition(error.to_string()),
        // The code says already that it is a refusal, and that another release changes nothing.
        Error::Refused(why) => Status::permission_denied(why),
        Error::Channel(_) => Status::aborted(error.to_string()),
        Error::Kept(KeepError::Full) => Status::resource_exhausted(error.to_string()),
        Error::Kept(KeepError::Unavailable) => Status::unavailable(error.to_string()),
        Error::Kept(KeepError::NotThere) => Status::not_found(error.to_string()),
        Error::Kept(_) => Status::failed_precondition(error.to_string()),
        _ => Status::internal("the server failed; its log says why. Start a new session"),
    }
}

/// The status that a server answers with when a model or an input is at fault.
#[must_use]
pub fn from_model(error: &ModelError) -> Status {
    match error {
        ModelError::Input(_) => Status::invalid_argument(error.to_string()),
        ModelError::File { .. } | ModelError::Format { .. } => {
            Status::internal("the server cannot read this model; its log says why")
        }
        _ => Status::failed_precondition(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn every_kind_of_error_has_its_code_and_ours_keep_their_detail() {
        let peer = from_protocol(&Error::peer("labels", 3, "8 bytes", "7 bytes"));
        assert_eq!(peer.code(), Code::InvalidArgument);
        assert!(peer.message().contains("labels"));
        let code = |e| from_protocol(&e).code();
        assert_eq!(code(Error::Plan("x".into())), Code::FailedPrecondition);
        assert_eq!(code(Error::Refused("x".into())), Code::PermissionDenied);
        assert_eq!(code(Error::Channel("x".into())), Code::Aborted);
        assert_eq!(code(Error::Kept(KeepError::Full)), Code::ResourceExhausted);
        assert_eq!(code(Error::Kept(KeepError::NotThere)), Code::NotFound);
        let ours = from_protocol(&Error::Misuse("where the bug is".into()));
        assert_eq!(ours.code(), Code::Internal);
        assert!(!ours.message().contains("bug"));
        assert_eq!(
            from_model(&ModelError::Input("x".into())).code(),
            Code::InvalidArgument
        );
    }
}
