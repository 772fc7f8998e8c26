//! The program itself, on a folder of a few small images.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use program::*;
use std::path::Path;
use std::process::Command;

#[test]
fn the_published_list_comes_out_of_the_table() {
    let args = [
        "sensitivity",
        "--arch",
        "resnet18",
        "--dataset",
        "cifar100",
        "--fixture",
    ];
    let json = ok(&[&args[..], &["--budget", "99988", "--json"]].concat());
    let table: serde_json::Value = serde_json::from_str(&json).unwrap();
    let published = [
        633, 2053, 2357, 2776, 3055, 3930, 5408, 5649, 6165, 7462, 9018, 9165, 9549, 8192, 8192,
        8192, 8192,
    ];
    let layers = table["layers"].as_array().unwrap();
    assert_eq!(layers.len(), published.len());
    let of = |l: &serde_json::Value, key: &str| l[key].as_u64().unwrap();
    for (layer, want) in layers.iter().zip(published) {
        assert!(
            of(layer, "relus_kept").abs_diff(want) <= 15,
            "{layer}, published {want}"
        );
    }
    assert_eq!(
        layers.iter().map(|l| of(l, "relus_kept")).sum::<u64>(),
        99_988
    );
    assert_eq!(
        layers.iter().map(|l| of(l, "relus_total")).sum::<u64>(),
        557_056
    );
    assert!(ok(&[&args[..], &["--budget", "25000"]].concat()).contains("--densities 0.944,"));
    fails(&[&args[..], &["--budget", "557057"]].concat(), "557056");
    fails(&[&args[..], &["--budget", "0"]].concat(), "at least one");
    fails(&["sensitivity", "--arch", "resnet18", "--train"], "--data");
}

#[test]
fn every_stage_runs_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = |p: &str| dir.path().join(p).to_string_lossy().into_owned();
    images(&dir.path().join("data"));
    let (data, out, models) = (path("data"), path("run"), path("models"));
    let model = [
        "--data",
        &data,
        "--dataset",
        "folder",
        "--image-size",
        "8",
        "--arch",
        "resnet8",
    ];
    let train = [
        "--out",
        &out,
        "--batch",
        "6",
        "--epochs",
        "2",
        "--compute",
        "f32",
        "--hold-out",
        "6",
        "--crop-pad",
        "1",
    ];
    let args = |first: &[&'static str], last: &[&str]| -> Vec<String> {
        let all = first.iter().chain(&model).chain(last);
        all.map(|s| (*s).to_owned()).collect()
    };
    let run = |a: Vec<String>| ok(&a.iter().map(String::as_str).collect::<Vec<_>>());
    let refuse =
        |a: Vec<String>, with: &str| fails(&a.iter().map(String::as_str).collect::<Vec<_>>(), with);
    let with = |more: &[&'static str]| [&train[..], more].concat();

    refuse(
        args(&["search"], &with(&["--relus", "300"])),
        "no such file",
    );
    run(args(&["teacher"], &with(&[])));
    refuse(args(&["teacher"], &with(&[])), "--resume");
    refuse(args(&["search"], &with(&["--relus", "0"])), "at least one");
    refuse(
        args(&["search"], &with(&["--relus", "99999"])),
        "the network has",
    );
    refuse(
        args(&["search"], &with(&["--relus", "3", "--per-channel"])),
        "one channel",
    );
    let mut more_held_out = with(&["--relus", "600"]);
    let at = more_held_out
        .iter()
        .position(|a| *a == "--hold-out")
        .unwrap();
    more_held_out[at + 1] = "7";
    refuse(args(&["search"], &more_held_out), "--hold-out 7 keeps back");
    let mut removal = with(&["--relus", "600", "--empty-layers", "1"]);
    removal.extend(["--selection", "removal"]);
    refuse(args(&["search"], &removal), "anneal-kink");
    let wrong = ["--relus", "600", "--densities", "nan,0,0,0,0,0,0"];
    refuse(args(&["search"], &with(&wrong)), "shares from 0 to 1");
    let half = ["--checkpoint-bits", "16", "--checkpoint-part", "1"];
    let search = [
        "--relus",
        "600",
        "--selection",
        "anneal-taylor",
        "--widths",
        "0.5",
    ];
    run(args(&["search"], &[&with(&search)[..], &half].concat()));
    refuse(
        args(&["search"], &with(&["--relus", "700", "--resume"])),
        "other settings",
    );
    refuse(
        args(&["finetune"], &with(&["--relus", "600"])),
        "unexpected",
    );
    refuse(
        args(&["finetune"], &with(&["--ce-share", "2"])),
        "--ce-share",
    );
    let ema = ["--ema", "0.9", "--pram-weight", "100", "--pram-decay"];
    let said = run(args(&["finetune"], &[&with(&ema)[..], &half].concat()));
    assert!(
        said.contains("600 ReLUs of 4608") && said.contains("held-out training images"),
        "{said}"
    );

    let (student, teacher) = (
        path("run/student.safetensors"),
        path("run/teacher.safetensors"),
    );
    let no_teacher = [
        "--relus",
        "600",
        "--out",
        "elsewhere",
        "--teacher",
        &student,
    ];
    refuse(args(&["search"], &no_teacher), "is no teacher");
    // A teacher of another network has class scores to learn from, but no activations to compare with.
    let lean = path("lean");
    let mut other = args(&["teacher"], &with(&[]));
    for arg in &mut other {
        *arg = match arg.as_str() {
            "resnet8" => "lean-small".into(),
            a if a == out => lean.clone(),
            a => a.into(),
        };
    }
    run(other);
    let lean = format!("{lean}/teacher.safetensors");
    let found = path("run/search.safetensors");
    let elsewhere = path("taught-by-another");
    let taught = ["--teacher", &lean, "--from", &found, "--out", &elsewhere];
    let taught = [&train[2..], &taught].concat();
    let compared = [&taught[..], &["--pram-weight", "100"]].concat();
    refuse(args(&["finetune"], &compared), "holds a lean-small");
    run(args(&["finetune"], &taught));
    // The same settings from other masks and weights are another run.
    let other = [&ema[..], &["--resume", "--from"]].concat();
    let other = [&train[..], &other, &[&student], &half].concat();
    refuse(args(&["finetune"], &other), "from=");
    let export = [
        "--checkpoint",
        &student,
        "--teacher",
        &teacher,
        "--models",
        &models,
        "--calibrate",
        "20",
    ];
    for width in ["0", "1"] {
        let said = run(args(
            &["export"],
            &[&export[..], &["--width", width]].concat(),
        ));
        assert!(said.contains("0 values out of range"), "{said}");
    }
    assert_eq!(std::fs::read_dir(&models).unwrap().count(), 2);
    let name = "resnet8-folder-relu600";
    let card = std::fs::read_to_string(dir.path().join("models").join(name).join("model.json"));
    let card = card.unwrap();
    for said in [
        "pram_weight=100",
        "6 training images were held out",
        "6 held-out training images",
    ] {
        assert!(card.contains(said), "{said}: {card}");
    }
    let other = [
        "--checkpoint",
        &teacher,
        "--models",
        &models,
        "--calibrate",
        "20",
    ];
    let other = [&other[..], &["--name", name]].concat();
    refuse(args(&["export"], &other), "another checkpoint");
    let none = ["--checkpoint", &teacher, "--calibrate", "0"];
    refuse(args(&["export"], &none), "at least 1");

    let report = path("report");
    ok(&["report", &out, "--to", &report]);
    let page = std::fs::read_to_string(Path::new(&report).join("report.html")).unwrap();
    assert!(page.contains("annealtaylor") || page.contains("anneal-taylor"));
    assert!(page.contains("width 0.5") && page.contains("600"));
    let json = std::fs::read_to_string(Path::new(&report).join("report.json")).unwrap();
    let outcomes: serde_json::Value = serde_json::from_str(&json).unwrap();
    let outcomes = outcomes.as_array().unwrap();
    assert_eq!(outcomes.len(), 3);
    let fixed = outcomes.iter().filter(|o| o["fixed_accuracy"].is_f64());
    assert_eq!(fixed.count(), 2, "both widths of the student were exported");
}

#[test]
fn pictures_are_read_as_a_client_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = |p: &str| dir.path().join(p).to_string_lossy().into_owned();
    images(&dir.path().join("data"));
    // A file that is no image stops a run by its name.
    std::fs::write(dir.path().join("data/train/class0/0.png"), b"none").unwrap();
    let (data, out) = (path("data"), path("run"));
    let args = ["teacher", "--data", &data, "--dataset", "folder"];
    fails(
        &[&args[..], &["--arch", "resnet8", "--out", &out]].concat(),
        "0.png",
    );
    assert!(!Path::new(&out).exists(), "something was written");
    // A note on damage is no error.
    let whole = std::fs::read(dir.path().join("data/train/class0/1.png")).unwrap();
    let picture = image::load_from_memory(&whole).unwrap();
    let mut jpeg = std::io::Cursor::new(vec![]);
    picture
        .write_to(&mut jpeg, image::ImageFormat::Jpeg)
        .unwrap();
    let mut jpeg = jpeg.into_inner();
    let end = jpeg.len() - 2;
    jpeg.splice(end..end, *b"12345678");
    std::fs::remove_file(dir.path().join("data/train/class0/0.png")).unwrap();
    std::fs::write(dir.path().join("data/train/class0/0.jpg"), &jpeg).unwrap();
    let samples = path("samples");
    let out = trainer(&[
        "samples",
        "--data",
        &data,
        "--dataset",
        "folder",
        "--image-size",
        "8",
        "--out",
        &samples,
    ]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert_eq!(said.matches("note: 1 of 36 images in").count(), 1, "{said}");
}

#[test]
#[cfg(unix)]
fn an_interrupt_saves_first_and_resume_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = |p: &str| dir.path().join(p).to_string_lossy().into_owned();
    images(&dir.path().join("data"));
    let (data, out) = (path("data"), path("run"));
    let args = [
        "teacher",
        "--data",
        &data,
        "--dataset",
        "folder",
        "--image-size",
        "8",
        "--arch",
        "resnet8",
        "--out",
        &out,
        "--batch",
        "6",
        "--epochs",
        "2000",
        "--compute",
        "f32",
        "--threads",
        "1",
        "--device",
        "cpu",
    ];
    let program = env!("CARGO_BIN_EXE_pi-trainer");
    let child = Command::new(program)
        .args(args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let checkpoint = dir.path().join("run/teacher.safetensors");
    for _ in 0..600 {
        if checkpoint.is_file() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{said}");
    assert!(said.contains("saved to"), "{said}");
    fails(&args, "--resume");
    let mut other = args.to_vec();
    other.extend(["--resume", "--weight-decay", "0.1"]);
    fails(&other, "weight_decay: 0.1 here, 0.0005 there");
    let model = &args[1..9];
    let checkpoint = checkpoint.to_string_lossy().into_owned();
    let said = ok(&[&["evaluate", "--checkpoint", &checkpoint], model].concat());
    assert!(said.contains("epochs done"), "{said}");
    let other = [
        "evaluate",
        "--checkpoint",
        &checkpoint,
        "--arch",
        "resnet20",
    ];
    fails(&[&other[..], &args[1..7]].concat(), "holds a resnet8");
}

#[test]
#[cfg(unix)]
fn an_interrupt_where_nothing_is_to_be_saved_ends_at_once_and_cleanly() {
    use std::io::{BufRead, BufReader};
    let bench = [
        "bench",
        "--arch",
        "resnet8",
        "--threads",
        "2",
        "--seconds",
        "120",
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_pi-trainer"))
        .args(bench)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut first).unwrap();
    // In the midst of a kernel.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let ended = child.wait().unwrap().code();
    assert_eq!(ended, Some(130));
}

/// The official binary files of CIFAR-10, black but for the first images, which are of the colour of their class.
fn official_cifar10(dir: &Path) {
    use std::io::Write;
    std::fs::create_dir_all(dir).unwrap();
    let names = [
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ];
    for name in names {
        let mut file = std::fs::File::create(dir.join(format!("{name}.bin"))).unwrap();
        for i in 0..200u8 {
            file.write_all(&[i % 10]).unwrap();
            let plane = |c: u8| [(i % 10) * 20 + c * 10 + i / 10; 1024];
            file.write_all(&[0, 1, 2].map(plane).concat()).unwrap();
        }
        file.set_len(30_730_000).unwrap();
    }
    std::fs::write(
        dir.join("batches.meta.txt"),
        "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n",
    )
    .unwrap();
}

#[test]
fn official_files_train_teach_and_are_searched() {
    let dir = tempfile::tempdir().unwrap();
    let path = |p: &str| dir.path().join(p).to_string_lossy().into_owned();
    let (data, out) = (path("data"), path("run"));
    official_cifar10(Path::new(&data));
    let args = [
        "--data",
        &data,
        "--arch",
        "resnet8",
        "--limit",
        "200",
        "--hold-out",
        "40",
        "--out",
        &out,
        "--batch",
        "20",
        "--epochs",
        "1",
        "--compute",
        "f32",
        "--threads",
        "2",
    ];
    let said = ok(&[&["teacher"], &args[..]].concat());
    assert!(
        said.contains("of 10000 test images, 73728 ReLUs of 73728"),
        "{said}"
    );
    let said = ok(&[&["search", "--relus", "14746"], &args[..]].concat());
    assert!(said.contains("14746 ReLUs of 73728"), "{said}");
    // Other files: what the teacher of these saw is not known.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join("data/data_batch_2.bin"));
    std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), &[7], 0).unwrap();
    let elsewhere = path("elsewhere");
    let mut args = args;
    let at = args.iter().position(|a| *a == out).unwrap();
    args[at] = &elsewhere;
    let teacher = path("run/teacher.safetensors");
    let other = ["search", "--relus", "14746", "--teacher", &teacher];
    fails(&[&other, &args[..]].concat(), "other files");
}
