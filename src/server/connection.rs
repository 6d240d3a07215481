//! One connection's life: who may hold it open, and how it ends.
//!
//! hyper moves the bytes; the supervisor here knows when the connection last had a request and closes it when it is
//! idle, slow with a header, or old, and when the server stops. hyper's own header timeout is off, because it also runs
//! while a kept-alive connection rests, and so cannot be shorter than the idle timeout.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::io::{Activity, Limits, Tracked, Watched};
use super::{Core, http};
use crate::service::{Code, Error};
use crate::telemetry::Protocol;

/// A header larger than this is refused by hyper (431); the default of 400 KiB would let a thousand connections hold
/// 400 MiB before a request is admitted.
const READ_BUFFER: usize = 64 << 10;
/// A gRPC peer that does not answer a ping within the second is gone, though its host never said so.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// What a connection told to go has to say goodbye once nothing is in flight (HTTP/2 answers a ping first).
const GOODBYE: Duration = Duration::from_secs(2);

/// Cancelled when a request's connection takes no more requests: it is idle or old, or the server closes. In a request's
/// extensions.
#[derive(Clone)]
pub(super) struct Going(pub(super) CancellationToken);

/// Everything that connections of one protocol share.
pub(super) struct Acceptor {
    protocol: Protocol,
    builder: Builder<TokioExecutor>,
    router: axum::Router,
    limits: Limits,
    max_age: Option<Duration>,
    core: Arc<Core>,
}

impl Acceptor {
    pub(super) fn new(protocol: Protocol, router: axum::Router, core: Arc<Core>) -> Self {
        let config = &core.config;
        let builder = Builder::new(TokioExecutor::new());
        let mut builder = match protocol {
            Protocol::Http => builder.http1_only(),
            Protocol::Grpc => builder.http2_only(),
        };
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(READ_BUFFER);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.max_concurrent_streams)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        // HTTP/2 peers send frames that belong to no request, so only idleness bounds them
        let (header, max_age) = match protocol {
            Protocol::Http => (Some(config.header_timeout), None),
            Protocol::Grpc => (None, config.max_connection_age),
        };
        Self {
            protocol,
            builder,
            router,
            limits: Limits {
                header,
                idle: config.idle_timeout,
            },
            max_age,
            core,
        }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(&self, stream: TcpStream) {
        // answers are small and waited for; without it a failure costs only latency
        let _ = stream.set_nodelay(true);
        let activity = Arc::new(Activity::new(self.limits));
        let going = self.core.closing.child_token();
        let service = service_fn(|mut request: axum::http::Request<Incoming>| {
            let in_flight = activity.begin(classifies(request.uri().path()));
            request.extensions_mut().insert(Going(going.clone()));
            let response = self.router.clone().call(request);
            async move {
                let response = response.await?;
                Ok::<_, Infallible>(response.map(|body| Body::new(Tracked::new(body, in_flight))))
            }
        });
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
        let mut connection = pin!(self.builder.serve_connection(io, service));
        let old = self.max_age.map(|age| Instant::now() + age);
        let mut left = None;
        loop {
            let wake = match left {
                Some(left) => Some(self.end(left, &activity)),
                None => earlier(activity.expires(), old),
            };
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = self.core.cut.cancelled() => {
                    if activity.classifies() {
                        self.core.lost.fetch_add(1, Ordering::Relaxed);
                    }
                    return;
                }
                () = going.cancelled(), if left.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    left = Some(Instant::now());
                }
                () = activity.changed() => {}
                () = at(wake) => {
                    let now = Instant::now();
                    let expired = match left {
                        Some(left) => self.end(left, &activity) <= now,
                        None => activity.expires().is_some_and(|at| at <= now),
                    };
                    // HTTP/1 has no goodbye
                    if expired && (left.is_some() || self.protocol == Protocol::Http) {
                        return;
                    }
                    if expired || old.is_some_and(|at| at <= now) {
                        going.cancel();
                    }
                }
            }
        }
    }

    /// When a connection that was told to go is closed: what is in flight may finish, what rests may say goodbye, and a
    /// header that has begun is still timed.
    fn end(&self, left: Instant, activity: &Activity) -> Instant {
        // while the server closes, `cut` comes before this
        let last = left + self.core.config.drain_timeout + GOODBYE;
        let goodbye = activity
            .resting_since()
            .map(|since| since.max(left) + GOODBYE);
        let soonest = earlier(activity.expires(), goodbye);
        soonest.map_or(last, |soonest| soonest.min(last))
    }
}

/// Whether requests for this path are the ones that must not be lost; the others are small, or end with the connection.
fn classifies(path: &str) -> bool {
    path == "/classify"
        || http::v2::infers(path)
        || path.starts_with("/resnetd.v1.Classifier/Classify")
        || path == "/inference.GRPCInferenceService/ModelInfer"
        || path == "/inference.GRPCInferenceService/ModelStreamInfer"
}

/// What a call that outlives its connection is told.
pub(super) fn closing() -> Error {
    Error::new(
        Code::Unavailable,
        "the server is closing the connection; send what was not answered on another",
    )
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
