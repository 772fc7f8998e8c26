//! The Open Inference Protocol over REST, with the extension by which tensors follow the JSON as bytes (`binary_tensor_data`: the
//! header Inference-Header-Content-Length says where the JSON ends).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use pi_client::{ClientError, ErrorClass};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::service::{MAX_REQUEST_BYTES, Proxy};
use super::tensor::{self, BINARY, Data, Flat, INPUT, PLATFORM, Tensor, refused};

const HEADER_LENGTH: &str = "inference-header-content-length";

/// Says what a tensor's numbers are, which MLServer's clients add. Arrays of numbers are all that is taken.
const CONTENT_TYPE: &str = "content_type";

#[derive(Deserialize)]
struct InferRequest {
    #[serde(default)]
    id: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    outputs: Vec<WantedOutput>,
}

#[derive(Deserialize)]
struct InputTensor {
    #[serde(default)]
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(default)]
    data: Option<Flat>,
}

#[derive(Deserialize)]
struct WantedOutput {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// All paths.
pub(crate) fn router(proxy: Arc<Proxy>) -> Router {
    let model = "/v2/models/{model}";
    Router::new()
        .route("/v2/health/live", get(|| async { StatusCode::OK }))
        .route("/v2/health/ready", get(ready))
        .route("/v2", get(about_server))
        .route("/v2/", get(about_server))
        .route(model, get(about_model))
        .route(&format!("{model}/versions/{{version}}"), get(about_model))
        .route(&format!("{model}/ready"), get(model_ready))
        .route(
            &format!("{model}/versions/{{version}}/ready"),
            get(model_ready),
        )
        .route(&format!("{model}/infer"), post(infer))
        .route(&format!("{model}/versions/{{version}}/infer"), post(infer))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "no such path; see /v2") })
        .with_state(proxy)
}

pub(super) fn failure(status: StatusCode, error: &str) -> Response {
    json_response(status, &json!({ "error": error }))
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, kind)], value.to_string()).into_response()
}

fn from_error(error: &ClientError) -> Response {
    let status = match error.class() {
        ErrorClass::Usage | ErrorClass::Input => StatusCode::BAD_REQUEST,
        ErrorClass::Quota => StatusCode::TOO_MANY_REQUESTS,
        ErrorClass::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::Refused => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_GATEWAY,
    };
    let mut response = failure(status, &error.to_string());
    if let Some(wait) = error.retry_after() {
        let seconds = HeaderValue::from(wait.as_secs().max(1));
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

async fn ready(State(proxy): State<Arc<Proxy>>) -> Response {
    match proxy.client.trouble() {
        None => StatusCode::OK.into_response(),
        Some(trouble) => failure(StatusCode::SERVICE_UNAVAILABLE, &trouble),
    }
}

async fn about_server() -> Response {
    json_response(
        StatusCode::OK,
        &json!({
            "name": concat!(env!("CARGO_PKG_NAME"), " proxy"),
            "version": env!("CARGO_PKG_VERSION"),
            "extensions": [BINARY],
        }),
    )
}

#[derive(Deserialize)]
struct ModelPath {
    model: String,
    #[serde(default)]
    version: String,
}

fn unknown(proxy: &Proxy, path: &ModelPath) -> Response {
    let text = proxy.unknown(&path.model, &path.version);
    failure(StatusCode::NOT_FOUND, &text)
}

async fn model_ready(State(proxy): State<Arc<Proxy>>, Path(path): Path<ModelPath>) -> Response {
    if !proxy.knows(&path.model, &path.version) {
        return unknown(&proxy, &path);
    }
    ready(State(proxy)).await
}

async fn about_model(State(proxy): State<Arc<Proxy>>, Path(path): Path<ModelPath>) -> Response {
    if !proxy.knows(&path.model, &path.version) {
        return unknown(&proxy, &path);
    }
    let model = &proxy.client.description().model;
    let (datatype, shape) = tensor::input_of(model);
    let outputs = tensor::outputs_of(model).into_iter();
    let outputs: Vec<Value> = outputs
        .map(|(name, datatype, shape)| json!({"name": name, "datatype": datatype, "shape": shape}))
        .collect();
    json_response(
        StatusCode::OK,
        &json!({
            "name": proxy.name(),
            "versions": ["1"],
            "platform": PLATFORM,
            "inputs": [{
                "name": INPUT,
                "datatype": datatype,
                "shape": shape,
            }],
            "outputs": outputs,
        }),
    )
}

async fn infer(
    State(proxy): State<Arc<Proxy>>,
    Path(path): Path<ModelPath>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !proxy.knows(&path.model, &path.version) {
        return unknown(&proxy, &path);
    }
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        let mut response = failure(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a compressed request (Content-Encoding) is not taken: send it as it is",
        );
        let plain = HeaderValue::from_static("identity");
        response
            .headers_mut()
            .insert(header::ACCEPT_ENCODING, plain);
        return response;
    }
    match answer(&proxy, &headers, &body).await {
        Ok(response) => response,
        Err(error) => from_error(&error),
    }
}

/// Refuses parameters that would have to change what is done.
fn check_parameters(request: &InferRequest) -> Result<(), ClientError> {
    let check = tensor::check_parameters;
    let of_request = request.parameters.keys();
    check("it", of_request, &["binary_data_output", CONTENT_TYPE])?;
    for input in &request.inputs {
        let whose = format!("input '{}'", input.name);
        let known = ["binary_data_size", CONTENT_TYPE];
        check(&whose, input.parameters.keys(), &known)?;
    }
    for output in &request.outputs {
        let whose = format!("output '{}'", output.name);
        check(
            &whose,
            output.parameters.keys(),
            &["binary_data", CONTENT_TYPE],
        )?;
    }
    Ok(())
}

async fn answer(proxy: &Proxy, headers: &HeaderMap, body: &[u8]) -> Result<Response, ClientError> {
    let length = headers.get(HEADER_LENGTH);
    let n_json = match length {
        None => body.len(),
        Some(n) => n
            .to_str()
            .ok()
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| refused(format!("{HEADER_LENGTH} is no number")))?,
    };
    let short = || refused("the request is shorter than it says");
    let (head, mut binary) = body.split_at_checked(n_json).ok_or_else(short)?;
    let mut request: InferRequest = serde_json::from_slice(head).map_err(|e| {
        refused(format!(
            "it is no request of the Open Inference Protocol: {e}"
        ))
    })?;
    check_parameters(&request)?;
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in &mut request.inputs {
        let size = input.parameters.get("binary_data_size");
        let data = match (size.and_then(Value::as_u64), input.data.take()) {
            (Some(n), _) => {
                let (bytes, rest) = binary.split_at_checked(n as usize).ok_or_else(short)?;
                binary = rest;
                Data::from_bytes(&input.datatype, bytes)?
            }
            (None, Some(data)) => Data::from_json(&input.datatype, data)?,
            (None, None) => return Err(refused("an input without data")),
        };
        inputs.push(Tensor::new(&input.shape, data)?);
    }
    let names: Vec<&str> = request.outputs.iter().map(|o| o.name.as_str()).collect();
    let model = &proxy.client.description().model;
    tensor::check_names(model, &names)?;
    let answers = proxy.infer(inputs).await?;
    let is_true = |value: Option<&Value>| value.and_then(Value::as_bool);
    let all_binary = is_true(request.parameters.get("binary_data_output")).unwrap_or(false);
    let (mut outputs, mut bytes) = (Vec::new(), Vec::new());
    for output in tensor::outputs(model, &answers, &names)? {
        let wanted = request.outputs.iter().find(|o| o.name == output.name);
        let as_bytes = wanted.and_then(|o| is_true(o.parameters.get("binary_data")));
        let mut value = json!({
            "name": output.name,
            "datatype": output.datatype,
            "shape": output.shape,
        });
        if as_bytes.unwrap_or(all_binary) {
            let data = output.to_bytes();
            value["parameters"] = json!({ "binary_data_size": data.len() });
            bytes.extend(data);
        } else {
            value["data"] = output.to_json();
        }
        outputs.push(value);
    }
    let costs = tensor::costs(&answers).into_iter();
    let costs: Map<String, Value> = costs.map(|(k, v)| (k.to_owned(), json!(v))).collect();
    let mut head = json!({
        "model_name": proxy.name(),
        "model_version": "1",
        "outputs": outputs,
        "parameters": costs,
    });
    if !request.id.is_empty() {
        head["id"] = json!(request.id);
    }
    if bytes.is_empty() {
        return Ok(json_response(StatusCode::OK, &head));
    }
    let head = head.to_string().into_bytes();
    let length = HeaderValue::from(head.len());
    let kind = HeaderValue::from_static("application/octet-stream");
    let body = [head, bytes].concat();
    let mut response = (StatusCode::OK, [(header::CONTENT_TYPE, kind)], body).into_response();
    response.headers_mut().insert(HEADER_LENGTH, length);
    Ok(response)
}
