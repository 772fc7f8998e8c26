//! Whole inferences between two threads: against a share-level replay bit for bit, and against the plaintext executor.

mod hostile;
mod inference;
mod kept;
mod observer;
mod replay;
mod transcript;

use std::sync::Arc;

use pi_model::Model;
use pi_model::plan::Plan;
use pi_model::random::{RandomModel, residual_network};
use pi_model::spec::OutputMode;

use crate::client::{self, ClientSession, Output};
use crate::prg::Seed;
use crate::server::{self, ServerSession};
use crate::session::SessionOptions;
use crate::wire::channel::pair;
use crate::wire::ledger::Ledger;

/// What both sides of a session did.
pub(crate) struct Run {
    pub outputs: Vec<Output>,
    pub client: Ledger,
    pub server: Ledger,
    pub client_trace: Vec<client::Trace>,
    pub server_trace: Vec<server::Trace>,
}

/// Prepares one batch, of as many inferences as there are inputs, and runs all of it.
pub(crate) fn run(model: &Arc<Model>, inputs: &[Vec<i64>], seed: u8) -> Run {
    let plan = Plan::new(model.clone(), inputs.len()).unwrap();
    run_plan(plan, inputs, seed, SessionOptions::default())
}

/// As [`run`], by a plan for as many inferences as there are inputs, in a session with these `options`.
pub(crate) fn run_plan(plan: Plan, inputs: &[Vec<i64>], seed: u8, options: SessionOptions) -> Run {
    let plan = Arc::new(plan);
    let public = plan.public().clone();
    let (to_server, to_client) = pair();
    let server = std::thread::spawn(move || {
        let mut session =
            ServerSession::accept_with_seed(to_client, plan, Seed::from([seed; 32])).unwrap();
        session.serve().unwrap();
        assert_eq!(session.n_prepared(), 0);
        (session.ledger().clone(), session.trace.clone())
    });
    let mut client =
        ClientSession::connect_with_seed(to_server, public, options, Seed::from([seed + 1; 32]))
            .unwrap();
    let prepared = client.prepare().unwrap();
    assert_eq!(prepared.len(), inputs.len());
    // In reverse, because the order of a batch is free.
    let runs = prepared.into_iter().zip(inputs).rev();
    let mut outputs: Vec<Output> = runs.map(|(p, x)| client.infer(p, x).unwrap()).collect();
    outputs.reverse();
    let client_trace = client.trace.clone();
    let client = client.close().unwrap();
    let (server, mut server_trace) = server.join().unwrap();
    server_trace.sort_by_key(|t| t.index);
    Run {
        outputs,
        client,
        server,
        client_trace,
        server_trace,
    }
}

/// A residual network on 8x8 images with skips, a stride and a pool.
pub(crate) fn small(relus: usize, mode: OutputMode) -> Arc<Model> {
    Arc::new(residual_network("small", [3, 8, 8], &[4, 6], 1, 5, relus, mode).unwrap())
}

/// Random inputs of a shape.
pub(crate) fn inputs(shape: [usize; 3], n: usize) -> Vec<Vec<i64>> {
    let mut net = RandomModel::new("inputs", shape, 99);
    (0..n).map(|_| net.input()).collect()
}
