//! The tables of the demo, from the client's JSON reports.

use std::path::{Path, PathBuf};

use pi_model::text::{bytes, columns, thousands};
use serde_json::Value;

use crate::demo::Measured;

/// Seconds, or milliseconds where they are short.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// The true label: `0003-airplane.png` is an airplane.
pub fn truth(image: &Path) -> &str {
    let stem = image
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    stem.split_once(['-', '_']).map_or(stem, |(_, label)| label)
}

fn results(measured: &Measured) -> &[Value] {
    measured.run["results"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

/// One row for each image: the truth, and what each model said.
pub fn predictions(measured: &[Measured], images: &[PathBuf]) -> String {
    let mut head = vec!["image".to_owned(), "truth".into()];
    head.extend(measured.iter().map(|m| m.model.name.clone()));
    let mut rows = vec![head];
    for (i, image) in images.iter().enumerate() {
        let truth = truth(image);
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let mut row = vec![name.into_owned(), truth.to_owned()];
        row.extend(measured.iter().map(|m| {
            let said = results(m)
                .get(i)
                .and_then(|r| r["prediction"].as_str())
                .unwrap_or("?");
            format!("{said} {}", if said == truth { "+" } else { "-" })
        }));
        rows.push(row);
    }
    let count = |text: &str, of: &dyn Fn(&Measured) -> usize| {
        let mut row = vec![text.to_owned(), String::new()];
        row.extend(
            measured
                .iter()
                .map(|m| format!("{} of {}", of(m), images.len())),
        );
        row
    };
    rows.push(count("right", &|m| {
        let said = results(m).iter().map(|r| r["prediction"].as_str());
        said.zip(images)
            .filter(|(said, image)| *said == Some(truth(image)))
            .count()
    }));
    rows.push(count("as in the clear", &|m| {
        m.run["n_agree"].as_u64().unwrap_or(0) as usize
    }));
    columns(&rows)
}

fn report<'a>(m: &'a Measured, phase: &str) -> &'a Value {
    &m.run["report"][phase]
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// Inferences that the numbers of `phase` cover.
fn divisor(m: &Measured, phase: &str) -> f64 {
    let key = match phase {
        "offline" => "n_prepared",
        "online" => "n_inferences",
        _ => return 1.0,
    };
    number(&m.run["report"][key]).max(1.0)
}

fn each(m: &Measured, phase: &str, key: &str) -> f64 {
    number(&report(m, phase)[key]) / divisor(m, phase)
}

/// What one inference costs in each phase.
pub fn costs(measured: &[Measured]) -> String {
    let mut rows = vec![];
    let mut row = |text: &str, cell: &dyn Fn(&Measured) -> String| {
        let mut row = vec![text.to_owned()];
        row.extend(measured.iter().map(cell));
        rows.push(row);
    };
    let count = |m: &Measured, key: &str| m.run["report"][key].as_u64().unwrap_or(0);
    row("", &|m| m.model.name.clone());
    row("accuracy, whole test set", &|m| {
        m.model
            .accuracy
            .map_or("not measured".into(), |a| format!("{a:.2} %"))
    });
    row("ReLUs kept", &|m| {
        let (kept, total) = (count(m, "relus_kept"), count(m, "relus_total"));
        format!("{} of {}", thousands(kept), thousands(total))
    });
    row("AND gates", &|m| thousands(count(m, "and_gates")));
    row("setup, once", &|m| {
        format!(
            "{}, {}",
            seconds(each(m, "setup", "seconds")),
            bytes(both(m, "setup"))
        )
    });
    row("offline, all images", &|m| {
        seconds(number(&report(m, "offline")["seconds"]))
    });
    row("offline, each", &|m| seconds(each(m, "offline", "seconds")));
    row("  up", &|m| bytes(each(m, "offline", "bytes_up")));
    row("  down", &|m| bytes(each(m, "offline", "bytes_down")));
    row("online, each", &|m| seconds(each(m, "online", "seconds")));
    row("  up", &|m| bytes(each(m, "online", "bytes_up")));
    row("  down", &|m| bytes(each(m, "online", "bytes_down")));
    row("  round trips", &|m| {
        format!("{:.0}", each(m, "online", "round_trips"))
    });
    row("offline + online, each", &|m| {
        bytes(both(m, "offline") + both(m, "online"))
    });
    columns(&rows)
}

fn both(m: &Measured, phase: &str) -> f64 {
    each(m, phase, "bytes_up") + each(m, phase, "bytes_down")
}

/// Bytes and ReLUs of each layer.
pub fn by_layer(measured: &[Measured]) -> String {
    let mut head = vec!["layer".to_owned(), "output".into()];
    for m in measured {
        head.extend([
            format!("ReLUs, {}", thousands(m.model.relus_kept)),
            "bytes".into(),
        ]);
    }
    let mut rows = vec![head];
    let layers = |m: &Measured| report(m, "layers").as_array().cloned().unwrap_or_default();
    let tables: Vec<Vec<Value>> = measured.iter().map(layers).collect();
    for (i, first) in tables.first().into_iter().flatten().enumerate() {
        let text = |key: &str| first[key].as_str().unwrap_or_default().to_owned();
        let mut row = vec![text("name"), text("shape")];
        for (m, table) in measured.iter().zip(&tables) {
            let layer = table.get(i).unwrap_or(&Value::Null);
            let offline = number(&layer["he_bytes"]) + number(&layer["relu_bytes"]);
            let total = offline / divisor(m, "offline")
                + number(&layer["online_bytes"]) / divisor(m, "online");
            row.extend([
                thousands(layer["relus_kept"].as_u64().unwrap_or(0)),
                bytes(total),
            ]);
        }
        rows.push(row);
    }
    columns(&rows)
}

/// The two ratios that matter.
pub fn ratios(few: &Measured, all: &Measured) -> String {
    let latency = each(all, "online", "seconds") / each(few, "online", "seconds");
    let total = |m| both(m, "offline") + both(m, "online");
    let traffic = total(all) / total(few);
    let kept = |m: &Measured| m.run["report"]["relus_kept"].as_u64().unwrap_or(0);
    format!(
        "Keeping {} ReLUs instead of {} makes a private inference {latency:.1} times as fast online, with {traffic:.1} times fewer bytes in all.",
        thousands(kept(few)),
        thousands(kept(all)),
    )
}
