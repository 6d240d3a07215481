//! What `GET` shows: models, health, metrics; and the answers to paths and methods that do not exist.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use super::failure;
use super::reply::Model;
use crate::server::Core;
use crate::service::{Code, ModelState, Readiness};

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Serialize)]
struct Models {
    models: Vec<Model>,
}

pub(super) async fn models(State(core): State<Arc<Core>>) -> Response {
    let models = core.classify.models().into_iter().map(Model::from);
    Json(Models {
        models: models.collect(),
    })
    .into_response()
}

pub(super) async fn model(
    State(core): State<Arc<Core>>,
    name: Result<Path<String>, PathRejection>,
) -> Response {
    let Ok(Path(name)) = name else {
        return failure(Code::NotFound, "the model's name is not UTF-8");
    };
    let models = core.classify.models();
    let known: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    let message = format!(
        "there is no model {name:?}; these are known: {}",
        known.join(", ")
    );
    match models.into_iter().find(|model| model.name == name) {
        Some(model) => Json(Model::from(model)).into_response(),
        None => failure(Code::ModelNotFound, message),
    }
}

/// The process runs, whatever its models do.
pub(super) async fn live() -> Response {
    Json(json!({"status": "live"})).into_response()
}

pub(super) async fn ready(State(core): State<Arc<Core>>) -> Response {
    if core.classify.is_ready() {
        Json(json!({"status": "ready"})).into_response()
    } else if core.draining.is_cancelled() {
        failure(
            Code::Unavailable,
            "the server is shutting down; send requests elsewhere",
        )
    } else {
        let models = core.classify.models();
        let versions = || models.iter().flat_map(|model| &model.versions);
        let message = if versions().any(|v| matches!(v.state, ModelState::Loading)) {
            "models are still loading; GET /models shows which"
        } else if *core.classify.subscribe().borrow() == Readiness::Lost {
            "a model has lost the devices it ran on; GET /models says which and why; load it anew or unload it"
        } else {
            "no model is served; GET /models says why"
        };
        failure(Code::Unavailable, message)
    }
}

pub(super) async fn metrics(State(core): State<Arc<Core>>) -> Response {
    ([(CONTENT_TYPE, TEXT_FORMAT)], core.metrics.render()).into_response()
}

pub(super) async fn not_found(uri: Uri) -> Response {
    let message = format!(
        "there is no {:?}; there are /classify, /models, /models/NAME, /livez, /readyz, /metrics and the Open Inference Protocol under /v2",
        uri.path()
    );
    failure(Code::NotFound, message)
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!(
        "{method} is not possible on {:?}; the allow header says what is",
        uri.path()
    );
    failure(Code::MethodNotAllowed, message)
}
