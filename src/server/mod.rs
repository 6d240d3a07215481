//! Protocols: translation only.
//!
//! HTTP ([`http`]) and gRPC ([`grpc`]) turn what they receive into one [`ask::Ask`], or into one [`oip::Infer`] of the
//! Open Inference Protocol, and what the service answers into their own words; [`status`] is the one table from error codes to theirs. Both listen through the same accept loop
//! ([`listener`]) and connection supervisor ([`connection`]), because neither `axum::serve` nor tonic's transport has
//! header and idle timeouts, and tonic's own timer answers CANCELLED where a deadline passed.

mod ask;
mod codec;
mod connection;
mod grpc;
mod guard;
mod http;
mod io;
mod listener;
mod oip;
pub mod pb;
mod record;
mod shutdown;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::service::Classify;
use crate::telemetry::{Metrics, Protocol};

pub use shutdown::{Ended, Stop};

/// Messages of gRPC streams, of `max_body_bytes` each, whose parts may be held at once; more wait for their turn.
const STREAMED: usize = 16;

/// What the listeners accept and how long they wait.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--http-addr`; port 0 picks a free one.
    pub http_addr: SocketAddr,
    /// `--grpc-addr`; port 0 picks a free one.
    pub grpc_addr: SocketAddr,
    /// `--max-body-bytes`: an HTTP body, or one gRPC message.
    pub max_body_bytes: usize,
    /// `--max-images-per-request`.
    pub max_images_per_request: usize,
    /// `--request-timeout`: from the arrival of a request to its answer; callers may ask for less.
    pub request_timeout: Duration,
    /// `--header-timeout`: from the first byte of an HTTP request (or the connection) to the end of its header.
    pub header_timeout: Duration,
    /// `--body-timeout`: between two pieces of an HTTP body or of a gRPC message.
    pub body_timeout: Duration,
    /// `--idle-timeout`: a connection without a request is closed after it, a stream without a message ended.
    pub idle_timeout: Duration,
    /// `--max-connections`, of each protocol; more wait in the system's backlog until one leaves.
    pub max_connections: usize,
    /// `--max-concurrent-streams`: requests at once on one gRPC connection.
    pub max_concurrent_streams: u32,
    /// `--max-connection-age`: gRPC connections older than this are told to reconnect (GOAWAY), which lets a balancer
    /// spread them anew. Their requests have `drain_timeout` to finish; their streams are read no further.
    pub max_connection_age: Option<Duration>,
    /// `--drain-delay`: how long requests are still taken after readiness has turned.
    pub drain_delay: Duration,
    /// `--drain-timeout`: how long requests taken have to finish after that.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http_addr: SocketAddr::from(([0, 0, 0, 0], 8080)),
            grpc_addr: SocketAddr::from(([0, 0, 0, 0], 50051)),
            max_body_bytes: 32 << 20,
            max_images_per_request: 64,
            request_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_connections: 1024,
            max_concurrent_streams: 128,
            max_connection_age: Some(Duration::from_secs(30 * 60)),
            drain_delay: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Both ports, bound and not yet served.
#[derive(Debug)]
pub struct Server {
    config: Config,
    http: TcpListener,
    grpc: TcpListener,
    bound: Bound,
}

/// Where the server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
}

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {addr} for {protocol}: {source}; is another server using the port?")]
    Bind {
        protocol: &'static str,
        addr: SocketAddr,
        source: std::io::Error,
    },
    #[error("the embedded protobuf descriptors are unusable: {0}")]
    Descriptor(#[from] tonic_reflection::server::Error),
    #[error("cannot watch for signals: {0}")]
    Signals(std::io::Error),
}

/// What every request needs.
struct Core {
    classify: Arc<dyn Classify>,
    metrics: Arc<Metrics>,
    config: Config,
    /// Cancelled when readiness turns for good: responses then ask their connections to close.
    draining: CancellationToken,
    /// Cancelled when nothing new is taken any more.
    closing: CancellationToken,
    /// Cancelled when what is left is cut off.
    cut: CancellationToken,
    /// Connections cut off with a classification in flight.
    lost: AtomicUsize,
    /// See [`streamed`].
    streamed: Arc<Semaphore>,
}

impl Server {
    /// Binds both ports, so that a taken one is reported before models load.
    ///
    /// # Errors
    /// When a port cannot be bound.
    pub async fn bind(config: Config) -> Result<Self, ServeError> {
        let (http, http_addr) = bind("HTTP", config.http_addr).await?;
        let (grpc, grpc_addr) = bind("gRPC", config.grpc_addr).await?;
        Ok(Self {
            config,
            http,
            grpc,
            bound: Bound {
                http: http_addr,
                grpc: grpc_addr,
            },
        })
    }

    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Serves until `stop`, then drains: readiness turns at once, requests are taken for `drain_delay` more, then
    /// those taken have `drain_timeout` to finish.
    ///
    /// # Errors
    /// When the embedded descriptors cannot be read; nothing has been served then.
    pub async fn serve(
        self,
        classify: Arc<dyn Classify>,
        metrics: Arc<Metrics>,
        stop: Stop,
    ) -> Result<Ended, ServeError> {
        let streamed = streamed(&self.config) as usize;
        let core = Arc::new(Core {
            classify,
            metrics,
            config: self.config,
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
            lost: AtomicUsize::new(0),
            streamed: Arc::new(Semaphore::new(streamed)),
        });
        let tasks = TaskTracker::new();
        let http = http::router(&core);
        let grpc = grpc::router(&core, &tasks).await?;
        for (tcp, protocol, router) in [
            (self.http, Protocol::Http, http),
            (self.grpc, Protocol::Grpc, grpc),
        ] {
            let listener = listener::Listener {
                tcp,
                protocol,
                router,
                core: Arc::clone(&core),
                tasks: tasks.clone(),
            };
            tasks.spawn(listener.run());
        }
        Ok(shutdown::run(&core, stop, tasks).await)
    }
}

/// Room for parts of messages of streams, in [`grpc::UNIT`] bytes.
fn streamed(config: &Config) -> u32 {
    let message = config.max_body_bytes.div_ceil(grpc::UNIT);
    let room = message.saturating_mul(STREAMED).min(Semaphore::MAX_PERMITS);
    u32::try_from(room).unwrap_or(u32::MAX)
}

async fn bind(
    protocol: &'static str,
    addr: SocketAddr,
) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Bind {
        protocol,
        addr,
        source,
    };
    let tcp = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = tcp.local_addr().map_err(failed)?;
    Ok((tcp, addr))
}
