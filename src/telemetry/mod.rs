//! Logs and metrics. A leaf: it knows names and numbers, nothing of models or requests.

mod metrics;
mod tracing;

pub use self::metrics::{Metrics, ModelInfo, ModelLabels, ModelMetrics, Protocol, RejectReason};
pub use self::tracing::{LogFormat, TracingError, init as init_tracing};
