//! `POST /classify`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::RequestId;
use super::body::{self, Form, Params};
use super::reply::{Answer, Failure};
use crate::server::Core;
use crate::server::ask::{self, Classified, Clock};
use crate::server::record::Record;
use crate::service::{Code, Error};
use crate::telemetry::Protocol;

const TIMEOUT: &str = "x-request-timeout-ms";

pub(super) async fn classify(
    State(core): State<Arc<Core>>,
    Extension(RequestId(id)): Extension<RequestId>,
    request: Request,
) -> Response {
    let span = tracing::info_span!("classify", protocol = "http", id);
    async {
        let record = Record::new(&core, Protocol::Http);
        let result = answer(&core, request, &record).await;
        record.outcome(&result);
        match result {
            Ok(reply) => Json(Answer::new(id, reply)).into_response(),
            Err(error) => Failure(error).into_response(),
        }
    }
    .instrument(span)
    .await
}

async fn answer(core: &Core, request: Request, record: &Record) -> Result<Classified, Error> {
    let (parts, body) = request.into_parts();
    let clock = start(core, &parts.headers)?;
    let params = Params::of(&parts.uri)?;
    let form = Form::of(&parts.headers);
    let room = ask::hold(
        core,
        (params.model.as_deref(), None),
        form != Form::Image,
        record,
    )?;
    let max_images = core.config.max_images_per_request;
    let question = clock
        .within(body::read(form, params, parts, body, max_images))
        .await?;
    ask::ask(core, Some(room), clock, question, record).await
}

/// Starts the clock of a request, whose headers may shorten the server's limit.
pub(super) fn start(core: &Core, headers: &HeaderMap) -> Result<Clock, Error> {
    Ok(Clock::start(
        wanted_timeout(headers)?,
        core.config.request_timeout,
    ))
}

/// The time that the caller gives the request.
fn wanted_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    match text.trim().parse::<u64>() {
        Ok(ms) if ms >= 1 => Ok(Some(Duration::from_millis(ms))),
        _ => Err(Error::new(
            Code::InvalidRequest,
            format!("{TIMEOUT} is {text:?}, expected a whole number of milliseconds, at least 1"),
        )),
    }
}
