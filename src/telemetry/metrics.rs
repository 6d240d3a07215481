//! Every metric's name, labels and buckets.
//!
//! Series are made when a model is registered, so that each exists at zero from start-up, and the hot path holds handles
//! and looks up no labels. Label values come from the operator's configuration and from constants, never from requests.

#[cfg(any(test, feature = "cuda"))]
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::Statistics;

/// Labels that every series of a model carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModelLabels {
    pub model: String,
    pub family: String,
    pub depth: String,
    pub version: String,
    pub device: String,
}

/// Labels of `resnetd_model_info` besides [`ModelLabels`].
#[derive(Clone, Debug, PartialEq, Eq)]
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

const MODEL_LABELS: [&str; 5] = ["model", "family", "depth", "version", "device"];
const STAGES: [&str; 4] = ["decode", "preprocess", "queue", "inference"];

/// Seconds: 100 us to 10 s, dense from 1 to 100 ms.
const LATENCY_EDGES: [f64; 25] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02,
    0.03, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 10.0,
];

/// Images.
const BATCH_EDGES: [f64; 13] = [
    1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0,
];

/// The registry and the families whose children models and requests use.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// Values of the `code` label.
    codes: Vec<&'static str>,
    /// Series of requests that name no known model: every model label is empty.
    unknown: Outcomes,
    models: Mutex<HashMap<ModelLabels, Registered>>,
}

#[derive(Debug)]
struct Registered {
    series: Arc<ModelMetrics>,
    info: Option<ModelInfo>,
}

#[derive(Debug)]
struct Families {
    inference: HistogramVec,
    stage: HistogramVec,
    request_duration: HistogramVec,
    batch_size: HistogramVec,
    queue_depth: IntGaugeVec,
    images: IntCounterVec,
    requests: IntCounterVec,
    rejected: IntCounterVec,
    info: IntGaugeVec,
    loads: IntCounterVec,
}

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
    /// The same and more, exact, for protocols that report it.
    pub statistics: Statistics,
    outcomes: Outcomes,
}

/// How requests and images ended.
#[derive(Debug)]
struct Outcomes {
    /// By [`Protocol`].
    durations: [Histogram; 2],
    /// By [`Protocol`], then code.
    requests: [HashMap<&'static str, IntCounter>; 2],
    /// By [`RejectReason`].
    rejected: [IntCounter; 5],
}

impl Metrics {
    /// `codes` are the error codes that [`Metrics::request`] may be given; `ok` is always there.
    pub fn new(codes: &[&'static str]) -> Arc<Self> {
        let registry = Registry::new();
        let families = Families::new(&registry);
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(
                prometheus::process_collector::ProcessCollector::for_self(),
            ))
            .expect(CONSTANT);
        let mut codes = codes.to_vec();
        codes.push("ok");
        codes.sort_unstable();
        codes.dedup();
        Arc::new(Self {
            unknown: families.outcomes(&ModelLabels::default(), &codes),
            registry,
            families,
            codes,
            models: Mutex::default(),
        })
    }

    /// Makes (or finds) the series of one model.
    pub fn model(&self, labels: &ModelLabels) -> Arc<ModelMetrics> {
        let mut models = self.models();
        let registered = models.entry(labels.clone()).or_insert_with(|| Registered {
            series: Arc::new(self.families.model(labels, &self.codes)),
            info: None,
        });
        Arc::clone(&registered.series)
    }

    /// Removes every series of a model. Handles still held count on, unseen.
    pub fn remove_model(&self, labels: &ModelLabels) {
        if let Some(registered) = self.models().remove(labels) {
            self.families
                .remove(labels, &self.codes, registered.info.as_ref());
        }
    }

    /// Counts one attempt to load a version of a model: `resnetd_model_loads_total{model,result}`. Both results exist
    /// from the first attempt on; they stay while the model is known, even if it never served, until
    /// [`Metrics::remove_loads`].
    pub fn loaded(&self, model: &str, ok: bool) {
        for (result, count) in [("ok", ok), ("failed", !ok)] {
            let counter = self.families.loads.with_label_values(&[model, result]);
            counter.inc_by(u64::from(count));
        }
    }

    /// Removes what [`Metrics::loaded`] has counted of a model.
    pub fn remove_loads(&self, model: &str) {
        for result in ["ok", "failed"] {
            let _ = self.families.loads.remove_label_values(&[model, result]);
        }
    }

    /// Sets `resnetd_model_info` of a model that [`Metrics::model`] has made, in place of what it was.
    pub fn set_model_info(&self, labels: &ModelLabels, info: &ModelInfo) {
        let mut models = self.models();
        let Some(registered) = models.get_mut(labels) else {
            return;
        };
        if let Some(before) = registered.info.replace(info.clone()) {
            self.families.remove_info(labels, &before);
        }
        self.families
            .info
            .with_label_values(&info_values(labels, info))
            .set(1);
    }

    /// Counts one finished request. `model` is `None` where no known model was named.
    /// `code` is `ok` or one of the codes given to [`Metrics::new`].
    pub fn request(
        &self,
        model: Option<&ModelMetrics>,
        protocol: Protocol,
        code: &'static str,
        seconds: f64,
    ) {
        let outcomes = model.map_or(&self.unknown, |m| &m.outcomes);
        outcomes.durations[protocol as usize].observe(seconds);
        let counter = outcomes.requests[protocol as usize].get(code);
        debug_assert!(
            counter.is_some(),
            "code {code} was not announced to Metrics::new"
        );
        if let Some(counter) = counter {
            counter.inc();
        }
    }

    /// Counts images (or, where no image was read, requests) turned away.
    pub fn rejected(&self, model: Option<&ModelMetrics>, reason: RejectReason, count: u64) {
        let outcomes = model.map_or(&self.unknown, |m| &m.outcomes);
        outcomes.rejected[reason as usize].inc_by(count);
    }

    /// The text exposition format.
    pub fn render(&self) -> String {
        let families = self.registry.gather();
        prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .unwrap_or_else(|error| {
                tracing::error!(%error, "the metrics cannot be written");
                String::new()
            })
    }

    /// Shows what another collector knows beside the rest.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn register(&self, collector: impl Collector + 'static) {
        self.registry
            .register(Box::new(collector))
            .expect("no two collectors have a metric's name");
    }

    /// The GPUs that models run on, each once: `cuda:0`.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn gpus(&self) -> BTreeSet<String> {
        let models = self.models();
        let devices = models.keys().flat_map(|labels| labels.device.split(','));
        let gpus = devices.filter(|device| device.starts_with("cuda:"));
        gpus.map(str::to_owned).collect()
    }

    fn models(&self) -> MutexGuard<'_, HashMap<ModelLabels, Registered>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ModelMetrics {
    /// Counts images of this model turned away.
    pub fn rejected(&self, reason: RejectReason, count: u64) {
        self.outcomes.rejected[reason as usize].inc_by(count);
    }
}

impl Protocol {
    const ALL: [Self; 2] = [Self::Http, Self::Grpc];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

impl RejectReason {
    const ALL: [Self; 5] = [
        Self::QueueFull,
        Self::Deadline,
        Self::Cancelled,
        Self::InvalidImage,
        Self::TooLarge,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::InvalidImage => "invalid_image",
            Self::TooLarge => "too_large",
        }
    }
}

impl Families {
    fn new(registry: &Registry) -> Self {
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
        }
    }

    fn model(&self, labels: &ModelLabels, codes: &[&'static str]) -> ModelMetrics {
        let plain = values(labels, []);
        let stage = |name| self.stage.with_label_values(&values(labels, [name]));
        let [decode, preprocess, queue, inference] = STAGES.map(stage);
        ModelMetrics {
            inference: self.inference.with_label_values(&plain),
            stage_decode: decode,
            stage_preprocess: preprocess,
            stage_queue: queue,
            stage_inference: inference,
            batch_size: self.batch_size.with_label_values(&plain),
            queue_depth: self.queue_depth.with_label_values(&plain),
            images: self.images.with_label_values(&plain),
            statistics: Statistics::default(),
            outcomes: self.outcomes(labels, codes),
        }
    }

    fn outcomes(&self, labels: &ModelLabels, codes: &[&'static str]) -> Outcomes {
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
    fn remove(&self, labels: &ModelLabels, codes: &[&'static str], info: Option<&ModelInfo>) {
        let plain = values(labels, []);
        let _ = self.inference.remove_label_values(&plain);
        let _ = self.batch_size.remove_label_values(&plain);
        let _ = self.queue_depth.remove_label_values(&plain);
        let _ = self.images.remove_label_values(&plain);
        for stage in STAGES {
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

    fn remove_info(&self, labels: &ModelLabels, info: &ModelInfo) {
        let _ = self.info.remove_label_values(&info_values(labels, info));
    }
}

/// Why the constructors below cannot fail.
const CONSTANT: &str = "names, labels and buckets are constants of this file, each used once";

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
fn values<'a, const N: usize>(labels: &'a ModelLabels, more: [&'a str; N]) -> Vec<&'a str> {
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

fn info_values(labels: &ModelLabels, info: &ModelInfo) -> Vec<String> {
    let parameters = info.parameters.to_string();
    let more = [&info.engine, &info.precision, &info.isa, &parameters];
    values(labels, more.map(String::as_str))
        .into_iter()
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests;
