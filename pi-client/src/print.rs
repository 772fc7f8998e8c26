//! Tables for the terminal.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use pi_client::input::Input;
use pi_client::report::PhaseReport;
use pi_client::{Description, Report};
use pi_model::spec::OutputMode;

use pi_client::session::DEFAULT_BATCH;
use pi_protocol::cost::Cost;
use pi_protocol::ledger::{Direction, Phase};
use pi_protocol::session::SessionOptions;

use crate::bench::Bench;
use crate::infer::{Outcome, Run};

/// One line for each image, in columns.
pub(crate) struct Answers {
    image: usize,
    label: usize,
    top: Option<u16>,
}

impl Answers {
    pub(crate) fn new(inputs: &[Input], description: &Description, top: Option<u16>) -> Self {
        let width = |texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|t| t.chars().count()).max().unwrap_or(0)
        };
        let labels = &description.model.spec().labels;
        Self {
            image: width(&mut inputs.iter().map(|i| &i.name)),
            // Of a thousand labels some are very long.
            label: width(&mut labels.iter()).min(24),
            top,
        }
    }

    pub(crate) fn line(&self, r: &Outcome) -> String {
        let (image, label) = (self.image, self.label);
        let mut text = String::new();
        let _ = write!(text, "{:image$}  {:label$}", r.image, r.prediction);
        if let Some((_, logit)) = r.top.first() {
            let n_others = self.top.map_or(2, |n| usize::from(n) - 1);
            let others: Vec<String> = r.top.iter().skip(1).take(n_others).map(scored).collect();
            let _ = write!(text, "  {logit:6.2}");
            if !others.is_empty() {
                let _ = write!(text, "   then {}", others.join(", "));
            }
        }
        if let Some(truth) = &r.label {
            let mark = if *truth == r.prediction {
                "right"
            } else {
                "wrong, it is"
            };
            let _ = write!(
                text,
                "   {mark} {}",
                if *truth == r.prediction { "" } else { truth }
            );
        }
        if let Some(check) = &r.check {
            match check.agrees {
                true => text += "   as in the clear",
                false => text += &format!("   IN THE CLEAR IT IS {}", check.prediction),
            }
            if let Some(error) = check.max_logit_error {
                let _ = write!(text, ", logits within {error:.3}");
            }
            if check.n_range_violations > 0 {
                let _ = write!(
                    text,
                    ", {} values outside the model's ranges",
                    check.n_range_violations
                );
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// How many were right, and as in the clear, where that is known.
pub(crate) fn totals(run: &Run) -> String {
    let mut text = String::new();
    if run.n_labelled > 0 {
        let _ = writeln!(text, "{} of {} right", run.n_correct, run.n_labelled);
    }
    if run.n_checked > 0 {
        let _ = writeln!(
            text,
            "{} of {} agree with the model in the clear",
            run.n_agree, run.n_checked
        );
    }
    text.truncate(text.trim_end().len());
    text
}

fn scored((label, logit): &(String, f64)) -> String {
    format!("{label} {logit:.2}")
}

/// Seconds, bytes and round trips of each phase.
pub(crate) fn cost(report: &Report) -> String {
    let mut text = format!(
        "{:8}{:>11}{:>13}{:>13}{:>13}\n",
        "phase", "seconds", "up", "down", "round trips"
    );
    let mut row = |name: &str, phase: &PhaseReport, n: usize, each: &str| {
        let _ = write!(
            text,
            "{name:8}{:>11.3}{:>13}{:>13}{:>13}",
            phase.seconds,
            bytes(phase.bytes_up),
            bytes(phase.bytes_down),
            phase.round_trips
        );
        if n > 0 {
            let _ = write!(
                text,
                "   {:.3} s and {} for each of {n} {each}",
                phase.seconds / n as f64,
                bytes(phase.bytes() / n as u64)
            );
        }
        text.push('\n');
    };
    row("setup", &report.setup, 0, "");
    row("offline", &report.offline, report.n_prepared, "prepared");
    row("online", &report.online, report.n_inferences, "inferences");
    let _ = write!(
        text,
        "\n{}: {} of {} ReLUs kept, ",
        report.model,
        thousands(report.relus_kept as u64),
        thousands(report.relus_total as u64),
    );
    if report.n_prepared > 0 {
        let _ = write!(
            text,
            "{} AND gates an inference, {}, {} OT, ",
            thousands(report.and_gates),
            report.garbling,
            report.ot,
        );
    } else {
        text.push_str("all prepared before this run, ");
    }
    let _ = write!(text, "{} on the wire in all", bytes(report.wire_bytes));
    text
}

/// Traffic of each layer, for one inference.
pub(crate) fn layers(report: &Report) -> String {
    let name = report
        .layers
        .iter()
        .map(|l| l.name.len())
        .max()
        .unwrap_or(0)
        .max(5);
    let mut text = format!(
        "{:name$}{:>12}{:>16}{:>13}{:>13}{:>13}   for one inference\n",
        "layer", "output", "ReLUs", "HE offline", "GC offline", "online"
    );
    let (prepared, inferences) = (
        report.n_prepared.max(1) as u64,
        report.n_inferences.max(1) as u64,
    );
    for layer in &report.layers {
        let relus = match layer.relus_total {
            0 => "output".to_owned(),
            total => format!("{}/{total}", layer.relus_kept),
        };
        let _ = writeln!(
            text,
            "{:name$}{:>12}{relus:>16}{:>13}{:>13}{:>13}",
            layer.name,
            layer.shape,
            bytes(layer.he_bytes / prepared),
            bytes(layer.relu_bytes / prepared),
            bytes(layer.online_bytes / inferences),
        );
    }
    text
}

/// How many are prepared together when many are asked for.
pub(crate) fn usual_batch(description: &Description) -> usize {
    description
        .largest_batch(SessionOptions::default())
        .min(DEFAULT_BATCH)
}

/// What a server says about a model, who learns what, and what a query costs alone and in the usual batch.
pub(crate) fn description(description: &Description, costs: &[Cost; 2], tls: bool) -> String {
    let spec = description.model.spec();
    let (card, input) = (&spec.card, &spec.input);
    let mut text = format!("{}\n", spec.name);
    let mut row = |key: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {key:14}{value}");
        }
    };
    row("network", card.architecture.clone());
    row("data", card.dataset.clone());
    row(
        "input",
        format!(
            "{} x {} pixels, {} channels; other sizes are resized",
            input.width, input.height, input.channels
        ),
    );
    row("labels", spec.labels.join(", "));
    row(
        "ReLUs",
        format!(
            "{} of {} kept",
            thousands(card.relus_kept as u64),
            thousands(card.relus_total as u64)
        ),
    );
    let percent = |a: Option<f64>| a.map_or(String::new(), |a| format!("{a:.2} % on the test set"));
    row(
        "accuracy",
        percent(card.fixed_accuracy.or(card.float_accuracy)),
    );
    let [you, server, others] = who_learns(description, tls);
    row("you learn", you.into());
    row("it learns", server.into());
    row("others learn", others.into());
    let offline = |cost: &Cost| both(cost, Phase::Offline) / cost.batch() as u64;
    let mut ahead = format!(
        "{} in {} round trips before the image is known",
        bytes(offline(&costs[0])),
        costs[0].round_trips(Phase::Offline)
    );
    if costs[1].batch() > 1 {
        let _ = write!(
            ahead,
            "; {} each in a batch of {}",
            bytes(offline(&costs[1])),
            costs[1].batch()
        );
    }
    row(
        "a session",
        format!("{} of set-up, once", bytes(both(&costs[0], Phase::Setup))),
    );
    row("a query", ahead);
    row(
        "",
        format!(
            "then {} in {} round trips",
            bytes(both(&costs[0], Phase::Online)),
            costs[0].round_trips(Phase::Online)
        ),
    );
    row(
        "limits",
        format!(
            "batches of up to {}, {} prepared in a session, which may be silent for {} s",
            description.largest_batch(SessionOptions::default()),
            description.max_prepared,
            description.idle_timeout.as_secs()
        ),
    );
    if !description.kept_for.is_zero() {
        row(
            "keeps",
            format!(
                "prepared inferences for {}; see `pi-client prepare`",
                span(description.kept_for)
            ),
        );
    }
    row("server", format!("version {}", description.server_version));
    text
}

/// What this client, the server, and whoever listens in between learn.
fn who_learns(description: &Description, tls: bool) -> [&'static str; 3] {
    [
        match description.model.spec().output.mode {
            OutputMode::Logits => {
                "the logits of all labels, the network's operations and which ReLUs it keeps; no weight"
            }
            OutputMode::Argmax => {
                "the label and nothing else of the result, the network's operations and which ReLUs it keeps; no weight"
            }
        },
        "who asks, when and how often; neither the image nor the answer",
        if tls {
            "times and sizes of messages, which are the same for every image"
        } else {
            "all messages: there is no TLS here. The image stays masked, but they could pose as the server"
        },
    ]
}

/// Bytes in both directions.
fn both(cost: &Cost, phase: Phase) -> u64 {
    cost.bytes(phase, Direction::Up) + cost.bytes(phase, Direction::Down)
}

/// The same as [`description()`] for programs: the public model with what else is known about it.
pub(crate) fn description_json(
    description: &Description,
    costs: &[Cost; 2],
    tls: bool,
) -> serde_json::Result<serde_json::Value> {
    let mut value = serde_json::to_value(description.model.spec())?;
    let [you, server, others] = who_learns(description, tls);
    let [one, many] = costs;
    let more = serde_json::json!({
        "who_learns": {"client": you, "server": server, "others": others},
        "cost": {
            "setup_bytes": both(one, Phase::Setup),
            "offline_bytes": both(one, Phase::Offline),
            "offline_round_trips": one.round_trips(Phase::Offline),
            "online_bytes": both(one, Phase::Online),
            "online_round_trips": one.round_trips(Phase::Online),
            "batch": many.batch(),
            "offline_bytes_in_batch": both(many, Phase::Offline) / many.batch() as u64,
        },
        "limits": {
            "max_batch": description.largest_batch(SessionOptions::default()),
            "max_prepared": description.max_prepared,
            "idle_timeout_seconds": description.idle_timeout.as_secs(),
            "kept_seconds": description.kept_for.as_secs(),
        },
        "server_version": description.server_version,
    });
    if let (Some(value), serde_json::Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    Ok(value)
}

/// Medians of `bench`.
pub(crate) fn bench(bench: &Bench) -> String {
    let mut text = format!(
        "{:8}{:>5}{:>11}{:>11}{:>11}{:>13}{:>13}{:>13}   {}, batches of {}\n",
        "phase",
        "n",
        "median s",
        "least",
        "most",
        "up",
        "down",
        "round trips",
        bench.model,
        bench.batch
    );
    for line in &bench.phases {
        let _ = writeln!(
            text,
            "{:8}{:>5}{:>11.3}{:>11.3}{:>11.3}{:>13}{:>13}{:>13}",
            line.phase,
            line.n,
            line.median_seconds,
            line.min_seconds,
            line.max_seconds,
            bytes(line.bytes_up),
            bytes(line.bytes_down),
            line.round_trips
        );
    }
    text + "seconds and bytes are those of one inference; round trips of offline are those of a batch"
}

/// Prints text and a line break to standard output.
pub(crate) fn out(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Decimal units, three digits.
pub(crate) fn bytes(n: u64) -> String {
    match n as f64 {
        x if x < 1e3 => format!("{x:.0} B"),
        x if x < 1e6 => format!("{:.1} kB", x / 1e3),
        x if x < 1e9 => format!("{:.2} MB", x / 1e6),
        x => format!("{:.2} GB", x / 1e9),
    }
}

/// Whole minutes, hours or days.
pub(crate) fn span(time: Duration) -> String {
    match time.as_secs() {
        s if s < 120 => format!("{s} s"),
        s if s < 2 * 3600 => format!("{} minutes", s / 60),
        s if s < 48 * 3600 => format!("{} hours", s / 3600),
        s => format!("{} days", s / 86400),
    }
}

/// 1234567 as 1,234,567.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500_000), "1.50 MB");
    }
}
