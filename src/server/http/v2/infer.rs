//! `POST .../infer`.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::encoding::Encoding;
use super::{Named, reply, request};
use crate::server::Core;
use crate::server::ask;
use crate::server::http::RequestId;
use crate::server::http::body::collect;
use crate::server::http::classify::start;
use crate::server::http::reply::Failure;
use crate::server::oip::{self, Infer};
use crate::server::record::Record;
use crate::service::Error;
use crate::telemetry::Protocol;

pub(super) async fn infer(
    State(core): State<Arc<Core>>,
    Extension(RequestId(id)): Extension<RequestId>,
    named: Named,
    request: Request,
) -> Response {
    let span = tracing::info_span!("infer", protocol = "http", id);
    async {
        let record = Record::new(&core, Protocol::Http);
        let result = answer(&core, named, request, &record).await;
        record.outcome(&result);
        result.unwrap_or_else(|error| Failure(error).into_response())
    }
    .instrument(span)
    .await
}

async fn answer(
    core: &Core,
    named: Named,
    request: Request,
    record: &Record,
) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let clock = start(core, headers)?;
    let version = Some(named.version.as_str()).filter(|version| !version.is_empty());
    let held = ask::hold(core, (Some(&named.name), version), false, record)?;
    let encoding = Encoding::of(headers)?;
    let header_length = request::header_length(headers)?;
    let accepted = Encoding::accepted(headers);

    let body = clock.within(collect(body)).await?;
    let limit = oip::message_limit(core);
    let read = ask::blocking(move || {
        let body = match encoding {
            Some(encoding) => encoding.decode(&body, limit)?,
            None => body,
        };
        request::read(body, header_length)
    });
    let infer = Infer {
        model: named.name,
        version: named.version,
        ..read.await?
    };
    let answer = oip::infer(core, Some(held), clock, infer, record).await?;
    ask::blocking(move || reply::write(&answer, accepted)).await
}
