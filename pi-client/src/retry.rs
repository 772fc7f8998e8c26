//! Trying again, where nothing that can be used once has been spent: connecting, describing, opening a session, preparing.
//!
//! A server that was silent for as long as it may be is not asked again: that would take as long once more.
//!
//! A server that says when to come back is believed, if that is soon; otherwise the wait doubles each time.

use std::time::Duration;

use crate::error::ClientError;

/// How often and how long to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Tries after the first.
    pub n: u32,
    /// Longest single wait. Who is told to come back later than this is told at once.
    pub longest: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            n: 2,
            longest: Duration::from_secs(10),
        }
    }
}

impl Retries {
    /// Gives up at the first error.
    pub const NONE: Self = Self {
        n: 0,
        longest: Duration::ZERO,
    };

    /// How long to wait after the try number `n_tried` (from 1) failed with `error`; `None` to give up.
    #[must_use]
    pub fn wait(&self, n_tried: u32, error: &ClientError) -> Option<Duration> {
        let again = n_tried <= self.n && !error.is_silence();
        let asked = error.retry_after().filter(|_| again)?;
        let doubled = Duration::from_millis(500) * (1 << (n_tried - 1).min(10));
        let wait = asked.max(doubled);
        (asked <= self.longest).then_some(wait.min(self.longest))
    }

    /// Does `what` until it works or is not worth another try. `told` hears of each error and the wait before the next try.
    ///
    /// # Errors
    /// The last error.
    pub fn run<T>(
        &self,
        mut what: impl FnMut() -> Result<T, ClientError>,
        mut told: impl FnMut(&ClientError, Duration),
    ) -> Result<T, ClientError> {
        let mut n_tried = 0;
        loop {
            n_tried += 1;
            match what() {
                Ok(value) => return Ok(value),
                Err(error) => match self.wait(n_tried, &error) {
                    Some(wait) => {
                        told(&error, wait);
                        std::thread::sleep(wait);
                    }
                    None => return Err(error),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_work_later_is_tried_again_and_the_server_is_believed() {
        let retries = Retries::default();
        let wait = |n, seconds| {
            let error = ClientError::Refused {
                code: tonic::Code::ResourceExhausted,
                message: String::new(),
                retry_after: Some(Duration::from_secs(seconds)),
            };
            retries.wait(n, &error)
        };
        assert_eq!(wait(1, 5), Some(Duration::from_secs(5)));
        assert_eq!(wait(3, 5), None);
        assert_eq!(wait(1, 3600), None);
        let down = |tls| ClientError::Unreachable {
            url: String::new(),
            reason: String::new(),
            tls,
        };
        assert_eq!(
            retries.wait(1, &down(false)),
            Some(Duration::from_millis(500))
        );
        assert_eq!(retries.wait(2, &down(false)), Some(Duration::from_secs(1)));
        assert_eq!(retries.wait(1, &down(true)), None);
        assert_eq!(retries.wait(1, &ClientError::Closed), None);
        let silent = ClientError::silent("", Duration::from_secs(1));
        assert_eq!(retries.wait(1, &silent), None);
        assert_eq!(Retries::NONE.wait(1, &down(false)), None);
    }
}
