//! Every metric's name, labels and buckets.

use std::sync::Arc;

use prometheus::{Histogram, IntCounter, IntGauge};

/// Labels that every series of a model carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelLabels {
    pub model: String,
    pub family: String,
    pub depth: String,
    pub version: String,
    pub device: String,
}

/// Labels of `resnetd_model_info` besides [`ModelLabels`].
#[derive(Clone, Debug)]
pub struct ModelInfo {
    pub engine: String,
    pub precision: String,
    pub isa: String,
    pub parameters: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Grpc,
}

/// `resnetd_rejected_total{reason}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    QueueFull,
    Deadline,
    Cancelled,
    InvalidImage,
    TooLarge,
}

/// The registry and the families whose children models and requests use.
#[derive(Debug)]
pub struct Metrics {}

/// One model's series, all existing at zero from the moment this is made.
#[derive(Debug)]
pub struct ModelMetrics {
    /// `resnetd_inference_duration_seconds`: one observation a batch.
    pub inference: Histogram,
    /// `resnetd_stage_duration_seconds{stage}`: one observation an image each.
    pub stage_decode: Histogram,
    pub stage_preprocess: Histogram,
    pub stage_queue: Histogram,
    pub stage_inference: Histogram,
    pub batch_size: Histogram,
    pub queue_depth: IntGauge,
    /// Images answered with predictions.
    pub images: IntCounter,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        unimplemented!()
    }

    /// Makes (or finds) the series of one model.
    pub fn model(&self, labels: &ModelLabels) -> Arc<ModelMetrics> {
        let _ = labels;
        unimplemented!()
    }

    /// Removes every series of a model.
    pub fn remove_model(&self, labels: &ModelLabels) {
        let _ = labels;
    }

    pub fn set_model_info(&self, labels: &ModelLabels, info: &ModelInfo) {
        let _ = (labels, info);
    }

    /// Counts one finished request. `model` is `None` where no known model was named.
    /// `code` is `ok` or a service error code.
    pub fn request(
        &self,
        model: Option<&ModelMetrics>,
        protocol: Protocol,
        code: &'static str,
        seconds: f64,
    ) {
        let _ = (model, protocol, code, seconds);
    }

    /// Counts images (or, where no image was read, requests) turned away.
    pub fn rejected(&self, model: Option<&ModelMetrics>, reason: RejectReason, count: u64) {
        let _ = (model, reason, count);
    }

    /// The text exposition format.
    pub fn render(&self) -> String {
        unimplemented!()
    }
}
