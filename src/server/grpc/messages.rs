//! The body of a call whose messages come one after another, kept from costing more than its messages are worth.
//!
//! tonic holds a message until it is whole, before anyone can refuse it. So a message that does not come in one piece
//! needs room for the whole of it in a budget that all streams share, and has to come in time; a stream without
//! messages ends after a while, as a connection without requests does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::PollSemaphore;

use crate::server::guard::GRPC_PREFIX;
use crate::server::{Core, streamed};
use crate::service::{Code, Error};

/// Bytes that one permit of the budget stands for.
pub(in crate::server) const UNIT: usize = 1 << 10;

/// Where it ends a body, it ends with a service error, as `server::guard` does.
pub(super) struct Messages {
    body: Body,
    framing: Framing,
    budget: PollSemaphore,
    /// The whole budget: a message that needs more may come when no other does.
    most: u32,
    /// A longer message is refused by tonic as soon as it has the prefix.
    limit: usize,
    /// Room for the message now coming.
    held: Option<OwnedSemaphorePermit>,
    /// A piece that waits for room, and how much its message needs.
    waiting: Option<(Bytes, u32)>,
    patience: Patience,
    /// Time spent on waiting for the message now coming, or for one to come.
    waited: Duration,
    /// Since when the peer or the budget has been waited for; runs only while someone wants more.
    since: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
}

/// How long the peer may take.
#[derive(Clone, Copy)]
struct Patience {
    /// For the next piece of a message.
    piece: Duration,
    /// For a whole message.
    message: Duration,
    /// For a message to begin.
    idle: Duration,
}

/// Where in a message the body is.
#[derive(Default)]
struct Framing {
    prefix: [u8; GRPC_PREFIX],
    /// Bytes of the prefix that have come; 0 between messages.
    filled: usize,
    length: usize,
    left: usize,
}

impl Messages {
    /// Messages of at most `limit` bytes.
    pub(super) fn new(body: Body, limit: usize, core: &Core) -> Self {
        let config = &core.config;
        let patience = Patience {
            piece: config.body_timeout,
            message: config.request_timeout,
            idle: config.idle_timeout,
        };
        let most = streamed(config);
        Self {
            most,
            ..Self::within(body, core.streamed.clone(), limit, patience)
        }
    }

    fn within(body: Body, budget: Arc<Semaphore>, limit: usize, patience: Patience) -> Self {
        Self {
            most: u32::MAX,
            body,
            framing: Framing::default(),
            budget: PollSemaphore::new(budget),
            limit,
            held: None,
            waiting: None,
            patience,
            waited: Duration::ZERO,
            since: None,
            alarm: Box::pin(sleep(Duration::ZERO)),
        }
    }

    /// Follows a piece; what room is to be found before it is handed on.
    fn follow(&mut self, piece: &[u8]) -> Option<u32> {
        if self.framing.advance(piece) {
            self.held = None;
            self.waited = Duration::ZERO;
        }
        let length = self.framing.coming()?;
        if self.held.is_some() || length > self.limit {
            return None;
        }
        let units = u32::try_from(length.div_ceil(UNIT)).unwrap_or(u32::MAX);
        Some(units.min(self.most))
    }

    /// Whether to wait on. The time in which nobody wanted more is not the peer's.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Patience {
            piece,
            message,
            idle,
        } = self.patience;
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            let left = message.saturating_sub(self.waited);
            self.alarm.as_mut().reset(
                now + match (&self.waiting, self.framing.filled) {
                    (Some(_), _) => left,
                    (None, 0) => idle,
                    (None, _) => left.min(piece),
                },
            );
        }
        ready!(self.alarm.as_mut().poll(cx));
        let (code, text) = match (&self.waiting, self.framing.filled) {
            (Some(_), _) => (
                Code::Unavailable,
                "too many large messages are being received; try again later".to_owned(),
            ),
            (None, 0) => (
                Code::Unavailable,
                format!("no request came for {idle:?}; open another stream"),
            ),
            (None, _) => (
                Code::BodyTimeout,
                format!("a message stalled for {piece:?}, or was not whole after {message:?}"),
            ),
        };
        Poll::Ready(Error::new(code, text))
    }

    /// Something came that was waited for.
    fn came(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }
}

impl HttpBody for Messages {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some((_, room)) = this.waiting {
                let Poll::Ready(permit) = this.budget.poll_acquire_many(cx, room) else {
                    let error = ready!(this.poll_patience(cx));
                    return Poll::Ready(Some(Err(error.into())));
                };
                this.came();
                this.held = permit;
                let piece = this.waiting.take().map(|(piece, _)| Ok(Frame::data(piece)));
                return Poll::Ready(piece);
            }
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let error = ready!(this.poll_patience(cx));
                    return Poll::Ready(Some(Err(error.into())));
                }
            };
            this.came();
            let frame = match frame.transpose()? {
                Some(frame) => frame,
                None => return Poll::Ready(None),
            };
            let piece = match frame.into_data() {
                Ok(piece) => piece,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            match this.follow(&piece) {
                Some(room) => this.waiting = Some((piece, room)),
                None => return Poll::Ready(Some(Ok(Frame::data(piece)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }
}

impl Framing {
    /// Follows a piece; whether a message ended in it.
    fn advance(&mut self, mut piece: &[u8]) -> bool {
        let mut ended = false;
        while !piece.is_empty() {
            let wanted = if self.filled < GRPC_PREFIX {
                GRPC_PREFIX - self.filled
            } else {
                self.left
            };
            let (taken, rest) = piece.split_at(wanted.min(piece.len()));
            piece = rest;
            if self.filled < GRPC_PREFIX {
                let prefix = self.prefix.iter_mut().skip(self.filled);
                prefix.zip(taken).for_each(|(to, from)| *to = *from);
                self.filled += taken.len();
                let [_, length @ ..] = self.prefix;
                self.length = u32::from_be_bytes(length) as usize;
                self.left = self.length;
            } else {
                self.left -= taken.len();
            }
            if self.filled == GRPC_PREFIX && self.left == 0 {
                self.filled = 0;
                ended = true;
            }
        }
        ended
    }

    /// The length of the message now coming, once its prefix has come.
    fn coming(&self) -> Option<usize> {
        (self.filled == GRPC_PREFIX).then_some(self.length)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type Sender = mpsc::Sender<Result<Bytes, Infallible>>;

    fn messages(budget: &Arc<Semaphore>, patience: Duration) -> (Sender, Messages) {
        let (sender, pieces) = mpsc::channel(4);
        let body = Body::from_stream(ReceiverStream::new(pieces));
        let patience = Patience {
            piece: patience,
            message: patience,
            idle: patience,
        };
        (
            sender,
            Messages::within(body, Arc::clone(budget), 4 * UNIT, patience),
        )
    }

    #[tokio::test]
    async fn a_message_in_pieces_waits_for_room() {
        let budget = Arc::new(Semaphore::new(1));
        let long = Duration::from_secs(600);
        let (first, mut one) = messages(&budget, long);
        let (second, mut two) = messages(&budget, long);
        let begun = Bytes::from_static(&[0, 0, 0, 0, 10, 1, 2, 3]);
        first.send(Ok(begun.clone())).await.unwrap();
        assert!(one.frame().now_or_never().is_some());
        second.send(Ok(begun)).await.unwrap();
        assert!(two.frame().now_or_never().is_none(), "no room");
        first.send(Ok(Bytes::from_static(&[0; 7]))).await.unwrap();
        assert!(one.frame().now_or_never().is_some());
        assert!(two.frame().now_or_never().is_some(), "its turn");
        // what comes whole needs no room, and what is too long will be refused
        first.send(Ok(Bytes::from_static(&[0; 15]))).await.unwrap();
        assert!(one.frame().now_or_never().is_some());
        let too_long = Bytes::from_static(&[0, 1, 0, 0, 0, 9]);
        first.send(Ok(too_long)).await.unwrap();
        assert!(one.frame().now_or_never().is_some());
        drop(two);
        assert_eq!(budget.available_permits(), 1);
    }

    #[tokio::test]
    async fn who_keeps_a_stream_waiting_is_told() {
        let budget = Arc::new(Semaphore::new(0));
        let (sender, mut body) = messages(&budget, Duration::from_millis(20));
        let code = |frame: Option<Result<_, axum::BoxError>>| {
            let error = frame.unwrap().map(|_: Frame<Bytes>| ()).unwrap_err();
            error.downcast_ref::<Error>().unwrap().code
        };
        assert_eq!(code(body.frame().await), Code::Unavailable, "no message");
        sender.send(Ok(Bytes::from_static(&[0; 4]))).await.unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(code(body.frame().await), Code::BodyTimeout);
        sender.send(Ok(Bytes::from_static(&[9]))).await.unwrap();
        assert_eq!(code(body.frame().await), Code::Unavailable, "no room");
    }

    #[test]
    fn messages_are_followed_through_any_pieces() {
        let mut bytes = Vec::new();
        for length in [0u8, 3, 44] {
            bytes.extend([0, 0, 0, 0, length]);
            bytes.extend(vec![7; usize::from(length)]);
        }
        for size in 1..=bytes.len() {
            let mut framing = Framing::default();
            let pieces = bytes.chunks(size);
            let ended = pieces.filter(|piece| framing.advance(piece)).count();
            assert!((1..=3).contains(&ended), "{size}: {ended}");
            assert!(size > 8 || ended == 3, "{size}: {ended}");
            assert_eq!((framing.filled, framing.coming()), (0, None));
        }
        let mut framing = Framing::default();
        assert!(!framing.advance(&[0, 0, 0]));
        assert_eq!((framing.filled, framing.coming()), (3, None));
        assert!(!framing.advance(&[1, 2, 9]));
        assert_eq!((framing.coming(), framing.left), (Some(258), 257));
    }
}
