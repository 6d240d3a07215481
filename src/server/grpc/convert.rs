//! The service's words in protobuf and in gRPC statuses.

use std::time::Duration;

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code as Grpc, Status};

use crate::server::ask::{Ask, Classified};
use crate::server::guard::cause;
use crate::server::{pb, status as table};
use crate::service::{Code, Error, ModelState, ModelStatus, Prediction, Timing, VersionStatus};

/// An error as a status, with its code and when to come back in the trailers.
pub(super) fn status(error: Error) -> Status {
    let (_, code) = table::of(error.code);
    let mut trailers = MetadataMap::new();
    trailers.insert(
        "resnetd-code",
        AsciiMetadataValue::from_static(error.code.as_str()),
    );
    if let Some(after) = error.retry_after {
        let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        trailers.insert("grpc-retry-pushback-ms", AsciiMetadataValue::from(ms));
    }
    Status::with_metadata(code, error.message, trailers)
}

/// What tonic refused before a handler saw it, or the guard under it. Its decoder calls a message that is no protobuf
/// INTERNAL and one over the limit OUT_OF_RANGE; both are the caller's.
pub(super) fn refused_by_tonic(status: &Status) -> Error {
    if let Some(error) = cause(status) {
        return error;
    }
    let message = status.message();
    match status.code() {
        Grpc::OutOfRange | Grpc::ResourceExhausted => Error::new(
            Code::BodyTooLarge,
            format!("the message is larger than allowed: {message}"),
        ),
        Grpc::Cancelled => Error::new(Code::Cancelled, message),
        _ => Error::new(
            Code::InvalidRequest,
            format!("the message cannot be read: {message}"),
        ),
    }
}

pub(super) fn ask(request: pb::ClassifyRequest) -> Ask {
    Ask {
        images: request.images.into_iter().map(Ok).collect(),
        model: Some(request.model).filter(|model| !model.is_empty()),
        top_k: usize::try_from(request.top_k)
            .ok()
            .filter(|&top_k| top_k != 0),
    }
}

pub(super) fn response(id: String, answer: Classified) -> pb::ClassifyResponse {
    pb::ClassifyResponse {
        id,
        model: answer.model.name.clone(),
        version: answer.model.version.clone(),
        depth: number(answer.model.depth),
        results: answer.results.into_iter().map(image_result).collect(),
        timing: Some(timing(answer.timing)),
    }
}

pub(super) fn error(error: Error) -> pb::Error {
    pb::Error {
        code: error.code.as_str().to_owned(),
        message: error.message,
    }
}

pub(super) fn model(model: ModelStatus) -> pb::Model {
    let mut answer = pb::Model {
        versions: model.versions.iter().map(version).collect(),
        ..Default::default()
    };
    if let Some(newest) = model.newest() {
        let pb::ModelVersion {
            version,
            state,
            error,
        } = self::version(newest);
        answer = pb::Model {
            version,
            state,
            error,
            ..answer
        };
    }
    if let Some(served) = model.ready().next() {
        answer.architecture = served.architecture.to_owned();
        answer.family = served.family.to_owned();
        answer.depth = number(served.depth);
        answer.classes = number(served.labels.len());
        answer.input_size = number(served.input.height);
        answer.parameters = served.counts.parameters;
        answer.device = served.engine.device.clone();
    }
    answer.name = model.name;
    answer
}

fn version(status: &VersionStatus) -> pb::ModelVersion {
    use pb::model::State;
    let (state, error) = match &status.state {
        ModelState::Loading => (State::Loading, None),
        ModelState::Ready(_) => (State::Ready, status.reload_error.clone()),
        ModelState::Failed(reason) => (State::Failed, Some(reason.clone())),
        ModelState::Unloaded => (State::Unloaded, None),
    };
    pb::ModelVersion {
        version: status.version.clone().unwrap_or_default(),
        state: state.into(),
        error: error.unwrap_or_default(),
    }
}

fn image_result(result: Result<Vec<Prediction>, Error>) -> pb::ImageResult {
    use pb::image_result::Result as Wire;
    let result = match result {
        Ok(predictions) => Wire::Predictions(pb::Predictions {
            predictions: predictions.into_iter().map(prediction).collect(),
        }),
        Err(failed) => Wire::Error(error(failed)),
    };
    pb::ImageResult {
        result: Some(result),
    }
}

fn prediction(prediction: Prediction) -> pb::Prediction {
    pb::Prediction {
        class: number(prediction.class),
        label: prediction.label,
        probability: prediction.probability,
    }
}

fn timing(timing: Timing) -> pb::Timing {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    pb::Timing {
        decode_ms: ms(timing.decode),
        preprocess_ms: ms(timing.preprocess),
        queue_ms: ms(timing.queue),
        inference_ms: ms(timing.inference),
        total_ms: ms(timing.total),
    }
}

/// Depths, classes and sides are far below the limit of the wire's type.
fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
