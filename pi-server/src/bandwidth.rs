//! Speeds of networks on the command line.

use anyhow::anyhow;

/// Bits a second of, for example, `100Mbit`, `1Gbit` or `2.5Gbit/s`.
pub fn parse(text: &str) -> anyhow::Result<u64> {
    let wrong =
        || anyhow!("'{text}' is not the speed of a network; write 512kbit, 100Mbit or 1Gbit");
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix("/s").unwrap_or(&lower);
    let units = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((lower.strip_suffix(name)?, *unit)))
        .ok_or_else(wrong)?;
    let bits = number.parse::<f64>().map_err(|_| wrong())? * unit;
    if (1.0..=1e15).contains(&bits) {
        Ok(bits as u64)
    } else {
        Err(wrong())
    }
}

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
            assert_eq!(parse(text).unwrap(), bits);
        }
        for text in ["100", "fast", "0Mbit", "-1Mbit", "Mbit", "NaNMbit"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
