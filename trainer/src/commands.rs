//! The training subcommands: read the arguments, build what a stage needs, run it, say the result.

use crate::cli::{
    BenchArgs, DEFAULT_ARCH, FinetuneArgs, ModelArgs, SearchArgs, SearchOptions, TargetOptions,
    TrainArgs,
};
use crate::model_folder;
use crate::setting::Setting;
use anyhow::{Context, Result, bail};
use pi_model::FloatModel;
use pi_model::spec::Op;
use pi_trainer::checkpoint::{self, Size};
use pi_trainer::data::{self, Augment, Mix};
use pi_trainer::finetune::{Finetune, Losses};
use pi_trainer::loss::{Pram, Targets};
use pi_trainer::net::{Arch, Graph, MaskSet, Net};
use pi_trainer::optim::Schedule;
use pi_trainer::recipe::{IMPORTED, Progress, Recipe};
use pi_trainer::search::{Options, Search};
use pi_trainer::teacher::Teacher;
use pi_trainer::whiten::Whitening;
use pi_trainer::{bench, budget, device};
use std::path::{Path, PathBuf};

/// How checkpoints are written.
pub fn size(args: &TrainArgs) -> Size {
    Size {
        half: args.checkpoint_bits == 16,
        part_bytes: args.checkpoint_part.map(|mb| mb.max(1) * 1_000_000),
    }
}

impl ModelArgs {
    /// The folder of the images.
    pub fn data_dir(&self) -> Result<&Path> {
        self.data
            .as_deref()
            .context("--data DIR is needed: the folder with the image set's own files")
    }

    /// The architecture as it was given.
    pub fn arch(&self) -> &str {
        self.arch.as_deref().unwrap_or(DEFAULT_ARCH)
    }

    /// Processor threads, all cores unless told otherwise.
    pub fn threads(&self) -> Result<i32> {
        match self.threads {
            Some(n) if n < 1 => bail!("--threads {n}: at least 1"),
            Some(n) => Ok(n),
            None => Ok(all_cores()),
        }
    }
}

fn all_cores() -> i32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as i32)
}

/// The command as typed, with the program's bare name.
pub fn command_line() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    format!("pi-trainer {}", args.join(" "))
}

/// The preset's settings with those that were given.
pub fn recipe(stage: &str, args: &TrainArgs) -> Result<Recipe> {
    let preset = args.preset.of(stage);
    let smoothing = args.label_smoothing.unwrap_or(preset.label_smoothing);
    Ok(Recipe {
        stage: stage.into(),
        dataset: args.model.dataset.name().into(),
        arch: args.model.network()?,
        epochs: args.epochs.unwrap_or(preset.epochs),
        batch: args.batch.unwrap_or(preset.batch),
        lr: Schedule {
            shape: args.schedule.unwrap_or(preset.schedule),
            peak: args.lr.unwrap_or(preset.lr),
            warmup: args.warmup,
        },
        momentum: 0.9,
        nesterov: preset.nesterov && !args.plain_momentum,
        weight_decay: args.weight_decay,
        shift_rate: args.shift_rate,
        // The proxy's loss has none.
        label_smoothing: if stage == "sensitivity" {
            0.0
        } else {
            smoothing
        },
        augment: Augment {
            crop_pad: args.crop_pad,
            flip: args.model.dataset != data::DatasetKind::FashionMnist,
            alternate: args.alternate_flip,
        },
        mix: Mix {
            mixup: args.mixup,
            cutmix: args.cutmix,
        },
        ema: args.ema,
        compute: args.compute.unwrap_or(preset.compute),
        seed: args.seed,
        holdout: args.hold_out,
        limit: args.model.limit,
        select_best: args.hold_out > 0 && stage != "search",
        widths: vec![],
        relu_budget: None,
        choices: vec![],
    })
}

/// Trains the all-ReLU network; that of a model folder is taken as it is unless its epochs are given.
pub fn teacher(args: &TrainArgs) -> Result<()> {
    let setting = Setting::new(&args.model, args.hold_out)?;
    let path = args.out.join("teacher.safetensors");
    let mut recipe = recipe("teacher", args)?;
    let net = match &setting.imported {
        Some(model) if args.epochs.is_none() => {
            return take(&setting, model, args, recipe, &path);
        }
        Some(model) => {
            let own = model_folder::fingerprint(model)?;
            recipe.choices.push(format!("model={own}"));
            setting.imported_net(model)?
        }
        None => setting.net(args.seed, &[])?,
    };
    let mut stage = Teacher {
        masks: MaskSet::all_relu(&setting.graph),
        label_smoothing: recipe.label_smoothing,
    };
    let progress = setting.progress(recipe, None);
    let whitening = Whitening::of(&net, &setting.train, &progress.normaliser);
    if let Some(whitening) = whitening {
        whitening.initialise(&net);
    }
    let run = setting.run(&net, args, path.clone());
    let done = run.train(&mut stage, progress)?;
    setting.report(&net, &stage.masks, &path, &done)
}

/// Writes the weights of a model folder as the teacher, and measures it.
fn take(
    setting: &Setting,
    model: &FloatModel,
    args: &TrainArgs,
    mut recipe: Recipe,
    path: &Path,
) -> Result<()> {
    let own = format!("model={}", model_folder::fingerprint(model)?);
    if path.exists() {
        let (progress, _): (Progress, _) = checkpoint::load(path)?;
        let why = match args.resume {
            true if progress.recipe.choices.contains(&own) => {
                println!("{}: taken from the model folder already", path.display());
                return Ok(());
            }
            true => " and holds other weights",
            false => "",
        };
        bail!("{} exists{why}; choose another --out", path.display());
    }
    let pools = model.spec.ops.iter();
    let n_pools = pools.filter(|op| matches!(op, Op::MaxPool { .. })).count();
    if n_pools > 0 {
        println!(
            "note: {n_pools} max pools keep their comparisons, which the ReLU counts here leave out; `pi-convert import --pool average` makes averages of them"
        );
    }
    // Nothing was trained here: no epochs, and no seed.
    (recipe.epochs, recipe.seed) = (0, 0);
    recipe.choices = vec![IMPORTED.into(), own];
    let net = setting.imported_net(model)?;
    let mut progress = setting.progress(recipe, None);
    progress.device = "imported".into();
    checkpoint::save(path, &progress, &net.state(), size(args))?;
    let masks = MaskSet::all_relu(&setting.graph).on(setting.device);
    setting.report(&net, &masks, path, &progress)
}

/// The finished teacher of the network that is trained, and how it came about.
pub fn load_teacher(
    setting: &Setting,
    given: Option<&Path>,
    args: &TrainArgs,
) -> Result<(Net, Progress)> {
    let (net, progress, path) = load_any_teacher(setting, given, args)?;
    setting.expect(&progress, &path)?;
    Ok((net, progress))
}

/// The same, perhaps of another network on the same images; with its file.
fn load_any_teacher(
    setting: &Setting,
    given: Option<&Path>,
    args: &TrainArgs,
) -> Result<(Net, Progress, PathBuf)> {
    let default = || args.out.join("teacher.safetensors");
    let path = given.map_or_else(default, Path::to_owned);
    let (progress, state): (Progress, _) = checkpoint::load(&path)?;
    if !progress.finished() {
        bail!(
            "{} is not finished: run `pi-trainer teacher --resume`",
            path.display()
        );
    }
    let masked = state.iter().any(|(n, _)| n.starts_with("mask."));
    if progress.recipe.stage != "teacher" || masked {
        bail!(
            "{} is no teacher but comes from the stage {}: give the checkpoint of `pi-trainer teacher` or `import`",
            path.display(),
            progress.recipe.stage
        );
    }
    setting.expect_images(&progress, &path)?;
    let graph = &setting.graph;
    let net = match progress.recipe.arch == graph.name {
        true => setting.net(0, &[])?,
        false => {
            let arch = Arch::parse(&progress.recipe.arch, graph.input, graph.n_classes)?;
            Net::on(&arch.graph(), 0, setting.device)
        }
    };
    net.load_state(&state)
        .with_context(|| path.display().to_string())?;
    Ok((net, progress, path))
}

impl TargetOptions {
    /// What was given, else the stage's.
    fn or(&self, stage: Targets, label_smoothing: f64) -> Result<Targets> {
        let targets = Targets {
            ce_share: self.ce_share.unwrap_or(stage.ce_share),
            temperature: self.temperature,
            label_smoothing,
        };
        targets.check()?;
        Ok(targets)
    }
}

impl SearchOptions {
    /// The budget, where there can be only one.
    fn one_budget(&self) -> Result<usize> {
        match self.relus[..] {
            [n] => Ok(n),
            _ => bail!("--relus: `search` takes one budget, `all` takes several"),
        }
    }
}

/// ReLUs to keep in each layer, and where the shares of the layers come from.
fn relu_budget(graph: &Graph, args: &SearchOptions) -> Result<(Vec<usize>, &'static str)> {
    let sizes = graph.relu_counts();
    let (mut kept, from) = match (&args.relu_list, &args.densities) {
        (Some(list), _) => (budget::explicit(&sizes, list)?, "given list"),
        (None, Some(densities)) => {
            let kept = budget::allocate(&sizes, densities, args.one_budget()?)?;
            (kept, "given or trained densities")
        }
        (None, None) => {
            let known = budget::known_densities(&graph.name, sizes.len());
            let kept = budget::allocate(&sizes, &known, args.one_budget()?)?;
            let from = match budget::is_published(&graph.name) {
                true => "published densities",
                false => "ResNet-18's published densities, interpolated over the depth",
            };
            (kept, from)
        }
    };
    if args.per_channel {
        let planes = graph.relu_planes();
        let wanted = kept.iter().sum::<usize>();
        kept = budget::whole_channels(&sizes, &planes, &kept);
        if wanted > 0 && kept.iter().all(|&n| n == 0) {
            bail!(
                "the budget is less than one channel in every layer; raise --relus or leave out --per-channel"
            );
        }
    }
    if kept.iter().sum::<usize>() == 0 {
        bail!("a budget of no ReLUs: keep at least one, for the network would be linear");
    }
    Ok((kept, from))
}

/// A search as asked for, checked as far as it can be before anything is trained.
pub struct Searched {
    /// ReLUs to keep in each layer.
    pub kept: Vec<usize>,
    budgets_from: &'static str,
    recipe: Recipe,
    options: Options,
}

/// Checks the settings of a search for a network.
pub fn check_search(args: &SearchArgs, graph: &Graph) -> Result<Searched> {
    let given = &args.options;
    let preset = args.train.preset.of("search");
    let recipe = recipe("search", &args.train)?;
    recipe.check()?;
    let options = Options {
        selection: given.selection.unwrap_or(preset.selection),
        per_channel: given.per_channel,
        stop_distance: given.stop_distance,
        budgets_from_scores: given.budgets_from_scores,
        empty_layers: given.empty_layers,
        targets: args.targets.or(preset.targets, recipe.label_smoothing)?,
    };
    let (kept, budgets_from) = relu_budget(graph, given)?;
    options.check(graph, &kept)?;
    Ok(Searched {
        kept,
        budgets_from,
        recipe,
        options,
    })
}

/// Stage 2: finds the positions.
pub fn search(args: &SearchArgs) -> Result<()> {
    let given = &args.options;
    let setting = Setting::new(&args.train.model, args.train.hold_out)?;
    let Searched {
        kept,
        budgets_from,
        mut recipe,
        options,
    } = check_search(args, &setting.graph)?;
    let (teacher, trained) = load_teacher(&setting, args.teacher.as_deref(), &args.train)?;
    println!(
        "ReLUs by layer: {kept:?}, {} in all, by {budgets_from}",
        kept.iter().sum::<usize>()
    );
    let (selection, targets) = (options.selection, options.targets);
    let fresh = given.fresh || args.train.preset.of("search").fresh;
    let net = setting.net(args.train.seed, &given.widths)?;
    if !fresh {
        net.load_shared(&teacher.state())?;
    }
    recipe.relu_budget = Some(kept.iter().sum());
    recipe.widths = given.widths.clone();
    recipe.choices = vec![
        format!("selection={}", selection.name()),
        format!("per_channel={}", given.per_channel),
        format!("stop_distance={:?}", given.stop_distance),
        format!("budgets_from_scores={}", given.budgets_from_scores),
        format!("empty_layers={}", given.empty_layers),
        format!("fresh={fresh}"),
        format!("budgets_from={budgets_from}"),
        match given.densities_trained {
            // They differ with the seed.
            true => "densities=trained".into(),
            false => format!("densities={:?}", given.densities),
        },
        format!("relus_by_layer={kept:?}"),
        format!("teacher={}", checkpoint::fingerprint(&teacher.state())?),
    ];
    recipe.choices.extend(targets.choices());
    let (seed, n_widths) = (args.train.seed, net.n_widths());
    let mut stage = Search::new(teacher, &kept, seed, recipe.epochs, n_widths, options)?;
    let progress = setting.progress(recipe, Some(trained));
    let path = args.train.out.join("search.safetensors");
    let run = setting.run(&net, &args.train, path.clone());
    let done = run.train(&mut stage, progress)?;
    let ended = stage.masks.masks().iter().map(|m| m.n_kept());
    let ended: Vec<usize> = ended.collect();
    if ended != kept {
        println!("ReLUs by layer in the end: {ended:?}");
    }
    setting.report(&net, &stage.masks, &path, &done)
}

/// Checks the settings of a fine-tuning over widths.
pub fn check_finetune(args: &FinetuneArgs, widths: &[f64]) -> Result<(Recipe, Losses)> {
    let preset = args.train.preset.of("finetune");
    let recipe = recipe("finetune", &args.train)?;
    recipe.check()?;
    let losses = Losses {
        targets: args.targets.or(preset.targets, recipe.label_smoothing)?,
        pram: args.pram.pram,
        pram_weight: args.pram.pram_weight.unwrap_or(preset.pram_weight),
        pram_decay: args.pram.pram_decay,
    };
    losses.check()?;
    if !widths.is_empty() && losses.pram == Pram::Full {
        bail!("--pram full compares maps of equal width; with --widths take collapsed");
    }
    Ok((recipe, losses))
}

/// Stage 3: trains on under the frozen masks.
pub fn finetune(args: &FinetuneArgs) -> Result<()> {
    check_finetune(args, &[])?;
    let setting = Setting::new(&args.train.model, args.train.hold_out)?;
    let (teacher, taught, file) = load_any_teacher(&setting, args.teacher.as_deref(), &args.train)?;
    let default = || args.train.out.join("search.safetensors");
    let found = args.from.clone().unwrap_or_else(default);
    let (searched, state): (Progress, _) = checkpoint::load(&found)?;
    if !searched.finished() {
        bail!(
            "{} is not finished: run `pi-trainer search --resume`",
            found.display()
        );
    }
    setting.expect_stage(&searched, &found)?;
    if searched.normaliser != taught.normaliser {
        bail!(
            "{} scales pixels in another way than the teacher: give it the --teacher of its search",
            found.display()
        );
    }
    if !state.iter().any(|(n, _)| n.starts_with("mask.")) {
        bail!(
            "{} holds no masks: it is a teacher; give --from a search's or a student's checkpoint",
            found.display()
        );
    }
    let widths = searched.recipe.widths.clone();
    let (mut recipe, losses) = check_finetune(args, &widths)?;
    if losses.pram_weight > 0.0 {
        // Activations of another network are no measure.
        setting.expect(&taught, &file)?;
    }
    let net = setting.net(args.train.seed, &widths)?;
    net.load_state(&state)
        .with_context(|| found.display().to_string())?;
    let load_masks = || checkpoint::load_masks(&setting.graph, &state, &found);
    let masks = MaskSet::new(load_masks()?);
    recipe.relu_budget = Some(masks.n_kept());
    recipe.widths = widths;
    recipe.choices = losses.choices();
    recipe.choices.extend([
        format!("teacher={}", checkpoint::fingerprint(&teacher.state())?),
        format!("from={}", checkpoint::fingerprint(&state)?),
    ]);
    let progress = setting.progress(recipe, Some(searched));
    let path = args.train.out.join("student.safetensors");
    let mut stage = Finetune::new(teacher, masks, &net, losses);
    let run = setting.run(&net, &args.train, path.clone());
    let done = run.train(&mut stage, progress)?;
    setting.report(&net, &MaskSet::new(load_masks()?), &path, &done)
}

/// Prints images a second of each stage, and of the same step in plain libtorch.
pub fn bench(args: &BenchArgs) -> Result<()> {
    let arch = Arch::parse(&args.arch, [3, 32, 32], args.classes)?.graph();
    let device = device::parse(&args.device)?;
    let threads = match &args.threads[..] {
        [] => vec![all_cores()],
        given => given.to_vec(),
    };
    if threads.iter().any(|&n| n < 1) || args.batch < 1 {
        bail!("--threads and --batch: at least 1");
    }
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        bail!("--seconds: above 0, and at most 3600");
    }
    tch::set_num_threads(threads[0]);
    println!(
        "{}, batch {}, {}: images/s",
        arch.name,
        args.batch,
        device::describe(device)
    );
    for &compute in &args.compute {
        for &threads in &threads {
            tch::set_num_threads(threads);
            let rates = bench::measure(&arch, args.batch, compute, args.seconds, device)?;
            let teacher = rates.first().map_or(1.0, |r| r.1);
            for (stage, rate) in rates {
                println!(
                    "{compute:?}, {threads} threads, {stage}: {rate:.0} ({:.2} of the teacher's time)",
                    teacher / rate
                );
            }
        }
    }
    Ok(())
}
