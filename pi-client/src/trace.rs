//! The W3C trace context that this program runs in, from the variable `TRACEPARENT`, as tools that trace commands set it. It
//! goes with every call, so that the server's spans join the trace. Without the variable nothing is sent.

use std::sync::OnceLock;

use tonic::metadata::{Ascii, MetadataValue};

/// Digits of the version, the trace, the parent and the flags.
const DIGITS: [usize; 4] = [2, 32, 16, 2];

/// The context, if there is one.
pub(crate) fn parent() -> Option<&'static MetadataValue<Ascii>> {
    static PARENT: OnceLock<Option<MetadataValue<Ascii>>> = OnceLock::new();
    let parent = PARENT.get_or_init(|| parse(&std::env::var("TRACEPARENT").ok()?));
    parent.as_ref()
}

fn parse(text: &str) -> Option<MetadataValue<Ascii>> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let parts = text.split('-').map(|part| part.len());
    let good = parts.eq(DIGITS) && text.bytes().all(|c| c == b'-' || hex(c));
    good.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_has_four_parts_of_hexadecimal_digits() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(parse(good).unwrap(), good);
        for bad in ["", "00-1-2-3", &good[1..], &good.to_uppercase(), "a\nb"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
