//! What happens to a gRPC request before tonic reads its message, and what is made of tonic's own refusals.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::Instrument;

use super::convert;
use super::ending::Ending;
use super::messages::Messages;
use crate::server::ask::{self, Clock, Held};
use crate::server::connection::Going;
use crate::server::guard::{Guarded, cause};
use crate::server::record::{Record, request_id};
use crate::server::{Core, oip};
use crate::service::{Code, Error};
use crate::telemetry::Protocol;

const CLASSIFY: &str = "/resnetd.v1.Classifier/Classify";
const CLASSIFY_STREAM: &str = "/resnetd.v1.Classifier/ClassifyStream";
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const INFER_STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const LOAD: &str = "/inference.GRPCInferenceService/RepositoryModelLoad";
/// A model may have to be fetched from the hub.
const LOADING: Duration = Duration::from_secs(3600);
/// Of either version.
const REFLECTION: &str = ".ServerReflection/ServerReflectionInfo";

/// A call as its header showed it, in the request's extensions.
pub(super) struct Arrival {
    pub(super) clock: Clock,
    /// Whether the caller set the deadline.
    pub(super) timed: bool,
    /// The caller's `x-request-id`, or one made for it; the message may have its own.
    pub(super) id: String,
    /// Cancelled when its connection takes no more requests.
    pub(super) going: CancellationToken,
    /// `None` for a stream, whose requests come later.
    unary: Option<Unary>,
}

/// What a unary call has before its message is read.
pub(super) struct Unary {
    pub(super) record: Record,
    room: Mutex<Option<Held>>,
}

/// What the layer made of a call.
pub(super) fn arrival<T>(request: &tonic::Request<T>) -> Result<Arc<Arrival>, Status> {
    let arrival = request.extensions().get::<Arc<Arrival>>();
    arrival.cloned().ok_or_else(unlayered)
}

/// The router puts the layer before the services.
fn unlayered() -> Status {
    convert::status(Error::new(
        Code::Internal,
        "the call did not pass the arrival layer",
    ))
}

impl Arrival {
    pub(super) fn unary(&self) -> Result<&Unary, Status> {
        self.unary.as_ref().ok_or_else(unlayered)
    }

    /// Whether a unary call's handler has yet to take the room.
    fn has_room(&self) -> bool {
        self.unary
            .as_ref()
            .is_some_and(|unary| unary.lock().is_some())
    }
}

impl Unary {
    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the room; a second time there is none.
    pub(super) fn room(&self) -> Option<Held> {
        self.lock().take()
    }
}

/// Reads the deadline and guards the body; for a unary classification also takes room and keeps the time.
pub(super) async fn layer(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let (is_unary, limit) = match request.uri().path() {
        CLASSIFY => (true, core.config.max_body_bytes),
        CLASSIFY_STREAM => (false, core.config.max_body_bytes),
        INFER => (true, oip::message_limit(&core)),
        INFER_STREAM => (false, oip::message_limit(&core)),
        _ => return other(&core, request, next).await,
    };
    let given = request.headers().get("x-request-id");
    let id = request_id(given.and_then(|id| id.to_str().ok()));
    let message_id = tracing::field::Empty;
    let span = tracing::info_span!("classify", protocol = "grpc", id, message_id);
    async {
        if is_unary {
            unary(&core, id, limit, request, next).await
        } else {
            stream(&core, id, limit, request, next).await
        }
    }
    .instrument(span)
    .await
}

/// Lists, health and reflection: their messages have to come in time too, and what has no end ends with the connection.
async fn other(core: &Core, request: Request, next: Next) -> Response {
    let wanted = match wanted_timeout(request.headers()) {
        Ok(wanted) => wanted,
        Err(error) => return refusal(error),
    };
    let limit = if request.uri().path() == LOAD {
        LOADING
    } else {
        core.config.request_timeout
    };
    let clock = Clock::start(wanted, limit);
    let going = going(core, &request);
    let is_stream = request.uri().path().ends_with(REFLECTION);
    let largest = core.config.max_body_bytes;
    let request = request.map(|body| {
        if is_stream {
            Body::new(Messages::new(body, largest, core))
        } else {
            Body::new(Guarded::grpc(body, largest, &core.config))
        }
    });
    // a stream has answered as soon as it has begun
    match clock.within(async { Ok(next.run(request).await) }).await {
        Ok(response) => match response
            .extensions()
            .get::<Status>()
            .and_then(|status| cause(status))
        {
            Some(error) => refusal(error),
            None => response.map(|body| Body::new(Ending::new(body, going))),
        },
        Err(error) => refusal(error),
    }
}

/// Ends with the request's connection.
fn going(core: &Core, request: &Request) -> CancellationToken {
    let going = request.extensions().get::<Going>();
    going.map_or_else(|| core.closing.clone(), |Going(going)| going.clone())
}

/// A stream lasts as long as its caller says; the server's limit is for each request in it.
async fn stream(
    core: &Core,
    id: String,
    largest: usize,
    mut request: Request,
    next: Next,
) -> Response {
    let wanted = match wanted_timeout(request.headers()) {
        Ok(wanted) => wanted,
        Err(error) => return refusal(error),
    };
    let limit = wanted.unwrap_or(core.config.request_timeout);
    let arrival = Arc::new(Arrival {
        clock: Clock::start(wanted, limit),
        timed: wanted.is_some(),
        id,
        going: going(core, &request),
        unary: None,
    });
    request.extensions_mut().insert(arrival);
    let request = request.map(|body| Body::new(Messages::new(body, largest, core)));
    next.run(request).await
}

/// Runs a unary call until its deadline, and says of what failed outside its handler why.
async fn unary(
    core: &Core,
    id: String,
    largest: usize,
    mut request: Request,
    next: Next,
) -> Response {
    let record = Record::new(core, Protocol::Grpc);
    let taken = wanted_timeout(request.headers())
        .and_then(|wanted| Ok((wanted, ask::hold(core, (None, None), true, &record)?)));
    let (wanted, room) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            record.failed(&error);
            return refusal(error);
        }
    };
    let clock = Clock::start(wanted, core.config.request_timeout);
    let room = Mutex::new(Some(room));
    let arrival = Arc::new(Arrival {
        clock,
        timed: wanted.is_some(),
        id,
        going: going(core, &request),
        unary: Some(Unary { record, room }),
    });
    request.extensions_mut().insert(Arc::clone(&arrival));
    let request = request.map(|body| Body::new(Guarded::grpc(body, largest, &core.config)));
    let mut call = pin!(next.run(request));
    let result = match clock.within(async { Ok(call.as_mut().await) }).await {
        // the service has the request and keeps its deadline
        Err(_) if !arrival.has_room() => Ok(call.await),
        result => result,
    };

    let record = arrival.unary.as_ref().map(|unary| &unary.record);
    let error = match result {
        Ok(response) if record.is_none_or(Record::is_settled) => return response,
        Ok(response) => match response.extensions().get::<Status>() {
            // an encoding that tonic does not know: its trailers say which it does
            Some(status) if status.code() == tonic::Code::Unimplemented => {
                if let Some(record) = record {
                    record.failed(&convert::refused_by_tonic(status));
                }
                return response;
            }
            Some(status) => convert::refused_by_tonic(status),
            None => return response,
        },
        Err(error) => error,
    };
    if let Some(record) = record {
        record.failed(&error);
    }
    refusal(error)
}

fn refusal(error: Error) -> Response {
    convert::status(error).into_http()
}

/// The caller's `grpc-timeout`: up to eight digits and a unit.
fn wanted_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    parse_timeout(&text).map(Some).ok_or_else(|| {
        Error::new(
            Code::InvalidRequest,
            format!("grpc-timeout is {text:?}, expected 1 to 8 digits and one of H, M, S, m, u, n"),
        )
    })
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let cases = [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "S",
            "1",
            "1s",
            "123456789S",
            "-1S",
            "+1S",
            "1.5S",
            "1é",
            "é",
        ] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
    }
}
