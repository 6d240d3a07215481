//! Cumulative counts and durations of one model, as the statistics extension of the Open Inference Protocol reports
//! them: what histograms cannot give (exact sums, each batch size).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How often something happened and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub count: u64,
    pub total: Duration,
}

/// Everything counted since the model was first loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// When the last batch ended.
    pub last_inference: Option<SystemTime>,
    /// Images answered.
    pub images: u64,
    /// Requests that ended well, and the slowest image's time in each stage of them.
    pub success: Span,
    pub queue: Span,
    pub input: Span,
    pub infer: Span,
    /// Requests that did not.
    pub fail: Span,
    /// By batch size.
    pub batches: BTreeMap<usize, Batches>,
}

/// Batches of one size: gathering and normalising their images, the forward pass, handing out the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    pub input: Span,
    pub infer: Span,
    pub output: Span,
}

/// One request that ended well.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    pub total: Duration,
    pub queue: Duration,
    /// Decoding, resizing and cropping.
    pub input: Duration,
    pub infer: Duration,
}

/// One batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    pub images: usize,
    pub input: Duration,
    pub infer: Duration,
    pub output: Duration,
}

#[derive(Debug, Default)]
pub struct Statistics(Mutex<Snapshot>);

impl Statistics {
    pub fn succeeded(&self, request: &Served) {
        let mut now = self.lock();
        now.success.add(request.total);
        now.queue.add(request.queue);
        now.input.add(request.input);
        now.infer.add(request.infer);
    }

    pub fn failed(&self, total: Duration) {
        self.lock().fail.add(total);
    }

    pub fn executed(&self, batch: &Batch) {
        let mut now = self.lock();
        now.last_inference = Some(SystemTime::now());
        now.images += batch.images as u64;
        let batches = now.batches.entry(batch.images).or_default();
        batches.input.add(batch.input);
        batches.infer.add(batch.infer);
        batches.output.add(batch.output);
    }

    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Span {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.total += time;
    }
}
