//! A server that only an HTTP proxy reaches: the way out that the environment names, and what goes wrong on it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::serve_with;

/// What a proxy does with a CONNECT.
#[derive(Clone, Copy)]
enum Does {
    /// Makes the tunnel, to this machine whatever the name, for whoever brings this Proxy-Authorization.
    Tunnel(Option<&'static str>),
    Say(&'static [u8]),
    Nothing,
}

struct Proxy {
    address: String,
    /// First lines of what it was asked.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let log = Arc::clone(&log);
                std::thread::spawn(move || answer(near.unwrap(), does, &log));
            }
        });
        Self { address, asked }
    }

    fn n_asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn answer(mut near: TcpStream, does: Does, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(near.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        // Something may ask whether the port is open.
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    log.lock().unwrap().push(lines[0].clone());
    let wanted = match does {
        Does::Say(words) => {
            let _ = near.write_all(words);
            return;
        }
        Does::Nothing => {
            std::thread::sleep(Duration::from_secs(20));
            return;
        }
        Does::Tunnel(wanted) => wanted,
    };
    let has = |wanted: &str| lines.contains(&format!("Proxy-Authorization: {wanted}"));
    if wanted.is_some_and(|wanted| !has(wanted)) {
        let _ = near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
        return;
    }
    let port = lines[0].split([' ', ':']).nth(2).unwrap();
    let far = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .unwrap();
    let pairs = [(&near, &far), (&far, &near)];
    let copies = pairs.map(|(from, to)| {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        })
    });
    for copy in copies {
        copy.join().unwrap();
    }
}

/// Address of a server with TLS whose name no resolver knows, and the certificate.
fn hidden_server(dir: &Path) -> (String, PathBuf) {
    let files = pi_server::certificate::make(&dir.join("tls"), &["models.test".into()]).unwrap();
    let certificate = files.certificate.clone();
    let url = serve_with(dir, 4, 150, |o| o.tls = Some(files));
    let url = url.replace("http://127.0.0.1", "https://models.test");
    (url, certificate)
}

/// The exit code and all that is said, in an environment of these variables.
fn run(args: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi-client"));
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    for name in ["NO_PROXY", "no_proxy", "PI_SERVER", "PI_TOKEN"] {
        command.env_remove(name);
    }
    let output = command
        .args(args)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(
        !said.contains("panicked") && !said.contains("s3cret"),
        "{said}"
    );
    (output.status.code().unwrap(), said)
}

#[test]
fn a_server_behind_a_proxy_is_reached_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let (url, ca) = hidden_server(dir.path());
    let ca = ca.to_str().unwrap();
    let proxy = Proxy::start(Does::Tunnel(None));
    let at = format!("http://{}", proxy.address);
    let asked = url.replace("https://", "CONNECT ") + " HTTP/1.1";
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        let n_before = proxy.n_asked();
        let (code, said) = run(&["models", &url, "--ca", ca], &[(variable, &at)]);
        assert_eq!((code, said.as_str()), (0, "small\n"), "{variable}");
        assert_eq!(
            proxy.asked.lock().unwrap()[n_before..],
            *std::slice::from_ref(&asked)
        );
    }
    let image = common::png(dir.path(), "a.png", 8);
    let image = image.to_str().unwrap();
    let infer = ["infer", "--server", &url, "--ca", ca, "--fresh", image];
    let (code, said) = run(&infer, &[("HTTPS_PROXY", &at)]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = run(&["doctor", &url, "--ca", ca], &[("HTTPS_PROXY", &at)]);
    let way = format!("the way is through {at} (HTTPS_PROXY)");
    assert!(code == 0 && said.contains(&way), "{said}");
    assert!(said.contains("TCP         a tunnel to"), "{said}");
    assert!(said.contains("a query") && !said.contains("DNS"), "{said}");
    // Directly where the user says so, and then the name is not known.
    let n_before = proxy.n_asked();
    for list in ["models.test", "localhost, .test", "*"] {
        let variables = [("HTTPS_PROXY", &*at), ("no_proxy", list)];
        let (code, said) = run(&["models", &url, "--retries", "0"], &variables);
        assert!(
            code == 3 && said.contains("host name is not known"),
            "{said}"
        );
        let (code, said) = run(&["doctor", &url], &variables);
        assert!(code == 3 && said.contains("HTTPS_PROXY is set"), "{said}");
    }
    // This machine's own servers, and what is in the clear.
    let own = url.replace("models.test", "localhost");
    let (code, said) = run(&["models", &own, "--ca", ca], &[("HTTPS_PROXY", &at)]);
    assert!(code == 4 && said.contains("another host name"), "{said}");
    assert_eq!(proxy.n_asked(), n_before);
    // What TLS says is told with the way.
    let (code, said) = run(&["models", &url], &[("HTTPS_PROXY", &at)]);
    assert!(code == 4 && said.contains("through the proxy"), "{said}");
}

#[test]
fn a_proxy_that_wants_a_password_gets_it_and_nobody_else_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let (url, ca) = hidden_server(dir.path());
    // me:s3cret!
    let proxy = Proxy::start(Does::Tunnel(Some("Basic bWU6czNjcmV0IQ==")));
    for (user, code, words) in [
        ("me:s3cret%21@", 0, "small"),
        (
            "me:s3cret-other@",
            3,
            "does not accept the name and the password in HTTPS_PROXY",
        ),
        ("", 3, "http://NAME:PASSWORD@HOST:PORT into HTTPS_PROXY"),
    ] {
        let at = format!("http://{user}{}", proxy.address);
        for command in ["models", "doctor"] {
            let n_before = proxy.n_asked();
            let args = [command, &url, "--ca", ca.to_str().unwrap()];
            let (got, said) = run(&args, &[("HTTPS_PROXY", &at)]);
            assert!(got == code && said.contains(words), "{got} {said}");
            // It would say the same again.
            assert!(code == 0 || proxy.n_asked() == n_before + 1, "{said}");
        }
    }
}

#[test]
fn a_proxy_that_makes_no_tunnel_is_told_with_the_way_out() {
    let none = "makes no tunnel to this server";
    for (does, code, words) in [
        (Does::Say(b"HTTP/1.1 403 Forbidden\r\n\r\n"), 3, none),
        (Does::Say(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"), 3, none),
        (Does::Say(b"SSH-2.0-OpenSSH_9.6\r\n"), 3, none),
        (Does::Say(b""), 3, none),
        (Does::Nothing, 3, "no answer within 1 s"),
    ] {
        let proxy = Proxy::start(does);
        let at = format!("http://{}", proxy.address);
        for command in ["models", "doctor"] {
            let started = Instant::now();
            let args = [command, "https://models.test:5", "--timeout", "1"];
            let (got, said) = run(&args, &[("HTTPS_PROXY", &at)]);
            assert!(got == code && said.contains(words), "{got} {said}");
            assert!(
                said.contains(&format!("through the proxy {at} (HTTPS_PROXY)")),
                "{said}"
            );
            assert!(started.elapsed() < Duration::from_secs(4), "{said}");
        }
    }
    for (at, code, words) in [
        (
            "http://127.0.0.1:1",
            3,
            "nothing listens there: check HTTPS_PROXY",
        ),
        (
            "http://proxy.test:1",
            3,
            "host name is not known: check HTTPS_PROXY",
        ),
        (
            "socks5://me:s3cret@127.0.0.1:1",
            2,
            "list the server in NO_PROXY",
        ),
        (
            "https://me:s3cret@127.0.0.1:1",
            2,
            "HTTPS_PROXY does not name",
        ),
        ("me@s3cret path", 2, "HTTPS_PROXY does not name"),
    ] {
        for command in ["models", "doctor"] {
            let args = [command, "https://models.test:5", "--timeout", "1"];
            let (got, said) = run(&args, &[("HTTPS_PROXY", at)]);
            assert!(got == code && said.contains(words), "{got} {said}");
        }
    }
}
