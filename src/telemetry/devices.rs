//! What the GPUs that models run on do: utilisation and memory, as the driver's management library (NVML) tells.
//!
//! A thread of its own asks for it, and a scrape shows the last answers: a driver that hangs holds up no scrape, and
//! answers grown old are shown no more. A value that a card does not tell has no series.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts};

#[cfg(feature = "cuda")]
mod nvml;

#[cfg(feature = "cuda")]
pub use nvml::watch_gpus;

/// Where readings come from.
trait Cards {
    /// `device` is `cuda:0`: a name in CUDA's order.
    fn read(&mut self, device: &str) -> Reading;
}

/// What one card told; `None` where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Reading {
    /// Of the last sample period, the part in which kernels ran: 0 to 1.
    utilization: Option<f64>,
    /// Bytes.
    memory_used: Option<f64>,
    memory_total: Option<f64>,
}

/// A metric and its value of a reading.
type Shown = (GaugeVec, fn(&Reading) -> Option<f64>);

/// The collector: the last readings and the series made of them.
#[derive(Clone, Debug)]
struct Gpus {
    shown: [Shown; 3],
    last: Arc<Mutex<Last>>,
    /// Readings older than this are not shown.
    fresh_for: Duration,
}

#[derive(Debug, Default)]
struct Last {
    /// By device.
    readings: BTreeMap<String, Reading>,
    taken: Option<Instant>,
}

impl Gpus {
    fn new(fresh_for: Duration) -> Self {
        let gauge = |name: &str, help: &str| {
            GaugeVec::new(Opts::new(name, help), &["device"])
                .expect("names and labels are constants of this function")
        };
        Self {
            shown: [
                (
                    gauge(
                        "resnetd_gpu_utilization_ratio",
                        "Part of the driver's last sample period, at most a second, in which kernels ran.",
                    ),
                    |reading| reading.utilization,
                ),
                (
                    gauge(
                        "resnetd_gpu_memory_used_bytes",
                        "Memory of the GPU that is allocated, by any process.",
                    ),
                    |reading| reading.memory_used,
                ),
                (
                    gauge("resnetd_gpu_memory_total_bytes", "Memory that the GPU has."),
                    |reading| reading.memory_total,
                ),
            ],
            last: Arc::default(),
            fresh_for,
        }
    }

    /// Takes new readings of these devices in place of the last. No scrape waits for the cards meanwhile.
    fn refresh<D: AsRef<str>>(&self, devices: impl IntoIterator<Item = D>, cards: &mut impl Cards) {
        let read = |device: D| {
            let name = device.as_ref();
            (name.to_owned(), cards.read(name))
        };
        let readings = devices.into_iter().map(read).collect();
        *self.last() = Last {
            readings,
            taken: Some(Instant::now()),
        };
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Gpus {
    fn desc(&self) -> Vec<&Desc> {
        let shown = self.shown.iter();
        shown.flat_map(|(gauge, _)| gauge.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let last = self.last();
        let fresh = last.taken.is_some_and(|at| at.elapsed() <= self.fresh_for);
        let mut families = Vec::new();
        for (gauge, value) in &self.shown {
            gauge.reset();
            for (device, reading) in last.readings.iter().filter(|_| fresh) {
                if let Some(value) = value(reading) {
                    gauge.with_label_values(&[device]).set(value);
                }
            }
            families.extend(gauge.collect());
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Metrics, ModelLabels};

    const LONG: Duration = Duration::from_secs(3600);

    /// Cards by name, and what was asked of them.
    #[derive(Default)]
    struct Fake {
        cards: BTreeMap<&'static str, Reading>,
        asked: Vec<String>,
    }

    impl Cards for Fake {
        fn read(&mut self, device: &str) -> Reading {
            self.asked.push(device.to_owned());
            self.cards.get(device).copied().unwrap_or_default()
        }
    }

    fn fake() -> Fake {
        let whole = Reading {
            utilization: Some(0.75),
            memory_used: Some(2e9),
            memory_total: Some(8e10),
        };
        // a part of a card tells its memory alone
        let part = Reading {
            utilization: None,
            memory_used: Some(1e9),
            memory_total: Some(1e10),
        };
        Fake {
            cards: BTreeMap::from([("cuda:0", whole), ("cuda:1", part)]),
            asked: Vec::new(),
        }
    }

    fn labels(model: &str, device: &str) -> ModelLabels {
        ModelLabels {
            model: model.into(),
            device: device.into(),
            ..ModelLabels::default()
        }
    }

    /// A server's metrics with a model on each of `devices`.
    fn serving(devices: &[&str], fresh_for: Duration) -> (Arc<Metrics>, Gpus) {
        let metrics = Metrics::new(&[]);
        for device in devices {
            metrics.model(&labels("m", device));
        }
        let gpus = Gpus::new(fresh_for);
        metrics.register(gpus.clone());
        (metrics, gpus)
    }

    /// The lines of the GPU's series.
    fn shown(metrics: &Metrics) -> Vec<String> {
        let text = metrics.render();
        let lines = text.lines().filter(|line| line.starts_with("resnetd_gpu_"));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn gpus_in_use_show_what_they_tell() {
        let (metrics, gpus) = serving(&["cuda:0,cuda:1", "cpu", "cuda:0"], LONG);
        assert!(shown(&metrics).is_empty(), "before anything is read");
        let mut fake = fake();
        gpus.refresh(metrics.gpus(), &mut fake);
        assert_eq!(fake.asked, ["cuda:0", "cuda:1"]);
        let expected = [
            "resnetd_gpu_memory_total_bytes{device=\"cuda:0\"} 80000000000",
            "resnetd_gpu_memory_total_bytes{device=\"cuda:1\"} 10000000000",
            "resnetd_gpu_memory_used_bytes{device=\"cuda:0\"} 2000000000",
            "resnetd_gpu_memory_used_bytes{device=\"cuda:1\"} 1000000000",
            "resnetd_gpu_utilization_ratio{device=\"cuda:0\"} 0.75",
        ];
        assert_eq!(shown(&metrics), expected);
    }

    #[test]
    fn a_gpu_that_no_model_uses_any_more_is_not_shown() {
        let (metrics, gpus) = serving(&["cuda:0", "cuda:1"], LONG);
        gpus.refresh(metrics.gpus(), &mut fake());
        assert_eq!(shown(&metrics).len(), 5);
        metrics.remove_model(&labels("m", "cuda:0"));
        gpus.refresh(metrics.gpus(), &mut fake());
        let left = shown(&metrics);
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left.iter().all(|line| line.contains("cuda:1")), "{left:?}");
    }

    #[test]
    fn without_a_gpu_there_are_no_series_and_nothing_is_asked() {
        let (metrics, gpus) = serving(&["cpu"], LONG);
        let mut fake = fake();
        gpus.refresh(metrics.gpus(), &mut fake);
        assert!(fake.asked.is_empty());
        let text = metrics.render();
        assert!(!text.contains("resnetd_gpu"), "{text}");
        assert!(text.contains("resnetd_images_total"), "{text}");
    }

    #[test]
    fn old_readings_are_not_shown() {
        let (metrics, gpus) = serving(&["cuda:0"], Duration::ZERO);
        gpus.refresh(metrics.gpus(), &mut fake());
        std::thread::sleep(Duration::from_millis(1));
        assert!(shown(&metrics).is_empty());
    }

    /// A card that hangs while it is read.
    #[test]
    fn a_scrape_does_not_wait_for_the_cards() {
        struct Scraped<'a>(&'a Metrics, Vec<String>);
        impl Cards for Scraped<'_> {
            fn read(&mut self, _: &str) -> Reading {
                self.1 = shown(self.0);
                Reading::default()
            }
        }
        let (metrics, gpus) = serving(&["cuda:0"], LONG);
        gpus.refresh(metrics.gpus(), &mut fake());
        let before = shown(&metrics);
        let mut scraped = Scraped(&metrics, Vec::new());
        gpus.refresh(metrics.gpus(), &mut scraped);
        assert_eq!(scraped.1, before);
        assert!(shown(&metrics).is_empty(), "a card that tells nothing");
    }
}
