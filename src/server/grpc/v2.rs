//! The Open Inference Protocol over gRPC.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::FuturesOrdered;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::{Deflate, Gzip};
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::arrival::arrival;
use super::stream::Answer;
use super::{convert, stream};
use crate::server::Core;
use crate::server::ask::Clock;
use crate::server::oip::{
    self, Data, Infer, Parameters, Tensor, Value, check_load, check_unload, describe,
};
use crate::server::pb::inference as pb;
use crate::server::record::{Record, request_id};
use crate::service::Error;
use crate::telemetry::Protocol;
use pb::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};

type Generated = GrpcInferenceServiceServer<Service>;

pub(super) struct Service {
    core: Arc<Core>,
}

/// The generated server, made anew for each call: how long a message may be follows from the models that are served.
#[derive(Clone)]
pub(super) struct Server(Arc<Service>);

impl Server {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self(Arc::new(Service { core }))
    }
}

impl NamedService for Server {
    const NAME: &'static str = <Generated as NamedService>::NAME;
}

impl tower::Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = <Generated as tower::Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Generated::from_arc(Arc::clone(&self.0))
            .accept_compressed(Gzip)
            .accept_compressed(Deflate)
            .max_decoding_message_size(oip::message_limit(&self.0.core))
            .call(request)
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(
        &self,
        _: Request<pb::ServerLiveRequest>,
    ) -> Result<Response<pb::ServerLiveResponse>, Status> {
        Ok(Response::new(pb::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<pb::ServerReadyRequest>,
    ) -> Result<Response<pb::ServerReadyResponse>, Status> {
        let ready = self.core.classify.is_ready();
        Ok(Response::new(pb::ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<pb::ModelReadyRequest>,
    ) -> Result<Response<pb::ModelReadyResponse>, Status> {
        let pb::ModelReadyRequest { name, version } = request.into_inner();
        let ready = describe::is_ready(&self.core, &name, &version);
        Ok(Response::new(pb::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<pb::ServerMetadataRequest>,
    ) -> Result<Response<pb::ServerMetadataResponse>, Status> {
        Ok(Response::new(describe::server()))
    }

    async fn model_metadata(
        &self,
        request: Request<pb::ModelMetadataRequest>,
    ) -> Result<Response<pb::ModelMetadataResponse>, Status> {
        let pb::ModelMetadataRequest { name, version } = request.into_inner();
        shown(describe::metadata(&self.core, &name, &version))
    }

    async fn model_infer(
        &self,
        request: Request<pb::ModelInferRequest>,
    ) -> Result<Response<pb::ModelInferResponse>, Status> {
        let arrival = arrival(&request)?;
        let unary = arrival.unary()?;
        let infer = understood(request.into_inner());
        let result = async {
            let answer = oip::infer(
                &self.core,
                unary.room(),
                arrival.clock,
                infer?,
                &unary.record,
            );
            answer.await.map(response)
        };
        let result = result.await;
        unary.record.outcome(&result);
        shown(result)
    }

    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<pb::ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<pb::ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let arrival = arrival(&request)?;
        let core = Arc::clone(&self.core);
        let answers = stream::answers::<_, _, FuturesOrdered<_>>(
            core,
            arrival,
            request.into_inner(),
            streamed,
        );
        Ok(Response::new(Box::pin(answers)))
    }

    async fn model_config(
        &self,
        request: Request<pb::ModelConfigRequest>,
    ) -> Result<Response<pb::ModelConfigResponse>, Status> {
        let pb::ModelConfigRequest { name, version } = request.into_inner();
        let config = describe::config(&self.core, &name, &version);
        shown(config.map(|config| pb::ModelConfigResponse {
            config: Some(config),
        }))
    }

    async fn model_statistics(
        &self,
        request: Request<pb::ModelStatisticsRequest>,
    ) -> Result<Response<pb::ModelStatisticsResponse>, Status> {
        let pb::ModelStatisticsRequest { name, version } = request.into_inner();
        shown(describe::statistics(&self.core, &name, &version))
    }

    async fn repository_index(
        &self,
        request: Request<pb::RepositoryIndexRequest>,
    ) -> Result<Response<pb::RepositoryIndexResponse>, Status> {
        let pb::RepositoryIndexRequest {
            repository_name,
            ready,
        } = request.into_inner();
        let index = the_repository(&repository_name).map(|()| describe::index(&self.core, ready));
        shown(index)
    }

    async fn repository_model_load(
        &self,
        request: Request<pb::RepositoryModelLoadRequest>,
    ) -> Result<Response<pb::RepositoryModelLoadResponse>, Status> {
        let pb::RepositoryModelLoadRequest {
            repository_name,
            model_name,
            parameters,
        } = request.into_inner();
        let loaded = async {
            the_repository(&repository_name)?;
            check_load(parameters.keys().map(String::as_str))?;
            self.core.classify.load(&model_name).await
        };
        shown(loaded.await.map(|()| pb::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<pb::RepositoryModelUnloadRequest>,
    ) -> Result<Response<pb::RepositoryModelUnloadResponse>, Status> {
        let pb::RepositoryModelUnloadRequest {
            repository_name,
            model_name,
            parameters,
        } = request.into_inner();
        let unloaded = async {
            the_repository(&repository_name)?;
            let parameters = parameters.into_iter();
            check_unload(&parameters.map(repository_parameter).collect())?;
            self.core.classify.unload(&model_name).await
        };
        shown(
            unloaded
                .await
                .map(|()| pb::RepositoryModelUnloadResponse {}),
        )
    }
}

fn shown<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(convert::status)
}

/// There is one repository, which has no name.
fn the_repository(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(
        "repository_name is given, but there is one repository, which has no name; leave it out",
    ))
}

/// One request of a stream. An error is an answer like any other, so that those after it come.
fn streamed(
    core: Arc<Core>,
    clock: Clock,
    request: pb::ModelInferRequest,
) -> Answer<pb::ModelStreamInferResponse> {
    let id = request.id.clone();
    // the id goes back as it came; the log gets one that is fit for it
    let span = tracing::info_span!("request", id = request_id(Some(&id)));
    let answer = async move {
        let record = Record::new(&core, Protocol::Grpc);
        let result = async {
            let infer = understood(request)?;
            oip::infer(&core, None, clock, infer, &record)
                .await
                .map(response)
        };
        let result = result.await;
        record.outcome(&result);
        match result {
            Ok(response) => pb::ModelStreamInferResponse {
                error_message: String::new(),
                infer_response: Some(response),
            },
            Err(error) => pb::ModelStreamInferResponse {
                error_message: error.message,
                // says which request it was
                infer_response: Some(pb::ModelInferResponse {
                    id,
                    ..Default::default()
                }),
            },
        }
    };
    Box::pin(answer.instrument(span))
}

/// # Errors
/// When the values are in two places, or the raw ones are not one for each input.
fn understood(request: pb::ModelInferRequest) -> Result<Infer, Error> {
    let (inputs, raw) = (request.inputs, request.raw_input_contents);
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(Error::invalid(format!(
            "raw_input_contents has {} elements for {} inputs; expected one for each",
            raw.len(),
            inputs.len()
        )));
    }
    let mut raw = raw.into_iter();
    let mut tensors = Vec::with_capacity(inputs.len());
    for input in inputs {
        let data = match (raw.next(), input.contents) {
            (Some(raw), None) => Data::Raw(raw),
            (None, Some(contents)) => values(contents)?,
            (None, None) => Data::None,
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "an input has both contents and raw_input_contents; give its values once",
                ));
            }
        };
        tensors.push(Tensor {
            name: input.name,
            datatype: input.datatype,
            shape: input.shape,
            parameters: parameters(input.parameters),
            data,
        });
    }
    let outputs = request.outputs.into_iter();
    Ok(Infer {
        model: request.model_name,
        version: request.model_version,
        id: request.id,
        parameters: parameters(request.parameters),
        inputs: tensors,
        outputs: outputs
            .map(|output| (output.name, parameters(output.parameters)))
            .collect(),
    })
}

/// # Errors
/// For values of a type that no input has.
fn values(contents: pb::InferTensorContents) -> Result<Data, Error> {
    let floats = !contents.fp32_contents.is_empty();
    let elements = !contents.bytes_contents.is_empty();
    let others = [
        contents.bool_contents.is_empty(),
        contents.int_contents.is_empty(),
        contents.int64_contents.is_empty(),
        contents.uint_contents.is_empty(),
        contents.uint64_contents.is_empty(),
        contents.fp64_contents.is_empty(),
    ];
    match (floats, elements, others.iter().all(|empty| *empty)) {
        (true, false, true) => Ok(Data::Floats(contents.fp32_contents)),
        (false, true, true) => Ok(Data::Elements(contents.bytes_contents)),
        (false, false, true) => Ok(Data::None),
        _ => Err(Error::invalid(
            "the contents of the input are not in fp32_contents (for FP32) or bytes_contents (for BYTES) alone",
        )),
    }
}

fn parameters(map: HashMap<String, pb::InferParameter>) -> Parameters {
    use pb::infer_parameter::ParameterChoice as Choice;
    let value = |parameter: pb::InferParameter| match parameter.parameter_choice {
        Some(Choice::BoolParam(value)) => Value::Bool(value),
        Some(Choice::Int64Param(value)) => Value::Int(value.into()),
        Some(Choice::Uint64Param(value)) => Value::Int(value.into()),
        Some(Choice::DoubleParam(value)) => Value::Float(value),
        Some(Choice::StringParam(value)) => Value::Text(value),
        None => Value::Other,
    };
    let map = map.into_iter();
    map.map(|(name, parameter)| (name, value(parameter)))
        .collect()
}

fn repository_parameter(
    (name, parameter): (String, pb::ModelRepositoryParameter),
) -> (String, Value) {
    use pb::model_repository_parameter::ParameterChoice as Choice;
    let value = match parameter.parameter_choice {
        Some(Choice::BoolParam(value)) => Value::Bool(value),
        Some(Choice::Int64Param(value)) => Value::Int(value.into()),
        Some(Choice::StringParam(value)) => Value::Text(value),
        Some(Choice::BytesParam(_)) | None => Value::Other,
    };
    (name, value)
}

fn response(answer: oip::Answer) -> pb::ModelInferResponse {
    let tensor = |tensor: &oip::OutputTensor| pb::model_infer_response::InferOutputTensor {
        name: tensor.name.to_owned(),
        datatype: tensor.datatype.to_owned(),
        shape: tensor.shape.map(|size| size as i64).into(),
        ..Default::default()
    };
    let raw = |tensor: &oip::OutputTensor| tensor.raw().into();
    pb::ModelInferResponse {
        model_name: answer.model.name.clone(),
        model_version: answer.model.version.clone(),
        id: answer.id,
        outputs: answer.outputs.iter().map(tensor).collect(),
        raw_output_contents: answer.outputs.iter().map(raw).collect(),
        ..Default::default()
    }
}
