//! The command `prepare`: inferences made ahead and kept on this machine's disk, encrypted, each for one later image.

use clap::Args;
use pi_client::{ClientError, Store};
use pi_protocol::cost::Cost;
use pi_protocol::ledger::{Direction, Phase};

use crate::args::{ServerArgs, SessionArgs, StoreArgs};
use crate::infer;
use crate::interrupt::{self, Doing};
use crate::print;

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
    let (client, description) = args
        .server
        .describe(args.url.as_deref(), args.model.as_deref())?;
    if description.kept_for.is_zero() {
        return Err(ClientError::Refused {
            code: tonic::Code::PermissionDenied,
            message: "it keeps no prepared inferences beyond a session; its operator can allow it with `pi-server serve --store`".into(),
            retry_after: None,
        }
        .into());
    }
    let model = &description.model.spec().name;
    let dir = args.store.dir()?;
    let store = Store::open(&dir, client.url(), model)?;
    let n = args.n as usize;
    if n > 0 {
        // Those that wait can be used in one session with the new ones only if their batches are of one size.
        let asked = args.session.batch.or(store.waiting()?.1);
        let options = args.session.options();
        let batch = infer::batch(asked, n, &description, options);
        let mut session = {
            let _phase = interrupt::during(Doing::SettingUp);
            args.server
                .again(|| client.session_with(&description, batch, options))?
        };
        let cost = Cost::with_options(session.plan(), options)?;
        let n_bytes =
            cost.bytes(Phase::Offline, Direction::Up) + cost.bytes(Phase::Offline, Direction::Down);
        let mut n_done = 0;
        while n_done < n {
            let _phase = interrupt::during(Doing::Keeping);
            let message = infer::preparing(&session, n - n_done);
            let prepared = infer::with_bar(&mut session, n_bytes, &message, |s| s.prepare_kept())?;
            n_done += prepared.len();
            for prepared in prepared {
                store.put(prepared, session.plan(), description.kept_for)?;
            }
        }
        let report = session.close()?;
        print::out(&format!(
            "prepared {n_done} in {:.1} s, {}",
            report.offline.seconds,
            print::bytes(report.offline.bytes())
        ))?;
    }
    let (n_waiting, _) = store.waiting()?;
    print::out(&format!(
        "{n_waiting} inferences of {model} at {} wait in {}; the server keeps its halves for {}",
        client.url(),
        dir.display(),
        print::span(description.kept_for)
    ))
}
