//! The predicted cost as a table: a row for each layer, one for the OTs of the batch, and the total.

use std::fmt;

use pi_model::text::Table;

use super::{Cost, LayerInfo};
use crate::wire::ledger::Work;
use crate::wire::{Direction, Phase};

/// One row; cells that a row lacks are empty.
#[derive(Default)]
struct Row {
    name: String,
    positions: String,
    relus: String,
    bits: String,
    gates: String,
    ots: String,
    ciphertexts: String,
    up: String,
    down: String,
    online: String,
}

impl Row {
    fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Work of a batch, for one of its inferences.
    fn work(mut self, work: Work, batch: u64) -> Self {
        self.gates = (work.n_and_gates / batch).to_string();
        self.ots = (work.n_ots / batch).to_string();
        self.ciphertexts = format!("{:.1}", work.n_ciphertexts as f64 / batch as f64);
        self
    }
}

impl Row {
    fn cells(self) -> [String; 10] {
        [
            self.name,
            self.positions,
            self.relus,
            self.bits,
            self.gates,
            self.ots,
            self.ciphertexts,
            self.up,
            self.down,
            self.online,
        ]
    }
}

fn kb(n: u64) -> String {
    format!("{:.1}", n as f64 / 1e3)
}

impl Cost {
    fn layer(&self, index: usize, info: &LayerInfo) -> Row {
        let (layer, batch) = (index as u16, self.batch as u64);
        let of = |phase, direction| {
            self.select(|s, l| {
                l == layer && s.phase() == phase && s.direction() == direction && s.is_of_a_layer()
            })
        };
        let online = of(Phase::Online, Direction::Up) + of(Phase::Online, Direction::Down);
        let row = Row {
            name: info.name.clone(),
            positions: info.n_positions.to_string(),
            relus: info.n_relus.to_string(),
            bits: match info.n_relus {
                0 => "-".into(),
                _ => info.sign_bits.to_string(),
            },
            up: kb(of(Phase::Offline, Direction::Up) / batch),
            down: kb(of(Phase::Offline, Direction::Down) / batch),
            online: kb(online),
            ..Row::default()
        };
        row.work(self.work.get(&layer).copied().unwrap_or_default(), batch)
    }

    fn transfers(&self) -> Row {
        let bytes = |direction| {
            self.select(|s, _| {
                s.phase() == Phase::Offline && !s.is_of_a_layer() && s.direction() == direction
            }) / self.batch as u64
        };
        Row {
            up: kb(bytes(Direction::Up)),
            down: kb(bytes(Direction::Down)),
            ..Row::named("OT extension")
        }
    }

    fn total(&self) -> Row {
        let batch = self.batch as u64;
        let n_inner = self.layers.len().saturating_sub(1);
        let inner = self.layers.iter().take(n_inner);
        let relus: usize = self.layers.iter().map(|l| l.n_relus).sum();
        let online = [Direction::Up, Direction::Down].map(|d| self.bytes(Phase::Online, d));
        let row = Row {
            positions: inner.map(|l| l.n_positions).sum::<usize>().to_string(),
            relus: relus.to_string(),
            up: kb(self.bytes(Phase::Offline, Direction::Up) / batch),
            down: kb(self.bytes(Phase::Offline, Direction::Down) / batch),
            online: kb(online.iter().sum()),
            ..Row::named("total")
        };
        row.work(self.total_work(), batch)
    }
}

/// The two lines of the table's head.
fn head() -> [Row; 2] {
    let first = Row {
        positions: "positions".into(),
        relus: "ReLUs".into(),
        bits: "l".into(),
        gates: "AND gates".into(),
        ots: "OTs".into(),
        ciphertexts: "cipher-".into(),
        up: "offline up".into(),
        down: "offline down".into(),
        online: "online".into(),
        ..Row::named("layer")
    };
    let units = Row {
        bits: "bits".into(),
        ciphertexts: "texts".into(),
        up: "kB".into(),
        down: "kB".into(),
        online: "kB".into(),
        ..Row::default()
    };
    [first, units]
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Predicted cost of one inference, prepared in a batch of {}; kB = 1000 bytes.",
            self.batch
        )?;
        let layers = self.layers.iter().enumerate();
        let layers = layers.map(|(index, info)| self.layer(index, info));
        let rows = head().into_iter().chain(layers);
        let mut table = Table::new(&[22, 10, 9, 5, 11, 10, 9, 12, 12, 11]);
        for row in rows.chain([self.transfers(), self.total()]) {
            table.row(row.cells(), "");
        }
        table.fmt(f)?;
        writeln!(
            f,
            "Set-up, once for each client: {} kB up, {} kB down. Round trips: {} set-up, {} offline for the batch, {} online.",
            kb(self.bytes(Phase::Setup, Direction::Up)),
            kb(self.bytes(Phase::Setup, Direction::Down)),
            self.round_trips(Phase::Setup),
            self.round_trips(Phase::Offline),
            self.round_trips(Phase::Online),
        )?;
        write!(
            f,
            "Values that a wrap of the truncation spoils, expected in one inference at the calibrated ranges: at most {:.1e}.",
            self.expected_failures
        )
    }
}
