//! The training subcommands: read the arguments, build what a stage needs, run it, say the result.

use crate::cli::{
    BenchArgs, FinetuneArgs, ModelArgs, SearchArgs, SearchOptions, TargetOptions, TrainArgs,
};
use anyhow::{Context, Result, bail};
use pi_trainer::checkpoint::{self, Size};
use pi_trainer::data::{self, Augment, Batches, Dataset, Images, Mix, Normaliser};
use pi_trainer::finetune::{Finetune, Losses};
use pi_trainer::loss::{Pram, Targets};
use pi_trainer::net::{Arch, MaskSet, Net, prefix_masks};
use pi_trainer::optim::Schedule;
use pi_trainer::recipe::{Progress, Recipe};
use pi_trainer::report::Outcome;
use pi_trainer::run::Run;
use pi_trainer::search::{Options, Search};
use pi_trainer::teacher::Teacher;
use pi_trainer::{bench, budget, device, evaluate};
use std::path::{Path, PathBuf};
use tch::Device;

/// Images, split, and the network's shape.
pub struct Setting {
    /// Training images, the held-out part removed.
    pub train: Images,
    holdout: Option<Images>,
    /// Test images.
    pub test: Images,
    normaliser: Normaliser,
    /// The network's shape.
    pub arch: Arch,
    /// Where to compute.
    pub device: Device,
    /// Images of the whole training set.
    n_all: usize,
}

impl Setting {
    /// Reads the images.
    pub fn new(args: &ModelArgs, holdout: usize) -> Result<Setting> {
        tch::set_num_threads(args.threads()?);
        let device = device::parse(&args.device)?;
        let dir = args.data_dir()?;
        let Dataset { train, test } = data::load(args.dataset, dir, args.image_size)?;
        let n_all = train.len();
        let train = match args.limit {
            Some(0) => bail!("--limit 0: keep at least one image"),
            Some(n) => train.slice(0, n),
            None => train,
        };
        let normaliser = Normaliser::measure(&train);
        let arch = Arch::parse(&args.arch, train.shape, train.n_classes)?;
        if holdout >= train.len() {
            bail!(
                "--hold-out {holdout}: there are {} training images",
                train.len()
            );
        }
        let cut = train.len() - holdout;
        let (train, holdout) = if holdout == 0 {
            (train, None)
        } else {
            (train.slice(0, cut), Some(train.slice(cut, train.len())))
        };
        Ok(Setting {
            train,
            holdout,
            test,
            normaliser,
            arch,
            device,
            n_all,
        })
    }

    /// A fresh network on the device.
    pub fn net(&self, seed: u64, widths: &[f64]) -> Result<Net> {
        Ok(Net::on(&self.arch, seed, self.device).with_widths(widths)?)
    }

    /// Refuses a checkpoint of another network; its tensors' names alone might fit by chance.
    pub fn expect(&self, progress: &Progress, path: &Path) -> Result<()> {
        let recipe = &progress.recipe;
        if recipe.arch != self.arch.name {
            bail!(
                "{} holds a {} trained on {}, not a {}: give its --arch, or another file",
                path.display(),
                recipe.arch,
                recipe.dataset,
                self.arch.name
            );
        }
        Ok(())
    }

    /// Refuses to go on from stages that trained on the images held out now: accuracies on those would
    /// be too high, and whatever is chosen by them chosen wrongly.
    fn expect_held_out(&self, progress: &Progress, path: &Path) -> Result<()> {
        let Some(holdout) = &self.holdout else {
            return Ok(());
        };
        if progress.n_seen(self.n_all) > self.train.len() {
            bail!(
                "{} was trained on images that --hold-out {} keeps back (it held out {}): train the teacher and each stage after it with --hold-out, or leave it out throughout",
                path.display(),
                holdout.len(),
                progress.recipe.holdout
            );
        }
        Ok(())
    }

    /// A run of a stage.
    pub fn run<'a>(&'a self, net: &'a Net, args: &TrainArgs, path: PathBuf) -> Run<'a> {
        Run {
            net,
            train: &self.train,
            holdout: self.holdout.as_ref(),
            path,
            resume: args.resume,
            max_steps: None,
            size: Size {
                half: args.checkpoint_bits == 16,
                part_bytes: args.checkpoint_part.map(|mb| mb.max(1) * 1_000_000),
            },
        }
    }

    /// Where a run of `recipe` starts, after the stages that `earlier` ends.
    pub fn progress(&self, recipe: Recipe, earlier: Option<Progress>) -> Progress {
        let (normaliser, checksum) = (self.normaliser.clone(), self.train.checksum.clone());
        let mut progress = Progress::new(recipe, normaliser, checksum);
        progress.device = device::describe(self.device);
        if let Some(p) = earlier {
            // The teacher's, should it come from elsewhere.
            progress.normaliser = p.normaliser;
            progress.history = [p.history, vec![p.recipe]].concat();
            progress.commands = p.commands;
            progress.earlier_seconds = p.earlier_seconds + p.seconds;
            progress.curve = p.curve;
        }
        // `all` is one command for every stage.
        if progress.commands.last() != Some(&command_line()) {
            progress.commands.push(command_line());
        }
        progress
    }

    /// Float accuracy on the test set, percent.
    pub fn test_accuracy(&self, net: &Net, masks: &MaskSet, normaliser: &Normaliser) -> f64 {
        accuracy(net, masks, normaliser, &self.test)
    }

    /// Measures every width on the test set, says it, and leaves it beside the checkpoint.
    pub fn report(
        &self,
        net: &Net,
        masks: &MaskSet,
        path: &Path,
        progress: &Progress,
    ) -> Result<()> {
        for i in 0..net.n_widths() {
            let form = net.at_width(i);
            let own = MaskSet::new(prefix_masks(masks.masks(), &form.arch)).on(self.device);
            let accuracy = self.test_accuracy(&form, &own, &progress.normaliser);
            let mut outcome =
                Outcome::new(&form.arch, own.masks(), progress, accuracy, self.test.len());
            if i > 0 {
                // The held-out images were seen by the full form alone.
                outcome.holdout_accuracy = None;
            }
            println!(
                "{}: {accuracy:.2} % of {} test images, {} ReLUs of {} ({})",
                path.display(),
                outcome.n_test,
                outcome.relus_kept,
                outcome.relus_total,
                outcome.selection
            );
            outcome.save(path, i)?;
        }
        Ok(())
    }
}

/// Float accuracy on images, percent.
pub fn accuracy(net: &Net, masks: &MaskSet, normaliser: &Normaliser, images: &Images) -> f64 {
    let batches = Batches::plain(images, normaliser, 250).on(net.device());
    100.0 * evaluate::accuracy(net, masks, &batches)
}

impl ModelArgs {
    /// The folder of the images.
    pub fn data_dir(&self) -> Result<&Path> {
        self.data
            .as_deref()
            .context("--data DIR is needed: the folder with the image set's own files")
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
fn command_line() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    format!("pi-trainer {}", args.join(" "))
}

/// The preset's settings with those that were given.
pub fn recipe(stage: &str, args: &TrainArgs) -> Recipe {
    let preset = args.preset.of(stage);
    let smoothing = args.label_smoothing.unwrap_or(preset.label_smoothing);
    Recipe {
        stage: stage.into(),
        dataset: args.model.dataset.name().into(),
        arch: args.model.arch.clone(),
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
        label_smoothing: if stage == "teacher" { smoothing } else { 0.0 },
        augment: Augment {
            crop_pad: args.crop_pad,
            flip: args.model.dataset != data::DatasetKind::FashionMnist,
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
    }
}

/// Trains the all-ReLU network.
pub fn teacher(args: &TrainArgs) -> Result<()> {
    let setting = Setting::new(&args.model, args.hold_out)?;
    let net = setting.net(args.seed, &[])?;
    let path = args.out.join("teacher.safetensors");
    let recipe = recipe("teacher", args);
    let mut stage = Teacher {
        masks: MaskSet::all_relu(&setting.arch),
        label_smoothing: recipe.label_smoothing,
    };
    let progress = setting.progress(recipe, None);
    let run = setting.run(&net, args, path.clone());
    let done = run.train(&mut stage, progress)?;
    setting.report(&net, &stage.masks, &path, &done)
}

/// The finished teacher and how it came about.
fn load_teacher(
    setting: &Setting,
    given: Option<&Path>,
    args: &TrainArgs,
) -> Result<(Net, Progress)> {
    let default = || args.out.join("teacher.safetensors");
    let path = given.map_or_else(default, Path::to_owned);
    let (progress, state): (Progress, _) = checkpoint::load(&path)?;
    if !progress.finished() {
        bail!(
            "{} is not finished: run `pi-trainer teacher --resume`",
            path.display()
        );
    }
    setting.expect(&progress, &path)?;
    setting.expect_held_out(&progress, &path)?;
    let net = setting.net(0, &[])?;
    net.load_state(&state)
        .with_context(|| path.display().to_string())?;
    Ok((net, progress))
}

impl TargetOptions {
    /// What was given, else the stage's.
    fn or(&self, stage: Targets) -> Result<Targets> {
        let targets = Targets {
            ce_share: self.ce_share.unwrap_or(stage.ce_share),
            temperature: self.temperature,
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
fn relu_budget(arch: &Arch, args: &SearchOptions) -> Result<(Vec<usize>, &'static str)> {
    let sizes = arch.relu_counts();
    let (mut kept, from) = match (&args.relu_list, &args.densities) {
        (Some(list), _) => (budget::explicit(&sizes, list)?, "given list"),
        (None, Some(densities)) => {
            let kept = budget::allocate(&sizes, densities, args.one_budget()?)?;
            (kept, "given or trained densities")
        }
        (None, None) => {
            let known = budget::known_densities(&arch.name, sizes.len());
            let kept = budget::allocate(&sizes, &known, args.one_budget()?)?;
            let from = match budget::is_published(&arch.name) {
                true => "published densities",
                false => "ResNet-18's published densities, interpolated over the depth",
            };
            (kept, from)
        }
    };
    if args.per_channel {
        let plane = |s: [i64; 3]| (s[1] * s[2]) as usize;
        let planes: Vec<usize> = arch.relu_shapes().into_iter().map(plane).collect();
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

/// Stage 2: finds the positions.
pub fn search(args: &SearchArgs) -> Result<()> {
    let given = &args.options;
    let targets = args.targets.or(args.train.preset.of("search").targets)?;
    let setting = Setting::new(&args.train.model, args.train.hold_out)?;
    let (teacher, trained) = load_teacher(&setting, args.teacher.as_deref(), &args.train)?;
    let (kept, budgets_from) = relu_budget(&setting.arch, given)?;
    println!(
        "ReLUs by layer: {kept:?}, {} in all, by {budgets_from}",
        kept.iter().sum::<usize>()
    );
    let preset = args.train.preset.of("search");
    let selection = given.selection.unwrap_or(preset.selection);
    let fresh = given.fresh || preset.fresh;
    let net = setting.net(args.train.seed, &given.widths)?;
    if !fresh {
        net.load_shared(&teacher.state())?;
    }
    let options = Options {
        selection,
        per_channel: given.per_channel,
        stop_distance: given.stop_distance,
        budgets_from_scores: given.budgets_from_scores,
        empty_layers: given.empty_layers,
        targets,
    };
    let mut recipe = recipe("search", &args.train);
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
    setting.report(&net, &stage.masks, &path, &done)
}

/// Stage 3: trains on under the frozen masks.
pub fn finetune(args: &FinetuneArgs) -> Result<()> {
    let preset = args.train.preset.of("finetune");
    let losses = Losses {
        targets: args.targets.or(preset.targets)?,
        pram: args.pram.pram,
        pram_weight: args.pram.pram_weight.unwrap_or(preset.pram_weight),
        pram_decay: args.pram.pram_decay,
    };
    losses.check()?;
    let setting = Setting::new(&args.train.model, args.train.hold_out)?;
    let (teacher, _) = load_teacher(&setting, args.teacher.as_deref(), &args.train)?;
    let default = || args.train.out.join("search.safetensors");
    let found = args.from.clone().unwrap_or_else(default);
    let (searched, state): (Progress, _) = checkpoint::load(&found)?;
    if !searched.finished() {
        bail!(
            "{} is not finished: run `pi-trainer search --resume`",
            found.display()
        );
    }
    setting.expect(&searched, &found)?;
    setting.expect_held_out(&searched, &found)?;
    if !state.iter().any(|(n, _)| n.starts_with("mask.")) {
        bail!(
            "{} holds no masks: it is a teacher; give --from a search's or a student's checkpoint",
            found.display()
        );
    }
    let widths = searched.recipe.widths.clone();
    if !widths.is_empty() && losses.pram == Pram::Full {
        bail!("--pram full compares maps of equal width; with --widths take collapsed");
    }
    let net = setting.net(args.train.seed, &widths)?;
    net.load_state(&state)
        .with_context(|| found.display().to_string())?;
    let load_masks = || checkpoint::load_masks(&setting.arch, &state, &found);
    let masks = MaskSet::new(load_masks()?);
    let mut recipe = recipe("finetune", &args.train);
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
    let arch = Arch::parse(&args.arch, [3, 32, 32], args.classes)?;
    let device = device::parse(&args.device)?;
    let threads = match &args.threads[..] {
        [] => vec![all_cores()],
        given => given.to_vec(),
    };
    if threads.iter().any(|&n| n < 1) || args.batch < 1 {
        bail!("--threads and --batch: at least 1");
    }
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
