//! Readings from NVML, which is loaded at run time: the driver brings it, and a server does without.
//!
//! NVML numbers cards by their place on the bus, CUDA by speed and by what CUDA_VISIBLE_DEVICES leaves: a card is the
//! same by its UUID alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use cudarc::driver::result as cuda;
use nvml_wrapper::{Device, Nvml};
use uuid::Uuid;

use super::{Cards, Gpus, Reading};
use crate::telemetry::Metrics;

/// NVML's own samples span up to a second.
const INTERVAL: Duration = Duration::from_secs(1);
/// A card that answers again after a moment leaves no gap.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// Shows the GPUs that models run on in `metrics`, for as long as these exist.
pub fn watch_gpus(metrics: &Arc<Metrics>) {
    let gpus = Gpus::new(FRESH_FOR);
    metrics.register(gpus.clone());
    let metrics = Arc::downgrade(metrics);
    let thread = thread::Builder::new().name("gpu-metrics".to_owned());
    if let Err(error) = thread.spawn(move || watch(&metrics, &gpus)) {
        tracing::warn!(%error, "no thread for the metrics of the GPUs; they are not shown");
    }
}

fn watch(metrics: &Weak<Metrics>, gpus: &Gpus) {
    // the driver is left alone until a model runs on a GPU
    loop {
        match metrics.upgrade() {
            Some(metrics) if metrics.gpus().is_empty() => {}
            Some(_) => break,
            None => return,
        }
        thread::sleep(INTERVAL);
    }
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(error) => {
            tracing::debug!(%error, "no NVML; the metrics of the GPUs are not shown");
            return;
        }
    };
    let mut cards = Nvidia {
        nvml: &nvml,
        found: HashMap::new(),
    };
    while let Some(used) = metrics.upgrade().map(|metrics| metrics.gpus()) {
        gpus.refresh(used, &mut cards);
        thread::sleep(INTERVAL);
    }
}

struct Nvidia<'a> {
    nvml: &'a Nvml,
    /// By name. A card that was not found is looked for anew: what stood in the way may pass.
    found: HashMap<String, Device<'a>>,
}

impl Cards for Nvidia<'_> {
    fn read(&mut self, device: &str) -> Reading {
        let card = match self.found.entry(device.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => match find(self.nvml, device) {
                Ok(card) => place.insert(card),
                Err(reason) => {
                    tracing::debug!(device, reason, "NVML does not show this GPU");
                    return Reading::default();
                }
            },
        };
        let memory = card.memory_info().ok();
        Reading {
            utilization: card
                .utilization_rates()
                .ok()
                .map(|rates| f64::from(rates.gpu) / 100.0),
            memory_used: memory.as_ref().map(|memory| memory.used as f64),
            memory_total: memory.as_ref().map(|memory| memory.total as f64),
        }
    }
}

/// NVML's card for CUDA's `cuda:N`; the error says what is in the way.
fn find<'a>(nvml: &'a Nvml, device: &str) -> Result<Device<'a>, String> {
    let uuid = uuid(device)?;
    // the UUID is that of a card, or of a part of one that is used as a card of its own
    let named = |kind: &str| nvml.device_by_uuid(format!("{kind}-{uuid}"));
    let found = named("GPU").or_else(|_| named("MIG"));
    found.map_err(|error| format!("no card has the UUID {uuid}: {error}"))
}

/// The UUID of `cuda:N`.
fn uuid(device: &str) -> Result<Uuid, String> {
    let index = device.strip_prefix("cuda:").and_then(|n| n.parse().ok());
    let index = index.ok_or_else(|| format!("{device:?} is not cuda:N"))?;
    let uuid = cuda::init()
        .and_then(|()| cuda::device::get(index))
        .and_then(cuda::device::get_uuid)
        .map_err(|error| format!("CUDA does not tell the UUID of {device}: {error:?}"))?;
    Ok(Uuid::from_bytes(uuid.bytes.map(|byte| byte as u8)))
}
