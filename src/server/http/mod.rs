//! HTTP: routes, and what every request goes through before its handler ([`envelope`]).

mod body;
mod classify;
mod pages;
mod reply;
pub(super) mod v2;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, get, post};

use super::guard::Guarded;
use super::record::request_id;
use super::{Core, oip};
use crate::service::{Code, Error};
use reply::Failure;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, in its extensions.
#[derive(Clone, Debug)]
struct RequestId(String);

pub(super) fn router(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/classify", post(classify::classify))
        .route("/models", get(pages::models))
        .route("/models/{name}", get(pages::model))
        .route("/livez", get(pages::live))
        .route("/readyz", get(pages::ready))
        .route("/metrics", get(pages::metrics))
        .merge(v2::router())
        .fallback(pages::not_found)
        .method_not_allowed_fallback(pages::method_not_allowed)
        // the guard in the envelope limits bodies
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(core), envelope))
        .with_state(Arc::clone(core))
}

/// Gives a request its id and its body a guard, and a response the id and, while draining, a last word.
async fn envelope(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let given = parts.headers.get(REQUEST_ID);
    let id = request_id(given.and_then(|id| id.to_str().ok()));
    parts.extensions.insert(RequestId(id.clone()));
    let limit = if v2::infers(parts.uri.path()) {
        oip::message_limit(&core)
    } else {
        core.config.max_body_bytes
    };
    let guarded = Guarded::http(&parts.headers, body, limit, &core.config);
    let request = Request::from_parts(parts, Body::new(guarded));

    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if core.draining.is_cancelled() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

fn failure(code: Code, message: impl Into<String>) -> Response {
    Failure(Error::new(code, message)).into_response()
}
