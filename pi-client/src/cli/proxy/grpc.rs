//! The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`.

use std::collections::HashMap;
use std::sync::Arc;

use pi_client::{ClientError, ErrorClass};
use pi_proto::inference::grpc_inference_service_server::GrpcInferenceService;
use pi_proto::inference::infer_parameter::ParameterChoice;
use pi_proto::inference::model_infer_request::InferInputTensor;
use pi_proto::inference::model_infer_response::InferOutputTensor;
use pi_proto::inference::model_metadata_response::TensorMetadata;
use pi_proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
};
use tonic::{Code, Request, Response, Status};

use super::service::Proxy;
use super::tensor::{self, Data, INPUT, Output, PLATFORM, Tensor, Values, refused};

/// The service.
pub(crate) struct Service(pub(crate) Arc<Proxy>);

fn status(error: &ClientError) -> Status {
    let code = match error.class() {
        ErrorClass::Usage | ErrorClass::Input => Code::InvalidArgument,
        ErrorClass::Quota => Code::ResourceExhausted,
        ErrorClass::Unreachable => Code::Unavailable,
        ErrorClass::Refused => Code::PermissionDenied,
        ErrorClass::Version => Code::FailedPrecondition,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

impl Service {
    fn check(&self, model: &str, version: &str) -> Result<(), Status> {
        if self.0.knows(model, version) {
            return Ok(());
        }
        Err(Status::not_found(self.0.unknown(model, version)))
    }

    async fn infer(&self, request: &ModelInferRequest) -> Result<ModelInferResponse, ClientError> {
        let raw = &request.raw_input_contents;
        if !raw.is_empty() && raw.len() != request.inputs.len() {
            return Err(refused(format!(
                "{} raw contents for {} inputs",
                raw.len(),
                request.inputs.len()
            )));
        }
        tensor::check_parameters("it", request.parameters.keys(), &[])?;
        for input in &request.inputs {
            let whose = format!("input '{}'", input.name);
            tensor::check_parameters(&whose, input.parameters.keys(), &[])?;
        }
        for output in &request.outputs {
            let whose = format!("output '{}'", output.name);
            tensor::check_parameters(&whose, output.parameters.keys(), &[])?;
        }
        let mut inputs = Vec::with_capacity(request.inputs.len());
        for (i, input) in request.inputs.iter().enumerate() {
            let data = match raw.get(i) {
                Some(bytes) => Data::from_bytes(&input.datatype, bytes)?,
                None => contents(input)?,
            };
            inputs.push(Tensor::new(&input.shape, data)?);
        }
        let names: Vec<&str> = request.outputs.iter().map(|o| o.name.as_str()).collect();
        let model = &self.0.client.description().model;
        tensor::check_names(model, &names)?;
        let answers = self.0.infer(inputs).await?;
        let outputs = tensor::outputs(model, &answers, &names)?;
        let costs = tensor::costs(&answers).into_iter().map(|(name, value)| {
            let choice = Some(ParameterChoice::DoubleParam(value));
            let parameter = InferParameter {
                parameter_choice: choice,
            };
            (name.to_owned(), parameter)
        });
        // Whoever sends raw bytes reads them.
        let is_raw = !raw.is_empty();
        Ok(ModelInferResponse {
            model_name: self.0.name().to_owned(),
            model_version: "1".into(),
            id: request.id.clone(),
            parameters: costs.collect(),
            raw_output_contents: match is_raw {
                true => outputs.iter().map(|o| o.to_bytes().into()).collect(),
                false => vec![],
            },
            outputs: outputs.into_iter().map(|o| described(o, is_raw)).collect(),
        })
    }
}

fn contents(input: &InferInputTensor) -> Result<Data, ClientError> {
    let contents = input.contents.as_ref();
    let contents = contents.ok_or_else(|| refused("an input without contents"))?;
    match input.datatype.as_str() {
        "FP32" => Ok(Data::F32(contents.fp32_contents.clone())),
        "UINT8" => {
            let values = contents.uint_contents.iter();
            let values: Result<Vec<u8>, _> = values.map(|&v| u8::try_from(v)).collect();
            let wrong = |_| refused("a UINT8 value is larger than 255");
            Ok(Data::U8(values.map_err(wrong)?))
        }
        other => Data::from_bytes(other, &[]),
    }
}

fn described(output: Output, is_raw: bool) -> InferOutputTensor {
    let contents = (!is_raw).then(|| {
        let mut contents = InferTensorContents::default();
        match output.values {
            Values::F32(values) => contents.fp32_contents = values,
            Values::I64(values) => contents.int64_contents = values,
        }
        contents
    });
    InferOutputTensor {
        name: output.name.into(),
        datatype: output.datatype.into(),
        shape: output.shape,
        parameters: HashMap::new(),
        contents,
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
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
        let ready = self.0.is_ready();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let asked = request.get_ref();
        let ready = self.0.is_ready() && self.0.knows(&asked.name, &asked.version);
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: concat!(env!("CARGO_PKG_NAME"), " proxy").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: vec![],
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let asked = request.get_ref();
        self.check(&asked.name, &asked.version)?;
        let model = &self.0.client.description().model;
        let (datatype, shape) = tensor::input_of(model);
        let tensor = |(name, datatype, shape): (&str, &str, Vec<i64>)| TensorMetadata {
            name: name.into(),
            datatype: datatype.into(),
            shape,
        };
        Ok(Response::new(ModelMetadataResponse {
            name: self.0.name().to_owned(),
            versions: vec!["1".into()],
            platform: PLATFORM.into(),
            inputs: vec![tensor((INPUT, datatype, shape))],
            outputs: tensor::outputs_of(model).into_iter().map(tensor).collect(),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.get_ref();
        self.check(&request.model_name, &request.model_version)?;
        let answer = self.infer(request).await.map_err(|e| status(&e))?;
        Ok(Response::new(answer))
    }
}
