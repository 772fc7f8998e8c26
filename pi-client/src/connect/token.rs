//! What a server knows a client by: a bearer token, which goes with every call.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::error::ClientError;

/// A bearer token. It is sent with every call and shown nowhere.
#[derive(Clone)]
pub struct Token(MetadataValue<Ascii>);

impl Token {
    /// The token in `text`, spaces around it aside.
    ///
    /// # Errors
    /// [`ClientError::Usage`] for what cannot be a token.
    pub fn new(text: &str) -> Result<Self, ClientError> {
        let text = text.trim();
        let value = (!text.is_empty() && !text.contains(char::is_whitespace)).then(|| {
            format!("Bearer {text}")
                .parse::<MetadataValue<Ascii>>()
                .ok()
        });
        let mut value = value.flatten().ok_or_else(|| {
            ClientError::Usage("a token is one word, as the server's operator gave it".into())
        })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The token in the file at `path`.
    ///
    /// # Errors
    /// [`ClientError::File`].
    pub fn read(path: &Path) -> Result<Self, ClientError> {
        let file = |reason| ClientError::File {
            path: path.to_owned(),
            reason,
        };
        let text = std::fs::read_to_string(path)
            .map_err(|e| file(format!("cannot read the token: {e}")))?;
        Self::new(&text).map_err(|e| file(e.to_string()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Adds the token to every call, and the trace context that this program runs in.
#[derive(Clone)]
pub(crate) struct Bearer(pub(super) Option<Token>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(Token(value)) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        if let Some(parent) = crate::trace::parent() {
            request.metadata_mut().insert("traceparent", parent.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_is_not_shown() {
        let token = Token::new(" pi-1234\n").unwrap();
        assert_eq!(token.0, "Bearer pi-1234");
        assert!(!format!("{token:?} {:?}", token.0).contains("1234"));
        for text in ["", " ", "two words", "pi-\u{1}"] {
            assert!(Token::new(text).is_err(), "{text:?}");
        }
    }
}
