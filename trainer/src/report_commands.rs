//! `pi-trainer report`.

use crate::cli::ReportArgs;
use crate::setting::Setting;
use anyhow::{Context, Result, bail};
use pi_trainer::checkpoint::{self, write_atomic};
use pi_trainer::net::{Arch, MaskSet, prefix_masks};
use pi_trainer::recipe::Progress;
use pi_trainer::report::{Entry, Outcome, page};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Folders below those given that are looked into: `all` makes one for each budget.
const DEPTH: usize = 2;

/// Checkpoints of teachers and students in a folder and those below it, in the order of their names.
fn find(dir: &Path, depth: usize, to: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let stages = ["teacher", "student"].map(|s| dir.join(format!("{s}.safetensors")));
    to.extend(stages.into_iter().filter(|p| p.is_file()));
    let entries = std::fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut folders: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    folders.retain(|p| p.is_dir() && depth > 0);
    folders.sort();
    for folder in folders {
        if let Err(e) = find(&folder, depth - 1, to) {
            println!("note: {} left out: {e}", folder.display());
        }
    }
    Ok(())
}

/// Writes report.json and report.html over finished runs.
pub fn report(args: &ReportArgs) -> Result<()> {
    let mut found = Vec::new();
    for dir in &args.runs {
        let n = found.len();
        find(dir, DEPTH, &mut found).with_context(|| dir.display().to_string())?;
        if found.len() == n {
            println!(
                "note: no teacher.safetensors or student.safetensors in {}",
                dir.display()
            );
        }
    }
    let mut seen = HashSet::new();
    found.retain(|p| seen.insert(p.canonicalize().unwrap_or_else(|_| p.clone())));
    let mut entries = Vec::new();
    for path in &found {
        match read(args, path) {
            Ok(read) => entries.extend(read),
            Err(e) => println!("note: {} left out: {e:#}", path.display()),
        }
    }
    if entries.is_empty() {
        bail!("nothing to report: no finished teacher or student in the folders given");
    }
    // A teacher that several runs start from appears once.
    let key = |e: &Entry| {
        let o = &e.outcome;
        let r = &o.recipe;
        (
            r.dataset.clone(),
            r.arch.clone(),
            o.relus_kept,
            o.label(),
            r.seed,
            serde_json::to_string(r).unwrap_or_default(),
        )
    };
    entries.sort_by_key(key);
    entries.dedup_by(|a, b| key(a) == key(b) && a.outcome.recipe.stage == "teacher");
    let outcomes: Vec<&Outcome> = entries.iter().map(|e| &e.outcome).collect();
    let json = serde_json::to_vec_pretty(&outcomes)?;
    write_atomic(&args.to.join("report.json"), &json)?;
    write_atomic(&args.to.join("report.html"), page(&entries).as_bytes())?;
    println!(
        "{}: {} results",
        args.to.join("report.html").display(),
        entries.len()
    );
    Ok(())
}

/// One entry for each width of a checkpoint; measures what was not measured yet.
fn read(args: &ReportArgs, path: &Path) -> Result<Vec<Entry>> {
    let (progress, state): (Progress, _) = checkpoint::load(path)?;
    if !progress.finished() {
        println!("{}: not finished, left out", path.display());
        return Ok(vec![]);
    }
    let recipe = &progress.recipe;
    let results: Vec<PathBuf> = (0..=recipe.widths.len())
        .map(|w| Outcome::path(path, w))
        .collect();
    if results.iter().any(|p| !p.is_file()) {
        let mut model = args.model.clone();
        if model.data.is_none() {
            println!(
                "{}: no result beside it and no --data to measure it with, left out",
                path.display()
            );
            return Ok(vec![]);
        }
        // A model folder is known by the name in it.
        if model.network()? != recipe.arch {
            model.arch = Some(recipe.arch.clone());
        }
        let setting = Setting::new(&model, 0)?;
        setting.expect(&progress, path)?;
        let net = setting.net(0, &recipe.widths)?;
        net.load_state(&state)?;
        let masks = checkpoint::load_masks(&setting.graph, &state, path)?;
        setting.report(&net, &MaskSet::new(masks), path, &progress)?;
    }
    let mut entries = Vec::new();
    for result in results {
        let outcome = Outcome::load(&result)?;
        entries.push(Entry {
            masks: masks_of(&outcome, &state, path)?,
            outcome,
        });
    }
    Ok(entries)
}

/// The masks of one width; their shapes follow from the tensors themselves.
fn masks_of(
    outcome: &Outcome,
    state: &checkpoint::State,
    path: &Path,
) -> Result<Vec<pi_trainer::net::Mask>> {
    let masks = checkpoint::stored_masks(state, path)?;
    if outcome.width == 1.0 || masks.is_empty() {
        return Ok(masks);
    }
    let input = masks[0].shape;
    let side = input[1].max(input[2]) as usize;
    let arch = Arch::parse(&outcome.recipe.arch, [3, side, side], 10)?;
    Ok(prefix_masks(&masks, &arch.scaled(outcome.width).graph()))
}
