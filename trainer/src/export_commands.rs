//! The subcommands around the export: `export`, `evaluate` and `samples`.

use crate::cli::{EvaluateArgs, ExportArgs, NumberArgs, SamplesArgs};
use crate::setting::{self, Setting};
use anyhow::{Context, Result, bail};
use pi_convert::quantise;
use pi_model::spec::Card;
use pi_model::{Model, PublicPlan};
use pi_trainer::Error;
use pi_trainer::checkpoint;
use pi_trainer::data::Images;
use pi_trainer::export::{self, Exported, Frame, Precision};
use pi_trainer::net::{MaskSet, Net, prefix_masks};
use pi_trainer::report::Outcome;
use pi_trainer::run::Progress;
use std::path::{Path, PathBuf};

/// A network of one of its widths with its masks, and how it came about.
fn load(setting: &Setting, path: &Path, width: usize) -> Result<(Net, MaskSet, Progress)> {
    let (progress, state): (Progress, _) = checkpoint::load(path)?;
    setting.expect(&progress, path)?;
    let net = setting.net(0, &progress.recipe.widths)?;
    net.load_state(&state)
        .with_context(|| path.display().to_string())?;
    let masks = checkpoint::load_masks(&setting.graph, &state, path)?;
    if width >= net.n_widths() {
        bail!(
            "--width {width}: widths count from 0 for the full one, and {} holds {}",
            path.display(),
            net.n_widths()
        );
    }
    if width == 0 {
        return Ok((net, MaskSet::new(masks).on(setting.device), progress));
    }
    let net = net.detached_width(width);
    let masks = prefix_masks(&masks, &net.graph);
    Ok((net, MaskSet::new(masks).on(setting.device), progress))
}

/// Writes a fixed-point model.
pub fn export(args: &ExportArgs) -> Result<()> {
    limit_threads(args.model.threads()?);
    let setting = Setting::new(&args.model, 0)?;
    let (net, masks, progress) = load(&setting, &args.checkpoint, args.width)?;
    if !progress.finished() {
        println!("note: {} is not finished", args.checkpoint.display());
    }
    let (total, kept) = (net.graph.relu_counts().iter().sum(), masks.n_kept());
    let width = match args.width {
        0 => String::new(),
        i => format!("-w{}", progress.recipe.widths[i - 1]),
    };
    let form = format!("{}{width}", net.graph.name);
    let (name, dir) = destination(args, &form, kept, total)?;
    let frame = Frame {
        name,
        normaliser: progress.normaliser.clone(),
        labels: setting.labels(&args.model)?,
    };
    let origin = format!("Checkpoint {}", checkpoint::fingerprint(&net.state())?);
    let there = refuse_another(&dir, &origin)?;
    let asked = asked(&args.numbers);
    if args.only_missing && is_there(args, there.as_deref(), &asked) {
        println!("{}: exported and measured already", dir.display());
        return Ok(());
    }
    let numbers = &args.numbers;
    let float = setting.test_accuracy(&net, &masks, &progress.normaliser);
    let mut card = Card {
        architecture: format!("{}{width}", setting.graph.name),
        dataset: args.model.dataset.name().into(),
        relus_total: total,
        relus_kept: kept,
        float_accuracy: Some(round(float)),
        teacher_accuracy: teacher_accuracy(&setting, args)?.map(round),
        ..of_training(numbers, &progress)
    };
    if args.float {
        card.notes = format!("{origin}.");
        let mut model = export::float_model(&net, masks.masks(), &frame)?;
        model.spec.card = card;
        model.save(&dir)?;
        println!(
            "{}: {kept} of {total} ReLUs, float {float:.2} %",
            dir.display()
        );
        return Ok(());
    }
    let calibration = setting.train.slice(0, numbers.calibrate);
    let judged = judged(&setting, &progress, &calibration);
    let (done, lost) = integers(&net, &masks, &frame, numbers, &calibration, &judged)?;
    // A model that cannot be served must fail here, not at the server.
    let wraps = PublicPlan::new(done.model.public(), 1)?.expected_failures();
    let tested = export::survey(&done.model, &setting.test)?;
    let violations = done.calibration.n_range_violations + tested.n_range_violations;
    let notes = Notes {
        wraps,
        judged: (judged.0.len(), judged.1),
        lost,
        origin,
        asked,
        n_calibration: calibration.len(),
    };
    card.fixed_accuracy = Some(round(tested.accuracy()));
    card.range_violations = Some(violations);
    card.notes = notes.text(&masks, &progress, &done)?;
    let largest = done.calibration.max_accumulators;
    let saved = done.model.with_card(card).save(&dir);
    saved.with_context(|| format!("writing {}", dir.display()))?;
    Outcome::add_fixed(&args.checkpoint, args.width, tested.accuracy())?;
    println!(
        "{}: {kept} of {total} ReLUs, float {float:.2} %, fixed point {:.2} % of {} test images, {violations} values out of range",
        dir.display(),
        tested.accuracy(),
        tested.n_images
    );
    println!("largest accumulators: {largest:?}");
    Ok(())
}

/// Of the teacher, if one was given.
fn teacher_accuracy(setting: &Setting, args: &ExportArgs) -> Result<Option<f64>> {
    let Some(path) = &args.teacher else {
        return Ok(None);
    };
    let (net, masks, progress) = load(setting, path, 0)?;
    Ok(Some(setting.test_accuracy(
        &net,
        &masks,
        &progress.normaliser,
    )))
}

/// Whether the model that is there, with this card, was made as asked and measured.
fn is_there(args: &ExportArgs, card: Option<&str>, asked: &str) -> bool {
    let outcome = Outcome::load(&Outcome::path(&args.checkpoint, args.width));
    card.is_some_and(|text| text.contains(asked))
        && outcome.is_ok_and(|o| o.fixed_accuracy.is_some())
}

/// Images to judge the integers by, and what they are called: those that no stage has seen, where there are some.
fn judged(setting: &Setting, progress: &Progress, calibration: &Images) -> (Images, &'static str) {
    let n_seen = progress.n_seen(setting.n_all);
    match n_seen < setting.train.len() {
        true => {
            let unseen = setting.train.slice(n_seen, setting.train.len());
            (unseen, HELD_OUT)
        }
        false => (calibration.clone(), CALIBRATION),
    }
}

/// The model's name, as told or made of what the model is, and the folder of that name.
fn destination(
    args: &ExportArgs,
    form: &str,
    kept: usize,
    total: usize,
) -> Result<(String, PathBuf)> {
    let default = || model_name(form, args.model.dataset.name(), kept, total);
    let default = || match args.float {
        true => format!("{}-float", default()),
        false => default(),
    };
    let name = args.name.clone().unwrap_or_else(default);
    if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
        bail!("--name {name}: a plain folder name");
    }
    let models = args.numbers.models.clone();
    let dir = models.unwrap_or_else(|| "models".into()).join(&name);
    Ok((name, dir))
}

/// The part of a card that tells how the network was trained.
fn of_training(numbers: &NumberArgs, progress: &Progress) -> Card {
    let commands = progress.commands.iter();
    let hours = (progress.earlier_seconds + progress.seconds) / 3600.0;
    let stages = || progress.history.iter().chain([&progress.recipe]);
    let device = trained_on(numbers, progress);
    Card {
        // What an imported network was trained on is not known.
        data_checksum: match progress.recipe.imported() {
            true => String::new(),
            false => format!("sha256:{}", progress.data_checksum),
        },
        recipe: commands.map(|c| without_folders(c)).collect(),
        seed: progress.recipe.seed,
        trained_on: if progress.recipe.imported() {
            device.to_owned()
        } else if stages().any(|r| r.imported()) {
            format!("{device}, {hours:.2} hours after an imported teacher")
        } else {
            format!("{device}, {hours:.2} hours")
        },
        ..Card::default()
    }
}

/// What the notes of a card are made of, beside the network.
struct Notes<'a> {
    /// Truncations expected to wrap in one inference.
    wraps: f64,
    /// How many images the integers were judged by, and what they are called.
    judged: (usize, &'a str),
    /// Points that the integers lose on them.
    lost: f64,
    origin: String,
    asked: String,
    n_calibration: usize,
}

impl Notes<'_> {
    fn text(&self, masks: &MaskSet, progress: &Progress, done: &Exported) -> Result<String> {
        let by_layer: Vec<usize> = masks.masks().iter().map(|m| m.n_kept()).collect();
        let recipe = |r| serde_json::to_string(r).context("writing the recipe");
        let stages = || progress.history.iter().chain([&progress.recipe]);
        let trained = stages().filter(|r| !r.imported());
        let mut settings: Vec<String> = trained.map(recipe).collect::<Result<_>>()?;
        if stages().any(|r| r.imported()) {
            let imported = "the teacher was imported, and how it was trained is not known here";
            settings.insert(0, imported.into());
        }
        // The classifier has no ReLU behind it.
        let dropped = &done.report.dropped;
        let last = done.model.public().graph().layers.last();
        let last = last
            .and_then(|l| dropped.get(&l.convs.first()?.op))
            .copied();
        let n_others = dropped.len() - usize::from(last.is_some());
        let Self {
            wraps,
            judged,
            lost,
            origin,
            asked,
            n_calibration,
        } = self;
        Ok(format!(
            "ReLUs kept by layer, stem first: {by_layer:?}. The stem's ReLUs count; the classifier has none. \
             {}. {}. Ranges calibrated on the first {n_calibration} \
             training images; truncations expected to wrap in one inference: at most {wraps:.1e}. Weights of {} bits lose {lost:.2} points on {} {}. {origin}, {asked}. The classifier's weights give up {} fraction bits, {} of the other layers some. Settings: {}",
            progress.selection(),
            progress.chosen_on(),
            done.precision.weight_bits,
            judged.0,
            judged.1,
            last.unwrap_or(0),
            n_others,
            settings.join(" ")
        ))
    }
}

/// What a model is called unless told otherwise.
pub fn model_name(form: &str, dataset: &str, kept: usize, total: usize) -> String {
    match kept == total {
        true => format!("{form}-{dataset}-all"),
        false => format!("{form}-{dataset}-relu{kept}"),
    }
}

/// What the images to judge by are called where none were held out.
const CALIBRATION: &str = "training images (those that calibrate; none were held out)";
/// What they are called where some were.
const HELD_OUT: &str = "held-out training images";

/// The settings of an export, for the card.
fn asked(numbers: &NumberArgs) -> String {
    let weights = match numbers.weight_bits {
        Some(bits) => format!("{bits}"),
        None => "8 to 12".into(),
    };
    format!(
        "exported with {} fraction bits, weights of {weights} bits, outputs of up to {} bits, {} images to calibrate{}",
        numbers.fraction_bits,
        numbers.output_bits,
        numbers.calibrate,
        match &numbers.trained_on {
            Some(text) => format!(" ({text})"),
            None => String::new(),
        }
    )
}

/// Refuses a folder that holds the model of another checkpoint; what is said of the one that is there.
fn refuse_another(dir: &Path, origin: &str) -> Result<Option<String>> {
    let path = dir.join("model.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(None);
    };
    if !text.contains(origin) {
        bail!(
            "{} is the model of another checkpoint: give this one a --name, take another --models folder, or remove that one",
            path.display()
        );
    }
    Ok(Some(text))
}

/// The numbers that an export begins with.
pub fn precision(numbers: &NumberArgs) -> Precision {
    let weight_bits = numbers.weight_bits;
    Precision {
        activation_bits: numbers.fraction_bits,
        weight_bits: weight_bits.unwrap_or(Precision::DEFAULT.weight_bits),
        output_bits: numbers.output_bits,
    }
}

/// The narrowest weights, from 8 bits on, that lose little on the images to judge by, and what they lose.
fn integers(
    net: &Net,
    masks: &MaskSet,
    frame: &Frame,
    numbers: &NumberArgs,
    calibration: &Images,
    (images, which): &(Images, &str),
) -> Result<(Exported, f64)> {
    // Half of the 0.3 points that other images may lose: these are few, or training has seen them.
    const MOST_LOST: f64 = 0.15;
    const WIDEST: u32 = 12;
    let float = setting::accuracy(net, masks, &frame.normaliser, images);
    let mut weight_bits = precision(numbers).weight_bits;
    loop {
        let precision = Precision {
            weight_bits,
            ..precision(numbers)
        };
        let last = numbers.weight_bits.is_some() || weight_bits >= WIDEST;
        match export::export(net, masks.masks(), frame, precision, calibration) {
            Err(e @ Error::Quantise(quantise::Error::Weight { .. })) if !last => {
                println!("{e}: trying more bits")
            }
            Err(e) => return Err(e.into()),
            Ok(done) => {
                let fixed = match *which {
                    CALIBRATION => done.calibration.accuracy(),
                    _ => export::survey(&done.model, images)?.accuracy(),
                };
                let lost = float - fixed;
                println!(
                    "{weight_bits}-bit weights lose {lost:.2} points on {} {which}{}",
                    images.len(),
                    if lost > MOST_LOST {
                        ", more than 0.15"
                    } else {
                        ""
                    }
                );
                if last && lost > MOST_LOST {
                    println!(
                        "warning: fixed point loses {lost:.2} points; try more --weight-bits or --fraction-bits"
                    );
                }
                if lost <= MOST_LOST || last {
                    return Ok((done, lost));
                }
            }
        }
        weight_bits += 1;
    }
}

/// The device for the card.
fn trained_on<'a>(numbers: &'a NumberArgs, progress: &'a Progress) -> &'a str {
    match &numbers.trained_on {
        Some(text) => text,
        None if progress.device.is_empty() => "CPU",
        None => &progress.device,
    }
}

fn round(percent: f64) -> f64 {
    (percent * 100.0).round() / 100.0
}

/// A command without the folders of the machine it ran on.
fn without_folders(command: &str) -> String {
    let word = |w: &str| w.rsplit('/').next().unwrap_or(w).to_owned();
    command.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn limit_threads(threads: i32) {
    // Fails only if a pool exists already, which then serves.
    let _ = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1) as usize)
        .build_global();
}

/// Prints accuracies.
pub fn evaluate(args: &EvaluateArgs) -> Result<()> {
    limit_threads(args.model.threads()?);
    let setting = Setting::new(&args.model, 0)?;
    if let Some(path) = &args.checkpoint {
        let (net, masks, progress) = load(&setting, path, 0)?;
        println!(
            "{}: {} epochs done, {} ReLUs, float {:.2} %",
            path.display(),
            progress.epoch,
            masks.n_kept(),
            setting.test_accuracy(&net, &masks, &progress.normaliser)
        );
    }
    if let Some(dir) = &args.exported {
        let model = Model::load(dir)?;
        let spec = model.public().spec();
        let (trained, given) = (&spec.card.dataset, args.model.dataset.name());
        if spec.labels.len() != setting.test.n_classes {
            bail!(
                "{} knows {} classes of {trained}, and {given} has {}: give its --dataset and --data",
                dir.display(),
                spec.labels.len(),
                setting.test.n_classes
            );
        }
        if trained != given {
            println!(
                "note: {} was trained on {trained}, these images are {given}",
                dir.display()
            );
        }
        let seen = export::survey(&model, &setting.test)?;
        println!(
            "{}: fixed point {:.2} % of {} images, {} values out of range",
            dir.display(),
            seen.accuracy(),
            seen.n_images,
            seen.n_range_violations
        );
    }
    Ok(())
}

/// Writes sample images.
pub fn samples(args: &SamplesArgs) -> Result<()> {
    let setting = Setting::new(&args.model, 0)?;
    let labels = args.model.dataset.labels(args.model.data_dir()?)?;
    let [c, h, w] = setting.test.shape;
    let colour = if c == 1 {
        image::ColorType::L8
    } else {
        image::ColorType::Rgb8
    };
    std::fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    for (class, label) in labels.iter().enumerate() {
        let Some(i) = setting
            .test
            .labels
            .iter()
            .position(|&l| usize::from(l) == class)
        else {
            continue;
        };
        let path = args
            .out
            .join(format!("{i:04}-{}.png", label.replace(' ', "-")));
        let pixels = export::interleave(&setting.test, i);
        image::save_buffer(&path, &pixels, w as u32, h as u32, colour)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_names_no_folder_of_the_machine() {
        let typed =
            "pi-trainer teacher --data /home/me/cifar-10-batches-bin --out /tmp/run --seed 1";
        assert_eq!(
            without_folders(typed),
            "pi-trainer teacher --data cifar-10-batches-bin --out run --seed 1"
        );
    }
}
