//! One self-contained HTML page: facts, tables, pictures. Nothing is loaded from anywhere.

use std::collections::BTreeMap;
use std::path::Path;

use crate::charts::{self, Series, Stack};
use crate::error::BenchError;
use crate::models::{COST_MODELS, CostModel, Load};
use crate::network::NetworkInfo;
use crate::result::{self, LayerRun, Report, Run};
use crate::tables;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#111;background:#fff;margin:0 auto;max-width:1500px;padding:1rem}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.2rem;margin:1.5rem 0 .5rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem}
th,td{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:right;white-space:nowrap}
th{vertical-align:bottom;white-space:normal;border-bottom:2px solid #111}th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}
.text th,.text td{text-align:left}.text td:last-child{white-space:normal;min-width:24rem}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,560px),1fr));gap:1rem;align-items:start}
figure{margin:0;border:1px solid #ccc}figure .wide svg{display:block;width:100%;min-width:340px;height:auto}
figcaption{font-size:.85rem;padding:.4rem .8rem}.caution{border-left:4px solid #111;padding-left:.8rem}
@media print{.pictures{grid-template-columns:1fr}}";

/// Writes report.md, report.csv and report.html beside the document.
///
/// # Errors
/// [`BenchError::File`] or [`BenchError::Drawing`].
pub fn write_all(report: &Report, dir: &Path) -> Result<(), BenchError> {
    result::write_whole(&dir.join("report.md"), tables::markdown(report).as_bytes())?;
    result::write_whole(&dir.join("report.csv"), tables::csv(report).as_bytes())?;
    result::write_whole(&dir.join("report.html"), html(report)?.as_bytes())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn html(report: &Report) -> Result<String, BenchError> {
    let mut body = format!("<h1>{}</h1>", escaped(&report.suite));
    for fact in tables::facts(report) {
        body += &format!("<p>{}</p>", escaped(&fact));
    }
    for caution in tables::cautions(report) {
        body += &format!("<p class=caution>{}</p>", escaped(&caution));
    }
    for (title, (head, rows)) in [
        ("One client", tables::rows(report)),
        ("Many clients", tables::scale_rows(report)),
    ] {
        if !rows.is_empty() {
            body += &format!("<h2>{title}</h2>{}", table(&head, &rows));
        }
    }
    let pictures = pictures(report)?;
    if !pictures.is_empty() {
        body += "<h2>Pictures</h2><div class=pictures>";
        for (svg, caption) in pictures {
            body += &format!(
                "<figure><div class=wide>{}</div><figcaption>{}</figcaption></figure>",
                responsive(&svg),
                escaped(&caption)
            );
        }
        body += "</div>";
    }
    let (head, rows) = tables::operation_rows(report);
    if !rows.is_empty() {
        body += &format!(
            "<h2>Where the time goes</h2><details><summary>Every phase, party and operation: {} rows</summary><div class=text>{}</div></details>",
            rows.len(),
            table(&head, &rows)
        );
    }
    Ok(format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\"><title>{} - private inference</title><style>{STYLE}</style></head><body>{body}</body></html>\n",
        escaped(&report.suite)
    ))
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, row: &mut dyn Iterator<Item = &str>| {
        row.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)))
            .collect::<String>()
    };
    let mut text = format!(
        "<div class=wide><table><tr>{}</tr>",
        cells("th", &mut head.iter().copied())
    );
    for row in rows {
        text += &format!(
            "<tr>{}</tr>",
            cells("td", &mut row.iter().map(String::as_str))
        );
    }
    text + "</table></div>"
}

/// Lets the page scale a picture: the size stays in its viewBox.
fn responsive(svg: &str) -> String {
    let Some((head, rest)) = svg.split_once("viewBox") else {
        return svg.to_owned();
    };
    let tag = head.split(" width").next().unwrap_or(head);
    format!("{tag} viewBox{rest}")
}

/// Runs of one architecture over one network, by ReLUs.
fn groups(report: &Report) -> Vec<Vec<&Run>> {
    let mut groups: Vec<Vec<&Run>> = Vec::new();
    for run in &report.runs {
        // "resnet18-relu6000" and "resnet18-relu50000" are one shape.
        let shape = |r: &Run| {
            let base = r.model.name.split("-relu").next().unwrap_or_default();
            (
                base.to_owned(),
                r.model.relus_total,
                r.network.name.clone(),
                r.batch,
            )
        };
        match groups.iter_mut().find(|g| shape(g[0]) == shape(run)) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    for group in &mut groups {
        group.sort_by_key(|r| r.model.relus_kept);
    }
    groups
}

fn pictures(report: &Report) -> Result<Vec<(String, String)>, BenchError> {
    let mut pictures = accuracies(report)?;
    let mut drawn = Vec::new();
    for group in groups(report) {
        let network = &group[0].network;
        let base = group[0]
            .model
            .name
            .split("-relu")
            .next()
            .unwrap_or_default();
        // The whole network's ReLUs would squeeze the others into a corner; the table has them.
        let mut shown = group.clone();
        if let [.., before, last] = group[..]
            && last.model.relus_kept > 2 * before.model.relus_kept.max(1)
            && shown.len() > 3
        {
            shown.pop();
        }
        let left_out = group.len() - shown.len();
        let note = if left_out > 0 {
            " The run with all ReLUs is in the table."
        } else {
            ""
        };
        if shown.len() >= 2 {
            let fit = charts::fit(&shown);
            let (floor, slope) = fit.unwrap_or_default();
            let title = format!("Online latency: {base} over {}", network.name);
            let caption = format!(
                "Fitted: {} without any ReLU and {:.2} us for each ReLU. {} Dashed and dotted lines are cost models of published systems at their best, on top of the fitted floor: computed from the constants that stand below the tables, not measured. {}.{note}",
                tables::seconds(floor),
                1e6 * slope,
                if is_told(&shown) {
                    "Linear is what the server measured in its linear layers; ReLU is the server's work on labels and multiplexers and the client's evaluation, as each measured it; other is the rest: bytes on the wire, round trips, serialisation, scheduling."
                } else {
                    "ReLU is the client's evaluation; this report has no times of the server, so the rest is not split."
                },
                network.text()
            );
            let stack = Stack {
                title,
                y_label: "ms".into(),
                parts: latency_parts(&shown),
                lines: latency_models(&shown, network, report.host.n_cpus, floor),
            };
            pictures.push((charts::stack(&stack)?, caption));
            // Bytes are the same on every network.
            let shape = (base.to_owned(), group[0].batch);
            if !drawn.contains(&shape) {
                pictures.push((
                charts::stack(&bytes_stack(&shown, base))?,
                format!("Offline share and online of one inference, both directions, batch of {}. Dashed and dotted lines are cost models of published systems: published bytes for each ReLU on top of the linear layers here. They are not measurements.{note}", group[0].batch),
            ));
                drawn.push(shape);
            }
        }
        if let Some(run) = shown.last().filter(|r| !r.timeline.is_empty()) {
            pictures.push((
                charts::layers(run)?,
                "Each bar is one round trip: it ends in the named layer and includes layers before it that keep no ReLU. Each party measured its own part; the rest of the client's wait is bytes on the wire, delay, serialisation and scheduling.".into(),
            ));
            if is_told(&[run]) {
                pictures.push((
                    charts::timeline(run)?,
                    "The inference with the median latency. Each party measured itself; both use the clock of this machine. A message is a line from the moment its sender handed it over to the moment it had arrived whole.".into(),
                ));
            }
        }
    }
    Ok(pictures)
}

/// Name, latency in milliseconds, accuracy in percent.
type Points = Vec<(String, f64, f64)>;

/// Accuracy against latency for each data set and network: trained models of any shape in one picture.
fn accuracies(report: &Report) -> Result<Vec<(String, String)>, BenchError> {
    let mut groups: BTreeMap<(&str, &str), Points> = BTreeMap::new();
    for run in &report.runs {
        if let Some(accuracy) = run.model.accuracy {
            let of = (run.model.dataset.as_str(), run.network.name.as_str());
            let latency_ms = 1e3 * run.phases.online.latency.median_s;
            let points = groups.entry(of).or_default();
            points.push((run.model.name.clone(), latency_ms, accuracy));
        }
    }
    let draw = |((dataset, network), points): (&(&str, &str), &Points)| {
        let title = format!("Accuracy on {dataset} against online latency over {network}");
        Ok((
            charts::accuracy(&title, points)?,
            "Accuracy of the fixed-point network on its whole test set, from its card.".into(),
        ))
    };
    groups.iter().map(draw).collect()
}

/// Whether the server has told its times in all of the runs; reports of version 1 have none.
fn is_told(runs: &[&Run]) -> bool {
    runs.iter()
        .all(|r| !r.phases.online.operations_s_server.is_empty())
}

fn latency_parts(runs: &[&Run]) -> Vec<Series> {
    let sum = |run: &Run, of: fn(&LayerRun) -> f64| run.layers.iter().map(of).sum::<f64>();
    let linear = |run: &Run| sum(run, |l| l.online_server_linear_s);
    let relu = |run: &Run| sum(run, |l| l.online_server_relu_s + l.online_client_s);
    let rest = |run: &Run| (run.phases.online.latency.median_s - linear(run) - relu(run)).max(0.0);
    let series = |name: &str, of: &dyn Fn(&Run) -> f64| Series {
        name: name.to_owned(),
        points: runs
            .iter()
            .map(|r| (r.model.relus_kept as f64, 1e3 * of(r)))
            .collect(),
    };
    let mut parts = vec![series("ReLU", &relu), series("other", &rest)];
    if is_told(runs) {
        parts.insert(0, series("linear", &linear));
    }
    parts
}

/// The least that other systems' ReLUs would add to the floor, in milliseconds, where their models say anything.
fn latency_models(runs: &[&Run], network: &NetworkInfo, n_cpus: usize, floor: f64) -> Vec<Series> {
    let lines = COST_MODELS.iter().map(|model| Series {
        name: format!("{}, at least", model.short),
        points: runs
            .iter()
            .map(|run| {
                let seconds = model.online_s(&Load::of(run, n_cpus), network).0;
                (run.model.relus_kept as f64, 1e3 * (floor + seconds))
            })
            .collect(),
    });
    // A line without computation and without a wire would say nothing.
    lines
        .filter(|l| l.points.iter().any(|p| p.1 > 1e3 * floor))
        .collect()
}

fn bytes_stack(runs: &[&Run], base: &str) -> Stack {
    let kind = |operation: &str| match operation {
        o if o.starts_with("HE") => 0,
        "masked input" | "logits" | "identity positions" => 2,
        _ => 1,
    };
    let sum = |run: &Run, wanted: usize| -> f64 {
        let of = run
            .ledger
            .iter()
            .filter(|e| e.phase != "setup" && kind(&e.operation) == wanted);
        of.map(|e| {
            e.bytes as f64
                / if e.phase == "offline" {
                    run.batch as f64
                } else {
                    1.0
                }
        })
        .sum::<f64>()
            / 1e6
    };
    let series = |name: &str, of: &dyn Fn(&Run) -> f64| Series {
        name: name.to_owned(),
        points: runs
            .iter()
            .map(|r| (r.model.relus_kept as f64, of(r)))
            .collect(),
    };
    let line = |name: &str, model: &CostModel| {
        // Bytes do not depend on the machine.
        series(name, &|r| sum(r, 0) + model.bytes(&Load::of(r, 1)) / 1e6)
    };
    let [delphi, ot] = &COST_MODELS;
    Stack {
        title: format!("Bytes of one inference: {base}"),
        y_label: "MB".into(),
        parts: vec![
            series("linear (HE)", &|r| sum(r, 0)),
            series("ReLU (GC, OT, labels)", &|r| sum(r, 1)),
            series("other (input, identity)", &|r| sum(r, 2)),
        ],
        lines: vec![
            line("model: DELPHI, 20,281 B a ReLU", delphi),
            line("model: OT comparison, 56 B a ReLU", ot),
        ],
    }
}
