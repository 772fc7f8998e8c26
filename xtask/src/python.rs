//! The checks in Python: a virtual environment in the user's cache gets maturin, NumPy, pytest, ONNX and onnxruntime by pip, maturin
//! builds the wheel of the client in the profile of the tests (most of it is built already then), pip installs it there, and pytest runs
//! it against a real server, and `pi-convert` against ONNX's own tests and onnxruntime.
//!
//! `PI_PYTHON` names an interpreter that has the packages already; nothing is fetched then, but the wheel is installed into it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::libtorch;
use crate::test::{install, runs, step};
use crate::workspace::{build, program, root};

const REQUIREMENTS: [&str; 5] = [
    "maturin>=1.9,<2",
    "numpy>=1.21",
    "pytest>=7",
    "onnx>=1.17,<2",
    "onnxruntime>=1.19,<2",
];
/// How messages name them.
const PACKAGES: &str = "maturin, numpy, pytest, onnx and onnxruntime";
const PROGRAMS: [&str; 14] = [
    "--quiet",
    "--package",
    "pi-server",
    "--package",
    "pi-client",
    "--package",
    "pi-model",
    "--package",
    "pi-convert",
    "--bins",
    "--example",
    "random_network",
    "--example",
    "outputs",
];
/// An extension module is linked to no Python; maturin builds it so, and lints must not need one either.
pub const EXTENSION: (&str, &str) = ("PYO3_BUILD_EXTENSION_MODULE", "1");

/// `cargo xtask python ARGS`: builds what these tests need, and runs them alone.
pub fn run(args: &[String]) -> Result<()> {
    println!("== programs and a model");
    test(args)
}

/// The steps after, and the programs themselves, which `cargo xtask test` has built already. `args` are for pytest.
pub fn test(args: &[String]) -> Result<()> {
    println!("== Python");
    let built = build(&PROGRAMS)?;
    let programs = program(&built, "pi-server")?;
    let python = environment()?;
    let package = root().join("pi-python");
    let wheels = tempdir()?;
    let built = step(
        "wheel of the Python client",
        Command::new(&python)
            .args([
                "-m",
                "maturin",
                "build",
                "--quiet",
                "--profile",
                "dev",
                "--out",
            ])
            .arg(&wheels)
            .current_dir(&package),
        "the messages above say what failed",
    )
    .and_then(|()| install_wheel(&python, &wheels));
    // Best effort: what is left is only disk space.
    let _ = std::fs::remove_dir_all(&wheels);
    built?;
    step(
        "tests in Python",
        Command::new(&python)
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
            .args(args)
            .current_dir(&package)
            .env("PI_PROGRAMS", programs.with_file_name(""))
            .env("PYTHONDONTWRITEBYTECODE", "1"),
        "the failing test says above what it saw; `cargo xtask python -k NAME` runs it alone",
    )
}

fn tempdir() -> Result<PathBuf> {
    let dir = libtorch::cache_dir()?.join(format!("wheels.part-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

fn install_wheel(python: &Path, wheels: &Path) -> Result<()> {
    let mut found = std::fs::read_dir(wheels).context("listing the wheels")?;
    let wheel = found
        .next()
        .context("maturin built no wheel")?
        .context("listing the wheels")?
        .path();
    pip(
        python,
        &["--force-reinstall", "--no-deps", "--no-index"],
        &[&wheel.display().to_string()],
    )
}

/// An interpreter with what is needed.
fn environment() -> Result<PathBuf> {
    if let Some(python) = std::env::var_os("PI_PYTHON").filter(|p| !p.is_empty()) {
        let python = PathBuf::from(python);
        if !is_ready(&python) {
            bail!(
                "PI_PYTHON is {}, which lacks one of {PACKAGES}: install them there",
                python.display()
            );
        }
        return Ok(python);
    }
    let dir = libtorch::cache_dir()?.join("python-client");
    let python = dir.join("bin").join("python");
    if is_ready(&python) {
        return Ok(python);
    }
    if !runs("python3", &["--version"]) {
        install("the Python client", "python3")?;
    }
    // Debian has pip for virtual environments in a package of its own.
    if !runs("python3", &["-c", "import ensurepip, venv"]) {
        install("the Python client", "python3-venv")?;
    }
    step(
        "virtual environment",
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&dir),
        "python3 -m venv must work: apt-get install python3-venv, or your system's equivalent; or set PI_CACHE_DIR to a writable folder",
    )?;
    println!("fetching {PACKAGES} (70 MB), once");
    pip(
        &python,
        &["--only-binary=:all:", "--no-cache-dir"],
        &REQUIREMENTS,
    )?;
    if !is_ready(&python) {
        bail!("pip installed {PACKAGES}, but python3 cannot use them");
    }
    Ok(python)
}

fn is_ready(python: &Path) -> bool {
    let check = "import maturin, numpy, pytest, onnx, onnxruntime, pip";
    let quiet = Command::new(python)
        .args(["-c", check])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|status| status.success())
}

fn pip(python: &Path, flags: &[&str], what: &[&str]) -> Result<()> {
    let out = Command::new(python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(flags)
        .args(what)
        .stdin(Stdio::null())
        .output()
        .context("running pip")?;
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    bail!(
        "pip could not install {}:\n{}\ncheck the network, or set a mirror in pip's configuration; or install {PACKAGES} \
         into a virtual environment of your own and set PI_PYTHON to its python",
        what.join(", "),
        lines[lines.len().saturating_sub(6)..].join("\n")
    )
}
