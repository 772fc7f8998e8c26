//! The command `prepare`: inferences made ahead and kept on this machine's disk, encrypted, each for one later image.

use clap::Args;
use pi_client::observer::Note;
use pi_client::{Client, Config};
use pi_model::text::shown;

use super::args::{ServerArgs, SessionArgs, StoreArgs};
use super::out;
use super::wait::wait;

#[derive(Args)]
pub(crate) struct PrepareArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The server, if --server is not given.
    #[arg(value_name = "URL", conflicts_with = "server")]
    url: Option<String>,
    /// Name of the model; the server's first one if not given.
    #[arg(long)]
    model: Option<String>,
    /// Inferences to prepare; rounded up to whole batches. With 0 it only says what there is.
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    n: u32,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Runs the command.
pub(crate) fn run(args: &PrepareArgs) -> anyhow::Result<()> {
    let url = args.url.as_deref();
    let dir = args.store.dir()?;
    let config = Config {
        model: args.model.clone(),
        store: Some(dir.clone()),
        ..args.session.config(&args.server, url)?
    };
    wait(async {
        let client = Client::connect(config).await?;
        let n_before = client.n_kept()?;
        let saved = client.save(args.n as usize).await.map(drop);
        let n_waiting = client.n_kept()?;
        if let Err(error) = saved {
            let n_new = n_waiting.saturating_sub(n_before);
            // What is on the disk is good, whatever broke afterwards.
            return Err(match n_new {
                0 => error.into(),
                _ => anyhow::Error::from(error).context(format!(
                    "after {n_new} of {} were kept, which serve later runs",
                    args.n
                )),
            });
        }
        for (url, n) in client.kept_elsewhere() {
            eprintln!("note: {}", Note::KeptElsewhere { n, url });
        }
        let description = client.description().clone();
        if let Some(report) = client.close().await {
            out::line(&format!(
                "prepared {} in {:.1} s, {}",
                report.n_prepared,
                report.offline.seconds,
                out::bytes(report.offline.bytes())
            ))?;
        }
        out::line(&format!(
            "{n_waiting} inferences of {} at {} wait in {}; the server keeps its halves for {}",
            shown(&description.model.spec().name),
            args.server.url(url)?,
            dir.display(),
            out::span(description.kept_for)
        ))
    })?
}
