//! A repository over the network: versions that change under running sessions, a broken model beside a good one, loading by
//! hand; and what tools of the Open Inference Protocol are told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use common::http;
use pi_model::Model;
use pi_model::spec::OutputMode;
use pi_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use pi_proto::inference::{
    ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerLiveRequest,
    ServerMetadataRequest, ServerReadyRequest,
};
use pi_server::{AdminListen, Mode, RootOptions};
use serde_json::Value;
use tonic::Code;

fn save(root: &Path, folder: &str, name: &str, mode: OutputMode) -> Model {
    let model = common::model(name, mode);
    model.save(&root.join(folder)).unwrap();
    model
}

fn serve(root: &Path, mode: Mode, load: &[&str]) -> common::TestServer {
    common::TestServer::with(OutputMode::Logits, |o| {
        o.models.clear();
        o.admin = AdminListen::At(([127, 0, 0, 1], 0).into());
        o.repository = Some(RootOptions {
            path: root.to_owned(),
            mode,
            interval: Duration::from_millis(50),
            load: load.iter().map(ToString::to_string).collect(),
            versions: Default::default(),
        });
    })
}

fn ready(admin: SocketAddr) -> (u16, Value) {
    let (code, body) = http(admin, "GET", "/readyz");
    (code, serde_json::from_str(&body).unwrap())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < patience, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_session_keeps_its_version_while_a_new_one_is_loaded_and_a_broken_model_harms_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let one = save(dir.path(), "small/1", "small", OutputMode::Logits);
    save(dir.path(), "other/1", "other", OutputMode::Logits);
    std::fs::write(dir.path().join("other/1/model.safetensors"), "broken").unwrap();
    let server = serve(dir.path(), Mode::Poll, &[]);
    let admin = server.admin.unwrap();
    let (code, said) = ready(admin);
    assert_eq!(code, 200);
    let broken = &said["models"][1];
    assert_eq!(
        (&broken["name"], &broken["ready"]),
        (&"other".into(), &false.into())
    );
    assert!(
        broken["problems"][0]
            .as_str()
            .unwrap()
            .contains("version 1: "),
        "{said}"
    );
    let (_, metrics) = http(admin, "GET", "/metrics");
    assert!(
        metrics.contains("pi_model_load_failures_total{model=\"other\"} 1"),
        "{metrics}"
    );

    let client = server.connect();
    assert_eq!(client.models().unwrap(), ["small"]);
    let mut old = client.session(&client.describe(None).unwrap(), 1).unwrap();
    let two = save(dir.path(), "small/2", "small", OutputMode::Argmax);
    until("version 2 is not served", || {
        ready(admin).1["models"][0]["version"] == 2
    });
    let mut new = client.session(&client.describe(None).unwrap(), 1).unwrap();
    let input = common::image(&one, 1);
    common::assert_close(&one, &input, &old.infer(&input).unwrap().output);
    common::assert_close(&two, &input, &new.infer(&input).unwrap().output);

    save(dir.path(), "other/1", "other", OutputMode::Logits);
    until("the mended model is not served", || {
        client.models().unwrap() == ["other", "small"]
    });
    std::fs::remove_dir_all(dir.path().join("small")).unwrap();
    until("the removed model is served", || {
        client.models().unwrap() == ["other"]
    });
    common::assert_close(&one, &input, &old.infer(&input).unwrap().output);
}

#[test]
fn models_are_loaded_by_hand_on_the_admin_port_where_the_operator_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), "small/1", "small", OutputMode::Logits);
    save(dir.path(), "other/1", "other", OutputMode::Logits);
    let server = serve(dir.path(), Mode::Explicit, &["other"]);
    let (admin, client) = (server.admin.unwrap(), server.connect());
    assert_eq!(client.models().unwrap(), ["other"]);
    let path = |name: &str, what: &str| format!("/v2/repository/models/{name}/{what}");
    assert_eq!(http(admin, "POST", &path("small", "load")).0, 200);
    assert_eq!(client.models().unwrap(), ["other", "small"]);
    assert_eq!(http(admin, "POST", &path("other", "unload")).0, 200);
    assert_eq!(client.models().unwrap(), ["small"]);
    assert_eq!(http(admin, "GET", &path("other", "load")).0, 405);
    for name in ["none", "..%2Fsmall", "."] {
        let (code, said) = http(admin, "POST", &path(name, "load"));
        assert_eq!(code, 400, "{said}");
    }
    let (code, index) = http(admin, "POST", "/v2/repository/index");
    assert!(
        code == 200 && index.contains("\"name\":\"small\""),
        "{index}"
    );
    assert_eq!(http(admin, "POST", &path("small", "unload")).0, 200);
    assert_eq!(ready(admin).0, 503);

    let polled = serve(dir.path(), Mode::Poll, &[]);
    let (code, said) = http(polled.admin.unwrap(), "POST", &path("small", "unload"));
    assert!(code == 400 && said.contains("explicit"), "{said}");
}

#[test]
fn tools_of_the_open_inference_protocol_get_everything_but_an_inference_in_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), "small/3", "small", OutputMode::Logits);
    let server = serve(dir.path(), Mode::None, &[]);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut client = GrpcInferenceServiceClient::connect(server.url.clone())
            .await
            .unwrap();
        assert!(
            client
                .server_live(ServerLiveRequest {})
                .await
                .unwrap()
                .into_inner()
                .live
        );
        assert!(
            client
                .server_ready(ServerReadyRequest {})
                .await
                .unwrap()
                .into_inner()
                .ready
        );
        for (name, version, expected) in [
            ("small", "", true),
            ("small", "3", true),
            ("small", "4", false),
            ("other", "", false),
            ("", "", false),
        ] {
            let (name, version) = (name.to_owned(), version.to_owned());
            let answer = client
                .model_ready(ModelReadyRequest { name, version })
                .await;
            assert_eq!(answer.unwrap().into_inner().ready, expected);
        }
        let about = client
            .server_metadata(ServerMetadataRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(about.name, "pi-server");
        let asked = |name: &str| ModelMetadataRequest {
            name: name.into(),
            version: String::new(),
        };
        let about = client
            .model_metadata(asked("small"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (about.versions, &about.inputs[0].shape),
            (vec!["3".to_owned()], &vec![3, 8, 8])
        );
        assert_eq!(
            (&*about.outputs[0].name, &about.outputs[0].shape),
            ("logits", &vec![5])
        );
        let unknown = client.model_metadata(asked("other")).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        let plaintext = ModelInferRequest {
            model_name: "small".into(),
            raw_input_contents: vec![vec![7; 192].into()],
            ..ModelInferRequest::default()
        };
        let refused = client.model_infer(plaintext).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("pi-client infer"), "{refused}");
    });
}
