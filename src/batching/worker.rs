//! A thread that owns one of a model's engines: takes due batches, runs them, answers every waiter.
//!
//! An engine that fails a batch is used again. One whose device is lost ends its worker, and the other workers of that
//! device with it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::{Entry, Queue};
use super::{BatchError, Output};
use crate::engine::{
    Answer, Batch, Best, Engine, EngineError, Image, Normalization, Ran, Wanted, give_back,
};
use crate::telemetry::{self, DeviceMetrics, ModelMetrics};

pub(super) struct Worker {
    /// By which the queue knows it.
    pub(super) number: usize,
    pub(super) model: String,
    pub(super) engine: Box<dyn Engine>,
    pub(super) queue: Arc<Queue>,
    pub(super) classes: usize,
    pub(super) normalization: Arc<Normalization>,
    pub(super) metrics: Arc<ModelMetrics>,
    pub(super) device: Arc<DeviceMetrics>,
    /// Called when the last device is lost.
    pub(super) on_lost: Arc<dyn Fn() + Send + Sync>,
}

/// A worker that is there, from before its thread starts until it ends, however it does: also when a bug panics, waiters
/// must hear of it rather than wait for their deadline.
pub(super) struct Presence {
    queue: Arc<Queue>,
    number: usize,
    device: Arc<DeviceMetrics>,
}

/// The batch's memory, kept from batch to batch.
#[derive(Default)]
struct Buffers {
    /// `[batch, c, h, w]`, of engines that have no other place for it.
    staging: Vec<f32>,
    /// `[batch, classes]`.
    logits: Vec<f32>,
}

/// When a batch began and what it took.
#[derive(Clone, Copy)]
struct Times {
    started: Instant,
    /// Until its images lay where the engine reads them, normalised.
    gathered: Duration,
    /// The forward pass.
    inference: Duration,
}

impl Worker {
    pub(super) fn presence(&self) -> Presence {
        self.device.workers.inc();
        Presence {
            queue: Arc::clone(&self.queue),
            number: self.number,
            device: Arc::clone(&self.device),
        }
    }

    /// Runs batches until the queue is closed and empty or the device lost; then the engine's memory goes.
    pub(super) fn run(mut self) {
        let mut buffers = Buffers::default();
        while let Some(batch) = self.queue.next_batch(self.number) {
            self.execute(batch, &mut buffers);
        }
        drop(self);
        give_back();
    }

    /// Runs one batch, its images in queue order, and answers all of it.
    fn execute(&mut self, batch: Vec<Entry>, buffers: &mut Buffers) {
        let images = batch.len();
        let started = Instant::now();
        buffers.logits.resize(images * self.classes, 0.0);
        // lent: an entry keeps its image until it is answered
        let pictures: Vec<&Image> = batch.iter().map(|entry| &entry.image).collect();
        let wanted = batch.iter().map(|entry| entry.terms.wanted);
        let asked = Batch {
            images: &pictures,
            normalization: &self.normalization,
            wanted: wanted.reduce(Wanted::and).unwrap_or(Wanted::Logits),
        };
        let (staging, logits) = (&mut buffers.staging, &mut buffers.logits);
        let result = forward(self.engine.as_mut(), &asked, staging, logits);
        let elapsed = started.elapsed();
        let result = result.map(|Ran { gathered, best }| {
            let times = Times {
                started,
                gathered,
                inference: elapsed.saturating_sub(gathered),
            };
            (times, best)
        });

        if let Err(BatchError::Lost(reason)) = &result {
            return self.lose(batch, reason);
        }
        // room first: a caller that has its answer may come back at once
        let inference = result.as_ref().ok().map(|(times, _)| times.inference);
        self.queue.finished(self.number, images, inference);
        match result {
            Ok((times, best)) => self.answer(batch, &buffers.logits, best, times),
            Err(error) => {
                tracing::error!(model = self.model, images, %error, "a batch failed");
                for entry in batch {
                    let _ = entry.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// The device answers no more: its workers leave, and the batch goes elsewhere if it can.
    fn lose(&self, batch: Vec<Entry>, reason: &str) {
        let images = batch.len();
        let loss = self.queue.lose(self.number, batch, reason);
        if loss.is_news {
            self.device.lost.inc();
            let device = &self.engine.info().device;
            let (model, devices_left) = (&self.model, loss.devices_left);
            tracing::error!(
                model,
                device,
                reason,
                images,
                devices_left,
                "a device is lost"
            );
            if devices_left == 0 {
                // before anyone has an answer: who has one may ask for the model's state next
                (self.on_lost)();
            }
        }
        for entry in loss.failed {
            let _ = entry.answer.send(Err(BatchError::Lost(reason.to_owned())));
        }
    }

    /// Answers every image, from its logits where the engine did not find the best.
    fn answer(&self, batch: Vec<Entry>, logits: &[f32], best: Option<Vec<Best>>, times: Times) {
        let (images, inference) = (batch.len(), times.inference);
        let answering = Instant::now();
        let answers: Vec<Answer> = match best {
            Some(best) => best.into_iter().map(Answer::Best).collect(),
            None => {
                let logits = logits.chunks_exact(self.classes);
                logits.map(|of| Answer::Logits(of.to_vec())).collect()
            }
        };
        self.device.inference.observe(inference.as_secs_f64());
        self.device.batch_size.observe(images as f64);
        if let Some(bucket) = self.engine.bucket(images) {
            self.device.replays.count(bucket, images);
        }
        let output = |(entry, answer): (&Entry, Answer)| {
            let queued = times.started.saturating_duration_since(entry.submitted);
            self.device.stage_queue.observe(queued.as_secs_f64());
            self.device.stage_inference.observe(inference.as_secs_f64());
            Output {
                answer,
                queued,
                inference,
                batch_size: images,
            }
        };
        let outputs: Vec<Output> = batch.iter().zip(answers).map(output).collect();
        // before anyone has an answer: who has one may look at the counts next
        self.metrics.statistics.executed(&telemetry::Batch {
            images,
            input: times.gathered,
            infer: inference,
            output: answering.elapsed(),
        });
        for (entry, output) in batch.into_iter().zip(outputs) {
            // fails if the caller left meanwhile, which is no error
            let _ = entry.answer.send(Ok(output));
        }
    }
}

/// One forward pass; a panic of the engine is an error like any other, and the engine is used again.
pub(super) fn forward(
    engine: &mut dyn Engine,
    batch: &Batch<'_>,
    staging: &mut Vec<f32>,
    logits: &mut [f32],
) -> Result<Ran, BatchError> {
    // the buffers are overwritten before they are read again, so a panic half way leaves nothing broken in them
    let pass = || engine.forward_images(batch, staging, logits);
    match catch_unwind(AssertUnwindSafe(pass)) {
        Ok(Ok(ran)) => Ok(ran),
        Ok(Err(EngineError::Lost(reason))) => Err(BatchError::Lost(reason)),
        Ok(Err(error)) => Err(BatchError::Engine(error.to_string())),
        Err(panic) => Err(BatchError::Engine(format!(
            "the engine panicked: {}",
            words(&*panic)
        ))),
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.device.workers.dec();
        self.queue.leave(self.number);
    }
}
