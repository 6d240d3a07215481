//! The Open Inference Protocol over HTTP: routes below `/v2`.

mod encoding;
mod infer;
mod json;
mod reply;
mod request;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, get, post};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::body::collect;
use super::reply::Failure;
use crate::server::Core;
use crate::server::oip::{Parameters, check_load, check_unload, describe};
use crate::service::{Code, Error};

/// A model and version in a path; the version is empty where the path has none.
#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    version: String,
}

pub(super) fn router() -> Router<Arc<Core>> {
    let mut router = Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/stats", get(all_statistics))
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{name}/load", post(load))
        .route("/v2/repository/models/{name}/unload", post(unload));
    for model in ["/v2/models/{name}", "/v2/models/{name}/versions/{version}"] {
        router = router
            .route(model, get(metadata))
            .route(&format!("{model}/ready"), get(model_ready))
            .route(&format!("{model}/config"), get(config))
            .route(&format!("{model}/stats"), get(statistics))
            .route(&format!("{model}/infer"), post(infer::infer));
    }
    router
}

/// Whether a path is one of an infer request.
pub(in crate::server) fn infers(path: &str) -> bool {
    path.starts_with("/v2/models/") && path.ends_with("/infer")
}

impl FromRequestParts<Arc<Core>> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, core: &Arc<Core>) -> Result<Self, Failure> {
        let named = Path::<Self>::from_request_parts(parts, core).await;
        named.map(|Path(named)| named).map_err(|_| {
            Failure(Error::new(
                Code::ModelNotFound,
                "the name or version of the model in the path is not UTF-8",
            ))
        })
    }
}

async fn server() -> Response {
    Json(describe::server()).into_response()
}

async fn live() -> Response {
    Json(json!({"live": true})).into_response()
}

async fn ready(State(core): State<Arc<Core>>) -> Response {
    yes_or_no(
        json!({"ready": core.classify.is_ready()}),
        core.classify.is_ready(),
    )
}

async fn model_ready(State(core): State<Arc<Core>>, named: Named) -> Response {
    let ready = describe::is_ready(&core, &named.name, &named.version);
    yes_or_no(json!({"name": named.name, "ready": ready}), ready)
}

/// The protocol says no with 400, where [`super::pages::ready`] says 503.
fn yes_or_no(body: serde_json::Value, yes: bool) -> Response {
    let status = if yes {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    (status, Json(body)).into_response()
}

async fn metadata(State(core): State<Arc<Core>>, named: Named) -> Response {
    shown(describe::metadata(&core, &named.name, &named.version))
}

async fn config(State(core): State<Arc<Core>>, named: Named) -> Response {
    shown(describe::config(&core, &named.name, &named.version))
}

async fn statistics(State(core): State<Arc<Core>>, named: Named) -> Response {
    shown(describe::statistics(&core, &named.name, &named.version))
}

async fn all_statistics(State(core): State<Arc<Core>>) -> Response {
    shown(describe::statistics(&core, "", ""))
}

async fn index(State(core): State<Arc<Core>>, body: Body) -> Response {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Index {
        ready: bool,
    }
    let asked = optional::<Index>(body).await;
    shown(asked.map(|asked| describe::index(&core, asked.ready).models))
}

/// The body of a call to the repository.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Control {
    #[serde(deserialize_with = "json::parameters")]
    parameters: Parameters,
}

async fn load(State(core): State<Arc<Core>>, named: Named, body: Body) -> Response {
    let loaded = async {
        let control = optional::<Control>(body).await?;
        check_load(control.parameters.iter().map(|(name, _)| name.as_str()))?;
        core.classify.load(&named.name).await
    };
    done(loaded.await)
}

async fn unload(State(core): State<Arc<Core>>, named: Named, body: Body) -> Response {
    let unloaded = async {
        let control = optional::<Control>(body).await?;
        check_unload(&control.parameters)?;
        core.classify.unload(&named.name).await
    };
    done(unloaded.await)
}

/// A body that may be left out.
async fn optional<T: Default + for<'a> Deserialize<'a>>(body: Body) -> Result<T, Error> {
    let body: Bytes = collect(body).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    json::parse(&body)
}

fn shown<T: Serialize>(answer: Result<T, Error>) -> Response {
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => Failure(error).into_response(),
    }
}

fn done(result: Result<(), Error>) -> Response {
    shown(result.map(|()| json!({})))
}
