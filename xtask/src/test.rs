//! `cargo xtask test`: everything that CI checks, one step after the other. It stops at the first failure.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::python::EXTENSION;
use crate::workspace::cargo;

const TRAINER: [&str; 2] = ["--package", "pi-trainer"];
/// All but the trainer: the default members, and the Python client.
const BUT_TRAINER: [&str; 3] = ["--workspace", "--exclude", "pi-trainer"];
const DENY: [&str; 3] = ["--", "-D", "warnings"];

/// Runs the command.
pub fn run() -> Result<()> {
    let started = Instant::now();
    step(
        "formatting",
        cargo().args(["fmt", "--all", "--check"]),
        "run `cargo fmt --all`",
    )?;
    println!("== the house's numbers");
    crate::house::run()?;
    let mend = "mend what the messages above name";
    step(
        "lints",
        cargo()
            .envs([EXTENSION])
            .args(["clippy", "--all-targets"])
            .args(BUT_TRAINER)
            .args(DENY),
        mend,
    )?;
    let documentation = || {
        let mut command = cargo();
        command
            .env("RUSTDOCFLAGS", "-D warnings")
            .args(["doc", "--no-deps"]);
        command
    };
    step(
        "documentation",
        documentation().envs([EXTENSION]).args(BUT_TRAINER),
        mend,
    )?;
    let failing = "the failing test says above what it saw; `cargo test NAME` runs it alone";
    step("tests", cargo().arg("test"), failing)?;
    crate::python::test(&[])?;

    let libtorch = libtorch()?;
    let with = |mut command: Command| {
        command.envs(libtorch.iter().cloned());
        command
    };
    step(
        "lints of the trainer",
        with(cargo())
            .args(["clippy", "--all-targets"])
            .args(TRAINER)
            .args(DENY),
        mend,
    )?;
    step(
        "documentation of the trainer",
        with(documentation()).args(TRAINER),
        mend,
    )?;
    step(
        "tests of the trainer",
        with(cargo()).arg("test").args(TRAINER),
        failing,
    )?;
    println!("== instructions of the kernels");
    // A report: compilers differ, so a count over its bound is told and fails nothing here.
    if let Err(error) = crate::instructions::run(&[]) {
        println!("note: {error:#}");
    }
    println!(
        "== all steps passed in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// `cargo xtask trainer ARGS`: the trainer with everything that it needs.
pub fn trainer(args: &[String]) -> Result<()> {
    let libtorch = libtorch()?;
    let mut command = cargo();
    command
        .envs(libtorch)
        .args(["run", "--quiet", "--release"])
        .args(TRAINER)
        .arg("--")
        .args(args);
    replace(command)
}

/// Becomes the command, so that signals and its exit code are its own.
#[cfg(unix)]
fn replace(mut command: Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    Err(command.exec()).context("cannot run cargo")
}

#[cfg(not(unix))]
fn replace(mut command: Command) -> Result<()> {
    let status = command.status().context("cannot run cargo")?;
    std::process::exit(status.code().unwrap_or(1));
}

/// Runs one step, and tells how long it took.
pub fn step(name: &str, command: &mut Command, advice: &str) -> Result<()> {
    println!("== {name}");
    let started = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("cannot start the step '{name}'"))?;
    if !status.success() {
        bail!(
            "the step '{name}' failed after {:.0} s: {advice}",
            started.elapsed().as_secs_f64()
        );
    }
    println!(
        "== {name}: passed in {:.0} s\n",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Sets libtorch up with what it needs; the result is the environment to build and run with.
fn libtorch() -> Result<Vec<(String, String)>> {
    // What the trainer prints on standard output may be JSON.
    eprintln!("== libtorch");
    if !runs("g++", &["--version"]) {
        install("the trainer", "g++")?;
    }
    // pip is needed only where libtorch is not there yet.
    let dir = match crate::libtorch::ensure() {
        Err(_) if !crate::libtorch::is_given() && !runs("python3", &["-m", "pip", "--version"]) => {
            install("the trainer", "python3-pip")?;
            crate::libtorch::ensure()?
        }
        ready => ready?,
    };
    Ok(crate::libtorch::env(&dir))
}

/// Whether a program runs and succeeds.
pub fn runs(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).output();
    output.is_ok_and(|output| output.status.success())
}

/// Installs a package of the system where that is possible; `whose` needs it.
pub fn install(whose: &str, package: &str) -> Result<()> {
    let by_hand =
        format!("install it by hand: apt-get install {package}, or your system's equivalent");
    let id = Command::new("id").arg("-u").output();
    let is_root = id.is_ok_and(|id| id.stdout.trim_ascii() == b"0");
    if !is_root || !runs("apt-get", &["--version"]) {
        bail!("{whose} needs {package}, which this machine lacks; {by_hand}");
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    step(
        "update the list of packages",
        apt().args(["update", "-qq"]),
        &by_hand,
    )?;
    let mut command = apt();
    command
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .arg(package);
    step("install packages", &mut command, &by_hand)
}
