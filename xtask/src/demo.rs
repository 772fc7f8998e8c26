//! `cargo xtask demo`: two processes on this machine classify real images privately, with the fewest ReLUs that a model
//! here has and with all of them, and say what each cost.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::demo_tables::{by_layer, costs, predictions, ratios, seconds};
use crate::workspace::{build, program, root};

/// One model under `models/`.
pub struct Candidate {
    dir: PathBuf,
    /// The name under which it is served.
    pub name: String,
    dataset: String,
    /// Surviving ReLUs, from the card.
    pub relus_kept: u64,
    /// Percent on the whole test set, from the card.
    pub accuracy: Option<f64>,
}

/// The client's exit code for answers that are not as in the clear.
const DIFFERS: i32 = 10;

/// A candidate with what the client measured.
pub struct Measured {
    /// The model.
    pub model: Candidate,
    /// The client's report.
    pub run: Value,
}

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let mut models_dir = root().join("models");
    let mut n_images = 10;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| anyhow!("{arg} needs a value"));
        match arg.as_str() {
            "--models" => models_dir = value()?.into(),
            "--images" => n_images = value()?.parse().context("--images needs a number")?,
            _ => bail!("unknown option {arg}; known are --models DIR and --images N"),
        }
    }
    let models = choose(candidates(&models_dir)?)
        .with_context(|| format!("there is no model under {}", models_dir.display()))?;
    let images = samples(&models_dir.join("samples"), n_images)?;

    println!("Building server and client ...");
    let built = build(&["--release", "-p", "pi-server", "-p", "pi-client", "--bins"])?;
    let client = program(&built, "pi-client")?;
    let started = Instant::now();
    let server = Server::start(program(&built, "pi-server")?, &models)?;
    println!(
        "Server at {} holds {} and never sees an image. The client holds {} images and never sees a weight.\n",
        server.url,
        models
            .iter()
            .map(|m| m.name.as_str())
            .collect::<Vec<_>>()
            .join(" and "),
        images.len()
    );
    let mut measured = Vec::new();
    for model in models {
        println!(
            "{}: preparing and classifying {} images ...",
            model.name,
            images.len()
        );
        let run = server.classify(client, &model, &images)?;
        measured.push(Measured { model, run });
    }
    drop(server);
    println!();
    print!("{}", predictions(&measured, &images));
    println!("\nCost, both parties on this machine\n");
    print!("{}", costs(&measured));
    println!(
        "\n  Bandwidth and delay of a network come on top: each online round trip adds one of the network's,\n  and offline work is done before the image is known."
    );
    println!("\nBytes by layer, one inference, offline + online\n");
    print!("{}", by_layer(&measured));
    if let [few, all] = &measured[..] {
        println!("\n{}", ratios(few, all));
    }
    println!("\nDone in {}.", seconds(started.elapsed().as_secs_f64()));
    Ok(())
}

fn candidates(dir: &Path) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("cannot look for models in {}", dir.display()))?;
    for entry in entries {
        let entry =
            entry.with_context(|| format!("cannot look for models in {}", dir.display()))?;
        let dir = entry.path();
        let path = dir.join("model.json");
        if !path.exists() {
            continue;
        }
        let text =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let spec: Value = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not valid JSON", path.display()))?;
        let card = &spec["card"];
        found.push(Candidate {
            dir,
            name: spec["name"].as_str().unwrap_or_default().to_owned(),
            dataset: card["dataset"].as_str().unwrap_or_default().to_owned(),
            relus_kept: card["relus_kept"].as_u64().unwrap_or(0),
            accuracy: card["fixed_accuracy"].as_f64(),
        });
    }
    Ok(found)
}

/// The model with the fewest ReLUs and the one with the most, of the same data.
fn choose(mut found: Vec<Candidate>) -> Option<Vec<Candidate>> {
    if found.iter().any(|m| m.name.starts_with("resnet20-cifar10")) {
        found.retain(|m| m.name.starts_with("resnet20-cifar10"));
    }
    found.sort_by_key(|m| m.relus_kept);
    let mut found = found.into_iter();
    let few = found.next()?;
    let all = found.rfind(|m| m.dataset == few.dataset);
    Some([few].into_iter().chain(all).collect())
}

/// The first PNG images of the folder.
fn samples(dir: &Path, n_images: usize) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("cannot look for sample images in {}", dir.display()))?;
    let mut images: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .collect();
    images.sort();
    images.truncate(n_images);
    if images.is_empty() {
        bail!("there are no PNG images in {}", dir.display());
    }
    Ok(images)
}

/// A server process that dies with this value. It also stops by itself when this process is gone, because its standard
/// input closes then.
struct Server {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Server {
    fn start(program: &Path, models: &[Candidate]) -> Result<Self> {
        let log_path = program.with_file_name("demo-server.log");
        let log = std::fs::File::create(&log_path)
            .with_context(|| format!("cannot write the server's log {}", log_path.display()))?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--stop-at-eof"]);
        for model in models {
            command.arg("--model").arg(&model.dir);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = child.stdout.take();
        let mut server = Self {
            child,
            url: String::new(),
            log: log_path.clone(),
        };
        let mut line = String::new();
        if let Some(stdout) = stdout {
            let read = BufReader::new(stdout).read_line(&mut line);
            read.context("cannot read what pi-server says")?;
        }
        let address = line.trim().strip_prefix("listening on ").ok_or_else(|| {
            let said = std::fs::read_to_string(&log_path).unwrap_or_default();
            anyhow!("the server did not start:\n{}", said.trim())
        })?;
        server.url = format!("http://{address}");
        Ok(server)
    }

    fn classify(&self, client: &Path, model: &Candidate, images: &[PathBuf]) -> Result<Value> {
        let output = Command::new(client)
            .args([
                "infer",
                "--json",
                "--server",
                &self.url,
                "--model",
                &model.name,
            ])
            .arg("--check")
            .arg(&model.dir)
            .args(images)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start {}", client.display()))?;
        // Answers that are not as in the clear stand in the table.
        if !matches!(output.status.code(), Some(0 | DIFFERS)) {
            bail!(
                "the client failed; its message is above, the server's log is {}",
                self.log.display()
            );
        }
        serde_json::from_slice(&output.stdout).context("the client's report is not valid JSON")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo_tables::truth;

    fn candidate(name: &str, relus_kept: u64) -> Candidate {
        Candidate {
            dir: name.into(),
            name: name.into(),
            dataset: "cifar10".into(),
            relus_kept,
            accuracy: None,
        }
    }

    #[test]
    fn the_demo_takes_the_fewest_and_the_most_relus() {
        let found = [
            "resnet20-cifar10-all",
            "resnet20-cifar10-relu15k",
            "resnet20-cifar10-relu50k",
            "tiny",
        ];
        let chosen = choose(
            found
                .iter()
                .zip([188_416, 15_000, 50_000, 3])
                .map(|(n, k)| candidate(n, k))
                .collect(),
        );
        let names: Vec<String> = chosen.unwrap().into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["resnet20-cifar10-relu15k", "resnet20-cifar10-all"]);
        assert_eq!(choose(vec![candidate("one", 1)]).unwrap().len(), 1);
        assert!(choose(vec![]).is_none());
        assert_eq!(truth(Path::new("samples/0003-airplane.png")), "airplane");
    }
}
