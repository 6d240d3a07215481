//! Logs and metrics. A leaf: it knows names and numbers, nothing of models or requests.

#[cfg(any(test, feature = "cuda"))]
mod devices;
mod metrics;
mod statistics;
mod tracing;

#[cfg(feature = "cuda")]
pub use self::devices::watch_gpus;
pub use self::metrics::{
    DeviceMetrics, Metrics, ModelInfo, ModelLabels, ModelMetrics, Protocol, RejectReason, Replays,
};
pub use self::statistics::{Batch, Batches, Served, Snapshot, Span, Statistics};
pub use self::tracing::{LogFormat, TracingError, init as init_tracing};
