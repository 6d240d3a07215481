//! Every metric's name, labels and buckets.
//!
//! Series are made when a model is registered, so that each exists at zero from start-up, and the hot path holds
//! handles and looks up no labels. Label values come from the operator's configuration and from constants, never from
//! requests.
//!
//! Of a model on several devices, what a worker observes carries its own device, all else the devices joined by commas.

mod families;
mod replays;

#[cfg(any(test, feature = "cuda"))]
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{Histogram, IntCounter, IntGauge, Registry};

use self::families::{CONSTANT, Families, info_values};
use super::Statistics;

pub use self::replays::Replays;

/// Labels that every series of a model carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModelLabels {
    pub model: String,
    pub family: String,
    pub depth: String,
    pub version: String,
    /// `cuda:0`; of several devices `cuda:0,cuda:1`.
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

/// One model's series, all existing at zero from the moment this is made.
#[derive(Debug)]
pub struct ModelMetrics {
    /// `resnetd_stage_duration_seconds{stage}`: one observation an image each.
    pub stage_decode: Histogram,
    pub stage_preprocess: Histogram,
    pub queue_depth: IntGauge,
    /// Images answered with predictions.
    pub images: IntCounter,
    /// The same and more, exact, for protocols that report it.
    pub statistics: Statistics,
    outcomes: Outcomes,
    devices: Vec<(String, Arc<DeviceMetrics>)>,
}

/// A model's series of one device, which its workers there share.
#[derive(Debug)]
pub struct DeviceMetrics {
    /// `resnetd_inference_duration_seconds`: one observation a batch.
    pub inference: Histogram,
    /// `resnetd_stage_duration_seconds{stage}`: one observation an image each.
    pub stage_queue: Histogram,
    pub stage_inference: Histogram,
    pub batch_size: Histogram,
    /// Those that there are.
    pub workers: IntGauge,
    /// Times that the device was lost.
    pub lost: IntCounter,
    /// Batches run as captured graphs, where the engine captures any.
    pub replays: Replays,
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
        if let Some(registered) = models.get(labels) {
            return Arc::clone(&registered.series);
        }
        let device = |one: ModelLabels| {
            let known = device_of(&models, &one);
            let series = known.unwrap_or_else(|| Arc::new(self.families.device(&one)));
            (one.device, series)
        };
        let devices = labels.by_device().map(device).collect();
        let series = Arc::new(self.families.model(labels, &self.codes, devices));
        let registered = Registered {
            series: Arc::clone(&series),
            info: None,
        };
        models.insert(labels.clone(), registered);
        series
    }

    /// Removes every series of a model. Handles still held count on, unseen.
    pub fn remove_model(&self, labels: &ModelLabels) {
        let mut models = self.models();
        if let Some(registered) = models.remove(labels) {
            self.families
                .remove(labels, &self.codes, registered.info.as_ref());
            let gone = |one: &ModelLabels| device_of(&models, one).is_none();
            for one in labels.by_device().filter(gone) {
                if let Some(device) = registered.series.device(&one.device) {
                    self.families.remove_device(&one, &device);
                }
            }
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
    pub(super) fn register(&self, collector: impl prometheus::core::Collector + 'static) {
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

/// The series of one device of a model. Registered on several sets of devices, as it is while it is loaded anew on
/// others, the model has them once.
fn device_of(
    models: &HashMap<ModelLabels, Registered>,
    one: &ModelLabels,
) -> Option<Arc<DeviceMetrics>> {
    let mut registered = models.iter();
    registered.find_map(|(labels, registered)| {
        let has_it = labels.by_device().any(|labels| labels == *one);
        has_it.then(|| registered.series.device(&one.device))?
    })
}

impl ModelLabels {
    /// The labels of what each device's workers observe.
    fn by_device(&self) -> impl Iterator<Item = Self> {
        self.device.split(',').map(|device| Self {
            device: device.to_owned(),
            ..self.clone()
        })
    }
}

impl ModelMetrics {
    /// The series of one of the devices that the model's labels name.
    pub fn device(&self, name: &str) -> Option<Arc<DeviceMetrics>> {
        let mut devices = self.devices.iter();
        let (_, found) = devices.find(|(device, _)| device == name)?;
        Some(Arc::clone(found))
    }

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

#[cfg(test)]
mod tests;
