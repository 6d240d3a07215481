//! Dynamic batching: admission, a bounded queue per model, and the thread that owns the model's engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::telemetry::ModelMetrics;

/// Limits of one model's batcher.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// `--max-batch`.
    pub max_batch: usize,
    /// `--max-queue-delay`: longest an image waits for company.
    pub max_queue_delay: Duration,
    /// `--max-queue`: images admitted and unanswered.
    pub max_queue: usize,
}

/// Handle to one model's queue and worker; clones share it. The worker ends when the last handle and ticket are gone.
#[derive(Clone)]
pub struct Batcher {}

/// The right to have `images` images in the system; gives it back when dropped.
pub struct Ticket {}

/// Why an image got no logits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("the deadline passed while the image was queued")]
    Deadline,
    #[error("the batch failed: {0}")]
    Engine(String),
    /// The worker is gone.
    #[error("the model is being unloaded")]
    Closed,
}

/// No room for the images asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the queue is full: {admitted} images are admitted and {asked} more would pass the limit of {limit}"
)]
pub struct QueueFull {
    pub admitted: usize,
    pub asked: usize,
    pub limit: usize,
}

/// Logits of one image and how it got them.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[classes]`.
    pub logits: Vec<f32>,
    /// From submission to the start of the batch.
    pub queued: Duration,
    /// The batch's forward pass.
    pub inference: Duration,
    pub batch_size: usize,
}

impl Batcher {
    /// Starts the worker thread. `image_len` and `classes` are values per image.
    pub fn spawn(
        name: &str,
        engine: Box<dyn Engine>,
        image_len: usize,
        classes: usize,
        config: Config,
        metrics: Arc<ModelMetrics>,
    ) -> std::io::Result<Self> {
        let _ = (name, engine, image_len, classes, config, metrics);
        unimplemented!()
    }

    /// Takes the right to `images` images, whole or not at all.
    pub fn admit(&self, images: usize) -> Result<Ticket, QueueFull> {
        let _ = images;
        unimplemented!()
    }
}

impl Ticket {
    /// Changes the number of images held (a ticket for one is taken before the body shows how many there are).
    pub fn resize(&mut self, images: usize) -> Result<(), QueueFull> {
        let _ = images;
        unimplemented!()
    }

    /// Splits off the right to one image, to travel with it through decode and queue.
    pub fn take_one(&mut self) -> Option<Ticket> {
        unimplemented!()
    }

    /// Queues one preprocessed image `[c, h, w]` under this one-image ticket. Dropping the receiver withdraws it.
    pub fn submit(
        self,
        image: Vec<f32>,
        deadline: Instant,
    ) -> oneshot::Receiver<Result<Output, BatchError>> {
        let _ = (image, deadline);
        unimplemented!()
    }
}
