//! Logs and metrics. A leaf: it knows names and numbers, nothing of models or requests.

mod metrics;

pub use metrics::{Metrics, ModelInfo, ModelLabels, ModelMetrics, Protocol, RejectReason};
