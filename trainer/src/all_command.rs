//! `pi-trainer all`: every stage for one or several budgets, the exports and the report.

use crate::cli::{AllArgs, ExportArgs, FinetuneArgs, ReportArgs, SearchArgs, TargetOptions};
use crate::export_commands::{export, model_name};
use crate::setting::Setting;
use crate::{commands, report_commands, sensitivity_command};
use anyhow::{Result, bail};
use pi_trainer::{Error, interrupt};
use std::path::{Path, PathBuf};

/// Teacher, then search and fine-tuning for each budget; every export, and the report. What is finished
/// is skipped.
pub fn all(args: &AllArgs) -> Result<()> {
    let budgets = &args.search.relus;
    let twice = |(i, n): (usize, &usize)| budgets[..i].contains(n);
    if budgets.is_empty() || budgets.iter().enumerate().any(twice) {
        bail!("--relus: one budget or several, each once");
    }
    let mut train = args.train.clone();
    train.resume = true;
    let out = train.out.clone();
    let mut numbers = args.numbers.clone();
    let models = numbers.models.get_or_insert_with(|| out.join("models"));
    let planned = plan(args)?;
    refuse_taken(&planned, models)?;
    let teacher = match &args.teacher {
        Some(path) => path.clone(),
        None => {
            commands::teacher(&train)?;
            out.join("teacher.safetensors")
        }
    };
    let mut densities = args.search.densities.clone();
    if args.train_proxy {
        let mut proxy = train.clone();
        proxy.epochs = args.proxy_epochs;
        go_on(&out)?;
        densities = Some(sensitivity_command::train(&proxy)?.1);
    }
    let mut results = vec![(teacher.clone(), 0)];
    for &relus in budgets {
        let (mut search, mut finetune) = student(args, relus);
        search.options.densities.clone_from(&densities);
        search.options.densities_trained = args.train_proxy;
        search.teacher = Some(teacher.clone());
        finetune.teacher = Some(teacher.clone());
        go_on(&out)?;
        commands::search(&search)?;
        go_on(&out)?;
        commands::finetune(&finetune)?;
        let student = search.train.out.join("student.safetensors");
        let widths = 0..=args.search.widths.len();
        results.extend(widths.map(|w| (student.clone(), w)));
    }
    // Last, for the plaintext executor leaves a GPU idle. What one refuses shall not keep back the others.
    let mut refused = Ok(());
    for (checkpoint, width) in results {
        go_on(&out)?;
        let exported = export(&ExportArgs {
            model: train.model.clone(),
            checkpoint,
            width,
            name: None,
            float: false,
            teacher: Some(teacher.clone()),
            numbers: numbers.clone(),
            only_missing: true,
        });
        if let Err(e) = exported {
            eprintln!("not exported: {e:#}");
            refused = refused.and(Err(e));
        }
    }
    let reported = report_commands::report(&ReportArgs {
        runs: vec![out.clone()],
        to: out.join("report"),
        model: train.model.clone(),
    });
    refused.and(reported)
}

/// Between stages: an interrupt during the last epoch of one had nothing left to stop.
fn go_on(out: &Path) -> Result<()> {
    match interrupt::requested() {
        true => Err(Error::Interrupted(out.to_owned()).into()),
        false => Ok(()),
    }
}

/// Search and fine-tuning of `all` for one of its budgets.
fn student(args: &AllArgs, relus: usize) -> (SearchArgs, FinetuneArgs) {
    let mut train = args.train.clone();
    (train.resume, train.lr) = (true, args.student_lr);
    train.label_smoothing = None;
    if args.search.relus.len() > 1 {
        train.out = train.out.join(format!("relu{relus}"));
    }
    let targets = |ce_share| TargetOptions {
        ce_share,
        temperature: args.temperature,
    };
    let mut search = SearchArgs {
        train: train.clone(),
        options: args.search.clone(),
        targets: targets(args.search_ce_share),
        teacher: args.teacher.clone(),
    };
    search.options.relus = vec![relus];
    search.train.epochs = args.search_epochs;
    let mut finetune = FinetuneArgs {
        train,
        pram: args.pram.clone(),
        targets: targets(args.finetune_ce_share),
        from: None,
        teacher: args.teacher.clone(),
    };
    finetune.train.epochs = args.finetune_epochs;
    (search, finetune)
}

/// Checks every setting of `all` before anything is trained: a mistake in the last budget shall not be
/// found after a night. Returns the models that will come out and the checkpoints they come from.
fn plan(args: &AllArgs) -> Result<Vec<(String, PathBuf)>> {
    let setting = Setting::new(&args.train.model, args.train.hold_out)?;
    let (graph, dataset) = (&setting.graph, args.train.model.dataset.name());
    let all: usize = graph.relu_counts().iter().sum();
    let mut planned = Vec::new();
    let checkpoint = match &args.teacher {
        Some(path) => {
            commands::load_teacher(&setting, Some(path), &args.train)?;
            path.clone()
        }
        None => {
            commands::recipe("teacher", &args.train)?.check()?;
            args.train.out.join("teacher.safetensors")
        }
    };
    planned.push((model_name(&graph.name, dataset, all, all), checkpoint));
    if args.train_proxy {
        let mut proxy = args.train.clone();
        proxy.epochs = args.proxy_epochs;
        commands::recipe("sensitivity", &proxy)?.check()?;
    }
    setting.labels(&args.train.model)?;
    setting.net(0, &args.search.widths)?;
    for &relus in &args.search.relus {
        let (search, finetune) = student(args, relus);
        let kept = commands::check_search(&search, graph)?.kept;
        commands::check_finetune(&finetune, &args.search.widths)?;
        let checkpoint = finetune.train.out.join("student.safetensors");
        // How many ReLUs a narrower form keeps is not known yet.
        let name = model_name(&graph.name, dataset, kept.iter().sum(), all);
        if planned.iter().any(|(other, _)| *other == name) {
            bail!(
                "--relus: two of the networks would be called {name}; leave one of the budgets away"
            );
        }
        planned.push((name, checkpoint));
    }
    Ok(planned)
}

/// Refuses a folder that holds models of the same names from other runs.
fn refuse_taken(planned: &[(String, PathBuf)], models: &Path) -> Result<()> {
    let taken = planned
        .iter()
        .find(|(name, checkpoint)| models.join(name).exists() && !checkpoint.exists());
    match taken {
        Some((name, _)) => bail!(
            "{} exists already, from another run or from this --out with other budgets, and what is trained now would have to go there: choose another --models folder",
            models.join(name).display()
        ),
        None => Ok(()),
    }
}
