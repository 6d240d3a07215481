//! The families of metrics, and the series that a model has of each.

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::replays::Replays;
use super::{
    DeviceMetrics, ModelInfo, ModelLabels, ModelMetrics, Outcomes, Protocol, RejectReason,
};
use crate::telemetry::Statistics;

const MODEL_LABELS: [&str; 5] = ["model", "family", "depth", "version", "device"];
/// Those before the queue, and those after it.
const STAGES_OF_MODEL: [&str; 2] = ["decode", "preprocess"];
const STAGES_OF_DEVICE: [&str; 2] = ["queue", "inference"];

/// Seconds: 100 us to 10 s, dense from 1 to 100 ms.
pub(super) const LATENCY_EDGES: [f64; 25] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02,
    0.03, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 10.0,
];

/// Images.
pub(super) const BATCH_EDGES: [f64; 14] = [
    1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0, 256.0,
];

#[derive(Debug)]
pub(super) struct Families {
    inference: HistogramVec,
    stage: HistogramVec,
    request_duration: HistogramVec,
    batch_size: HistogramVec,
    queue_depth: IntGaugeVec,
    images: IntCounterVec,
    requests: IntCounterVec,
    rejected: IntCounterVec,
    pub(super) info: IntGaugeVec,
    pub(super) loads: IntCounterVec,
    workers: IntGaugeVec,
    lost: IntCounterVec,
    replays: IntCounterVec,
    padding: IntCounterVec,
}

impl Families {
    pub(super) fn new(registry: &Registry) -> Self {
        let histogram = |name: &str, help: &str, edges: &[f64], labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(edges.to_vec());
            register(
                registry,
                HistogramVec::new(opts, &with_model(labels)).expect(CONSTANT),
            )
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(
                registry,
                IntCounterVec::new(Opts::new(name, help), &with_model(labels)).expect(CONSTANT),
            )
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(
                registry,
                IntGaugeVec::new(Opts::new(name, help), &with_model(labels)).expect(CONSTANT),
            )
        };
        Self {
            inference: histogram(
                "resnetd_inference_duration_seconds",
                "Forward pass of one batch.",
                &LATENCY_EDGES,
                &[],
            ),
            stage: histogram(
                "resnetd_stage_duration_seconds",
                "Time of one image in one stage.",
                &LATENCY_EDGES,
                &["stage"],
            ),
            request_duration: histogram(
                "resnetd_request_duration_seconds",
                "Time of one request, from its arrival to its answer.",
                &LATENCY_EDGES,
                &["protocol"],
            ),
            batch_size: histogram(
                "resnetd_batch_size",
                "Images in one batch.",
                &BATCH_EDGES,
                &[],
            ),
            queue_depth: gauge(
                "resnetd_queue_depth",
                "Images queued for the next batches.",
                &[],
            ),
            images: counter(
                "resnetd_images_total",
                "Images answered with predictions.",
                &[],
            ),
            requests: counter(
                "resnetd_requests_total",
                "Finished requests.",
                &["protocol", "code"],
            ),
            rejected: counter(
                "resnetd_rejected_total",
                "Images turned away, or requests where no image was read.",
                &["reason"],
            ),
            info: gauge(
                "resnetd_model_info",
                "What serves a model; always 1.",
                &["engine", "precision", "isa", "parameters"],
            ),
            loads: register(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "resnetd_model_loads_total",
                        "Attempts to load a version of a model.",
                    ),
                    &["model", "result"],
                )
                .expect(CONSTANT),
            ),
            workers: gauge(
                "resnetd_workers",
                "Workers that run batches, one for each engine.",
                &[],
            ),
            lost: counter(
                "resnetd_devices_lost_total",
                "Devices taken out because they answered no more.",
                &[],
            ),
            replays: counter(
                "resnetd_graph_replays_total",
                "Batches run as a captured graph, by the batch size that it was captured at.",
                &["bucket"],
            ),
            padding: counter(
                "resnetd_padding_images_total",
                "Images computed for nobody, because a batch was padded up to a captured size.",
                &[],
            ),
        }
    }

    pub(super) fn model(
        &self,
        labels: &ModelLabels,
        codes: &[&'static str],
        devices: Vec<(String, Arc<DeviceMetrics>)>,
    ) -> ModelMetrics {
        let plain = values(labels, []);
        let stage = |name| self.stage.with_label_values(&values(labels, [name]));
        let [decode, preprocess] = STAGES_OF_MODEL.map(stage);
        ModelMetrics {
            stage_decode: decode,
            stage_preprocess: preprocess,
            queue_depth: self.queue_depth.with_label_values(&plain),
            images: self.images.with_label_values(&plain),
            statistics: Statistics::default(),
            outcomes: self.outcomes(labels, codes),
            devices,
        }
    }

    pub(super) fn device(&self, labels: &ModelLabels) -> DeviceMetrics {
        let plain = values(labels, []);
        let stage = |name| self.stage.with_label_values(&values(labels, [name]));
        let [queue, inference] = STAGES_OF_DEVICE.map(stage);
        DeviceMetrics {
            inference: self.inference.with_label_values(&plain),
            stage_queue: queue,
            stage_inference: inference,
            batch_size: self.batch_size.with_label_values(&plain),
            workers: self.workers.with_label_values(&plain),
            lost: self.lost.with_label_values(&plain),
            replays: Replays::new(&self.replays, &self.padding, labels),
        }
    }

    pub(super) fn outcomes(&self, labels: &ModelLabels, codes: &[&'static str]) -> Outcomes {
        let duration = |p: Protocol| {
            self.request_duration
                .with_label_values(&values(labels, [p.as_str()]))
        };
        let requests = |p: Protocol| {
            let counter = |code| {
                self.requests
                    .with_label_values(&values(labels, [p.as_str(), code]))
            };
            codes.iter().map(|&code| (code, counter(code))).collect()
        };
        let rejected = |r: RejectReason| {
            self.rejected
                .with_label_values(&values(labels, [r.as_str()]))
        };
        Outcomes {
            durations: Protocol::ALL.map(duration),
            requests: Protocol::ALL.map(requests),
            rejected: RejectReason::ALL.map(rejected),
        }
    }

    /// The reverse of [`Families::model`]; a series that is not there is as good as removed.
    pub(super) fn remove(
        &self,
        labels: &ModelLabels,
        codes: &[&'static str],
        info: Option<&ModelInfo>,
    ) {
        let plain = values(labels, []);
        let _ = self.queue_depth.remove_label_values(&plain);
        let _ = self.images.remove_label_values(&plain);
        for stage in STAGES_OF_MODEL {
            let _ = self.stage.remove_label_values(&values(labels, [stage]));
        }
        for reason in RejectReason::ALL {
            let _ = self
                .rejected
                .remove_label_values(&values(labels, [reason.as_str()]));
        }
        for protocol in Protocol::ALL.map(Protocol::as_str) {
            let _ = self
                .request_duration
                .remove_label_values(&values(labels, [protocol]));
            for &code in codes {
                let _ = self
                    .requests
                    .remove_label_values(&values(labels, [protocol, code]));
            }
        }
        if let Some(info) = info {
            self.remove_info(labels, info);
        }
    }

    /// The reverse of [`Families::device`].
    pub(super) fn remove_device(&self, labels: &ModelLabels, device: &DeviceMetrics) {
        let plain = values(labels, []);
        device.replays.remove();
        let _ = self.inference.remove_label_values(&plain);
        let _ = self.batch_size.remove_label_values(&plain);
        let _ = self.workers.remove_label_values(&plain);
        let _ = self.lost.remove_label_values(&plain);
        for stage in STAGES_OF_DEVICE {
            let _ = self.stage.remove_label_values(&values(labels, [stage]));
        }
    }

    pub(super) fn remove_info(&self, labels: &ModelLabels, info: &ModelInfo) {
        let _ = self.info.remove_label_values(&info_values(labels, info));
    }
}

/// Why the constructors below cannot fail.
pub(super) const CONSTANT: &str =
    "names, labels and buckets are constants of this file, each used once";

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry
        .register(Box::new(collector.clone()))
        .expect(CONSTANT);
    collector
}

fn with_model<'a>(labels: &[&'a str]) -> Vec<&'a str> {
    MODEL_LABELS.iter().chain(labels).copied().collect()
}

/// Label values in the order of [`with_model`].
pub(super) fn values<'a, const N: usize>(
    labels: &'a ModelLabels,
    more: [&'a str; N],
) -> Vec<&'a str> {
    let ModelLabels {
        model,
        family,
        depth,
        version,
        device,
    } = labels;
    let mut list: Vec<&str> = vec![model, family, depth, version, device];
    list.extend(more);
    list
}

pub(super) fn info_values(labels: &ModelLabels, info: &ModelInfo) -> Vec<String> {
    let parameters = info.parameters.to_string();
    let more = [&info.engine, &info.precision, &info.isa, &parameters];
    values(labels, more.map(String::as_str))
        .into_iter()
        .map(str::to_owned)
        .collect()
}
