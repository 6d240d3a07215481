//! A thread that owns one of a model's engines: takes due batches, runs them, answers every waiter.
//!
//! An engine that fails a batch is used again. One whose device is lost ends its worker, and the other workers of that
//! device with it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::queue::{Entry, Loss, Queue};
use super::{BatchError, Output};
use crate::engine::{
    Answer, Batch, Best, Engine, EngineError, Image, Normalization, Ran, Wanted, give_back,
};
use crate::telemetry::{self, DeviceMetrics, ModelMetrics};

pub(super) struct Worker {
    pub(super) post: Post,
    pub(super) engine: Box<dyn Engine>,
    pub(super) classes: usize,
    pub(super) normalization: Arc<Normalization>,
    pub(super) metrics: Arc<ModelMetrics>,
}

/// Where a worker works.
#[derive(Clone)]
pub(super) struct Post {
    /// By which the queue knows the worker.
    pub(super) number: usize,
    pub(super) model: String,
    pub(super) queue: Arc<Queue>,
    /// Name of its engine's device.
    pub(super) on: String,
    pub(super) device: Arc<DeviceMetrics>,
    /// Called when the last device is lost.
    pub(super) on_lost: Arc<dyn Fn() + Send + Sync>,
}

/// A worker that is there, from before its thread starts until it ends, however it does: also when a bug panics,
/// waiters must hear of it rather than wait for their deadline.
pub(super) struct Presence(Post);

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
        self.post.device.workers.inc();
        Presence(self.post.clone())
    }

    /// Runs batches until the queue is closed and empty or the device lost; then the engine's memory goes.
    pub(super) fn run(mut self) {
        let mut buffers = Buffers::default();
        while let Some(batch) = self.post.queue.next_batch(self.post.number) {
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
            let loss = self.post.queue.lose(self.post.number, batch, reason);
            return self.post.tell(loss);
        }
        // room first: a caller that has its answer may come back at once
        let inference = result.as_ref().ok().map(|(times, _)| times.inference);
        self.post
            .queue
            .finished(self.post.number, images, inference);
        match result {
            Ok((times, best)) => self.answer(batch, &buffers.logits, best, times),
            Err(error) => {
                tracing::error!(model = self.post.model, images, %error, "a batch failed");
                for entry in batch {
                    let _ = entry.answer.send(Err(error.clone()));
                }
            }
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
        let device = &self.post.device;
        device.inference.observe(inference.as_secs_f64());
        device.batch_size.observe(images as f64);
        if let Some(bucket) = self.engine.bucket(images) {
            device.replays.count(bucket, images);
        }
        let output = |(entry, answer): (&Entry, Answer)| {
            let queued = times.started.saturating_duration_since(entry.submitted);
            device.stage_queue.observe(queued.as_secs_f64());
            device.stage_inference.observe(inference.as_secs_f64());
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

impl Post {
    /// The device answers no more: those who watch hear of it, and those whose images cannot go elsewhere.
    fn tell(&self, loss: Loss) {
        let Loss {
            reason,
            is_news,
            images,
            devices_left,
            failed,
        } = loss;
        if is_news {
            self.device.lost.inc();
            let (model, device) = (&self.model, &self.on);
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
        for entry in failed {
            let _ = entry.answer.send(Err(BatchError::Lost(reason.clone())));
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
        let Self(post) = self;
        post.device.workers.dec();
        let loss = post.queue.leave(post.number);
        // of a thread that did not even start, whoever wanted it is told
        if let Some(loss) = loss.filter(|_| thread::panicking()) {
            post.tell(loss);
        }
    }
}
