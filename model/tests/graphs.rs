//! Networks of every kind of operation compile, plan and run in plaintext.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pi_model::random::random_graph;
use pi_model::{Model, PublicPlan, executor};

#[test]
fn random_graphs_compile_plan_and_survive_the_disk() {
    let (mut n_layers, mut n_inserted) = (0, 0);
    for seed in 0..200 {
        let (model, inputs) = random_graph(seed, 10, 8).unwrap();
        let run = executor::run(&model, &inputs[0]).unwrap();
        PublicPlan::new(model.public(), 1).unwrap();
        let names: Vec<&str> = model
            .public()
            .spec()
            .ops
            .iter()
            .map(|op| op.name())
            .collect();
        let layers = &model.public().graph().layers;
        n_layers += layers.len();
        n_inserted += layers
            .iter()
            .filter(|l| !names.contains(&l.name.as_str()))
            .count();
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path()).unwrap();
        let loaded = Model::load(dir.path()).unwrap();
        assert_eq!(executor::run(&loaded, &inputs[0]).unwrap(), run);
    }
    assert!(
        n_inserted > 100 && n_layers > 1000,
        "{n_inserted} of {n_layers} layers"
    );
}
