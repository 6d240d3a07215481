//! Requests of one stream, answered as they finish or in their order.
//!
//! One state machine polled by the response body, so that a caller who hangs up drops everything in flight with it,
//! and one who does not read answers is not read from either.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{FuturesOrdered, FuturesUnordered, Stream, StreamExt, unfold};
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::arrival::Arrival;
use super::convert;
use crate::server::Core;
use crate::server::ask::Clock;
use crate::server::connection::closing;
use crate::service::{Code, Error};

/// Requests of one stream in flight; the next is read when one has been answered.
const IN_FLIGHT: usize = 64;

pub(super) type Answer<A> = Pin<Box<dyn Future<Output = A> + Send>>;

/// Answers in flight. Its type says in which order they come.
pub(super) trait Pending<A>: Stream<Item = A> + Default + Unpin + Send {
    fn add(&mut self, answer: Answer<A>);
    fn number(&self) -> usize;
}

/// As they finish.
impl<A> Pending<A> for FuturesUnordered<Answer<A>> {
    fn add(&mut self, answer: Answer<A>) {
        self.push(answer);
    }

    fn number(&self) -> usize {
        self.len()
    }
}

/// In the order of the requests.
impl<A: Send> Pending<A> for FuturesOrdered<Answer<A>> {
    fn add(&mut self, answer: Answer<A>) {
        self.push_back(answer);
    }

    fn number(&self) -> usize {
        self.len()
    }
}

struct Answers<R, A, P> {
    core: Arc<Core>,
    arrival: Arc<Arrival>,
    requests: Streaming<R>,
    answer: fn(Arc<Core>, Clock, R) -> Answer<A>,
    pending: P,
    state: State,
}

enum State {
    /// Requests may come.
    Open,
    /// None come any more; what is pending is answered, then the stream ends, with an error where it did not end well.
    Ending(Option<Status>),
    Ended,
}

pub(super) fn answers<R: Send + 'static, A, P: Pending<A>>(
    core: Arc<Core>,
    arrival: Arc<Arrival>,
    requests: Streaming<R>,
    answer: fn(Arc<Core>, Clock, R) -> Answer<A>,
) -> impl Stream<Item = Result<A, Status>> + Send {
    let answers = Answers {
        core,
        arrival,
        requests,
        answer,
        pending: P::default(),
        state: State::Open,
    };
    unfold(answers, |mut answers| async {
        let item = answers.next().await?;
        Some((item, answers))
    })
}

impl<R, A, P: Pending<A>> Answers<R, A, P> {
    async fn next(&mut self) -> Option<Result<A, Status>> {
        let going = self.arrival.going.clone();
        let deadline = self.arrival.timed.then_some(self.arrival.clock.deadline);
        loop {
            let is_open = matches!(self.state, State::Open);
            let pending = self.pending.number();
            if !is_open && pending == 0 {
                return match std::mem::replace(&mut self.state, State::Ended) {
                    State::Ending(Some(status)) => Some(Err(status)),
                    _ => None,
                };
            }
            tokio::select! {
                biased;
                Some(answer) = self.pending.next() => return Some(Ok(answer)),
                () = until(deadline) => {
                    self.pending = P::default();
                    let late = Error::new(Code::DeadlineExceeded, "the stream's deadline has passed");
                    self.end(Some(late));
                }
                () = going.cancelled(), if is_open => self.end(Some(closing())),
                request = self.requests.message(), if is_open && pending < IN_FLIGHT => match request {
                    Ok(Some(request)) => self.begin(request),
                    Ok(None) => self.end(None),
                    Err(status) => self.end(Some(convert::refused_by_tonic(&status))),
                },
            }
        }
    }

    fn end(&mut self, error: Option<Error>) {
        self.state = State::Ending(error.map(convert::status));
    }

    fn begin(&mut self, request: R) {
        let mut clock = Clock::start(None, self.core.config.request_timeout);
        if self.arrival.timed {
            clock.deadline = clock.deadline.min(self.arrival.clock.deadline);
        }
        let answer = (self.answer)(Arc::clone(&self.core), clock, request);
        self.pending.add(answer);
    }
}

async fn until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(Instant::from_std(deadline)).await,
        None => std::future::pending().await,
    }
}
