//! What every command works in: images, split, the network's shape and the device.

use crate::cli::{ModelArgs, TrainArgs};
use crate::commands::{command_line, size};
use crate::model_folder;
use anyhow::{Result, bail};
use pi_model::FloatModel;
use pi_model::spec::InputSpec;
use pi_trainer::data::{self, Batches, Dataset, Images, Normaliser};
use pi_trainer::net::{Arch, Graph, MaskSet, Net, prefix_masks};
use pi_trainer::recipe::{Progress, Recipe};
use pi_trainer::report::Outcome;
use pi_trainer::run::Run;
use pi_trainer::{device, evaluate};
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
    /// The network.
    pub graph: Graph,
    /// The float model that it is and whose weights are the teacher's; none of a network with a name here.
    pub imported: Option<FloatModel>,
    /// Where to compute.
    pub device: Device,
    /// Images of the whole training set.
    pub n_all: usize,
    /// Name of the image set.
    dataset: &'static str,
}

impl Setting {
    /// Reads the images.
    pub fn new(args: &ModelArgs, holdout: usize) -> Result<Setting> {
        tch::set_num_threads(args.threads()?);
        let device = device::parse(&args.device)?;
        let dir = args.data_dir()?;
        let imported = args.imported()?;
        let image_size = match &imported {
            Some(model) => args.size_for(model)?,
            None => args.image_size,
        };
        let Dataset { train, test } = data::load(args.dataset, dir, image_size)?;
        let n_all = train.len();
        let train = match args.limit {
            Some(0) => bail!("--limit 0: keep at least one image"),
            Some(n) => train.slice(0, n),
            None => train,
        };
        let (graph, normaliser) = match &imported {
            Some(model) => {
                let graph = Graph::of_model(model, true)?;
                let labels = args.dataset.labels(dir)?;
                model_folder::fits(model, graph.n_classes, &train, &labels)?;
                let InputSpec { mean, std, .. } = model.spec.input.clone();
                (graph, Normaliser { mean, std })
            }
            None => (
                Arch::parse(args.arch(), train.shape, train.n_classes)?.graph(),
                Normaliser::measure(&train),
            ),
        };
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
            graph,
            imported,
            device,
            n_all,
            dataset: args.dataset.name(),
        })
    }

    /// Names of the classes: the model's, or the image set's.
    pub fn labels(&self, args: &ModelArgs) -> Result<Vec<String>> {
        match &self.imported {
            Some(model) if !model.spec.labels.is_empty() => Ok(model.spec.labels.clone()),
            _ => Ok(args.dataset.labels(args.data_dir()?)?),
        }
    }

    /// The network with the weights of the float model that it is; BatchNorms that are put in have the statistics of
    /// training images and change nothing.
    pub fn imported_net(&self, model: &FloatModel) -> Result<Net> {
        /// Images that the statistics are of.
        const MEASURED: usize = 2_000;
        let net = self.net(0, &[])?;
        net.take_weights(model)?;
        let images = self.train.slice(0, MEASURED);
        let batches = Batches::plain(&images, &self.normaliser, 250).on(self.device);
        net.measure_norms(&batches, &MaskSet::all_relu(&self.graph));
        Ok(net)
    }

    /// A fresh network on the device.
    pub fn net(&self, seed: u64, widths: &[f64]) -> Result<Net> {
        Ok(Net::on(&self.graph, seed, self.device).with_widths(widths)?)
    }

    /// Refuses a checkpoint of another network or image set; its tensors alone might fit by chance.
    pub fn expect(&self, progress: &Progress, path: &Path) -> Result<()> {
        let recipe = &progress.recipe;
        if recipe.arch != self.graph.name || recipe.dataset != self.dataset {
            bail!(
                "{} holds a {} trained on {}, not a {} on {}: give its --arch and --dataset, or another file",
                path.display(),
                recipe.arch,
                recipe.dataset,
                self.graph.name,
                self.dataset
            );
        }
        Ok(())
    }

    /// The same for a stage that goes on from it.
    pub fn expect_stage(&self, progress: &Progress, path: &Path) -> Result<()> {
        self.expect(progress, path)?;
        self.expect_images(progress, path)
    }

    /// Refuses a checkpoint that was trained on another image set, or on images that are held out now.
    pub fn expect_images(&self, progress: &Progress, path: &Path) -> Result<()> {
        if progress.recipe.dataset != self.dataset {
            bail!(
                "{} was trained on {}, not on {}: give its --dataset, or another file",
                path.display(),
                progress.recipe.dataset,
                self.dataset
            );
        }
        if progress.data_checksum != self.train.checksum {
            if let Some(held_out) = &self.holdout {
                bail!(
                    "{} was trained on other files than those in --data, so that nobody can tell whether it saw the {} images of --hold-out: take the same files, or leave --hold-out away",
                    path.display(),
                    held_out.len()
                );
            }
            eprintln!(
                "note: {} was trained on other files than those in --data",
                path.display()
            );
        }
        self.expect_held_out(progress, path)
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
            size: size(args),
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
            let own = MaskSet::new(prefix_masks(masks.masks(), &form.graph)).on(self.device);
            let accuracy = self.test_accuracy(&form, &own, &progress.normaliser);
            let mut outcome = Outcome::new(
                &form.graph,
                own.masks(),
                progress,
                accuracy,
                self.test.len(),
            );
            if i > 0 {
                // The held-out images were seen by the full form alone.
                outcome.holdout_accuracy = None;
            }
            let width = match i {
                0 => String::new(),
                _ => format!(", width {}", progress.recipe.widths[i - 1]),
            };
            println!(
                "{}{width}: {accuracy:.2} % of {} test images, {} ReLUs of {} ({})",
                path.display(),
                outcome.n_test,
                outcome.relus_kept,
                outcome.relus_total,
                outcome.selection
            );
            outcome.keep_fixed(&Outcome::path(path, i));
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
