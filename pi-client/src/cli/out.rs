//! What all commands print with: a line of output, bytes, times.

use std::io::Write as _;
use std::time::Duration;

use pi_model::text;

/// Prints text and a line break to standard output.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Decimal units, three digits.
pub(crate) fn bytes(n: u64) -> String {
    text::bytes(n as f64)
}

/// Whole minutes, hours or days.
pub(crate) fn span(time: Duration) -> String {
    match time.as_secs() {
        s if s < 120 => format!("{s} s"),
        s if s < 2 * 3600 => format!("{} minutes", s / 60),
        s if s < 48 * 3600 => format!("{} hours", s / 3600),
        s => format!("{} days", s / 86400),
    }
}
