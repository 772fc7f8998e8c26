//! `pi-trainer sensitivity`: stage 1's table, JSON and plot.

use crate::cli::{SensitivityArgs, TrainArgs};
use crate::commands;
use crate::setting::Setting;
use anyhow::{Context, Result, bail};
use pi_trainer::budget;
use pi_trainer::net::{Arch, Graph};
use pi_trainer::sensitivity::Sensitivity;
use pi_trainer::svg;
use serde::Serialize;

#[derive(Serialize)]
struct Layer {
    name: String,
    relus_total: usize,
    relus_kept: usize,
    density: f64,
    sensitivity: f64,
}

#[derive(Serialize)]
struct Table {
    arch: String,
    dataset: String,
    densities_from: &'static str,
    relus_total: usize,
    budget: usize,
    layers: Vec<Layer>,
}

/// Prints the table.
pub fn run(args: &SensitivityArgs) -> Result<()> {
    let model = &args.train.model;
    let (graph, densities, from) = if args.train_proxy {
        let (graph, densities) = train(&args.train)?;
        (graph, densities, "trained")
    } else {
        let graph = match model.imported()? {
            Some(folder) => Graph::of_model(&folder, true)?,
            None => {
                let shape = model.dataset.shape(model.image_size);
                Arch::parse(model.arch(), shape, 10)?.graph()
            }
        };
        let n = graph.relu_counts().len();
        let densities = budget::known_densities(&graph.name, n);
        let published = budget::is_published(&graph.name);
        (
            graph,
            densities,
            if published {
                "published"
            } else {
                "interpolated"
            },
        )
    };
    let sizes = graph.relu_counts();
    let total: usize = sizes.iter().sum();
    let wanted = args.budget.unwrap_or(total / 5);
    if wanted == 0 {
        bail!("--budget 0: keep at least one ReLU, for the network would be linear");
    }
    let kept = budget::allocate(&sizes, &densities, wanted)?;
    let rows = graph
        .relu_names()
        .into_iter()
        .zip(&sizes)
        .zip(&kept)
        .zip(&densities);
    let row = |(((name, &relus_total), &relus_kept), &density)| Layer {
        name,
        relus_total,
        relus_kept,
        density,
        sensitivity: 1.0 - density,
    };
    let table = Table {
        arch: graph.name.clone(),
        dataset: model.dataset.name().into(),
        densities_from: from,
        relus_total: total,
        budget: wanted,
        layers: rows.map(row).collect(),
    };
    if let Some(path) = &args.plot {
        std::fs::write(path, plot(&table)).with_context(|| path.display().to_string())?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print(&table);
    }
    Ok(())
}

/// Trains the sparse proxy and tells its densities.
pub fn train(train: &TrainArgs) -> Result<(Graph, Vec<f64>)> {
    let setting = Setting::new(&train.model, train.hold_out)?;
    let net = setting.net(train.seed, &[])?;
    let recipe = commands::recipe("sensitivity", train)?;
    let mut stage = Sensitivity::new(&net, recipe.epochs, train.seed);
    let progress = setting.progress(recipe, None);
    let path = train.out.join("sensitivity.safetensors");
    setting.run(&net, train, path).train(&mut stage, progress)?;
    let densities = stage.densities(&net);
    Ok((setting.graph, densities))
}

fn print(t: &Table) {
    println!(
        "{} on {}: {} of {} ReLUs, densities {}",
        t.arch, t.dataset, t.budget, t.relus_total, t.densities_from
    );
    println!(
        "  {:<16} {:>9} {:>9} {:>7} {:>8} {:>12}  kept, drawn",
        "layer", "total", "kept", "share", "density", "sensitivity"
    );
    let most = most_kept(t);
    for l in &t.layers {
        println!(
            "  {:<16} {:>9} {:>9} {:>5.1} % {:>8.3} {:>12.3}  {}",
            l.name,
            l.relus_total,
            l.relus_kept,
            100.0 * l.relus_kept as f64 / l.relus_total.max(1) as f64,
            l.density,
            l.sensitivity,
            "#".repeat((24 * l.relus_kept).div_ceil(most))
        );
    }
    let list: Vec<String> = t
        .layers
        .iter()
        .map(|l| format!("{:.3}", l.density))
        .collect();
    println!("--densities {}", list.join(","));
}

fn most_kept(t: &Table) -> usize {
    let kept = t.layers.iter().map(|l| l.relus_kept);
    kept.max().unwrap_or(1).max(1)
}

fn plot(t: &Table) -> String {
    let labels: Vec<String> = t.layers.iter().map(|l| l.name.clone()).collect();
    let most = most_kept(t);
    let share = |l: &Layer| 100.0 * l.relus_kept as f64 / l.relus_total.max(1) as f64;
    let series = [
        (
            "sensitivity, %".to_owned(),
            t.layers.iter().map(|l| 100.0 * l.sensitivity).collect(),
        ),
        (
            "share kept, %".to_owned(),
            t.layers.iter().map(share).collect(),
        ),
        (
            format!("ReLUs kept, % of {most}"),
            t.layers
                .iter()
                .map(|l| 100.0 * l.relus_kept as f64 / most as f64)
                .collect(),
        ),
    ];
    let title = format!(
        "{} on {}: {} of {} ReLUs",
        t.arch, t.dataset, t.budget, t.relus_total
    );
    svg::bars(&title, "ReLU layer", "%", &labels, &series)
}
