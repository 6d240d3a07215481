//! Logs and metrics. A leaf: it knows names and numbers, nothing of models or requests.

mod metrics;
mod statistics;
mod tracing;

pub use self::metrics::{
    DeviceMetrics, Metrics, ModelInfo, ModelLabels, ModelMetrics, Protocol, RejectReason, Replays,
};
pub use self::statistics::{Batch, Batches, Served, Snapshot, Span, Statistics};
pub use self::tracing::{LogFormat, TracingError, init as init_tracing};
