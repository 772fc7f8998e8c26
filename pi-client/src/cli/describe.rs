//! The commands `models` and `describe`.

use clap::Args;
use pi_model::PublicPlan;
use pi_protocol::cost::Cost;

use crate::args::ServerArgs;
use crate::print;

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
    print::out(&match args.json {
        true => serde_json::to_string_pretty(&names)?,
        false => names.join("\n"),
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
        let costs = [cost(1)?, cost(print::usual_batch(description))?];
        match args.json {
            true => values.push(print::description_json(description, &costs, tls)?),
            false => print::out(&print::description(description, &costs, tls))?,
        }
    }
    if args.json {
        print::out(&serde_json::to_string_pretty(&values)?)?;
    }
    Ok(())
}
