//! The commands `models` and `describe`.

use std::fmt::Write as _;

use clap::Args;
use pi_client::Description;
use pi_client::session::DEFAULT_BATCH;
use pi_model::PublicPlan;
use pi_model::spec::OutputMode;
use pi_model::text::{shown, thousands};
use pi_protocol::cost::Cost;
use pi_protocol::ledger::{Direction, Phase};
use pi_protocol::session::SessionOptions;

use super::args::ServerArgs;
use super::out::{self, bytes, span};

#[derive(Args)]
pub(crate) struct ModelsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The server, if --server is not given.
    #[arg(value_name = "URL", conflicts_with = "server")]
    url: Option<String>,
    /// Print a JSON list.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The server, if --server is not given.
    #[arg(value_name = "URL", conflicts_with = "server")]
    url: Option<String>,
    /// Only this model.
    #[arg(long)]
    model: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `models`.
pub(crate) fn models(args: &ModelsArgs) -> anyhow::Result<()> {
    let client = args.server.connect(args.url.as_deref())?;
    let names = args.server.again(|| client.models())?;
    out::line(&match args.json {
        true => serde_json::to_string_pretty(&names)?,
        false => {
            let names: Vec<String> = names.iter().map(|name| shown(name)).collect();
            names.join("\n")
        }
    })
}

/// Runs `describe`.
pub(crate) fn run(args: &DescribeArgs) -> anyhow::Result<()> {
    let client = args.server.connect(args.url.as_deref())?;
    let names = match &args.model {
        Some(name) => vec![name.to_owned()],
        None => args.server.again(|| client.models())?,
    };
    let mut descriptions = Vec::with_capacity(names.len());
    for name in &names {
        descriptions.push(args.server.again(|| client.describe(Some(name)))?);
    }
    let tls = args.server.url(args.url.as_deref())?.starts_with("https:");
    let mut values = Vec::with_capacity(descriptions.len());
    for description in &descriptions {
        let cost = |batch| -> anyhow::Result<Cost> {
            let plan = PublicPlan::with_goal(&description.model, batch, description.packing)?;
            Ok(Cost::of(&plan)?)
        };
        let costs = [cost(1)?, cost(usual_batch(description))?];
        match args.json {
            true => values.push(in_json(description, &costs, tls)?),
            false => out::line(&in_words(description, &costs, tls))?,
        }
    }
    if args.json {
        out::line(&serde_json::to_string_pretty(&values)?)?;
    }
    Ok(())
}

/// How many are prepared together when many are asked for.
fn usual_batch(description: &Description) -> usize {
    description
        .largest_batch(SessionOptions::default())
        .min(DEFAULT_BATCH)
}

/// What a server says about a model, who learns what, and what a query costs alone and in the usual batch.
fn in_words(description: &Description, costs: &[Cost; 2], tls: bool) -> String {
    let spec = description.model.spec();
    let (card, input) = (&spec.card, &spec.input);
    let mut text = format!("{}\n", shown(&spec.name));
    let mut row = |key: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {key:14}{}", shown(&value));
        }
    };
    row("network", card.architecture.clone());
    row("data", card.dataset.clone());
    row(
        "input",
        match input.range {
            Some([low, high]) => format!(
                "float tensors (C, H, W) of {:?}, values from {low:.4} to {high:.4}",
                input.shape()
            ),
            None => format!(
                "{} x {} pixels, {} channels; other sizes are resized",
                input.width, input.height, input.channels
            ),
        },
    );
    row("labels", spec.labels.join(", "));
    if !description.model.has_classes() {
        let n = description.model.n_outputs();
        row(
            "outputs",
            format!("{} values, no classes", thousands(n as u64)),
        );
    }
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
    let [setup, ahead, then] = query_costs(costs);
    row("a session", setup);
    row("a query", ahead);
    row("", then);
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

/// What a session and a query cost: set-up, before the image is known, and then.
fn query_costs([one, many]: &[Cost; 2]) -> [String; 3] {
    let offline = |cost: &Cost| both(cost, Phase::Offline) / cost.batch() as u64;
    let mut ahead = format!(
        "{} in {} round trips before the image is known",
        bytes(offline(one)),
        one.round_trips(Phase::Offline)
    );
    if many.batch() > 1 {
        let _ = write!(
            ahead,
            "; {} each in a batch of {}",
            bytes(offline(many)),
            many.batch()
        );
    }
    [
        format!("{} of set-up, once", bytes(both(one, Phase::Setup))),
        ahead,
        format!(
            "then {} in {} round trips",
            bytes(both(one, Phase::Online)),
            one.round_trips(Phase::Online)
        ),
    ]
}

/// What this client, the server, and whoever listens in between learn.
fn who_learns(description: &Description, tls: bool) -> [&'static str; 3] {
    [
        match description.model.spec().output {
            OutputMode::Logits if !description.model.has_classes() => {
                "all outputs, the network's operations and which ReLUs it keeps; no weight"
            }
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

/// The same as [`in_words`] for programs: the public model with what else is known about it.
fn in_json(
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
