//! Cost models of published systems: arithmetic on stated constants, on top of the linear layers here. Never measurements.
//!
//! | system | offline, B a ReLU | online, B a ReLU | garble / evaluate, us a ReLU | round trips a ReLU layer |
//! |---|---|---|---|---|
//! | DELPHI (Mishra et al., USENIX Security 2020) | 19,088 | 1,193 | 170 / 84 on one core | 1 |
//! | comparison by OT (CrypTFlow2, Cheetah) | 0 | 55.75 (446 bits) | not modelled | 6 to 10 |
//!
//! The bytes of DELPHI are those of its published code with its 41-bit prime; the times are of the circuit of that code
//! (10,720 bytes of gates) on one core of an AMD EPYC. Garbling and evaluation scale with cores, so the model gives a range
//! from all cores of the report's machine to one. OT-based comparison computes little; only its wire is modelled.

use crate::network::NetworkInfo;
use crate::result::Run;

/// One published system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostModel {
    /// System and source.
    pub name: &'static str,
    /// For the legend of a picture.
    pub short: &'static str,
    /// Offline bytes for each ReLU.
    pub offline_bytes: f64,
    /// Online bytes for each ReLU.
    pub online_bytes: f64,
    /// Part of the online bytes that goes from the server to the client.
    pub down_share: f64,
    /// Seconds of one core online for each ReLU.
    pub online_core_s: f64,
    /// Round trips for each layer with ReLUs: from, to.
    pub round_trips: (f64, f64),
}

/// DELPHI's published code, and comparison by OT.
pub const COST_MODELS: [CostModel; 2] = [
    CostModel {
        name: "model of DELPHI (Mishra et al., USENIX Security 2020): 19,088 B offline, 1,193 B online a ReLU, 170 us to garble and 84 us to evaluate on one core",
        short: "model: DELPHI",
        offline_bytes: 19_088.0,
        online_bytes: 1_193.0,
        down_share: 1.0,
        online_core_s: 84e-6,
        round_trips: (1.0, 1.0),
    },
    CostModel {
        name: "model of OT-based comparison: 446 bits a ReLU, 6 to 10 rounds a layer, all online, computation not counted",
        short: "model: OT comparison",
        offline_bytes: 0.0,
        online_bytes: 446.0 / 8.0,
        down_share: 0.5,
        online_core_s: 0.0,
        round_trips: (6.0, 10.0),
    },
];

/// What a network asks of its ReLUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Surviving ReLUs.
    pub n_relus: usize,
    /// Layers that keep at least one.
    pub n_relu_layers: usize,
    /// Cores of the machine.
    pub n_cpus: usize,
}

impl Load {
    /// Of a measured run on a machine with `n_cpus` cores.
    #[must_use]
    pub fn of(run: &Run, n_cpus: usize) -> Self {
        Self {
            n_relus: run.model.relus_kept,
            n_relu_layers: run.layers.iter().filter(|l| l.relus_kept > 0).count(),
            n_cpus: n_cpus.max(1),
        }
    }
}

impl CostModel {
    /// Bytes of the ReLUs of one inference, offline and online together.
    #[must_use]
    pub fn bytes(&self, load: &Load) -> f64 {
        load.n_relus as f64 * (self.offline_bytes + self.online_bytes)
    }

    /// Seconds that the ReLUs of one inference add to its linear layers online, from and to.
    #[must_use]
    pub fn online_s(&self, load: &Load, network: &NetworkInfo) -> (f64, f64) {
        let bytes = load.n_relus as f64 * self.online_bytes;
        let down = bytes * self.down_share;
        let wire_s = network.wire_seconds((bytes - down) as u64, down as u64, 0);
        let core_s = load.n_relus as f64 * self.online_core_s;
        let delay_s = |each: f64| load.n_relu_layers as f64 * each * network.round_trip_ms / 1e3;
        (
            wire_s + core_s / load.n_cpus as f64 + delay_s(self.round_trips.0),
            wire_s + core_s + delay_s(self.round_trips.1),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_follow_their_constants() {
        let load = Load {
            n_relus: 100_000,
            n_relu_layers: 17,
            n_cpus: 2,
        };
        let [delphi, ot] = COST_MODELS;
        assert_eq!(delphi.bytes(&load), 2_028_100_000.0);
        let loopback = NetworkInfo::find("loopback").unwrap();
        let (low, high) = delphi.online_s(&load, &loopback);
        assert!((low - 4.2).abs() < 1e-9 && (high - 8.4).abs() < 1e-9);
        assert_eq!(ot.online_s(&load, &loopback), (0.0, 0.0));
        let wan = NetworkInfo::find("wan").unwrap();
        let (low, high) = ot.online_s(&load, &wan);
        assert!((high - low - 4.0 * 17.0 * 0.04).abs() < 1e-9 && low > 6.0 * 17.0 * 0.04);
    }
}
