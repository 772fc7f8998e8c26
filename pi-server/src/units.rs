//! Times and speeds of networks as an operator writes them: `60s`, `100Mbit`. Both are read the same way from a file, from
//! the environment and from the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Text that is no value of its kind; says how to write one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// A time: `500ms`, `60s`, `5m`, `1h`, or a bare number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || {
            UnitError(format!(
                "'{text}' is not a time; write 500ms, 60s, 5m or 1h"
            ))
        };
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let seconds = match unit {
            "ms" => return Ok(Self(Duration::from_millis(number))),
            "s" | "" => Some(number),
            "m" => number.checked_mul(60),
            "h" => number.checked_mul(3600),
            _ => None,
        };
        seconds
            .map(|s| Self(Duration::from_secs(s)))
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 => write!(f, "{}s", self.0.as_secs()),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

/// Bits a second: `512kbit`, `100Mbit`, `2.5Gbit/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Speed(pub u64);

const SPEEDS: [(&str, f64); 3] = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)];

impl FromStr for Speed {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || {
            UnitError(format!(
                "'{text}' is not the speed of a network; write 512kbit, 100Mbit or 1Gbit"
            ))
        };
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_suffix("/s").unwrap_or(&lower);
        let (number, unit) = SPEEDS
            .iter()
            .find_map(|(name, unit)| Some((lower.strip_suffix(name)?, *unit)))
            .ok_or_else(wrong)?;
        let bits = number.parse::<f64>().map_err(|_| wrong())? * unit;
        if (1.0..=1e15).contains(&bits) {
            Ok(Self(bits as u64))
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0 as f64;
        match self.0 {
            1_000_000_000.. => write!(f, "{}Gbit", bits / 1e9),
            1_000_000.. => write!(f, "{}Mbit", bits / 1e6),
            _ => write!(f, "{}kbit", bits / 1e3),
        }
    }
}

macro_rules! text_forms {
    ($($kind:ty),*) => {$(
        impl TryFrom<String> for $kind {
            type Error = UnitError;

            fn try_from(text: String) -> Result<Self, UnitError> {
                text.parse()
            }
        }

        impl From<$kind> for String {
            fn from(value: $kind) -> Self {
                value.to_string()
            }
        }
    )*};
}
text_forms!(Span, Speed);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read() {
        for (text, bits) in [
            ("512kbit", 512_000),
            ("100Mbit", 100_000_000),
            ("2.5Gbit/s", 2_500_000_000),
        ] {
            let speed: Speed = text.parse().unwrap();
            assert_eq!(speed, Speed(bits));
            assert_eq!(speed.to_string().parse::<Speed>().unwrap(), speed);
        }
        for text in ["100", "fast", "0Mbit", "-1Mbit", "Mbit", "NaNMbit"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read() {
        for (text, millis) in [
            ("60s", 60_000),
            ("250ms", 250),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7", 7000),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(millis));
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
        for text in ["", "s", "1d", "-1s", "18446744073709551615h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
