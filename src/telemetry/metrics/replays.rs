//! Series of engines that capture a graph for each of some batch sizes: `resnetd_graph_replays_total{bucket}` and
//! `resnetd_padding_images_total`. Other engines have none of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::{IntCounter, IntCounterVec};

use super::ModelLabels;
use super::families::values;

/// What one device replays of one model.
#[derive(Debug)]
pub struct Replays {
    graphs: IntCounterVec,
    padding: IntCounterVec,
    labels: ModelLabels,
    /// By the batch size that was captured.
    series: Mutex<BTreeMap<usize, Series>>,
}

#[derive(Clone, Debug)]
struct Series {
    replays: IntCounter,
    padding: IntCounter,
}

impl Replays {
    pub(super) fn new(
        graphs: &IntCounterVec,
        padding: &IntCounterVec,
        labels: &ModelLabels,
    ) -> Self {
        Self {
            graphs: graphs.clone(),
            padding: padding.clone(),
            labels: labels.clone(),
            series: Mutex::default(),
        }
    }

    /// Makes the series of a batch size that was captured, or finds them.
    pub fn announce(&self, bucket: usize) {
        self.of(bucket);
    }

    /// Counts a batch of `images` that was padded to `bucket`.
    pub fn count(&self, bucket: usize, images: usize) {
        let series = self.of(bucket);
        series.replays.inc();
        series.padding.inc_by(bucket.saturating_sub(images) as u64);
    }

    fn of(&self, bucket: usize) -> Series {
        let make = || {
            let size = bucket.to_string();
            Series {
                replays: self
                    .graphs
                    .with_label_values(&values(&self.labels, [&size])),
                padding: self.padding.with_label_values(&values(&self.labels, [])),
            }
        };
        self.series().entry(bucket).or_insert_with(make).clone()
    }

    /// Removes all series. The handles are kept, so that what still counts on them makes no new ones.
    pub(super) fn remove(&self) {
        for bucket in self.series().keys() {
            let size = bucket.to_string();
            let _ = self
                .graphs
                .remove_label_values(&values(&self.labels, [&size]));
        }
        let _ = self.padding.remove_label_values(&values(&self.labels, []));
    }

    /// Batches by bucket, ascending.
    #[cfg(test)]
    pub(crate) fn replayed(&self) -> Vec<(usize, u64)> {
        let series = self.series();
        series
            .iter()
            .map(|(bucket, series)| (*bucket, series.replays.get()))
            .collect()
    }

    #[cfg(test)]
    pub(crate) fn padding(&self) -> u64 {
        self.padding
            .with_label_values(&values(&self.labels, []))
            .get()
    }

    fn series(&self) -> MutexGuard<'_, BTreeMap<usize, Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
