//! What a run has cost, as tables: by phase and by layer.

use pi_client::Report;
use pi_client::report::PhaseReport;
use pi_model::text::{Table, shown, thousands};

use super::out::bytes;

/// Seconds, bytes and round trips of each phase.
pub(crate) fn by_phase(report: &Report) -> String {
    let mut table = Table::new(&[8, 11, 13, 13, 13]);
    table.row(["phase", "seconds", "up", "down", "round trips"], "");
    let mut row = |name: &str, phase: &PhaseReport, n: usize, each: &str| {
        let cells = [
            name.to_owned(),
            format!("{:.3}", phase.seconds),
            bytes(phase.bytes_up),
            bytes(phase.bytes_down),
            phase.round_trips.to_string(),
        ];
        let remark = match n {
            0 => String::new(),
            n => format!(
                "   {:.3} s and {} for each of {n} {each}",
                phase.seconds / n as f64,
                bytes(phase.bytes() / n as u64)
            ),
        };
        table.row(cells, remark);
    };
    row("setup", &report.setup, 0, "");
    row("offline", &report.offline, report.n_prepared, "prepared");
    row("online", &report.online, report.n_inferences, "inferences");
    let how = match report.n_prepared {
        0 => "all prepared before this run".to_owned(),
        _ => format!(
            "{} AND gates an inference, {}, {} OT",
            thousands(report.and_gates),
            report.garbling,
            report.ot
        ),
    };
    format!(
        "{table}\n{}: {} of {} ReLUs kept, {how}, {} on the wire in all",
        shown(&report.model),
        thousands(report.relus_kept as u64),
        thousands(report.relus_total as u64),
        bytes(report.wire_bytes)
    )
}

/// Traffic of each layer, for one inference.
pub(crate) fn by_layer(report: &Report) -> String {
    let mut table = Table::new(&[5, 12, 16, 13, 13, 13]);
    table.row(
        [
            "layer",
            "output",
            "ReLUs",
            "HE offline",
            "GC offline",
            "online",
        ],
        "   for one inference",
    );
    let prepared = report.n_prepared.max(1) as u64;
    let inferences = report.n_inferences.max(1) as u64;
    for layer in &report.layers {
        let relus = match layer.relus_total {
            0 => "output".to_owned(),
            total => format!("{}/{total}", layer.relus_kept),
        };
        table.row(
            [
                shown(&layer.name),
                layer.shape.clone(),
                relus,
                bytes(layer.he_bytes / prepared),
                bytes(layer.relu_bytes / prepared),
                bytes(layer.online_bytes / inferences),
            ],
            "",
        );
    }
    table.to_string()
}
