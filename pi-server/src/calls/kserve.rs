//! The Open Inference Protocol, version 2 (KServe, Triton), as far as it can be private: liveness, readiness and metadata for
//! tools that expect it. An inference with a plaintext tensor is refused, with the way to do it instead.
//!
//! Security: `ModelInfer` would tell the server the input. The entrance refuses it before its message is read.

use std::sync::Arc;

use pi_model::spec::OutputMode;
use pi_proto::inference::grpc_inference_service_server::GrpcInferenceService;
use pi_proto::inference::model_metadata_response::TensorMetadata;
use pi_proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use tonic::{Request, Response, Status};

use crate::calls::drain::Stage;
use crate::calls::entrance::plaintext;
use crate::calls::shared::{Shared, caller};
use crate::models::repository::Served;

/// What a metadata reader learns of how models are run.
const PLATFORM: &str = "private_inference_two_party";

/// The service `inference.GRPCInferenceService`.
pub struct Kserve(Arc<Shared>);

impl Kserve {
    /// Shows what is in `shared`.
    #[must_use]
    pub const fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    fn serves(&self) -> bool {
        self.0.drain.stage() == Stage::Serving
    }

    /// A model by name and, unless it is empty, version.
    fn find(&self, name: &str, version: &str) -> Option<Arc<Served>> {
        let found = self.0.repository.find(name).filter(|_| !name.is_empty())?;
        (version.is_empty() || version == self::version(&found)).then_some(found)
    }
}

/// A model that is mounted without a version is in its first.
fn version(model: &Served) -> String {
    model.version().unwrap_or(1).to_string()
}

fn metadata(model: &Served) -> ModelMetadataResponse {
    let public = model.model().public();
    let (spec, input) = (public.spec(), &public.spec().input);
    let (output, datatype, n) = match spec.output {
        OutputMode::Logits => ("logits", "FP32", public.n_outputs()),
        OutputMode::Argmax => ("class", "INT64", 1),
    };
    ModelMetadataResponse {
        name: model.name().to_owned(),
        versions: vec![version(model)],
        platform: PLATFORM.into(),
        inputs: vec![TensorMetadata {
            name: "image".into(),
            datatype: if input.takes_images() {
                "UINT8"
            } else {
                "FP32"
            }
            .into(),
            shape: input.shape().map(|n| n as i64).to_vec(),
        }],
        outputs: vec![TensorMetadata {
            name: output.into(),
            datatype: datatype.into(),
            shape: vec![n as i64],
        }],
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Kserve {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = self.serves() && self.0.repository.find("").is_some();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let asked = request.into_inner();
        let ready = self.serves() && self.find(&asked.name, &asked.version).is_some();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: vec![],
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let known = caller(&request).and_then(|_| {
            let asked = request.get_ref();
            let found = self.find(&asked.name, &asked.version);
            found.ok_or_else(|| self.0.unknown_model(&asked.name))
        });
        let answer = known.map(|model| Response::new(metadata(&model)));
        self.0.counted("ModelMetadata", answer)
    }

    async fn model_infer(
        &self,
        _: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        // The entrance has refused it before it was read.
        Err(plaintext())
    }
}
