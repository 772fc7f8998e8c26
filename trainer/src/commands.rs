//! The subcommands: read the arguments, build what a stage needs, run it, say the result.

use crate::cli::{BenchArgs, ModelArgs, StudentArgs, TrainArgs};
use anyhow::{Result, bail};
use pi_trainer::data::{self, Augment, Batches, Dataset, Images, Normaliser};
use pi_trainer::finetune::Finetune;
use pi_trainer::net::{Arch, Compute, MaskSet, Net};
use pi_trainer::optim::OneCycle;
use pi_trainer::run::{Progress, Recipe, Run};
use pi_trainer::search::Search;
use pi_trainer::sensitivity::Sensitivity;
use pi_trainer::teacher::Teacher;
use pi_trainer::{bench, budget, checkpoint, evaluate};
use std::path::PathBuf;

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
}

impl Setting {
    /// Reads the images.
    pub fn new(args: &ModelArgs, holdout: usize) -> Result<Setting> {
        tch::set_num_threads(args.threads);
        let Dataset { train, test } = data::load(args.dataset, &args.data, args.image_size)?;
        let normaliser = Normaliser::measure(&train);
        let arch = Arch::parse(&args.arch, train.shape, train.n_classes)?;
        let cut = train.len().saturating_sub(holdout);
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
        })
    }

    fn run<'a>(&'a self, net: &'a Net, args: &TrainArgs, path: PathBuf) -> Run<'a> {
        let holdout = self.holdout.as_ref();
        Run {
            net,
            train: &self.train,
            holdout,
            path,
            resume: args.resume,
            max_steps: None,
        }
    }

    fn progress(&self, recipe: Recipe, history: &[Recipe], commands: &[String]) -> Progress {
        let mut commands = commands.to_vec();
        // `all` is one command for every stage.
        if commands.last() != Some(&command_line()) {
            commands.push(command_line());
        }
        Progress {
            recipe,
            epoch: 0,
            step: 0,
            seconds: 0.0,
            earlier_seconds: 0.0,
            normaliser: self.normaliser.clone(),
            data_checksum: self.train.checksum.clone(),
            history: history.to_vec(),
            commands,
            holdout_accuracy: None,
            sums: [0.0; 2],
        }
    }

    /// Float accuracy on the test set, percent.
    pub fn test_accuracy(&self, net: &Net, masks: &MaskSet) -> f64 {
        let batches = Batches::plain(&self.test, &self.normaliser, 250);
        100.0 * evaluate::accuracy(net, masks, &batches)
    }

    fn report(&self, net: &Net, masks: &MaskSet, path: &std::path::Path) {
        let accuracy = self.test_accuracy(net, masks);
        let n = self.test.len();
        println!(
            "{}: {accuracy:.2} % of {n} test images, {} ReLUs",
            path.display(),
            masks.n_kept()
        );
    }
}

/// The command as typed, with the program's bare name.
fn command_line() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    format!("pi-trainer {}", args.join(" "))
}

fn recipe(stage: &str, args: &TrainArgs, epochs: usize, peak: f64) -> Recipe {
    Recipe {
        stage: stage.into(),
        dataset: args.model.dataset.name().into(),
        arch: args.model.arch.clone(),
        epochs: args.epochs.unwrap_or(epochs),
        batch: args.batch,
        lr: OneCycle {
            peak: args.lr.unwrap_or(peak),
            warmup: args.warmup,
        },
        momentum: 0.9,
        weight_decay: args.weight_decay,
        label_smoothing: if stage == "teacher" {
            args.label_smoothing
        } else {
            0.0
        },
        augment: Augment {
            crop_pad: args.crop_pad,
            flip: args.model.dataset != data::DatasetKind::FashionMnist,
        },
        compute: args.compute,
        seed: args.seed,
        holdout: args.holdout,
        relu_budget: None,
        choices: vec![],
    }
}

/// Trains the all-ReLU network.
pub fn teacher(args: &TrainArgs) -> Result<()> {
    let setting = Setting::new(&args.model, args.holdout)?;
    let net = Net::new(&setting.arch, args.seed);
    let path = args.out.join("teacher.safetensors");
    let mut stage = Teacher {
        masks: MaskSet::all_relu(&setting.arch),
        label_smoothing: args.label_smoothing,
    };
    let progress = setting.progress(recipe("teacher", args, 16, 0.15), &[], &[]);
    setting
        .run(&net, args, path.clone())
        .train(&mut stage, progress)?;
    setting.report(&net, &stage.masks, &path);
    Ok(())
}

/// Stage 1: trains the sparse proxy and prints the densities.
pub fn sensitivity(args: &TrainArgs) -> Result<()> {
    let setting = Setting::new(&args.model, args.holdout)?;
    let net = Net::new(&setting.arch, args.seed);
    let recipe = recipe("sensitivity", args, 16, 0.15);
    let mut stage = Sensitivity::new(&net, recipe.epochs, args.seed);
    let progress = setting.progress(recipe, &[], &[]);
    let path = args.out.join("sensitivity.safetensors");
    setting.run(&net, args, path).train(&mut stage, progress)?;
    let densities = stage.densities(&net);
    let list: Vec<String> = densities.iter().map(|d| format!("{d:.3}")).collect();
    println!("--densities {}", list.join(","));
    Ok(())
}

/// The finished teacher and how it came about.
fn load_teacher(setting: &Setting, args: &StudentArgs) -> Result<(Net, Progress)> {
    let default = || args.train.out.join("teacher.safetensors");
    let path = args.teacher.clone().unwrap_or_else(default);
    let (progress, state): (Progress, _) = checkpoint::load(&path)?;
    if !progress.finished() {
        bail!(
            "{} is not finished: run `pi-trainer teacher --resume`",
            path.display()
        );
    }
    let net = Net::new(&setting.arch, 0);
    net.load_state(&state)?;
    Ok((net, progress))
}

/// ReLUs to keep in each layer.
fn relu_budget(arch: &Arch, args: &StudentArgs) -> Result<Vec<usize>> {
    let sizes = arch.relu_counts();
    if let Some(list) = &args.relu_list {
        return Ok(budget::explicit(&sizes, list)?);
    }
    let known = || budget::known_densities(&arch.name, sizes.len());
    let densities = args.densities.clone().unwrap_or_else(known);
    Ok(budget::allocate(&sizes, &densities, args.relus)?)
}

/// Stage 2: finds the positions.
pub fn search(args: &StudentArgs) -> Result<()> {
    let setting = Setting::new(&args.train.model, args.train.holdout)?;
    let (teacher, trained) = load_teacher(&setting, args)?;
    let kept = relu_budget(&setting.arch, args)?;
    println!(
        "ReLUs by layer: {kept:?}, {} in all",
        kept.iter().sum::<usize>()
    );
    let net = Net::new(&setting.arch, args.train.seed);
    if !args.fresh {
        net.load_state(&teacher.state())?;
    }
    let mut stage = Search::new(teacher, &kept, args.train.seed);
    stage.score = args.score;
    stage.per_channel = args.per_channel;
    stage.stop_distance = args.stop_distance;
    let mut recipe = recipe("search", &args.train, 3, 0.05);
    recipe.relu_budget = Some(kept.iter().sum());
    recipe.choices = vec![
        format!("score={:?}", args.score).to_lowercase(),
        format!("per_channel={}", args.per_channel),
        format!("stop_distance={:?}", args.stop_distance),
        format!("fresh={}", args.fresh),
        format!("relus_by_layer={kept:?}"),
    ];
    let history = [trained.history, vec![trained.recipe]].concat();
    let mut progress = setting.progress(recipe, &history, &trained.commands);
    progress.earlier_seconds = trained.seconds;
    let path = args.train.out.join("search.safetensors");
    setting
        .run(&net, &args.train, path.clone())
        .train(&mut stage, progress)?;
    setting.report(&net, &stage.masks, &path);
    Ok(())
}

/// Stage 3: trains on under the frozen masks.
pub fn finetune(args: &StudentArgs) -> Result<()> {
    let setting = Setting::new(&args.train.model, args.train.holdout)?;
    let (teacher, _) = load_teacher(&setting, args)?;
    let default = || args.train.out.join("search.safetensors");
    let found = args.from.clone().unwrap_or_else(default);
    let (searched, state): (Progress, _) = checkpoint::load(&found)?;
    if !searched.finished() {
        bail!(
            "{} is not finished: run `pi-trainer search --resume`",
            found.display()
        );
    }
    let net = Net::new(&setting.arch, args.train.seed);
    net.load_state(&state)?;
    let load_masks = || checkpoint::load_masks(&setting.arch, &state, &found);
    let masks = MaskSet::new(load_masks()?);
    let mut recipe = recipe("finetune", &args.train, 10, 0.05);
    recipe.relu_budget = Some(masks.n_kept());
    let history = [searched.history, vec![searched.recipe]].concat();
    let mut progress = setting.progress(recipe, &history, &searched.commands);
    progress.earlier_seconds = searched.earlier_seconds + searched.seconds;
    let path = args.train.out.join("student.safetensors");
    let mut stage = Finetune::new(teacher, masks);
    setting
        .run(&net, &args.train, path.clone())
        .train(&mut stage, progress)?;
    setting.report(&net, &MaskSet::new(load_masks()?), &path);
    Ok(())
}

/// Prints images a second.
pub fn bench(args: &BenchArgs) -> Result<()> {
    let arch = Arch::parse(&args.arch, [3, 32, 32], 10)?;
    println!("{}, batch {}: images/s", arch.name, args.batch);
    for compute in [Compute::F32, Compute::Bf16] {
        for masked in [false, true] {
            for threads in [1, 2] {
                tch::set_num_threads(threads);
                let rate = bench::measure(&arch, args.batch, compute, masked, args.seconds);
                println!(
                    "{compute:?}, {}, {threads} threads: train {:.0}, infer {:.0}",
                    if masked { "masked" } else { "all ReLU" },
                    rate.train,
                    rate.infer
                );
            }
        }
    }
    Ok(())
}
