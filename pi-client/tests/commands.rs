//! Every command as a user types it: what it prints, and one line and one exit code for each kind of mistake.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{png, rebuild, serve_with, server};

fn client(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi-client"));
    command
        .args(args)
        .env_remove("PI_SERVER")
        .env_remove("PI_TOKEN")
        .env_remove("HTTPS_PROXY");
    command
}

fn says(args: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = client(args).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{stderr}");
    // Silence in a pipe.
    assert!(stderr.is_empty(), "{stderr}");
    String::from_utf8(stdout).unwrap()
}

/// The exit code, after checking that one line explains it.
fn fails(args: &[&str], words: &[&str]) -> i32 {
    failed(&client(args).output().unwrap(), words)
}

fn failed(output: &Output, words: &[&str]) -> i32 {
    let text = String::from_utf8_lossy(&output.stderr);
    let errors = text.lines().filter(|l| !l.starts_with("warning:"));
    assert_eq!(errors.count(), 1, "{text}");
    assert!(
        output.stdout.is_empty() && !text.contains("panicked"),
        "{text}"
    );
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
    output.status.code().unwrap()
}

#[test]
fn commands_answer_in_words_and_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 2);
    assert_eq!(says(&["models", &url]), "small\n");
    assert_eq!(
        says(&["models", "--server", &url, "--json"]).trim(),
        "[\n  \"small\"\n]"
    );
    let text = says(&["describe", &url]);
    for words in [
        "you learn",
        "neither the image",
        "round trips",
        "no TLS",
        "8 x 8",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let specs: serde_json::Value =
        serde_json::from_str(&says(&["describe", &url, "--model", "small", "--json"])).unwrap();
    assert_eq!(specs[0]["name"], "small");
    let bench: serde_json::Value =
        serde_json::from_str(&says(&["bench", &url, "-n", "3", "--json"])).unwrap();
    assert_eq!(bench["phases"][2]["n"], 3);
    assert!(bench["phases"][1]["bytes_down"].as_u64() > Some(0));
    assert!(says(&["bench", &url, "-n", "1"]).contains("median"));
    let text = says(&["doctor", &url, "--hold", "1"]);
    for words in [
        "DNS",
        "TCP",
        "TLS",
        "version",
        "clock",
        "bandwidth",
        "still open",
        "a query",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let mut proxied = client(&["doctor", &url]);
    let output = proxied.env("HTTPS_PROXY", "http://127.0.0.1:1").output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(
        text.contains("HTTPS_PROXY is set; this server is reached directly"),
        "{text}"
    );
    assert!(says(&["completions", "bash"]).contains("pi-client"));
    assert!(says(&["--help"]).contains("130  interrupted"));
}

#[test]
fn images_of_every_format_come_from_files_and_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 2);
    let (small, large) = (png(dir.path(), "a.png", 8), png(dir.path(), "b.png", 20));
    let jpeg = dir.path().join("c.jpg");
    image::open(&large).unwrap().save(&jpeg).unwrap();
    let npy = dir.path().join("d.npy");
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (8, 8, 3), }\n";
    let mut array = b"\x93NUMPY\x01\x00".to_vec();
    array.extend((header.len() as u16).to_le_bytes());
    array.extend(header.bytes());
    array.extend(image::open(&small).unwrap().to_rgb8().into_raw());
    std::fs::write(&npy, array).unwrap();
    let mut child = client(&["infer", "--server", &url, "--json", "--top", "2"])
        .args([&small, &large, &jpeg, &npy])
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&std::fs::read(&small).unwrap()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{notes}");
    assert!(
        notes.contains("note: b.png: it was resized from 20 x 20"),
        "{notes}"
    );
    assert!(!notes.contains("a.png"), "{notes}");
    let run: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 5);
    for same in [3, 4] {
        assert_eq!(results[0]["class"], results[same]["class"]);
    }
    assert_eq!(results[4]["image"], "stdin");
    assert_eq!(results[0]["top"].as_array().unwrap().len(), 2);
    // Five images in two flights of three.
    assert_eq!(run["report"]["n_prepared"], 6);
}

#[test]
fn describing_in_json_tells_costs_limits_and_who_learns_what() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 1);
    let said: serde_json::Value =
        serde_json::from_str(&says(&["describe", &url, "--json"])).unwrap();
    assert_eq!(said[0]["name"], "small");
    assert!(said[0]["cost"]["online_bytes"].as_u64() > Some(0));
    assert_eq!(said[0]["limits"]["max_batch"], 4);
    assert!(said[0]["who_learns"]["server"].is_string());
}

#[test]
fn completions_of_a_command_have_its_flags_and_their_values() {
    let script = says(&["completions", "bash"]);
    let label = script
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("cmd=\"")?
                .strip_suffix("__infer\"")
        })
        .unwrap();
    let case = format!("{label}__infer)");
    assert!(script.lines().any(|line| line.trim() == case), "{case}");
    assert!(script.contains("half-gates three-halves client-digits"));
}

#[test]
fn each_kind_of_mistake_has_one_line_and_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 2);
    let image = png(dir.path(), "a.png", 8);
    let image = image.to_str().unwrap();
    let text = dir.path().join("text.png");
    std::fs::write(&text, "no picture").unwrap();
    let text = text.to_str().unwrap();
    let infer = |url: &str, rest: &[&str]| -> Vec<String> {
        let start = ["infer", "--retries", "0", "--server", url].map(str::to_owned);
        start
            .into_iter()
            .chain(rest.iter().map(|s| (*s).to_owned()))
            .collect()
    };
    let code = |args: Vec<String>, words: &[&str]| {
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), words)
    };
    assert_eq!(fails(&["infer", image], &["which server", "PI_SERVER"]), 2);
    assert_eq!(code(infer("ftp://x", &[image]), &["http://HOST:PORT"]), 2);
    assert_eq!(code(infer(&url, &["--batch", "9", image]), &["1 to 4"]), 2);
    assert_eq!(
        code(infer("http://127.0.0.1:1", &[image]), &["start pi-server"]),
        3
    );
    assert_eq!(
        code(
            infer("http://no-such-host.invalid", &[image]),
            &["not known"]
        ),
        3
    );
    let tls = url.replace("http:", "https:");
    assert_eq!(code(infer(&tls, &[image]), &["does not speak TLS"]), 4);
    assert_eq!(code(infer(&url, &["--model", "x", image]), &["small"]), 5);
    assert_eq!(code(infer(&url, &[text]), &["text.png", "neither PNG"]), 8);
    assert_eq!(code(infer(&url, &["no.png"]), &["no.png"]), 8);
    let doctor = client(&["doctor", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(doctor.status.code(), Some(3));
    // Quotas and tokens.
    let (token, line) = pi_server::identity::new_token("alice").unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, line).unwrap();
    let limited = || {
        serve_with(dir.path(), 2, 150, |o| {
            o.tokens = Some(tokens.clone());
            o.quota.inferences_per_day = Some(1);
        })
    };
    let mut url = limited();
    assert_eq!(
        code(infer(&url, &[image]), &["asks for a token", "PI_TOKEN"]),
        5
    );
    // What was answered before is not lost.
    for (json, answer) in [(false, "a.png  "), (true, "\"prediction\"")] {
        let mut command = client(&["infer", "--server", &url, image, image]);
        if json {
            command.arg("--json");
        }
        let output = command.env("PI_TOKEN", &token).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let words = ["after 1 of 2 images", "used up", "try again in"];
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert_eq!(output.status.code(), Some(6));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.matches(answer).count() == 1, "{said}");
        // The next one begins anew.
        url.clone_from(&limited());
    }
}

#[test]
fn an_address_beside_the_variable_is_the_one_that_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 2);
    let with = |variable: &str, args: &[&str]| {
        let mut command = client(args);
        command.env("PI_SERVER", variable).output().unwrap()
    };
    for command in ["models", "describe", "doctor", "bench"] {
        let output = with("http://127.0.0.1:1", &[command, &url]);
        assert!(output.status.success(), "{command}: {output:?}");
    }
    let output = with(&url, &["models"]);
    assert_eq!(output.stdout, b"small\n");
    let output = with(&url, &["models", "--server", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    // Two on one command line are one too many.
    let output = with(&url, &["models", "--server", &url, &url]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn an_answer_that_is_not_as_in_the_clear_has_an_exit_code_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 2);
    let image = png(dir.path(), "a.png", 8);
    let other = dir.path().join("other");
    rebuild(dir.path(), &other, |_| {}, |weight| -weight);
    let check = |model: &std::path::Path| {
        let args = ["infer", "--server", &url, "--json", "--check"];
        let mut command = client(&args);
        command.arg(model).arg(&image).output().unwrap()
    };
    assert_eq!(check(dir.path()).status.code(), Some(0));
    let output = check(&other);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(10), "{said}");
    assert!(said.contains("of 1 images compared"), "{said}");
    // All that was found is printed all the same.
    let run: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(run["n_checked"], 1);
    assert!(run["report"].is_object());
}

#[cfg(target_os = "linux")]
#[test]
fn many_photos_take_no_more_memory_than_one() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 2);
    // 12 MB of pixels each in a file of some kB.
    let photo = dir.path().join("photo.png");
    image::RgbImage::new(2000, 2000).save(&photo).unwrap();
    let peak_kib = |n: usize| {
        let mut child = client(&["infer", "--server", &url])
            .args(std::iter::repeat_n(&photo, n))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        while stdout.read_line(&mut said).unwrap() > 0 {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
            let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            peak = kib.unwrap_or(0).max(peak);
        }
        assert!(child.wait().unwrap().success());
        assert_eq!(said.lines().count(), n);
        peak
    };
    let (few, many) = (peak_kib(2), peak_kib(20));
    // Held together, 18 more would be 216 MB.
    assert!(many < few + 80_000, "{few} and {many} KiB");
}

#[test]
fn texts_of_the_server_cannot_act_on_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let named = "na\nme\u{1b}[31m";
    let url = serve_with(dir.path(), 2, 150, |options| {
        let to = dir.path().join("other");
        let change = |spec: &mut pi_model::spec::ModelSpec| {
            spec.name = named.to_owned();
            spec.card.dataset = "\u{1b}]0;title\u{7}".to_owned();
            for label in &mut spec.labels {
                *label = format!("\r\u{1b}[2K{label}\nforged");
            }
        };
        rebuild(dir.path(), &to, change, |weight| weight);
        options.models = vec![to];
    });
    let image = png(dir.path(), "a.png", 8);
    let image = image.to_str().unwrap();
    for args in [
        &["infer", "--server", &url, "--by-layer", image][..],
        &["models", &url],
        &["describe", &url],
        &["bench", &url, "-n", "1"],
        &["doctor", &url],
        &["infer", "--server", &url, "--model", "\u{1b}[31m", image],
    ] {
        let output = client(args).output().unwrap();
        for bytes in [output.stdout, output.stderr] {
            let text = String::from_utf8(bytes).unwrap();
            let acts = text.chars().any(|c| c.is_control() && c != '\n');
            assert!(!acts && !text.lines().any(|l| l == "forged"), "{text:?}");
        }
    }
    assert_eq!(says(&["models", &url]), "na\\nme\\u{1b}[31m\n");
    let json: serde_json::Value = serde_json::from_str(&says(&["models", &url, "--json"])).unwrap();
    assert_eq!(json[0], named);
    assert_eq!(says(&["infer", "--server", &url, image]).lines().count(), 1);
}

/// Passes bytes on until the server has sent `n_down` of them, then closes both ends; the same with the next connection.
fn cutting_proxy(url: &str, n_down: usize) -> String {
    let target = url.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(&target).unwrap();
            let (mut up, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut up, &mut to));
            let (mut down, mut to) = ((&server).take(n_down as u64), &client);
            let _ = std::io::copy(&mut down, &mut to);
            let _ = client.shutdown(std::net::Shutdown::Both);
            let _ = server.shutdown(std::net::Shutdown::Both);
        }
    });
    format!("http://{address}")
}

#[test]
fn a_stream_that_something_cuts_is_told_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 2);
    let image = png(dir.path(), "a.png", 8);
    let url = cutting_proxy(&url, 40_000);
    let output = client(&["infer", "--server", &url])
        .arg(&image)
        .output()
        .unwrap();
    assert_eq!(failed(&output, &["broke while preparing", "doctor"]), 3);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_within_a_second_with_one_line_in_every_phase() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 4);
    let image = png(dir.path(), "a.png", 8);
    // Listens and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf = format!("http://{}", silent.local_addr().unwrap());
    for (url, delay_ms) in [(&deaf, 300), (&url, 60), (&url, 150), (&url, 300)] {
        let mut child = client(&["infer", "--server", url])
            .args(std::iter::repeat_n(&image, 2000))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        let id = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &id])
                .status()
                .unwrap()
                .success()
        );
        let sent = Instant::now();
        let status = child.wait().unwrap();
        assert!(sent.elapsed() < Duration::from_secs(1));
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(status.code(), Some(130), "{said}");
        assert!(
            said.starts_with("interrupted") && said.lines().count() == 1,
            "{said}"
        );
    }
}

#[test]
fn tensors_go_in_and_values_come_out_where_there_are_no_images_and_no_classes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (folder, array) = (path("features"), path("a.npy"));
    let model = pi_model::random::features_network("features").unwrap();
    std::fs::create_dir(&folder).unwrap();
    model.save(folder.as_ref()).unwrap();
    let url = serve_with(dir.path(), 2, 9, |o| o.models = vec![folder.clone().into()]);
    let save = |values: [f32; 5]| {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }\n";
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.bytes());
        file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        std::fs::write(&array, file).unwrap();
    };
    save([1.5, -0.5, 0.25, -2.0, 0.0]);
    let said = says(&["infer", "--server", &url, "--check", &folder, &array]);
    assert!(
        said.contains("   as in the clear, outputs within 0.0"),
        "{said}"
    );
    assert!(!said.contains("class"), "{said}");
    let json = says(&["infer", "--server", &url, "--json", &array]);
    let run: serde_json::Value = serde_json::from_str(&json).unwrap();
    let result = &run["results"][0];
    assert!(result["class"].is_null() && result["prediction"].is_null());
    assert_eq!(result["outputs"].as_array().unwrap().len(), 3);
    let said = says(&["describe", &url]);
    for words in [
        "float tensors (C, H, W) of [5, 1, 1]",
        "3 values, no classes",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let picture = png(dir.path(), "a.png", 8).to_string_lossy().into_owned();
    let infer = |file: &str, words: &[&str]| fails(&["infer", "--server", &url, file], words);
    assert_eq!(
        infer(&picture, &["a.png", "takes no images", "[5, 1, 1]"]),
        8
    );
    save([1.5, 0.0, 0.0, 0.0, 2.5]);
    assert_eq!(infer(&array, &["a.npy", "above -2.01 to 2.01"]), 8);
}
