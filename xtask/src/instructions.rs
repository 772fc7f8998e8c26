//! `cargo xtask instructions`: instructions of each kernel, counted by valgrind, against those on record.
//!
//! A count hardly varies, so a regression shows on a noisy machine. Each kernel runs twice, some rounds and twice as many: the
//! difference is free of all set-up. Valgrind knows no AVX-512, so what is counted are the paths that other processors take.
//! With `--write` the counts go on record.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use pi_model::text::{columns, thousands};

use crate::workspace::{build, program, root};

/// Times the recorded count that a kernel may take: compilers differ.
const BOUND: f64 = 1.25;
/// Runs of the kernel in the shorter of the two runs.
const ROUNDS: u64 = 2;

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let write = match args {
        [] => false,
        [only] if only == "--write" => true,
        _ => bail!("usage: cargo xtask instructions [--write]"),
    };
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: valgrind is not installed; try `apt-get install valgrind`");
        return Ok(());
    }
    let built = build(&[
        "--release",
        "--package",
        "pi-protocol",
        "--example",
        "instructions",
    ])?;
    let program = program(&built, "instructions")?;
    let listed = Command::new(program).output();
    let listed = listed.with_context(|| format!("cannot run {}", program.display()))?;
    let listed = listed.stdout;
    let mut counts = BTreeMap::new();
    for kernel in String::from_utf8_lossy(&listed).lines() {
        let short = count(program, kernel, ROUNDS)?;
        let long = count(program, kernel, 2 * ROUNDS)?;
        counts.insert(kernel.to_owned(), long.saturating_sub(short) / ROUNDS);
    }
    let path = root().join("xtask/instructions.json");
    if write {
        let text = serde_json::to_string_pretty(&counts)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = std::fs::read_to_string(&path).with_context(|| {
        let path = path.display();
        format!("cannot read {path}; make it with --write")
    })?;
    let (table, over) = compare(&counts, &serde_json::from_str(&text)?);
    print!("{table}");
    if !over.is_empty() {
        let over = over.join(", ");
        bail!("more than {BOUND} x the instructions on record: {over}; if it is meant, --write");
    }
    Ok(())
}

/// Counts beside those on record, and the kernels that are over the bound or not on record.
fn compare(
    counts: &BTreeMap<String, u64>,
    recorded: &BTreeMap<String, u64>,
) -> (String, Vec<String>) {
    let header = ["kernel", "instructions", "on record", "ratio"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let mut over = Vec::new();
    for (kernel, &count) in counts {
        let before = recorded.get(kernel).copied().unwrap_or(0);
        let ratio = count as f64 / before as f64;
        if ratio.is_nan() || ratio > BOUND {
            over.push(kernel.clone());
        }
        rows.push(vec![
            kernel.clone(),
            thousands(count),
            thousands(before),
            format!("{ratio:.3}"),
        ]);
    }
    (columns(&rows), over)
}

/// Instructions of one run.
fn count(program: &Path, kernel: &str, times: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([kernel, &times.to_string()])
        .output()
        .context("cannot run valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(collected);
    match collected {
        Some(count) if output.status.success() => Ok(count),
        _ => bail!("valgrind could not count {kernel}:\n{text}"),
    }
}

/// The number in `==1234== Collected : 5678`.
fn collected(line: &str) -> Option<u64> {
    let (_, number) = line.split_once("Collected : ")?;
    number.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_and_regressions_named() {
        assert_eq!(collected("==12== Collected : 3456"), Some(3456));
        assert_eq!(collected("==12== Events    : Ir"), None);
        let counts = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
            pairs.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect()
        };
        let now = counts(&[("a", 125), ("b", 126), ("c", 1)]);
        let (table, over) = compare(&now, &counts(&[("a", 100), ("b", 100)]));
        assert_eq!(over, ["b", "c"]);
        assert!(table.contains("1.250"), "{table}");
    }
}
