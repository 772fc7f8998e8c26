//! The stop over the network: who is refused, who may finish, who is cut off, and that it always ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::time::{Duration, Instant};

use common::{TestServer, assert_close, image};
use pi_client::ClientError;
use pi_model::spec::OutputMode;
use pi_model::{Model, PublicPlan};
use pi_proto::v1::private_inference_client::PrivateInferenceClient;
use pi_proto::v1::{Frame, Open};
use pi_protocol::wire::PROTOCOL_VERSION;
use tokio::runtime::Runtime;
use tonic::{Code, Status};

/// Opens a session and is silent; the server waits for its set-up. The stream's end comes out of the channel.
fn silent(url: &str, model: &Model) -> (Runtime, std::sync::mpsc::Receiver<Option<Status>>) {
    let plan = PublicPlan::new(model.public(), 1).unwrap();
    let open = Frame {
        open: Some(Open {
            model: "small".into(),
            batch: 1,
            plan_hash: plan.hash().to_vec().into(),
            protocol_version: PROTOCOL_VERSION,
        }),
        ..Frame::default()
    };
    let runtime = Runtime::new().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let (keep_open, queue) = tokio::sync::mpsc::channel(1);
    let mut answers = runtime.block_on(async {
        let mut stub = PrivateInferenceClient::connect(url.to_owned())
            .await
            .unwrap();
        keep_open.send(open).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(queue);
        stub.session(stream).await.unwrap().into_inner()
    });
    runtime.spawn(async move {
        let _keep_open = keep_open;
        let end = loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        };
        let _ = tell.send(end);
    });
    (runtime, told)
}

fn health(server: &TestServer) -> Result<i32, Status> {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    Runtime::new().unwrap().block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(server.url.clone()).unwrap();
        let mut client = HealthClient::new(endpoint.connect().await.unwrap());
        let service = "pi.v1.PrivateInference".to_owned();
        let answer = client.check(HealthCheckRequest { service }).await?;
        Ok(answer.into_inner().status)
    })
}

fn is_unavailable(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Refused {
            code: Code::Unavailable,
            ..
        }
    )
}

#[test]
fn a_silent_client_in_a_running_step_is_cut_off_at_the_deadline() {
    let mut server = TestServer::with(OutputMode::Logits, |o| {
        o.drain_timeout = Duration::from_millis(1500);
        o.limits.idle_timeout = Duration::from_secs(600);
    });
    let (_runtime, ended) = silent(&server.url, &server.model);
    let other = server.connect();
    let description = other.describe(None).unwrap();
    let mut idle = other.session(&description, 1).unwrap();
    idle.prepare().unwrap();
    assert_eq!(health(&server).unwrap(), 1);

    let started = Instant::now();
    server.begin_stop();
    // The silent one keeps the server draining, so these see it drain: not ready, no session, no inference.
    while health(&server).unwrap() == 1 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let refused = server.connect().session(&description, 1).err().unwrap();
    assert!(is_unavailable(&refused), "{refused}");
    // What was prepared is still of use, and nothing more is prepared.
    let input = image(&server.model, 0);
    assert_close(&server.model, &input, &idle.infer(&input).unwrap().output);
    let refused = idle.infer(&input).unwrap_err().to_string();
    assert!(refused.contains("stopping"), "{refused}");
    assert!(
        ended.try_recv().is_err(),
        "it was cut off before the deadline"
    );

    server.stop();
    assert!(started.elapsed() >= Duration::from_millis(1500));
    assert!(started.elapsed() < Duration::from_secs(15));
    let end = ended
        .recv_timeout(Duration::from_secs(15))
        .unwrap()
        .unwrap();
    assert_eq!(end.code(), Code::Unavailable, "{end}");
}

#[test]
fn a_step_that_runs_may_finish() {
    let mut server = TestServer::with(OutputMode::Logits, |o| {
        o.drain_timeout = Duration::from_secs(60);
    });
    let client = server.connect();
    let mut session = client.session(&client.describe(None).unwrap(), 4).unwrap();
    let meter = std::sync::Arc::clone(session.meter());
    let before = meter.n_bytes_sent();
    let input = image(&server.model, 1);
    let (model, working) = (std::sync::Arc::clone(&server.model), input.clone());
    let client = std::thread::spawn(move || {
        session.prepare().map_err(|e| e.to_string())?;
        let answer = session.infer(&working).map_err(|e| e.to_string())?;
        assert_close(&model, &working, &answer.output);
        Ok::<_, String>(())
    });
    while meter.n_bytes_sent() == before {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(10));
    let started = Instant::now();
    server.stop();
    assert!(
        started.elapsed() < Duration::from_secs(50),
        "it waited for a session without work"
    );
    // The batch was finished; the inference after it was refused, unless it came first.
    if let Err(said) = client.join().unwrap() {
        assert!(said.contains("stopping"), "{said}");
    }
}

#[test]
fn a_stop_without_sessions_does_not_wait() {
    let mut server = TestServer::with(OutputMode::Logits, |o| {
        o.drain_timeout = Duration::from_secs(600);
    });
    let client = server.connect();
    client.models().unwrap();
    let started = Instant::now();
    server.stop();
    assert!(started.elapsed() < Duration::from_secs(30));
}

/// The program itself, by SIGTERM, with a client in the middle of a step and a connection that never said a word.
#[test]
fn sigterm_ends_the_program_although_clients_stay_silent() {
    use std::io::{BufRead as _, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let model = common::model("small", OutputMode::Logits);
    model.save(dir.path()).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_pi-server"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"])
        .args([
            "--drain-timeout",
            "500ms",
            "--idle-timeout",
            "10m",
            "--model",
        ])
        .arg(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap();
    let _mute = std::net::TcpStream::connect(address).unwrap();
    let (_runtime, _ended) = silent(&format!("http://{address}"), &model);
    let started = Instant::now();
    let kill = std::process::Command::new("kill")
        .arg(child.id().to_string())
        .status();
    assert!(kill.unwrap().success());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("the server did not stop");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success() && started.elapsed() >= Duration::from_millis(500));
}
