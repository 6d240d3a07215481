//! `ClassifyStream`: requests answered as they finish.
//!
//! One state machine polled by the response body, so that a caller who hangs up drops everything in flight with it,
//! and one who does not read answers is not read from either.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt, unfold};
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;
use tonic::{Status, Streaming};
use tracing::Instrument;

use super::arrival::Arrival;
use super::convert;
use super::service::chosen_id;
use crate::server::Core;
use crate::server::ask::{self, Clock};
use crate::server::connection::closing;
use crate::server::pb::{ClassifyRequest, ClassifyStreamResponse, classify_stream_response};
use crate::server::record::{Record, request_id};
use crate::service::{Code, Error};
use crate::telemetry::Protocol;

/// Requests of one stream in flight; the next is read when one has been answered.
const IN_FLIGHT: usize = 64;

type Answer = Pin<Box<dyn Future<Output = ClassifyStreamResponse> + Send>>;

struct Answers {
    core: Arc<Core>,
    arrival: Arc<Arrival>,
    requests: Streaming<ClassifyRequest>,
    pending: FuturesUnordered<Answer>,
    state: State,
}

enum State {
    /// Requests may come.
    Open,
    /// None come any more; what is pending is answered, then the stream ends, with an error where it did not end well.
    Ending(Option<Status>),
    Ended,
}

pub(super) fn answers(
    core: Arc<Core>,
    arrival: Arc<Arrival>,
    requests: Streaming<ClassifyRequest>,
) -> impl Stream<Item = Result<ClassifyStreamResponse, Status>> + Send {
    let answers = Answers {
        core,
        arrival,
        requests,
        pending: FuturesUnordered::new(),
        state: State::Open,
    };
    unfold(answers, |mut answers| async {
        let item = answers.next().await?;
        Some((item, answers))
    })
}

impl Answers {
    async fn next(&mut self) -> Option<Result<ClassifyStreamResponse, Status>> {
        let going = self.arrival.going.clone();
        let deadline = self.arrival.timed.then_some(self.arrival.clock.deadline);
        loop {
            let is_open = matches!(self.state, State::Open);
            if !is_open && self.pending.is_empty() {
                return match std::mem::replace(&mut self.state, State::Ended) {
                    State::Ending(Some(status)) => Some(Err(status)),
                    _ => None,
                };
            }
            tokio::select! {
                biased;
                Some(answer) = self.pending.next() => return Some(Ok(answer)),
                () = until(deadline) => {
                    self.pending.clear();
                    let late = Error::new(Code::DeadlineExceeded, "the stream's deadline has passed");
                    self.end(Some(late));
                }
                () = going.cancelled(), if is_open => self.end(Some(closing())),
                request = self.requests.message(), if is_open && self.pending.len() < IN_FLIGHT => match request {
                    Ok(Some(request)) => self.pending.push(self.answer(request)),
                    Ok(None) => self.end(None),
                    Err(status) => self.end(Some(convert::refused_by_tonic(&status))),
                },
            }
        }
    }

    fn end(&mut self, error: Option<Error>) {
        self.state = State::Ending(error.map(convert::status));
    }

    fn answer(&self, mut request: ClassifyRequest) -> Answer {
        let core = Arc::clone(&self.core);
        let mut clock = Clock::start(None, core.config.request_timeout);
        if self.arrival.timed {
            clock.deadline = clock.deadline.min(self.arrival.clock.deadline);
        }
        let id = if request.id.is_empty() {
            request_id(None)
        } else {
            chosen_id(&mut request, "")
        };
        // the id goes back as it came; the log gets one that is fit for it
        let span = tracing::info_span!("request", id = request_id(Some(&id)));
        let answer = async move {
            let record = Record::new(&core, Protocol::Grpc);
            let result = ask::ask(&core, None, clock, convert::ask(request), &record).await;
            record.outcome(&result);
            let result = match result {
                Ok(reply) => {
                    classify_stream_response::Result::Response(convert::response(id.clone(), reply))
                }
                Err(error) => classify_stream_response::Result::Error(convert::error(error)),
            };
            ClassifyStreamResponse {
                id,
                result: Some(result),
            }
        };
        Box::pin(answer.instrument(span))
    }
}

async fn until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(Instant::from_std(deadline)).await,
        None => std::future::pending().await,
    }
}
