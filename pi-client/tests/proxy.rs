//! The local proxy as a KServe or Triton client meets it, by REST and by gRPC.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pi_client::{Image, Sizing};
use pi_model::{Model, executor};
use pi_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use pi_proto::inference::infer_parameter::ParameterChoice;
use pi_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use pi_proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelMetadataRequest,
    ModelReadyRequest, ServerReadyRequest,
};
use serde_json::{Value, json};
use tonic::transport::Endpoint;

const MODEL: &str = "/v2/models/small";

struct Proxy {
    child: Child,
    address: String,
}

impl Proxy {
    fn start(url: &str, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pi-client"))
            .args(["proxy", url, "--model", "small", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .to_owned();
        Self { child, address }
    }

    /// Status, head and body of one call.
    fn call(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    fn infer(&self, request: &Value) -> (u16, Value) {
        let body = request.to_string();
        let (status, _, body) = self.call("POST", &format!("{MODEL}/infer"), "", body.as_bytes());
        (status, serde_json::from_slice(&body).unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pixels(shade: u8) -> Vec<u8> {
    (0..192u8).map(|i| i.wrapping_mul(7) ^ shade).collect()
}

fn in_the_clear(dir: &Path, pixels: Vec<u8>) -> usize {
    let model = Model::load(dir).unwrap();
    let image = Image::from_pixels(8, 8, 3, pixels).unwrap();
    let values = image
        .fit(model.public(), Sizing::Exact)
        .unwrap()
        .input
        .values;
    executor::run(&model, &values).unwrap().class()
}

#[test]
fn rest_answers_in_json_and_in_bytes_and_refuses_what_it_cannot_do() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 2);
    let proxy = Proxy::start(&url, &["--keep", "2"]);
    for path in [
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/small/ready",
    ] {
        assert_eq!(proxy.call("GET", path, "", b"").0, 200, "{path}");
    }
    let (_, _, about) = proxy.call("GET", "/v2", "", b"");
    assert!(String::from_utf8_lossy(&about).contains("binary_tensor_data"));
    let (_, _, about) = proxy.call("GET", MODEL, "", b"");
    let about: Value = serde_json::from_slice(&about).unwrap();
    assert_eq!(about["inputs"][0]["shape"], json!([-1, 3, 8, 8]));
    assert_eq!(about["outputs"][1]["name"], "class");
    // Two images of bytes, channels last.
    let two = [pixels(1), pixels(2)].concat();
    let input = |datatype: &str, shape: Value, data: Value| json!({"id": "q1", "inputs": [{"name": "image", "datatype": datatype, "shape": shape, "data": data}]});
    let (status, answer) = proxy.infer(&input("UINT8", json!([2, 8, 8, 3]), json!(two)));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["id"], "q1");
    let clear = [1, 2].map(|shade| in_the_clear(dir.path(), pixels(shade)));
    assert_eq!(answer["outputs"][1]["data"], json!(clear));
    assert_eq!(answer["outputs"][0]["shape"], json!([2, 5]));
    assert!(answer["parameters"]["online_bytes"].as_f64() > Some(0.0));
    // The same as bytes behind the JSON, channels first, and only the class wanted.
    let planes: Vec<u8> = (0..192).map(|i| pixels(1)[i % 64 * 3 + i / 64]).collect();
    let head = json!({
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 3, 8, 8], "parameters": {"binary_data_size": 192}}],
        "outputs": [{"name": "class", "parameters": {"binary_data": true}}],
    });
    let head = head.to_string();
    let length = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    let body = [head.as_bytes(), &planes].concat();
    let (status, head, body) =
        proxy.call("POST", "/v2/models/small/versions/1/infer", &length, &body);
    assert_eq!(status, 200, "{head}");
    assert_eq!(body[body.len() - 8..], (clear[0] as i64).to_le_bytes());
    assert!(head.contains("inference-header-content-length"));
    // Mistakes.
    for (request, words) in [
        (input("UINT8", json!([1, 8, 8, 3]), json!([1, 2])), "shape"),
        (
            input("UINT8", json!([1, 1, 1, 3]), json!([1, 2, 300])),
            "0 to 255",
        ),
        (
            input("FP32", json!([1, 1, 1, 3]), json!([1, 2, 3])),
            "(C, H, W)",
        ),
        (
            input("FP32", json!([3, 8, 8]), json!(vec![200.0; 192])),
            "normalise",
        ),
        (input("INT8", json!([1]), json!([1])), "UINT8"),
        (
            input("UINT8", json!([1, 2]), json!([1, "x"])),
            "list of numbers",
        ),
        (json!({"inputs": []}), "0 inputs"),
        (json!({"nothing": 1}), "no request"),
        (
            json!({"inputs": [], "outputs": [{"name": "x"}]}),
            "no output 'x'",
        ),
    ] {
        let (status, answer) = proxy.infer(&request);
        let error = answer["error"].as_str().unwrap();
        assert!(
            status == 400 && error.contains(words),
            "{words}: {status} {error}"
        );
    }
    assert_eq!(proxy.call("GET", "/v2/models/other", "", b"").0, 404);
    assert_eq!(proxy.call("GET", "/nothing", "", b"").0, 404);
}

/// Every path that there is, by the content type of a program, and one that there is not.
const PATHS: [(&str, &str, &str); 20] = [
    ("GET", "/v2", "application/json"),
    ("GET", "/v2/", "application/json"),
    ("GET", "/v2/health/live", "application/json"),
    ("GET", "/v2/health/ready", "application/json"),
    ("GET", "/v2/models/small", "application/json"),
    ("GET", "/v2/models/small/versions/1", "application/json"),
    ("GET", "/v2/models/small/ready", "application/json"),
    (
        "GET",
        "/v2/models/small/versions/1/ready",
        "application/json",
    ),
    ("POST", "/v2/models/small/infer", "application/json"),
    (
        "POST",
        "/v2/models/small/versions/1/infer",
        "application/json",
    ),
    (
        "POST",
        "/inference.GRPCInferenceService/ServerLive",
        "application/grpc",
    ),
    (
        "POST",
        "/inference.GRPCInferenceService/ServerReady",
        "application/grpc",
    ),
    (
        "POST",
        "/inference.GRPCInferenceService/ModelReady",
        "application/grpc",
    ),
    (
        "POST",
        "/inference.GRPCInferenceService/ServerMetadata",
        "application/grpc",
    ),
    (
        "POST",
        "/inference.GRPCInferenceService/ModelMetadata",
        "application/grpc+proto",
    ),
    (
        "POST",
        "/inference.GRPCInferenceService/ModelInfer",
        "application/grpc",
    ),
    (
        "POST",
        "/inference.GRPCInferenceService/Unknown",
        "application/grpc",
    ),
    ("DELETE", "/v2/models/small/infer", "application/json"),
    ("POST", "/nothing", "application/json"),
    ("OPTIONS", "/", "application/json"),
];

/// Status of one call in HTTP/1.1 with these headers alone.
fn call_bare(address: &str, method: &str, path: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    // A message of gRPC without fields.
    let head = format!(
        "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: 5\r\n{headers}\r\n"
    );
    stream
        .write_all(&[head.as_bytes(), &[0; 5]].concat())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn no_path_is_open_to_a_web_page_in_either_version_of_http() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 2);
    let proxy = Proxy::start(&url, &["--keep", "0"]);
    let address = &proxy.address;
    let port = address.rsplit(':').next().unwrap();
    for (method, path, kind) in PATHS {
        let kind_of = format!("Content-Type: {kind}\r\n");
        let call = |headers: &str| call_bare(address, method, path, &(kind_of.clone() + headers));
        for host in [address.clone(), format!("localhost:{port}")] {
            let status = call(&format!("Host: {host}\r\n"));
            assert!(![403, 415].contains(&status), "{path}: {status}");
        }
        for headers in [
            format!("Host: {address}\r\nOrigin: http://example.com\r\n"),
            format!("Host: {address}\r\nOrigin: null\r\n"),
            format!("Host: {address}\r\nOrigin: http://{address}\r\n"),
            format!("Host: example.com:{port}\r\n"),
        ] {
            assert_eq!(call(&headers), 403, "{path}: {headers}");
        }
        // What a browser sends without asking.
        let is_grpc = kind.starts_with("application/grpc");
        for kind in [
            "Content-Type: text/plain\r\n",
            "Content-Type: application/x-www-form-urlencoded\r\n",
            "Content-Type: multipart/form-data; boundary=x\r\n",
            "",
        ] {
            let status = call_bare(address, method, path, &format!("Host: {address}\r\n{kind}"));
            assert_eq!(status == 415, is_grpc, "{path}: {kind}: {status}");
        }
    }
    // The same in HTTP/2, which has the host in the address.
    let far = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let foreign = far.clone().origin("http://example.com".parse().unwrap());
    for (endpoint, origin, is_open) in [
        (far.clone(), None, true),
        (far, Some("http://example.com"), false),
        (foreign, None, false),
    ] {
        let channel = endpoint.connect().await.unwrap();
        let mut client = GrpcInferenceServiceClient::new(channel);
        let mut request = tonic::Request::new(ServerReadyRequest {});
        if let Some(origin) = origin {
            request
                .metadata_mut()
                .insert("origin", origin.parse().unwrap());
        }
        let outcome = client.server_ready(request).await;
        match is_open {
            true => assert!(outcome.unwrap().get_ref().ready),
            false => {
                let error = outcome.unwrap_err();
                assert_eq!(error.code(), tonic::Code::PermissionDenied, "{error}");
                assert!(error.message().contains("not for web pages"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn what_a_request_asks_for_is_done_or_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 2);
    let proxy = Proxy::start(&url, &["--keep", "0"]);
    let request = |of_input: Value, of_output: Value| {
        json!({
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": pixels(1), "parameters": of_input}],
            "outputs": [{"name": "class", "parameters": of_output}],
        })
    };
    let shared = json!({"shared_memory_region": "o", "shared_memory_byte_size": 8});
    let hint = json!({"content_type": "np"});
    let (status, answer) = proxy.infer(&request(hint, json!({"binary_data": false})));
    assert_eq!(status, 200, "{answer}");
    for (body, words) in [
        (
            request(json!({}), json!({"classification": 3})),
            "output 'class' asks for classification",
        ),
        (
            request(json!({}), shared.clone()),
            "output 'class' stands in shared memory",
        ),
        (
            request(shared, json!({})),
            "input 'image' stands in shared memory",
        ),
        (
            request(json!({}), json!({"as": "text"})),
            "a parameter 'as', which",
        ),
    ] {
        let (status, answer) = proxy.infer(&body);
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer["error"].as_str().unwrap().contains(words),
            "{answer}"
        );
    }
    let (status, head, _) = proxy.call(
        "POST",
        &format!("{MODEL}/infer"),
        "Content-Encoding: gzip\r\n",
        b"\x1f\x8b",
    );
    assert_eq!(status, 415, "{head}");
    assert!(head.contains("accept-encoding: identity"), "{head}");
    let mut client = GrpcInferenceServiceClient::connect(format!("http://{}", proxy.address))
        .await
        .unwrap();
    let wanted = InferRequestedOutputTensor {
        name: "class".into(),
        parameters: [("classification".to_owned(), InferParameter::default())].into(),
    };
    let request = ModelInferRequest {
        model_name: "small".into(),
        outputs: vec![wanted],
        ..ModelInferRequest::default()
    };
    let error = client.model_infer(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("classification"), "{error}");
}

#[tokio::test]
async fn grpc_answers_from_what_is_kept_prepared() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 2);
    let proxy = Proxy::start(&url, &["--keep", "2"]);
    let mut client = GrpcInferenceServiceClient::connect(format!("http://{}", proxy.address))
        .await
        .unwrap();
    assert!(
        client
            .server_ready(ServerReadyRequest {})
            .await
            .unwrap()
            .get_ref()
            .ready
    );
    let asked = ModelReadyRequest {
        name: "small".into(),
        version: "1".into(),
    };
    assert!(client.model_ready(asked).await.unwrap().get_ref().ready);
    let unknown = ModelMetadataRequest {
        name: "other".into(),
        version: String::new(),
    };
    let error = client.model_metadata(unknown).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    // Normalised floats, as bytes and as numbers.
    let model = Model::load(dir.path()).unwrap();
    let input = &model.public().spec().input;
    let normalised: Vec<f32> = (0..192)
        .map(|i| {
            let (channel, pixel) = (i / 64, pixels(3)[i % 64 * 3 + i / 64]);
            ((f64::from(pixel) / 255.0 - input.mean[channel]) / input.std[channel]) as f32
        })
        .collect();
    let tensor = |contents| InferInputTensor {
        name: "image".into(),
        datatype: "FP32".into(),
        shape: vec![1, 3, 8, 8],
        contents,
        ..InferInputTensor::default()
    };
    let request = |inputs, raw_input_contents| ModelInferRequest {
        model_name: "small".into(),
        inputs,
        raw_input_contents,
        ..ModelInferRequest::default()
    };
    let raw: Vec<u8> = normalised.iter().flat_map(|v| v.to_le_bytes()).collect();
    let contents = InferTensorContents {
        fp32_contents: normalised.clone(),
        ..InferTensorContents::default()
    };
    let clear = in_the_clear(dir.path(), pixels(3)) as i64;
    let answer = client
        .model_infer(request(vec![tensor(Some(contents))], vec![]))
        .await
        .unwrap()
        .into_inner();
    let class = answer.outputs[1].contents.as_ref().unwrap();
    assert_eq!(class.int64_contents, [clear]);
    // Once there was time to prepare, a query finds everything there.
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = client
            .model_infer(request(vec![tensor(None)], vec![raw.clone().into()]))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.raw_output_contents[1].as_ref(), clear.to_le_bytes());
        let ahead = answer.parameters["prepared_ahead"].parameter_choice.clone();
        if ahead == Some(ParameterChoice::DoubleParam(1.0)) {
            break;
        }
        assert!(Instant::now() < patience);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut nan = raw.clone();
    nan[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = client
        .model_infer(request(vec![tensor(None)], vec![nan.into()]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("NaN"), "{error}");
}

#[cfg(unix)]
#[test]
fn it_listens_on_loopback_alone_and_stops_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 2);
    let output = Command::new(env!("CARGO_BIN_EXE_pi-client"))
        .args(["proxy", &url, "--listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--allow-remote"), "{said}");
    let mut proxy = Proxy::start(&url, &[]);
    let id = proxy.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let sent = Instant::now();
    assert!(proxy.child.wait().unwrap().success());
    assert!(sent.elapsed() < Duration::from_secs(1));
}
