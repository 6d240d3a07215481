//! The JSON of answers and errors.

use std::time::Duration;

use axum::Json;
use axum::http::HeaderValue;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::server::ask::Classified;
use crate::server::status;
use crate::service::{
    Code, Error, ModelState, ModelStatus, Prediction, Preprocessing, Provenance, ServedModel,
    Timing, VersionStatus,
};

/// When to come back, where the service does not say.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Serialize)]
pub(super) struct Answer {
    id: String,
    model: String,
    version: String,
    depth: usize,
    results: Vec<ImageResult>,
    timing_ms: TimingMs,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ImageResult {
    Good { predictions: Vec<Class> },
    Bad(ErrorBody),
}

#[derive(Serialize)]
struct Class {
    class: usize,
    label: String,
    probability: f32,
}

#[derive(Serialize)]
struct TimingMs {
    decode: f64,
    preprocess: f64,
    queue: f64,
    inference: f64,
    total: f64,
}

#[derive(Serialize)]
struct ErrorBody {
    error: String,
    code: &'static str,
}

/// A model as `/models` shows it: the version that answers where none is named, and the state of each.
#[derive(Serialize)]
pub(super) struct Model {
    name: String,
    #[serde(flatten)]
    newest: Option<Version>,
    #[serde(flatten)]
    details: Option<Details>,
    versions: Vec<Version>,
}

#[derive(Serialize)]
struct Version {
    version: Option<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What is known of a model that is ready.
#[derive(Serialize)]
struct Details {
    architecture: &'static str,
    family: &'static str,
    depth: usize,
    classes: usize,
    input_size: usize,
    parameters: u64,
    gmacs: f64,
    engine: &'static str,
    precision: &'static str,
    isa: &'static str,
    device: String,
    preprocess: Preprocessing,
    provenance: Provenance,
}

/// An error as a response.
pub(super) struct Failure(pub(super) Error);

impl Answer {
    pub(super) fn new(id: String, answer: Classified) -> Self {
        Self {
            id,
            model: answer.model.name.clone(),
            version: answer.model.version.clone(),
            depth: answer.model.depth,
            results: answer.results.into_iter().map(ImageResult::from).collect(),
            timing_ms: answer.timing.into(),
        }
    }
}

impl From<Result<Vec<Prediction>, Error>> for ImageResult {
    fn from(result: Result<Vec<Prediction>, Error>) -> Self {
        match result {
            Ok(predictions) => Self::Good {
                predictions: predictions.into_iter().map(Class::from).collect(),
            },
            Err(error) => Self::Bad(error.into()),
        }
    }
}

impl From<Prediction> for Class {
    fn from(prediction: Prediction) -> Self {
        Self {
            class: prediction.class,
            label: prediction.label,
            probability: prediction.probability,
        }
    }
}

impl From<Timing> for TimingMs {
    fn from(timing: Timing) -> Self {
        // whole microseconds: more digits say nothing
        let ms = |time: Duration| time.as_micros() as f64 / 1e3;
        Self {
            decode: ms(timing.decode),
            preprocess: ms(timing.preprocess),
            queue: ms(timing.queue),
            inference: ms(timing.inference),
            total: ms(timing.total),
        }
    }
}

impl From<Error> for ErrorBody {
    fn from(error: Error) -> Self {
        Self {
            error: error.message,
            code: error.code.as_str(),
        }
    }
}

impl From<ModelStatus> for Model {
    fn from(model: ModelStatus) -> Self {
        let details = model.ready().next().map(|served| Details::from(&**served));
        Self {
            newest: model.newest().map(Version::from),
            details,
            versions: model.versions.iter().map(Version::from).collect(),
            name: model.name,
        }
    }
}

impl From<&VersionStatus> for Version {
    fn from(status: &VersionStatus) -> Self {
        let (state, error) = match &status.state {
            ModelState::Loading => ("loading", None),
            ModelState::Ready(_) => ("ready", status.reload_error.clone()),
            ModelState::Failed(reason) => ("failed", Some(reason.clone())),
            ModelState::Unloaded => ("unloaded", None),
        };
        Self {
            version: status.version.clone(),
            state,
            error,
        }
    }
}

impl From<&ServedModel> for Details {
    fn from(served: &ServedModel) -> Self {
        Self {
            architecture: served.architecture,
            family: served.family,
            depth: served.depth,
            classes: served.labels.len(),
            input_size: served.input.height,
            parameters: served.counts.parameters,
            gmacs: served.counts.macs as f64 / 1e9,
            engine: served.engine.engine,
            precision: served.engine.precision,
            isa: served.engine.isa,
            device: served.engine.device.clone(),
            preprocess: served.preprocessing.clone(),
            provenance: served.provenance.clone(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let (status, _) = status::of(error.code);
        let comes_back = matches!(error.code, Code::QueueFull | Code::Unavailable);
        let after = error.retry_after.unwrap_or(RETRY);
        let mut response = (status, Json(ErrorBody::from(error))).into_response();
        if comes_back {
            // whole seconds, rounded up: a zero would mean at once
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            let value = HeaderValue::from(seconds.max(1));
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        response
    }
}
