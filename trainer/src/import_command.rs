//! `pi-trainer import`.

use crate::cli::ImportArgs;
use crate::commands;
use crate::setting::Setting;
use anyhow::{Context, Result, bail};
use pi_trainer::checkpoint;
use pi_trainer::data::{Batches, Normaliser};
use pi_trainer::import::{self, Matched, Place, Weights};
use pi_trainer::net::{MaskSet, Net};
use pi_trainer::recipe::{IMPORTED, OPTION_A};

/// Training images by which shortcuts without parameters are placed.
const N_IMAGES: usize = 1000;

/// Turns a foreign state dict into a teacher checkpoint and measures it.
pub fn run(args: &ImportArgs) -> Result<()> {
    let path = args.train.out.join("teacher.safetensors");
    if path.exists() {
        bail!("{} exists; choose another --out", path.display());
    }
    let file = args.checkpoint.display();
    let weights = import::read(&args.checkpoint)?;
    let mut train = args.train.clone();
    if train.model.arch.is_none() {
        let arch = import::guess(&weights).with_context(|| file.to_string())?;
        println!("--arch {arch}, by the names and shapes in {file}");
        train.model.arch = Some(arch);
    }
    let setting = Setting::new(&train.model, train.hold_out)?;
    let net = setting.net(0, &[])?;
    let matched = import::load(&net, &weights).with_context(|| file.to_string())?;
    let n_all = net.params.len();
    println!("{} of {n_all} tensors set", matched.n_set);
    tell(&matched, &weights);
    if let Some(missing) = matched.missing.first() {
        bail!(
            "{file}: {} of {n_all} parameters of {} have no tensor in it, such as {missing}: give the --arch that it is, if there is one",
            matched.missing.len(),
            setting.graph.name
        );
    }
    if let Some((name, _)) = net.state().iter().find(|(_, t)| !checkpoint::is_finite(t)) {
        bail!("{file}: what was set as {name} holds values that are no numbers");
    }
    let mut recipe = commands::recipe("teacher", &train)?;
    // Nothing was trained here: no epochs, and no seed.
    (recipe.epochs, recipe.seed) = (0, 0);
    recipe.choices = vec![IMPORTED.into()];
    if matched.option_a {
        recipe.choices.push(OPTION_A.into());
    }
    let mut progress = setting.progress(recipe, None);
    progress.device = "imported".into();
    normalise(args, &mut progress.normaliser)?;
    if matched.option_a {
        select(&setting, &net, &progress.normaliser);
    }
    checkpoint::save(&path, &progress, &net.state(), commands::size(&train))?;
    let masks = MaskSet::all_relu(&setting.graph);
    setting.report(&net, &masks, &path, &progress)
}

/// Lists what an import did not take or find.
fn tell(matched: &Matched, weights: &Weights) {
    if !weights.others.is_empty() {
        println!(
            "note: these are the weights in {}; the file has others in {}",
            match weights.home.as_str() {
                "" => "the file itself",
                home => home,
            },
            weights.others.join(", ")
        );
    }
    for (what, list) in [
        ("in the file, matching nothing", &matched.unused),
        ("in the network, not in the file", &matched.missing),
    ] {
        const SHOWN: usize = 20;
        for name in list.iter().take(SHOWN) {
            println!("  {what}: {}", name.escape_debug());
        }
        if list.len() > SHOWN {
            println!("  {what}: and {} more", list.len() - SHOWN);
        }
    }
}

/// The mean and deviation that were given.
fn normalise(args: &ImportArgs, normaliser: &mut Normaliser) -> Result<()> {
    let (Some(mean), Some(std)) = (&args.mean, &args.std) else {
        return Ok(());
    };
    let channels = normaliser.mean.len();
    let wrong = |&s: &f64| !s.is_finite() || s <= 0.0;
    let finite = mean.iter().all(|m| m.is_finite());
    if mean.len() != channels || std.len() != channels || !finite || std.iter().any(wrong) {
        bail!("--mean and --std: one number for each of the {channels} channels, --std above 0");
    }
    normaliser.mean.clone_from(mean);
    normaliser.std.clone_from(std);
    Ok(())
}

/// Sets shortcuts that have no parameters, and says so.
fn select(setting: &Setting, net: &Net, normaliser: &Normaliser) {
    let images = setting.train.slice(0, N_IMAGES);
    let batches = Batches::plain(&images, normaliser, 250).on(net.device());
    let done = import::select(net, &batches);
    let (place, other) = match done.place {
        Place::Middle => ("in the middle", "in front"),
        Place::First => ("in front", "in the middle"),
    };
    let [best, less] = done.accuracies.map(|a| 100.0 * a);
    println!(
        "note: its shortcuts have no parameters (option A): here they are 1x1 convolutions that select every second pixel, with the \
         channels {place} of the larger map ({best:.1} % of {} training images; {other} {less:.1} %)",
        images.len()
    );
    if best < 50.0 {
        println!(
            "warning: that is less than half: its shortcuts may be of another kind, or its images have another --mean and --std"
        );
    }
}
