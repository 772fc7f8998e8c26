//! The report's page: HTML with charts in it, no scripts and nothing fetched.

use super::{Labels, Outcome, labels, lines};
use crate::net::Mask;
use crate::svg::{Lines, Series, bars, escape};
use std::collections::BTreeMap;
use std::fmt::Write;

const STYLE: &str = "body{font-family:sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;line-height:1.45;color:#222}\
table{border-collapse:collapse;margin:1rem 0}td,th{border-bottom:1px solid #ddd;padding:.25rem .7rem;text-align:right}\
td:first-child,th:first-child{text-align:left}td,th{white-space:nowrap}.wide{overflow-x:auto}svg{max-width:100%;min-width:40rem;height:auto;margin:.5rem 0}\
svg.masks{min-width:0}small{color:#555}";

/// A student with its masks, where the checkpoint was at hand.
pub struct Entry {
    /// What came out.
    pub outcome: Outcome,
    /// Its masks.
    pub masks: Vec<Mask>,
}

/// A student and the name that tells its recipe from the others'.
type Named<'a> = (String, &'a Entry);

/// The page over outcomes, which are sorted by network, ReLUs and name.
pub fn page(entries: &[Entry]) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>SENet report</title><style>{STYLE}</style><h1>Networks with few ReLUs</h1>"
    );
    let mut groups: BTreeMap<(String, String), Vec<&Entry>> = BTreeMap::new();
    for e in entries {
        let r = &e.outcome.recipe;
        let key = (r.dataset.clone(), r.arch.clone());
        groups.entry(key).or_default().push(e);
    }
    for ((dataset, arch), group) in &groups {
        let name = escape(&format!("{arch} on {dataset}"));
        let _ = write!(out, "<h2>{name}</h2>");
        let outcomes: Vec<&Outcome> = group.iter().map(|e| &e.outcome).collect();
        let Labels { names, recipes } = labels(&outcomes);
        let group: Vec<Named> = names.into_iter().zip(group.clone()).collect();
        out.push_str(&table(&group));
        for (i, recipe) in recipes.iter().enumerate() {
            let _ = write!(
                out,
                "<p><small>Recipe {}: {}.</small></p>",
                i + 1,
                escape(recipe)
            );
        }
        out.push_str(&accuracy_chart(dataset, arch, &group));
        out.push_str(&ablation(&group));
        out.push_str(&curves(&group));
        for (label, e) in &group {
            if e.outcome.relus_kept < e.outcome.relus_total {
                out.push_str(&details(label, e));
            }
        }
    }
    out.push_str("<p><small>Every ReLU counts, the stem's too; other papers leave the stem linear and count fewer in all. Test accuracies are those of 32-bit floats on the whole test set, and of the exported integers where a model was exported; published ones picked the best epoch on it.</small></p></html>");
    out
}

fn table(group: &[Named]) -> String {
    let mut out = "<div class=\"wide\"><table><tr><th>run</th><th>seed</th><th>ReLUs</th><th>share</th><th>empty layers</th><th>test %</th><th>fixed point %</th><th>held-out %</th><th>hours</th></tr>".to_owned();
    for (label, e) in group {
        let o = &e.outcome;
        let percent = |a: Option<f64>| a.map_or("-".into(), |a| format!("{a:.2}"));
        let (held, fixed) = (percent(o.holdout_accuracy), percent(o.fixed_accuracy));
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.1} %</td><td>{}</td><td>{:.2}</td><td>{fixed}</td><td>{held}</td><td>{:.2}</td></tr>",
            escape(label),
            o.recipe.seed,
            o.relus_kept,
            100.0 * o.relus_kept as f64 / o.relus_total.max(1) as f64,
            o.n_empty_layers,
            o.test_accuracy,
            o.hours
        );
    }
    out.push_str("</table></div>");
    let devices: Vec<String> = group
        .iter()
        .map(|(_, e)| e.outcome.device.clone())
        .collect();
    let how = group.iter().map(|(_, e)| e.outcome.selection.clone());
    let mut notes: Vec<String> = how.chain(devices).collect();
    notes.sort();
    notes.dedup();
    let _ = write!(out, "<p><small>{}</small></p>", escape(&notes.join(". ")));
    out
}

fn accuracy_chart(dataset: &str, arch: &str, group: &[Named]) -> String {
    let mut ours: BTreeMap<String, BTreeMap<usize, Vec<f64>>> = BTreeMap::new();
    for (label, e) in group {
        let o = &e.outcome;
        let line = ours.entry(label.clone()).or_default();
        line.entry(o.relus_kept).or_default().push(o.test_accuracy);
    }
    // One point for each budget: the mean over the seeds.
    let point = |(relus, values): (usize, Vec<f64>)| (relus as f64 / 1000.0, mean(&values));
    let line = |(name, line): (String, BTreeMap<usize, Vec<f64>>)| Series {
        name,
        points: line.into_iter().map(point).collect(),
        dashed: false,
    };
    let mut series: Vec<Series> = ours.into_iter().map(line).collect();
    series.extend(lines(dataset, arch).iter().map(|l| Series {
        name: l.name.to_string(),
        points: l.points.to_vec(),
        dashed: true,
    }));
    let chart = Lines {
        title: format!("Accuracy against ReLUs, {arch} on {dataset}"),
        x: "thousand ReLUs kept".into(),
        y: "test accuracy (mean of the seeds), %".into(),
        log_x: true,
        series,
    };
    wide(&chart.draw())
}

/// A chart that a narrow screen scrolls sideways instead of making its letters too small.
fn wide(chart: &str) -> String {
    format!("<div class=\"wide\">{chart}</div>")
}

/// Accuracies of runs that differ in their seeds alone.
#[derive(Default)]
struct Runs {
    test: Vec<f64>,
    held_out: Vec<f64>,
}

impl Runs {
    /// Mean over the held-out images; none where a run held out none.
    fn held_out(&self) -> Option<f64> {
        let all = self.held_out.len() == self.test.len();
        all.then(|| mean(&self.held_out))
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Runs of the same budget side by side, the best on held-out images first: what is chosen by the test
/// images is measured on them too well.
fn ablation(group: &[Named]) -> String {
    let mut by_budget: BTreeMap<usize, BTreeMap<&str, Runs>> = BTreeMap::new();
    for (label, e) in group {
        let o = &e.outcome;
        let runs = by_budget.entry(o.relus_kept).or_default();
        let runs = runs.entry(label).or_default();
        runs.test.push(o.test_accuracy);
        runs.held_out.extend(o.holdout_accuracy);
    }
    by_budget.retain(|_, runs| runs.len() > 1);
    if by_budget.is_empty() {
        return String::new();
    }
    let mut out = "<h3>Recipes at the same budget</h3><p><small>By their mean accuracy on held-out training images; runs without any come last, in the order of their names, for test images are no ground to choose on.</small></p><div class=\"wide\"><table><tr><th>recipe</th><th>ReLUs</th><th>runs</th><th>mean held-out %</th><th>mean test %</th><th>least</th><th>most</th></tr>".to_owned();
    for (budget, runs) in by_budget {
        let mut runs: Vec<(&str, Runs)> = runs.into_iter().collect();
        let rank = |r: &Runs| r.held_out().unwrap_or(f64::NEG_INFINITY);
        runs.sort_by(|a, b| rank(&b.1).total_cmp(&rank(&a.1)));
        for (label, runs) in runs {
            let held = runs.held_out().map_or("-".into(), |a| format!("{a:.2}"));
            let least = runs.test.iter().copied().fold(f64::MAX, f64::min);
            let most = runs.test.iter().copied().fold(f64::MIN, f64::max);
            let _ = write!(
                out,
                "<tr><td>{}</td><td>{budget}</td><td>{}</td><td>{held}</td><td>{:.2}</td><td>{least:.2}</td><td>{most:.2}</td></tr>",
                escape(label),
                runs.test.len(),
                mean(&runs.test)
            );
        }
    }
    out.push_str("</table></div>");
    out
}

fn curves(group: &[Named]) -> String {
    let one = |(label, e): &Named| {
        let o = &e.outcome;
        let points = o.curve.iter().filter(|c| c.stage != "teacher").enumerate();
        let y = |c: &crate::recipe::Epoch| c.holdout.unwrap_or(c.train);
        Series {
            name: format!("{label}, {}, seed {}", o.relus_kept, o.recipe.seed),
            points: points.map(|(i, c)| (i as f64 + 1.0, y(c))).collect(),
            dashed: false,
        }
    };
    // All widths of a network train in one run.
    let full = group.iter().filter(|(_, e)| e.outcome.width == 1.0);
    let series: Vec<Series> = full.map(one).filter(|s| !s.points.is_empty()).collect();
    if series.is_empty() {
        return String::new();
    }
    let chart = Lines {
        title: "Learning curves: search, then fine-tuning".into(),
        x: "epoch".into(),
        y: "held-out (else training) accuracy, %".into(),
        log_x: false,
        series,
    };
    wide(&chart.draw())
}

fn details(label: &str, e: &Entry) -> String {
    let o = &e.outcome;
    let labels: Vec<String> = o.layers.iter().map(|l| l.name.clone()).collect();
    let of = |f: fn(&super::Layer) -> usize| o.layers.iter().map(|l| f(l) as f64).collect();
    let series = [
        ("positions".to_owned(), of(|l| l.relus_total)),
        ("ReLUs kept".to_owned(), of(|l| l.relus_kept)),
    ];
    let title = format!(
        "{label}, seed {}: {} ReLUs by layer",
        o.recipe.seed, o.relus_kept
    );
    let mut out = wide(&bars(&title, "ReLU layer", "ReLUs", &labels, &series));
    // A narrower form's masks are the first channels of the full form's.
    if !e.masks.is_empty() && o.width == 1.0 {
        out.push_str(&mask_pictures(&e.masks));
    }
    out
}

/// The first four channels of up to eight layers; dark where the ReLU is kept.
fn mask_pictures(masks: &[Mask]) -> String {
    const SIDE: i64 = 64;
    let every = masks.len().div_ceil(8).max(1);
    let chosen: Vec<(usize, &Mask)> = masks.iter().enumerate().step_by(every).collect();
    let width = chosen.len() as i64 * (SIDE + 12) + 12;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {0}\" width=\"{width}\" height=\"{0}\" class=\"masks\" font-family=\"sans-serif\" font-size=\"11\" role=\"img\" aria-label=\"masks: where the first channels keep their ReLUs\">",
        4 * (SIDE + 6) + 24
    );
    for (column, (layer, mask)) in chosen.iter().enumerate() {
        let x0 = 12 + column as i64 * (SIDE + 12);
        let _ = write!(out, "<text x=\"{x0}\" y=\"14\">layer {layer}</text>");
        let [c, h, w] = mask.shape;
        for channel in 0..c.min(4) {
            let y0 = 22 + channel * (SIDE + 6);
            let _ = write!(
                out,
                "<rect x=\"{x0}\" y=\"{y0}\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"#eee\"/><path fill=\"#1b3a57\" d=\""
            );
            let (dy, dx) = (SIDE as f64 / h as f64, SIDE as f64 / w as f64);
            for row in 0..h {
                // One rectangle for each run of kept positions.
                let kept = |x: i64| mask.keep[((channel * h + row) * w + x) as usize];
                let mut x = 0;
                while x < w {
                    let start = x;
                    while x < w && kept(x) {
                        x += 1;
                    }
                    if x > start {
                        let _ = write!(
                            out,
                            "M{:.1} {:.1}h{:.1}v{dy:.1}h-{:.1}z",
                            x0 as f64 + start as f64 * dx,
                            y0 as f64 + row as f64 * dy,
                            (x - start) as f64 * dx,
                            (x - start) as f64 * dx
                        );
                    }
                    x += 1;
                }
            }
            out.push_str("\"/>");
        }
    }
    out.push_str("</svg>");
    out
}
