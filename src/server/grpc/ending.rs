//! An answer without an end of its own (a health watch, a reflection stream), which ends with its connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::http::HeaderMap;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::convert;
use crate::server::connection::closing;

/// Whatever the call has to say is said; then, when the connection is to go, the call ends with UNAVAILABLE.
pub(super) struct Ending {
    body: Body,
    going: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Ending {
    pub(super) fn new(body: Body, going: CancellationToken) -> Self {
        Self {
            body,
            going: Box::pin(going.cancelled_owned()),
        }
    }
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.going.as_mut().poll(cx));
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        let ended = convert::status(closing()).add_header(&mut trailers);
        Poll::Ready(Some(match ended {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(axum::Error::new(status)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
