//! libtorch 2.11.0 for the trainer: fetched once into the user's cache, without the GPU stack.
//!
//! The wheels of torch and of two small NVIDIA libraries that libtorch_cpu is linked to are
//! downloaded with `python3 -m pip download` (nothing is installed into any Python), headers and
//! CPU libraries are unpacked (about 500 MB), and the folder is renamed into place when complete.

use anyhow::{Context, Result, bail};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const VERSION: &str = "2.11.0";
const WHEELS: [&str; 3] = [
    "torch==2.11.0",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cupti==13.0.85",
];
/// What pip fetches, in bytes, for the progress line.
const DOWNLOAD_BYTES: u64 = 543_500_000;
/// What must be there for the folder to count as intact, and its least size in bytes.
const PARTS: [(&str, u64); 6] = [
    ("include/torch/csrc/api/include/torch/torch.h", 100),
    ("lib/libtorch.so", 1_000),
    ("lib/libc10.so", 100_000),
    ("lib/libtorch_cpu.so", 100_000_000),
    ("lib/libcudart.so.13", 100_000),
    ("lib/libcupti.so.13", 1_000_000),
];

/// Unpacks the wheels named after the target folder; libraries that only a GPU needs stay behind.
const UNPACK: &str = r#"
import os, shutil, sys, zipfile
target, wheels = sys.argv[1], sys.argv[2:]
skip = ("libtorch_cuda", "libtorch_nvshmem", "libtorch_python", "libc10_cuda", "libcaffe2_nvrtc")
def put(archive, member, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with archive.open(member) as source, open(path, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
for wheel in wheels:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename
            base = name.rsplit("/", 1)[-1]
            if member.is_dir() or ".." in name.split("/"):
                continue
            if base in ("libcudart.so.13", "libcupti.so.13"):
                put(archive, member, os.path.join(target, "lib", base))
            elif name.startswith("torch/include/") or name.startswith("torch/lib/") and not base.startswith(skip):
                put(archive, member, os.path.join(target, name[len("torch/"):]))
"#;

/// The folder that LIBTORCH names (such as that of a PyTorch with CUDA), else our own, downloaded and unpacked
/// if it is not there yet.
pub fn ensure() -> Result<PathBuf> {
    if let Some(dir) = given() {
        return chosen(Path::new(&dir));
    }
    let cache = cache_dir()?;
    let target = cache.join(format!("libtorch-{VERSION}"));
    match missing(&target) {
        None => return Ok(target),
        Some(what) if target.exists() => {
            eprintln!("{} is broken ({what}); fetching it again", target.display());
        }
        Some(_) => {}
    }
    std::fs::create_dir_all(&cache).with_context(|| {
        format!(
            "making {}; set PI_CACHE_DIR to a writable folder",
            cache.display()
        )
    })?;
    ensure_pip()?;
    // Named after this process, so that two runs do not write into each other.
    let work = cache.join(format!("libtorch-{VERSION}.part-{}", std::process::id()));
    let result = fetch(&work, &target);
    // Best effort: what is left is only disk space.
    let _ = std::fs::remove_dir_all(&work);
    result?;
    Ok(target)
}

/// Environment with which cargo builds and runs the trainer.
pub fn env(dir: &Path) -> Vec<(String, String)> {
    let lib = dir.join("lib").display().to_string();
    let path = match std::env::var("LD_LIBRARY_PATH") {
        Ok(old) if !old.is_empty() => format!("{lib}:{old}"),
        _ => lib,
    };
    vec![
        ("LIBTORCH".into(), dir.display().to_string()),
        ("LD_LIBRARY_PATH".into(), path),
        ("OMP_WAIT_POLICY".into(), "PASSIVE".into()),
    ]
}

/// The folder for what is fetched once.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let dir = set("PI_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("private-inference")))
        .or_else(|| set("HOME").map(|d| d.join(".cache/private-inference")))
        .context("no HOME; set PI_CACHE_DIR to a folder for 500 MB of libtorch")?;
    std::path::absolute(&dir).with_context(|| format!("resolving {}", dir.display()))
}

fn given() -> Option<std::ffi::OsString> {
    std::env::var_os("LIBTORCH").filter(|v| !v.is_empty())
}

/// Whether LIBTORCH names one.
pub fn is_given() -> bool {
    given().is_some()
}

/// A libtorch that is not ours: unpacked, or the folder `torch` of an installed PyTorch.
fn chosen(dir: &Path) -> Result<PathBuf> {
    let advice = "unset LIBTORCH to have one fetched, or name the folder with include/ and lib/";
    let dir = std::path::absolute(dir).with_context(|| format!("LIBTORCH={}", dir.display()))?;
    let has = |part: &str| dir.join(part).is_file();
    if !has("lib/libtorch_cpu.so") || !has("include/torch/csrc/api/include/torch/torch.h") {
        bail!("LIBTORCH={} is no libtorch; {advice}", dir.display());
    }
    match version(&dir) {
        Some(v) if v.split('+').next() == Some(VERSION) => Ok(dir),
        Some(v) => bail!(
            "LIBTORCH={} is libtorch {v}, the trainer needs {VERSION}; {advice} of that version",
            dir.display()
        ),
        None => bail!(
            "LIBTORCH={} does not say its version (no build-version, no version.py); {advice}",
            dir.display()
        ),
    }
}

/// What a libtorch says of itself, such as `2.11.0+cu130`.
fn version(dir: &Path) -> Option<String> {
    if let Ok(text) = std::fs::read_to_string(dir.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = std::fs::read_to_string(dir.join("version.py")).ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix("__version__"))?;
    let (_, value) = value.split_once('=')?;
    Some(value.trim().trim_matches(['\'', '"']).to_owned())
}

/// What an unpacked libtorch lacks, if anything.
fn missing(dir: &Path) -> Option<String> {
    let version = version(dir).unwrap_or_default();
    if version.split('+').next() != Some(VERSION) {
        return Some(format!("build-version says {version:?}, not {VERSION}"));
    }
    let broken = |(part, least): &&(&str, u64)| {
        std::fs::metadata(dir.join(part)).map_or(true, |m| m.len() < *least)
    };
    PARTS
        .iter()
        .find(broken)
        .map(|(part, _)| format!("{part} is missing or short"))
}

/// Makes sure that `python3 -m pip` runs.
fn ensure_pip() -> Result<()> {
    let runs = |args: &[&str]| {
        let quiet = Command::new("python3")
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        quiet.is_ok_and(|s| s.success())
    };
    if !runs(&["-c", "import zipfile"]) {
        bail!("python3 is needed to fetch libtorch: `apt-get install python3 python3-pip`");
    }
    if runs(&["-m", "pip", "--version"]) {
        return Ok(());
    }
    bail!(
        "python3 has no pip, which is needed to fetch libtorch: `apt-get install python3-pip`\n\
         (or unpack libtorch {VERSION} yourself and set LIBTORCH to its folder)"
    )
}

fn fetch(work: &Path, target: &Path) -> Result<()> {
    let wheels = work.join("wheels");
    let unpacked = work.join("libtorch");
    for dir in [&wheels, &unpacked] {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    download(&wheels)?;
    eprintln!("unpacking libtorch {VERSION} (500 MB)");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&wheels).context("listing the downloaded wheels")? {
        let path = entry.context("listing the downloaded wheels")?.path();
        if path.extension().is_some_and(|e| e == "whl") {
            files.push(path);
        }
    }
    if files.len() != WHEELS.len() {
        bail!(
            "pip fetched {} wheels, expected {}; run this again",
            files.len(),
            WHEELS.len()
        );
    }
    let out = Command::new("python3")
        .args(["-c", UNPACK])
        .arg(&unpacked)
        .args(&files)
        .output();
    let out = out.context("running python3")?;
    if !out.status.success() {
        bail!("unpacking libtorch failed:\n{}", explain(&out));
    }
    // Read by torch-sys, which refuses another version than its own.
    std::fs::write(unpacked.join("build-version"), format!("{VERSION}+cpu\n"))
        .context("writing build-version")?;
    if let Some(what) = missing(&unpacked) {
        bail!("the downloaded libtorch is not as expected: {what}");
    }
    if target.exists() {
        std::fs::rename(target, work.join("broken"))
            .with_context(|| format!("moving {} away", target.display()))?;
    }
    match std::fs::rename(&unpacked, target) {
        // Another run was faster.
        Err(_) if missing(target).is_none() => Ok(()),
        result => result.with_context(|| format!("renaming libtorch to {}", target.display())),
    }
}

fn download(wheels: &Path) -> Result<()> {
    eprintln!(
        "downloading libtorch {VERSION}: {} MB, once",
        DOWNLOAD_BYTES / 1_000_000
    );
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
    ])
    .args([
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--dest",
    ])
    .arg(wheels)
    .args(WHEELS)
    // pip unpacks into TMPDIR first; beside the target there is room for certain, in /tmp there may not be.
    .env("TMPDIR", wheels)
    .stdin(Stdio::null())
    .stdout(Stdio::piped())
    .stderr(Stdio::piped());
    let mut child = pip.spawn().context("running python3 -m pip")?;
    let terminal = std::io::stderr().is_terminal();
    while child.try_wait().context("waiting for pip")?.is_none() {
        std::thread::sleep(Duration::from_millis(500));
        if terminal {
            let done = size(wheels).min(DOWNLOAD_BYTES) / 1_000_000;
            eprint!("\r  {done:>3} of {} MB", DOWNLOAD_BYTES / 1_000_000);
        }
    }
    if terminal {
        eprintln!();
    }
    let out = child.wait_with_output().context("waiting for pip")?;
    if !out.status.success() {
        bail!("pip could not fetch libtorch:\n{}", explain(&out));
    }
    Ok(())
}

/// Bytes of all files below `dir`; what cannot be read counts as nothing.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let one = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(m) if m.is_dir() => size(&entry.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(one).sum()
}

/// The last lines a program wrote, and the way out of the usual failures.
fn explain(out: &Output) -> String {
    let text = String::from_utf8_lossy(&out.stderr);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(6)..].join("\n");
    let hints = [
        (
            "No space left",
            "the disk is full: 1.6 GB are needed; set PI_CACHE_DIR to a larger disk",
        ),
        (
            "Temporary failure in name resolution",
            "there is no network, or no name server",
        ),
        (
            "Connection",
            "the package index cannot be reached: check the network, or set a mirror in pip's configuration",
        ),
        (
            "Max retries",
            "the package index cannot be reached: check the network, or set a mirror in pip's configuration",
        ),
        (
            "No matching distribution",
            "no network, or no wheel for this Python and platform (CPython 3.10 to 3.14 on Linux x86-64 is needed)",
        ),
    ];
    match hints.iter().find(|(sign, _)| text.contains(sign)) {
        Some((_, hint)) => format!("{tail}\n=> {hint}"),
        None => tail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_intact_only_with_the_right_version_and_every_part() {
        let dir = std::env::temp_dir().join(format!("libtorch-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert!(missing(&dir).unwrap().contains("build-version"));
        std::fs::write(dir.join("build-version"), "2.10.0+cpu\n").unwrap();
        assert!(missing(&dir).unwrap().contains("2.10.0"));
        std::fs::write(dir.join("build-version"), "2.11.0+cpu\n").unwrap();
        for (part, least) in PARTS {
            assert!(missing(&dir).is_some_and(|m| m.contains(part)), "{part}");
            let path = dir.join(part);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Sparse: takes no disk space.
            std::fs::File::create(&path)
                .unwrap()
                .set_len(least)
                .unwrap();
        }
        assert_eq!(missing(&dir), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_chosen_libtorch_must_be_one_of_our_version() {
        let dir = std::env::temp_dir().join(format!("libtorch-chosen-{}", std::process::id()));
        let error = || chosen(&dir).unwrap_err().to_string();
        assert!(error().contains("is no libtorch"));
        for part in [
            "lib/libtorch_cpu.so",
            "include/torch/csrc/api/include/torch/torch.h",
        ] {
            let path = dir.join(part);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, []).unwrap();
        }
        assert!(error().contains("does not say its version"));
        // As an installed PyTorch has it.
        let python =
            |v: &str| format!("from typing import Optional\n__version__ = '{v}'\ndebug = False\n");
        std::fs::write(dir.join("version.py"), python("2.12.1+cu130")).unwrap();
        assert!(error().contains("is libtorch 2.12.1+cu130"));
        std::fs::write(dir.join("version.py"), python("2.11.0+cu130")).unwrap();
        assert_eq!(chosen(&dir).unwrap(), dir);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn failures_name_the_way_out() {
        let status = Command::new("false").status().unwrap();
        let stderr = b"x\nOSError: [Errno 28] No space left on device\n".to_vec();
        let text = explain(&Output {
            status,
            stdout: vec![],
            stderr,
        });
        assert!(text.contains("PI_CACHE_DIR"), "{text}");
    }
}
