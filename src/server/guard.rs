//! A request body that the peer cannot make endless: bounded in bytes and in the time between two pieces, and read on
//! for a while when nobody wants it any more.
//!
//! The last is for refusals: a socket closed with unread bytes is reset, and a reset can overtake the answer. So a body
//! dropped early is read in the background: twice what would have been accepted, and for [`LINGER`] at most.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::Config;
use crate::service::{Code, Error};

const LINGER: Duration = Duration::from_secs(5);
const LINGER_LEAST: usize = 1 << 20;

/// Compression flag and length before a gRPC message.
pub(super) const GRPC_PREFIX: usize = 5;

/// Where the guard ends the body, it ends with a service error: [`cause`] finds it below whatever wraps it.
pub(super) struct Guarded {
    body: Body,
    limit: usize,
    received: usize,
    /// The header says that more than the limit will come.
    announced: Option<usize>,
    stall: Duration,
    alarm: Pin<Box<Sleep>>,
    /// Whether what is left is worth reading when this is dropped.
    lingers: bool,
    /// Whether the peer has begun to send the body, or will without being asked to.
    comes: bool,
    /// Whether the body has come to its end or failed.
    over: bool,
}

impl Guarded {
    /// A body of at most `limit` bytes.
    pub(super) fn http(headers: &HeaderMap, body: Body, limit: usize, config: &Config) -> Self {
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let mut guarded = Self::new(body, limit, config);
        guarded.announced = length.filter(|&length| length > limit);
        guarded.lingers = true;
        // a peer that waits for 100 Continue sends nothing after a refusal
        guarded.comes = !headers.contains_key(EXPECT);
        guarded
    }

    /// A gRPC call that carries one message of at most `limit` bytes. HTTP/2 needs no lingering: its streams end apart from their connection.
    pub(super) fn grpc(body: Body, limit: usize, config: &Config) -> Self {
        Self::new(body, limit.saturating_add(GRPC_PREFIX), config)
    }

    fn new(body: Body, limit: usize, config: &Config) -> Self {
        Self {
            body,
            limit,
            received: 0,
            announced: None,
            stall: config.body_timeout,
            alarm: Box::pin(sleep(config.body_timeout)),
            lingers: false,
            comes: true,
            over: false,
        }
    }

    fn too_large(&self) -> Error {
        let limit = self.limit;
        let message = match self.announced {
            Some(length) => format!("the body has {length} bytes, more than the {limit} allowed"),
            None => format!("the body has more than the {limit} bytes allowed"),
        };
        Error::new(Code::BodyTooLarge, message)
    }
}

impl hyper::body::Body for Guarded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if this.announced.is_some() {
            return Poll::Ready(Some(Err(this.too_large())));
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(this.alarm.as_mut().poll(cx));
                let message = format!("no part of the body came for {:?}", this.stall);
                return Poll::Ready(Some(Err(Error::new(Code::BodyTimeout, message))));
            }
        };
        this.alarm.as_mut().reset(Instant::now() + this.stall);
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                this.comes = true;
                this.received += frame.data_ref().map_or(0, Bytes::len);
                Some(if this.received > this.limit {
                    Err(this.too_large())
                } else {
                    Ok(frame)
                })
            }
            Some(Err(error)) => {
                this.over = true;
                let code = if is_malformed(&error) {
                    Code::InvalidRequest
                } else {
                    Code::Cancelled
                };
                let message = format!("the body could not be read to its end: {error}");
                Some(Err(Error::new(code, message)))
            }
            None => {
                this.over = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.announced.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let wanted = self.lingers && self.comes && !self.over;
        if !wanted || hyper::body::Body::is_end_stream(&self.body) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut body = std::mem::take(&mut self.body);
        let mut left = self.limit.max(LINGER_LEAST).saturating_mul(2);
        runtime.spawn(timeout(LINGER, async move {
            while let Some(Ok(frame)) = body.frame().await {
                match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        }));
    }
}

/// Whether the peer sent chunks that are none; all else that ends a body early is a connection or stream that broke.
fn is_malformed(error: &axum::Error) -> bool {
    let error = find::<io::Error>(error).map(io::Error::kind);
    matches!(
        error,
        Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
    )
}

/// The service error below an error that a body gave, if there is one.
pub(super) fn cause(error: &(dyn StdError + 'static)) -> Option<Error> {
    find(error).cloned()
}

/// The first error of a type in a chain of sources.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(found) = this.downcast_ref() {
            return Some(found);
        }
        error = this.source();
    }
    None
}
