//! Markdown and CSV from the same document.

use std::fmt::Write as _;

use pi_model::text::{self, bytes, thousands};
use pi_protocol::session::GarblingMode;
use pi_protocol::session::OtMode;

use crate::models::COST_MODELS;
use crate::result::{PhaseRun, Report, Run};

/// Bytes for one inference, offline share and online together.
#[must_use]
pub fn total_bytes(run: &Run) -> f64 {
    let sum = |p: &PhaseRun| (p.bytes_c2s + p.bytes_s2c) as f64;
    sum(&run.phases.offline) / run.batch as f64 + sum(&run.phases.online)
}

/// Seconds with a unit that suits them.
#[must_use]
pub fn seconds(s: f64) -> String {
    if s < 0.1 {
        format!("{:.2} ms", s * 1e3)
    } else if s < 10.0 {
        format!("{s:.3} s")
    } else {
        format!("{s:.1} s")
    }
}

/// The head and the rows of the main table.
#[must_use]
pub fn rows(report: &Report) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let head = vec![
        "model",
        "network",
        "ReLUs",
        "accuracy",
        "setup",
        "offline each",
        "online median",
        "online p90",
        "predicted online",
        "clear",
        "offline bytes each",
        "all bytes each",
        "online up",
        "online down",
        "round trips",
        "client memory",
        "server memory",
        "inferences/s, offline too",
        "as in the clear",
    ];
    let rows = report.runs.iter().map(|run| {
        let p = &run.phases;
        let predicted = run.predicted.map_or("-".into(), |predicted| {
            let error = predicted.online_s / p.online.latency.median_s.max(1e-9) - 1.0;
            format!("{} ({:+.0} %)", seconds(predicted.online_s), 100.0 * error)
        });
        vec![
            run.model.name.clone(),
            run.network.name.clone(),
            thousands(run.model.relus_kept as u64),
            run.model
                .accuracy
                .map_or("-".into(), |a| format!("{a:.2} %")),
            seconds(p.setup.latency.median_s),
            seconds(p.offline.latency.median_s / run.batch as f64),
            seconds(p.online.latency.median_s),
            seconds(p.online.latency.p90_s),
            predicted,
            seconds(run.plaintext.latency.median_s),
            bytes((p.offline.bytes_c2s + p.offline.bytes_s2c) as f64 / run.batch as f64),
            bytes(total_bytes(run)),
            bytes(p.online.bytes_c2s as f64),
            bytes(p.online.bytes_s2c as f64),
            p.online.rounds.to_string(),
            bytes(run.memory.client_peak_bytes as f64),
            bytes(run.memory.server_peak_bytes as f64),
            format!("{:.2}", run.throughput_per_s),
            format!("{} of {}", run.plaintext.n_agree, run.plaintext.n_compared),
        ]
    });
    (head, rows.collect())
}

/// The head and the rows of the table of many clients.
#[must_use]
pub fn scale_rows(report: &Report) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let head = vec![
        "model",
        "network",
        "clients",
        "prepared",
        "requests/s",
        "p50",
        "p90",
        "p99",
        "server CPU s",
        "server memory",
    ];
    let rows = report.scale.iter().map(|run| {
        vec![
            run.model.name.clone(),
            run.network.name.clone(),
            run.clients.to_string(),
            if run.prepared { "yes" } else { "no" }.into(),
            format!("{:.2}", run.requests_per_s),
            seconds(run.p50_s),
            seconds(run.p90_s),
            seconds(run.p99_s),
            format!("{:.2}", run.cpu_s_server),
            bytes(run.server_peak_bytes as f64),
        ]
    });
    (head, rows.collect())
}

/// The head and the rows of the table of operations: what each party computed in each phase, and how long it waited.
#[must_use]
pub fn operation_rows(report: &Report) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let head = vec![
        "model",
        "network",
        "phase",
        "party",
        "computes",
        "waits",
        "operations, longest first",
    ];
    let mut rows = Vec::new();
    for run in &report.runs {
        for (name, phase) in [
            ("setup", &run.phases.setup),
            ("offline, one batch", &run.phases.offline),
            ("online", &run.phases.online),
        ] {
            let (client, server) = (&phase.operations_s_client, &phase.operations_s_server);
            for (party, operations, waited) in [
                ("client", client, phase.waited_s_client),
                ("server", server, phase.waited_s_server),
            ] {
                if operations.is_empty() {
                    continue;
                }
                let mut sorted: Vec<_> = operations.iter().collect();
                sorted.sort_by(|a, b| b.1.total_cmp(a.1));
                let texts = sorted
                    .iter()
                    .map(|(what, s)| format!("{what} {}", seconds(**s)));
                rows.push(vec![
                    run.model.name.clone(),
                    run.network.name.clone(),
                    name.to_owned(),
                    party.to_owned(),
                    seconds(operations.values().sum()),
                    seconds(waited),
                    texts.collect::<Vec<_>>().join(", "),
                ]);
            }
        }
    }
    (head, rows)
}

/// Where and how, in sentences.
#[must_use]
pub fn facts(report: &Report) -> Vec<String> {
    let host = &report.host;
    let fast = ["aes", "vaes", "avx2", "avx512f", "avx512ifma"];
    let flags = fast
        .iter()
        .filter(|f| host.cpu_flags.iter().any(|g| g == *f));
    let mut facts = vec![
        report.description.clone(),
        format!(
            "{}, {} CPUs ({}), {:.1} GB of memory, Linux {}; {}, {} build of commit {}.",
            host.cpu,
            host.n_cpus,
            flags.copied().collect::<Vec<_>>().join(" "),
            host.memory_bytes as f64 / 1e9,
            host.kernel,
            host.rustc,
            host.profile,
            host.commit
        ),
        "Client and server are two processes on this machine, connected by gRPC. Offline is for each inference of a batch; online is one inference. MB = 1,000,000 bytes of protocol payload.".into(),
    ];
    let mut networks: Vec<String> = Vec::new();
    for text in report
        .runs
        .iter()
        .map(|r| r.network.text())
        .chain(report.scale.iter().map(|r| r.network.text()))
    {
        if !networks.contains(&text) {
            networks.push(text);
        }
    }
    facts.extend(networks.into_iter().map(|n| format!("Network {n}.")));
    let modes = report.runs.iter().map(|r| r.ot);
    let mut modes: Vec<_> = modes.chain(report.scale.iter().map(|r| r.ot)).collect();
    modes.dedup();
    facts.extend(modes.iter().map(|mode| match mode {
        OtMode::SoftSpoken => "Oblivious transfers by SoftSpokenOT.".to_owned(),
        OtMode::Silent => "Oblivious transfers are silent.".to_owned(),
    }));
    let modes = report.runs.iter().map(|r| r.garbling);
    let mut modes: Vec<_> = modes
        .chain(report.scale.iter().map(|r| r.garbling))
        .collect();
    modes.dedup();
    facts.extend(modes.iter().map(|mode| match mode {
        GarblingMode::HalfGates => "Circuits garbled by half-gates.".to_owned(),
        GarblingMode::ThreeHalves => "Circuits garbled by three halves.".to_owned(),
        GarblingMode::ClientDigits => "ReLUs garbled by the client, by radix-16 digits.".to_owned(),
    }));
    if !report.runs.is_empty() {
        let models = COST_MODELS.map(|m| m.name).join("; ");
        facts.push(format!(
            "Beside the pictures of bytes, computed and not measured: {models}."
        ));
    }
    let loads = report
        .runs
        .iter()
        .map(|r| r.foreign_cpu_share)
        .fold(0.0, f64::max);
    facts.push(format!(
        "Other processes used at most {:.1} % of the machine during any run.",
        100.0 * loads
    ));
    facts
}

/// What is missing, and what to beware of.
#[must_use]
pub fn cautions(report: &Report) -> Vec<String> {
    let mut cautions: Vec<String> = report
        .warnings
        .iter()
        .map(|w| format!("Warning: {w}."))
        .collect();
    cautions.extend(
        report
            .missing
            .iter()
            .map(|m| format!("Missing: {} over {}: {}.", m.model, m.network, m.reason)),
    );
    for run in &report.runs {
        let n = run.phases.online.latency.outliers.len();
        if n > 0 {
            cautions.push(format!(
                "{} over {}: {n} of {} online samples are outliers; they are counted.",
                run.model.name,
                run.network.name,
                run.phases.online.latency.samples_s.len()
            ));
        }
    }
    cautions
}

/// The report as Markdown.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = format!("# {}\n\n", report.suite);
    for fact in facts(report) {
        text.push_str(&fact);
        text.push_str("\n\n");
    }
    for caution in cautions(report) {
        text.push_str(&format!("- {caution}\n"));
    }
    text.push('\n');
    let tables = [rows(report), operation_rows(report), scale_rows(report)];
    for (head, rows) in tables {
        if !rows.is_empty() {
            text += &text::markdown(&head, &rows);
        }
    }
    text
}

/// Every run and phase as CSV.
#[must_use]
pub fn csv(report: &Report) -> String {
    let mut text = String::from(
        "model,network,shaping,relus_kept,relus_total,batch,phase,median_s,p90_s,quartile_distance_s,samples,outliers,cpu_s_client,cpu_s_server,bytes_c2s,bytes_s2c,messages,rounds,computed_s_client,waited_s_client,wall_s_server,computed_s_server,waited_s_server,ot,garbling\n",
    );
    for run in &report.runs {
        let phases = &run.phases;
        for (name, phase) in [
            ("setup", &phases.setup),
            ("offline", &phases.offline),
            ("online", &phases.online),
        ] {
            let l = &phase.latency;
            // Names come from model files: commas and quotes would break a row.
            let clean = run.model.name.replace([',', '"', '\n'], "_");
            let _ = writeln!(
                text,
                "{clean},{},{},{},{},{},{name},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
                run.network.name,
                run.network.shaping.text().replace(',', ";"),
                run.model.relus_kept,
                run.model.relus_total,
                run.batch,
                l.median_s,
                l.p90_s,
                l.quartile_distance_s,
                l.samples_s.len(),
                l.outliers.len(),
                phase.cpu_s_client,
                phase.cpu_s_server,
                phase.bytes_c2s,
                phase.bytes_s2c,
                phase.messages,
                phase.rounds,
                phase.operations_s_client.values().sum::<f64>(),
                phase.waited_s_client,
                phase.wall_s_server,
                phase.operations_s_server.values().sum::<f64>(),
                phase.waited_s_server,
                run.ot,
                run.garbling
            );
        }
    }
    text
}
