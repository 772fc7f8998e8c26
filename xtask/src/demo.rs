//! `cargo xtask demo`: two processes on this machine classify real images privately, with the fewest ReLUs that a model
//! here has and with all of them, and say what each cost.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::table::{align, bytes, seconds, thousands};
use crate::{cargo, root};

/// One model under `models/`.
struct Candidate {
    dir: PathBuf,
    name: String,
    dataset: String,
    relus_kept: u64,
    accuracy: Option<f64>,
}

/// A candidate with what the client measured.
struct Measured {
    model: Candidate,
    run: Value,
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
    let built = cargo()
        .args(["build", "--release", "-p", "pi-server", "-p", "pi-client"])
        .status()
        .context("cannot run cargo")?;
    if !built.success() {
        bail!("the build failed; its messages are above");
    }
    let started = Instant::now();
    let server = Server::start(&models)?;
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
        let run = server.classify(&model, &images)?;
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
        let dir = entry?.path();
        let path = dir.join("model.json");
        if !path.exists() {
            continue;
        }
        let spec: Value = serde_json::from_slice(&std::fs::read(&path)?)
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

/// `0003-airplane.png` is an airplane.
fn truth(image: &Path) -> &str {
    let stem = image
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    stem.split_once(['-', '_']).map_or(stem, |(_, label)| label)
}

/// A server process that dies with this value. It also stops by itself when this process is gone, because its standard
/// input closes then.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(models: &[Candidate]) -> Result<Self> {
        let log_path = root().join("target").join("demo-server.log");
        let log = std::fs::File::create(&log_path)?;
        let mut command = Command::new(binary("pi-server"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--stop-at-eof"]);
        for model in models {
            command.arg("--model").arg(&model.dir);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start pi-server")?;
        let stdout = child.stdout.take();
        let mut server = Self {
            child,
            url: String::new(),
        };
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim().strip_prefix("listening on ").ok_or_else(|| {
            let said = std::fs::read_to_string(&log_path).unwrap_or_default();
            anyhow!("the server did not start:\n{}", said.trim())
        })?;
        server.url = format!("http://{address}");
        Ok(server)
    }

    fn classify(&self, model: &Candidate, images: &[PathBuf]) -> Result<Value> {
        let output = Command::new(binary("pi-client"))
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
            .context("cannot start pi-client")?;
        if !output.status.success() {
            bail!(
                "the client failed; its message is above, the server's log is target/demo-server.log"
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

fn binary(name: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("release").join(name)
}

fn results(measured: &Measured) -> &[Value] {
    measured.run["results"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

fn predictions(measured: &[Measured], images: &[PathBuf]) -> String {
    let mut head = vec!["image".to_owned(), "truth".into()];
    head.extend(measured.iter().map(|m| m.model.name.clone()));
    let mut rows = vec![head];
    for (i, image) in images.iter().enumerate() {
        let truth = truth(image);
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let mut row = vec![name.into_owned(), truth.to_owned()];
        row.extend(measured.iter().map(|m| {
            let said = results(m)
                .get(i)
                .and_then(|r| r["prediction"].as_str())
                .unwrap_or("?");
            format!("{said} {}", if said == truth { "+" } else { "-" })
        }));
        rows.push(row);
    }
    let count = |text: &str, of: &dyn Fn(&Measured) -> usize| {
        let mut row = vec![text.to_owned(), String::new()];
        row.extend(
            measured
                .iter()
                .map(|m| format!("{} of {}", of(m), images.len())),
        );
        row
    };
    rows.push(count("right", &|m| {
        let said = results(m).iter().map(|r| r["prediction"].as_str());
        said.zip(images)
            .filter(|(said, image)| *said == Some(truth(image)))
            .count()
    }));
    rows.push(count("as in the clear", &|m| {
        m.run["n_agree"].as_u64().unwrap_or(0) as usize
    }));
    align(&rows)
}

fn report<'a>(m: &'a Measured, phase: &str) -> &'a Value {
    &m.run["report"][phase]
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// Inferences that the numbers of `phase` cover.
fn divisor(m: &Measured, phase: &str) -> f64 {
    let key = match phase {
        "offline" => "n_prepared",
        "online" => "n_inferences",
        _ => return 1.0,
    };
    number(&m.run["report"][key]).max(1.0)
}

fn each(m: &Measured, phase: &str, key: &str) -> f64 {
    number(&report(m, phase)[key]) / divisor(m, phase)
}

fn costs(measured: &[Measured]) -> String {
    let mut rows = vec![];
    let mut row = |text: &str, cell: &dyn Fn(&Measured) -> String| {
        let mut row = vec![text.to_owned()];
        row.extend(measured.iter().map(cell));
        rows.push(row);
    };
    let count = |m: &Measured, key: &str| m.run["report"][key].as_u64().unwrap_or(0);
    row("", &|m| m.model.name.clone());
    row("accuracy, whole test set", &|m| {
        m.model
            .accuracy
            .map_or("not measured".into(), |a| format!("{a:.2} %"))
    });
    row("ReLUs kept", &|m| {
        let (kept, total) = (count(m, "relus_kept"), count(m, "relus_total"));
        format!("{} of {}", thousands(kept), thousands(total))
    });
    row("AND gates", &|m| thousands(count(m, "and_gates")));
    row("setup, once", &|m| {
        format!(
            "{}, {}",
            seconds(each(m, "setup", "seconds")),
            bytes(both(m, "setup"))
        )
    });
    row("offline, all images", &|m| {
        seconds(number(&report(m, "offline")["seconds"]))
    });
    row("offline, each", &|m| seconds(each(m, "offline", "seconds")));
    row("  up", &|m| bytes(each(m, "offline", "bytes_up")));
    row("  down", &|m| bytes(each(m, "offline", "bytes_down")));
    row("online, each", &|m| seconds(each(m, "online", "seconds")));
    row("  up", &|m| bytes(each(m, "online", "bytes_up")));
    row("  down", &|m| bytes(each(m, "online", "bytes_down")));
    row("  round trips", &|m| {
        format!("{:.0}", each(m, "online", "round_trips"))
    });
    row("offline + online, each", &|m| {
        bytes(both(m, "offline") + both(m, "online"))
    });
    align(&rows)
}

fn both(m: &Measured, phase: &str) -> f64 {
    each(m, phase, "bytes_up") + each(m, phase, "bytes_down")
}

fn by_layer(measured: &[Measured]) -> String {
    let mut head = vec!["layer".to_owned(), "output".into()];
    for m in measured {
        head.extend([
            format!("ReLUs, {}", thousands(m.model.relus_kept)),
            "bytes".into(),
        ]);
    }
    let mut rows = vec![head];
    let layers = |m: &Measured| report(m, "layers").as_array().cloned().unwrap_or_default();
    let tables: Vec<Vec<Value>> = measured.iter().map(layers).collect();
    for (i, first) in tables.first().into_iter().flatten().enumerate() {
        let text = |key: &str| first[key].as_str().unwrap_or_default().to_owned();
        let mut row = vec![text("name"), text("shape")];
        for (m, table) in measured.iter().zip(&tables) {
            let layer = table.get(i).unwrap_or(&Value::Null);
            let offline = number(&layer["he_bytes"]) + number(&layer["relu_bytes"]);
            let total = offline / divisor(m, "offline")
                + number(&layer["online_bytes"]) / divisor(m, "online");
            row.extend([
                thousands(layer["relus_kept"].as_u64().unwrap_or(0)),
                bytes(total),
            ]);
        }
        rows.push(row);
    }
    align(&rows)
}

fn ratios(few: &Measured, all: &Measured) -> String {
    let latency = each(all, "online", "seconds") / each(few, "online", "seconds");
    let total = |m| both(m, "offline") + both(m, "online");
    let traffic = total(all) / total(few);
    let kept = |m: &Measured| m.run["report"]["relus_kept"].as_u64().unwrap_or(0);
    format!(
        "Keeping {} ReLUs instead of {} makes a private inference {latency:.1} times as fast online, with {traffic:.1} times fewer bytes in all.",
        thousands(kept(few)),
        thousands(kept(all)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
