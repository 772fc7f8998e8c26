//! What the transport says, in words that its user can act on: silence, a broken connection, and TLS that one side refuses.
//!
//! With TLS 1.3 a client has ended its handshake before the server judges the client's certificate. A refusal then comes as an
//! alert, or only as a connection that closes before the first answer, whichever is read first; both are told as one mistake.

use std::time::Duration;

use pi_proto::limits::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use tonic::{Code, Status};

use super::ClientError;

/// How every error for want of an answer begins.
const SILENCE: &str = "no answer within ";

/// Alerts by which a server refuses a client's certificate, or the want of one.
const CERTIFICATE_ALERTS: [&str; 11] = [
    "decrypterror",
    "unknownca",
    "badcertificate",
    "certificateunknown",
    "certificaterequired",
    "certificateexpired",
    "certificaterevoked",
    "unsupportedcertificate",
    "nocertificate",
    "accessdenied",
    "bad_certificate",
];

/// What is known of a connection that failed.
#[derive(Clone, Copy)]
pub(crate) struct Failed<'a> {
    /// The server's address.
    pub(crate) url: &'a str,
    /// Whether this client had a certificate to show.
    pub(crate) has_identity: bool,
    /// Whether the server has never answered on it.
    pub(crate) is_fresh: bool,
    /// How long a connection may take.
    pub(crate) connect_timeout: Duration,
}

impl Failed<'_> {
    /// The error for what the transport says.
    pub(crate) fn because(self, error: &dyn std::error::Error) -> ClientError {
        let causes = causes(error);
        let lower = causes.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let tls = |advice: &str| ClientError::Unreachable {
            url: self.url.to_owned(),
            reason: format!("{advice} ({causes})"),
            tls: true,
        };
        let is_tls = self.url.starts_with("https:");
        if is_tls && has(&["fatal alert"]) && has(&CERTIFICATE_ALERTS) {
            return tls(match self.has_identity {
                true => {
                    "it did not accept this client's certificate: take one of an authority that the server trusts, and that has not expired"
                }
                false => {
                    "it asks for a certificate of this client: give --client-cert and --client-key"
                }
            });
        }
        // Before the handshake has ended errors do not come from HTTP/2.
        let is_after_handshake = has(&[
            "http2 error",
            "operation was canceled",
            "h2 protocol error",
            "stream closed because of a broken pipe",
        ]);
        let is_cut = has(&["closed", "reset", "broken pipe", "eof", "not connected"]);
        if is_tls && self.is_fresh && is_after_handshake && is_cut {
            return tls(match self.has_identity {
                true => {
                    "it closed the connection right after the handshake: perhaps it did not accept this client's certificate"
                }
                false => {
                    "it closed the connection right after the handshake: it may want a certificate of this client: --client-cert and --client-key"
                }
            });
        }
        if has(&["keep-alive timed out"]) {
            return ClientError::silent(self.url, KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT);
        }
        if has(&[
            "deadline has elapsed",
            "handshake timeout",
            "handshake timed out",
        ]) {
            return ClientError::silent(self.url, self.connect_timeout);
        }
        ClientError::unreachable(self.url, error)
    }
}

impl ClientError {
    /// An error of the transport to `url`, with advice drawn from its causes.
    #[must_use]
    pub fn unreachable(url: &str, error: &dyn std::error::Error) -> Self {
        let causes = causes(error);
        let lower = causes.to_lowercase();
        let has = |text: &str| lower.contains(text);
        // What answers in clear HTTP/2's stead is an alert of TLS, or words of HTTP/1.
        if url.starts_with("http:") && has("frame with invalid size") {
            return Self::no_http2(url);
        }
        let tls = [
            "certificate",
            "tls",
            "contenttype",
            "corrupt message",
            "fatal alert",
        ];
        let tls = tls.iter().any(|word| has(word));
        let advice = if has("expired") {
            "its certificate has expired: the server's operator must renew it, or this machine's clock is wrong"
        } else if has("notvalidyet") || has("not valid yet") {
            "its certificate is not valid yet: is this machine's clock right?"
        } else if has("notvalidforname") || has("not valid for name") {
            "its certificate is made for another host name: use the name in the certificate, or a certificate made with --host for this one"
        } else if has("unknownissuer") || has("unknown issuer") || has("badsignature") {
            "its certificate is not trusted here: give the certificate, or that of its issuer, with --ca FILE"
        } else if has("causedasendentity") {
            "the server shows a certificate that is an authority (CA:TRUE) as its own: make one with `pi-server certificate`, or with `-addext basicConstraints=critical,CA:FALSE`"
        } else if has("invalidcontenttype") || has("corrupt message") {
            "it does not speak TLS there: use http://, or start the server with --tls-cert and --tls-key"
        } else if has("certificate") || has("tls") || has("fatal alert") {
            "the TLS handshake failed"
        } else if has("refused") {
            "nothing listens there: start pi-server, or check host and port"
        } else if has("dns") || has("lookup") {
            "this host name is not known"
        } else if has("elapsed") || has("timed out") || has("deadline") {
            "no answer: check host, port and firewall"
        } else if url.starts_with("http:") {
            "the connection broke: if the server uses TLS, write https://"
        } else {
            "the connection broke"
        };
        Self::Unreachable {
            url: url.to_owned(),
            reason: format!("{advice} ({causes})"),
            tls,
        }
    }

    /// A port that answers, and not in HTTP/2.
    pub(crate) fn no_http2(url: &str) -> Self {
        Self::Unreachable {
            url: url.to_owned(),
            reason: "that port speaks TLS or is no pi-server: write https://, or check the port"
                .into(),
            tls: true,
        }
    }

    /// A server that has not answered for so long.
    pub(crate) fn silent(url: &str, waited: Duration) -> Self {
        Self::Unreachable {
            url: url.to_owned(),
            reason: format!(
                "{SILENCE}{} s: check host, port and firewall",
                // A tenth of a second is enough, and none of it for whole ones.
                (waited.as_secs_f64() * 10.0).round() / 10.0
            ),
            tls: false,
        }
    }

    /// Whether the server was waited for as long as it may be silent.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { reason, .. } if reason.starts_with(SILENCE))
    }
}

/// Whether `status` was made on this side because the connection broke, and is no word of the server.
pub(crate) fn is_broken(status: &Status) -> bool {
    let is_ours = std::error::Error::source(status).is_some();
    let text = status.message();
    is_ours
        || text.starts_with("h2 protocol error")
        || matches!(status.code(), Code::Unavailable | Code::Cancelled)
            && ["keep-alive timed out", "operation was canceled"].contains(&text)
}

/// What became of a stream, where that is known and not the server's word.
pub(super) fn broken_stream(status: &Status) -> &'static str {
    match causes(status).to_lowercase().contains("timed out") {
        true => "the server does not answer any more",
        false => "the connection was cut",
    }
}

/// An error with all its causes, each told once.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
        next = cause.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    fn failed(url: &str, has_identity: bool, is_fresh: bool, text: &str) -> ClientError {
        let failed = Failed {
            url,
            has_identity,
            is_fresh,
            connect_timeout: Duration::from_secs(7),
        };
        failed.because(&Error::other(text.to_owned()))
    }

    #[test]
    fn a_certificate_of_the_client_that_is_refused_is_an_error_of_tls_in_every_way_that_it_is_told()
    {
        for text in [
            "transport error: http2 error: received fatal alert: DecryptError",
            "transport error: received fatal alert: UnknownCA",
            "transport error: operation was canceled: connection closed",
            "transport error: http2 error: broken pipe",
        ] {
            for (has_identity, words) in [(true, "accept"), (false, "--client-cert")] {
                let error = failed("https://a:1", has_identity, true, text);
                assert!(matches!(error, ClientError::Unreachable { tls: true, .. }));
                assert_eq!(error.retry_after(), None);
                assert!(error.to_string().contains(words), "{error}");
            }
        }
        // A connection that has served breaks for other reasons.
        let text = "operation was canceled: connection closed";
        for (url, is_fresh) in [("https://a:1", false), ("http://a:1", true)] {
            let error = failed(url, false, is_fresh, text);
            assert!(error.retry_after().is_some(), "{error}");
        }
    }

    #[test]
    fn silence_is_told_with_its_length_and_a_port_without_http2_as_such() {
        let error = failed(
            "http://a:1",
            false,
            true,
            "http2 error: keep-alive timed out",
        );
        assert!(error.is_silence());
        assert!(
            error.to_string().contains("no answer within 40 s"),
            "{error}"
        );
        let error = failed(
            "http://a:1",
            false,
            true,
            "tcp connect: deadline has elapsed",
        );
        assert!(error.to_string().contains("within 7 s"), "{error}");
        let error = ClientError::silent("http://a:1", Duration::from_millis(250));
        assert!(error.to_string().contains("within 0.3 s"), "{error}");
        let text = "http2 error: connection error detected: frame with invalid size";
        let error = failed("http://a:1", false, true, text);
        assert!(error.to_string().contains("write https://"), "{error}");
        assert_eq!(error.retry_after(), None);
    }

    #[test]
    fn what_the_transport_makes_up_is_no_word_of_the_server() {
        let broken = "h2 protocol error: error reading a body from connection";
        assert!(is_broken(&Status::unknown(broken)));
        assert!(is_broken(&Status::unavailable("keep-alive timed out")));
        assert!(!is_broken(&Status::unavailable("this server is stopping")));
        assert_eq!(
            broken_stream(&Status::unknown(broken)),
            "the connection was cut"
        );
    }
}
