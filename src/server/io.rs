//! What a connection's supervisor sees of its traffic: bytes that came in ([`Watched`]) and requests that began and
//! ended ([`InFlight`], which travels in the response's body, [`Tracked`]).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a connection may go without a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From the first byte of a header to its end; `None` where bytes come that belong to no request.
    pub(super) header: Option<Duration>,
    pub(super) idle: Duration,
}

/// When a connection last had a request.
pub(super) struct Activity {
    limits: Limits,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy)]
struct State {
    in_flight: usize,
    /// Those in flight that classify.
    classifying: usize,
    /// When the present phase began: waiting for a request, or reading its header.
    since: Instant,
    in_header: bool,
}

impl Activity {
    /// A new connection has as long for its first header as a resting one has from its first byte.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::new(State {
                in_flight: 0,
                classifying: 0,
                since: Instant::now(),
                in_header: limits.header.is_some(),
            }),
            changed: Notify::new(),
        }
    }

    /// A request's header has been read; the request lasts until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>, classifies: bool) -> InFlight {
        let mut state = self.lock();
        state.in_flight += 1;
        state.classifying += usize::from(classifies);
        InFlight {
            activity: Arc::clone(self),
            classifies,
        }
    }

    /// Whether a classification is in flight.
    pub(super) fn classifies(&self) -> bool {
        self.lock().classifying > 0
    }

    /// Since when nothing has been in flight and no header has begun; `None` while something is in flight.
    pub(super) fn resting_since(&self) -> Option<Instant> {
        let state = *self.lock();
        (state.in_flight == 0).then_some(state.since)
    }

    /// When the connection has been without a request for too long; `None` while it has one.
    pub(super) fn expires(&self) -> Option<Instant> {
        let state = *self.lock();
        if state.in_flight > 0 {
            return None;
        }
        let limit = match self.limits.header {
            Some(header) if state.in_header => header,
            _ => self.limits.idle,
        };
        Some(state.since + limit)
    }

    /// Completes when [`Activity::expires`] may have changed to something earlier.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn received(&self) {
        let mut state = self.lock();
        if self.limits.header.is_some() && state.in_flight == 0 && !state.in_header {
            state.in_header = true;
            state.since = Instant::now();
            drop(state);
            self.changed.notify_one();
        }
    }

    fn end(&self, classifies: bool) {
        let mut state = self.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        state.classifying = state.classifying.saturating_sub(usize::from(classifies));
        if state.in_flight == 0 {
            state.in_header = false;
            state.since = Instant::now();
            drop(state);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in flight.
pub(super) struct InFlight {
    activity: Arc<Activity>,
    classifies: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.end(self.classifies);
    }
}

/// A response body that ends its request when it is sent or dropped.
pub(super) struct Tracked {
    body: Body,
    _in_flight: InFlight,
}

impl Tracked {
    pub(super) fn new(body: Body, in_flight: InFlight) -> Self {
        Self {
            body,
            _in_flight: in_flight,
        }
    }
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket whose incoming bytes are noticed.
pub(super) struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.received();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
