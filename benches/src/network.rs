//! The networks that a suite may name. Delays are round trips; bandwidths are of each direction.
//!
//! `lan3` and `wan400` are the profiles of Cheetah's scripts (Huang, Lu, Hong, Ding, USENIX Security 2022).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::BenchError;

/// Bytes of Ethernet, IP and TCP headers for each 1448 bytes, as a segment of a 1500-byte MTU has them; all of them pass the
/// link.
pub const HEADERS: f64 = 1514.0 / 1448.0;

/// How the two processes are connected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInfo {
    /// Its name in suites and on the command line.
    pub name: String,
    /// Client to server, bit/s; none if not limited.
    pub up_bit_s: Option<f64>,
    /// Server to client, bit/s; none if not limited.
    pub down_bit_s: Option<f64>,
    /// Round-trip delay that is added.
    pub round_trip_ms: f64,
    /// What makes it so.
    pub shaping: Shaping,
}

/// What makes a network slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shaping {
    /// Nothing: the loopback interface of one machine.
    Loopback,
    /// Simulated: a proxy in user space delays and paces the bytes of each TCP connection.
    Proxy,
    /// Two network namespaces: the kernel's token bucket on a veth pair limits the rate, a proxy adds the delay.
    Namespaces,
}

impl Shaping {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Loopback => "not shaped",
            Self::Proxy => "simulated by a proxy in user space",
            Self::Namespaces => "rate by the kernel (TBF between namespaces), delay by a proxy",
        }
    }
}

/// name, up Mbit/s, down Mbit/s, round trip ms.
const PROFILES: [(&str, f64, f64, f64); 5] = [
    ("lan", 1000.0, 1000.0, 0.5),
    ("lan3", 3000.0, 3000.0, 0.3),
    ("wan400", 400.0, 400.0, 40.0),
    ("wan", 100.0, 100.0, 40.0),
    ("4g", 5.0, 20.0, 50.0),
];

impl NetworkInfo {
    /// The network called `name`; `-netns` after a name asks for network namespaces.
    ///
    /// # Errors
    /// [`BenchError::UnknownNetwork`].
    pub fn find(name: &str) -> Result<Self, BenchError> {
        if name == "loopback" {
            return Ok(Self {
                name: name.to_owned(),
                up_bit_s: None,
                down_bit_s: None,
                round_trip_ms: 0.0,
                shaping: Shaping::Loopback,
            });
        }
        let (base, shaping) = name
            .strip_suffix("-netns")
            .map_or((name, Shaping::Proxy), |base| (base, Shaping::Namespaces));
        let (_, up, down, round_trip_ms) =
            PROFILES
                .iter()
                .find(|p| p.0 == base)
                .ok_or_else(|| BenchError::UnknownNetwork {
                    name: name.to_owned(),
                    known: Self::known(),
                })?;
        Ok(Self {
            name: name.to_owned(),
            up_bit_s: Some(up * 1e6),
            down_bit_s: Some(down * 1e6),
            round_trip_ms: *round_trip_ms,
            shaping,
        })
    }

    /// All names, for messages.
    #[must_use]
    pub fn known() -> String {
        let names: Vec<&str> = PROFILES.iter().map(|p| p.0).collect();
        format!(
            "loopback, {} (and the same with -netns where network namespaces can be made)",
            names.join(", ")
        )
    }

    /// Delay in one direction.
    #[must_use]
    pub fn one_way(&self) -> Duration {
        Duration::from_secs_f64(self.round_trip_ms / 2e3)
    }

    /// Seconds that messages of these sizes, with their headers, and this many round trips spend on the wire at least.
    #[must_use]
    pub fn wire_seconds(&self, up: u64, down: u64, round_trips: u64) -> f64 {
        let pace = |n: u64, rate: Option<f64>| rate.map_or(0.0, |r| n as f64 * HEADERS * 8.0 / r);
        pace(up, self.up_bit_s)
            + pace(down, self.down_bit_s)
            + round_trips as f64 * self.round_trip_ms / 1e3
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let rate = |r: Option<f64>| r.map_or("-".to_owned(), |r| format!("{}", r / 1e6));
        match self.shaping {
            Shaping::Loopback => "loopback: one machine, not shaped".into(),
            shaping => format!(
                "{}: {}/{} Mbit/s up/down, {} ms round trip, {}",
                self.name,
                rate(self.up_bit_s),
                rate(self.down_bit_s),
                self.round_trip_ms,
                shaping.text()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_and_others_are_named_in_the_refusal() {
        for name in [
            "loopback",
            "lan",
            "lan3",
            "wan400",
            "wan",
            "4g",
            "wan-netns",
        ] {
            assert_eq!(NetworkInfo::find(name).unwrap().name, name);
        }
        let error = NetworkInfo::find("lann").unwrap_err().to_string();
        assert!(
            error.contains("'lann'") && error.contains("wan400"),
            "{error}"
        );
        let wan = NetworkInfo::find("wan").unwrap();
        assert!((wan.wire_seconds(12_500_000, 0, 2) - HEADERS - 0.08).abs() < 1e-9);
    }
}
