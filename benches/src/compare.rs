//! What changed between two reports. Only counts that a plan fixes can fail; times are told and never judged.

use std::fmt::Write as _;

use crate::host::Host;
use crate::result::{Report, Run};

/// The comparison as text, and how many deterministic counts differ.
#[must_use]
pub fn compare(a: &Report, b: &Report) -> (String, usize) {
    let mut text = String::new();
    let mut n_changed = 0;
    let mut say = |line: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    let machine = |h: &Host| Host {
        commit: String::new(),
        rustc: String::new(),
        profile: String::new(),
        ..h.clone()
    };
    if machine(&a.host) != machine(&b.host) {
        say(format!(
            "hosts differ: {} with Linux {} against {} with Linux {}; times do not compare",
            a.host.cpu, a.host.kernel, b.host.cpu, b.host.kernel
        ));
    }
    if a.host.commit != b.host.commit {
        say(format!(
            "builds differ: {} against {}",
            a.host.commit, b.host.commit
        ));
    }
    for run in &a.runs {
        let name = format!("{} over {}", run.model.name, run.network.name);
        let Some(other) = b.runs.iter().find(|o| same(run, o)) else {
            say(format!("{name}: only in the first"));
            continue;
        };
        let counts = counts(run).into_iter().zip(self::counts(other));
        for ((what, old), (_, new)) in counts.filter(|((_, old), (_, new))| old != new) {
            n_changed += 1;
            say(format!("{name}: {what} {old} -> {new}  COUNT CHANGED"));
        }
        let phases = |r: &Run| {
            [&r.phases.setup, &r.phases.offline, &r.phases.online].map(|p| p.latency.clone())
        };
        for ((old, new), phase) in phases(run)
            .iter()
            .zip(&phases(other))
            .zip(["setup", "offline", "online"])
        {
            let spread = old.quartile_distance_s.max(new.quartile_distance_s);
            let change = new.median_s - old.median_s;
            let verdict = if change.abs() <= spread {
                "within the spread"
            } else {
                "more than the spread"
            };
            say(format!(
                "{name}: {phase} {:.4} s -> {:.4} s ({:+.1} %, {verdict})",
                old.median_s,
                new.median_s,
                100.0 * change / old.median_s.max(1e-12)
            ));
        }
    }
    for run in b.runs.iter().filter(|r| !a.runs.iter().any(|o| same(r, o))) {
        say(format!(
            "{} over {}: only in the second",
            run.model.name, run.network.name
        ));
    }
    (text, n_changed)
}

fn same(a: &Run, b: &Run) -> bool {
    a.model.name == b.model.name
        && a.network.name == b.network.name
        && a.batch == b.batch
        && a.ot == b.ot
        && a.garbling == b.garbling
}

fn counts(run: &Run) -> Vec<(String, u64)> {
    let model = &run.model;
    let mut counts = vec![
        ("ReLUs".to_owned(), model.relus_kept as u64),
        ("AND gates".to_owned(), model.and_gates),
        ("OTs".to_owned(), model.ots),
        ("ciphertexts".to_owned(), model.ciphertexts),
    ];
    let phases = &run.phases;
    for (name, phase) in [
        ("setup", &phases.setup),
        ("offline", &phases.offline),
        ("online", &phases.online),
    ] {
        counts.push((format!("{name} bytes c2s"), phase.bytes_c2s));
        counts.push((format!("{name} bytes s2c"), phase.bytes_s2c));
        counts.push((format!("{name} messages"), phase.messages));
        counts.push((format!("{name} rounds"), phase.rounds));
    }
    counts
}
