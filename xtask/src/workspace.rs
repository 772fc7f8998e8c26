//! Where we are, and the cargo that runs us.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The cargo that runs us.
pub fn cargo() -> std::process::Command {
    let mut command =
        std::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    // What cargo told us about ourselves would make build scripts of others run again.
    let ours = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_CRATE_",
        "CARGO_BIN_",
        "CARGO_PRIMARY_",
    ];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ours.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.current_dir(root());
    command
}

/// Builds what `args` say, and asks cargo where the programs are: settings of the user may put them anywhere.
pub fn build(args: &[&str]) -> Result<Vec<PathBuf>> {
    let output = cargo()
        .arg("build")
        .args(args)
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the build failed; the compiler's message is above");
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The program called `name` among those.
pub fn program<'a>(built: &'a [PathBuf], name: &str) -> Result<&'a Path> {
    let found = built
        .iter()
        .find(|p| p.file_stem().is_some_and(|s| s == name));
    let found = found.with_context(|| format!("cargo named no program {name}"))?;
    Ok(found)
}

fn executables(messages: &str) -> Vec<PathBuf> {
    let found = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(message.get("executable")?.as_str()?.into())
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_where_cargo_says() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"executable\":null}\n",
            "{\"reason\":\"compiler-artifact\",\"executable\":\"/else where/release/pi-server\"}\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n",
        );
        let built = executables(messages);
        let path = program(&built, "pi-server").unwrap();
        assert_eq!(path, Path::new("/else where/release/pi-server"));
        assert!(program(&built, "pi-client").is_err());
    }
}
