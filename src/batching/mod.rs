//! Dynamic batching: admission, a bounded queue per model, and the threads that own the model's engines.
//!
//! A caller takes a [`Ticket`] before it reads an image, decodes under it and submits; `policy` decides when the queued
//! images go as one batch, `queue` drops those nobody waits for any more, `worker` runs the batch and answers. Where a
//! model has several engines, each has a worker on the one queue, and `crew` says whose turn it is.

mod admission;
mod crew;
#[cfg(test)]
pub(crate) mod fake;
mod policy;
mod queue;
#[cfg(test)]
mod tests;
mod worker;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::engine::{Answer, Batch, Engine, Image, Normalization, Wanted};
use crate::telemetry::ModelMetrics;

pub use admission::Ticket;

use admission::Handle;
use queue::Queue;
use worker::{Post, Worker};

/// Limits of one model's batcher.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// `--max-batch`; 0 counts as 1.
    pub max_batch: usize,
    /// `--max-queue-delay`: longest an image waits for company.
    pub max_queue_delay: Duration,
    /// `--max-queue`: images admitted and unanswered.
    pub max_queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_batch: 32,
            max_queue_delay: Duration::from_millis(2),
            max_queue: 256,
        }
    }
}

/// What a model's workers have to know of it.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Its name.
    pub model: &'a str,
    pub signature: Signature,
    pub config: Config,
    pub metrics: Arc<ModelMetrics>,
}

/// Handle to one model's queue and workers; clones share it. The workers end when the last handle and ticket are gone,
/// after they have answered everything queued.
#[derive(Clone)]
pub struct Batcher {
    handle: Arc<Handle>,
}

/// What a model's engine takes and gives.
#[derive(Clone, Debug)]
pub struct Signature {
    /// Values of one image.
    pub image_len: usize,
    /// Logits of one image.
    pub classes: usize,
    /// Of images that come as pixels.
    pub normalization: Arc<Normalization>,
}

/// What is left of a model's workers once nothing holds its [`Batcher`].
#[derive(Clone)]
pub struct Remains {
    /// That each of them holds until its engine has gone.
    queue: Weak<Queue>,
}

/// Who goes first of those queued: 1, the highest, to 10. Of equal ones who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

/// How one image is to be served.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub wanted: Wanted,
    pub priority: Priority,
    /// From then on nobody waits for the answer.
    pub deadline: Instant,
}

/// Why an image got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("the deadline passed while the image was queued")]
    Deadline,
    #[error("the batch failed: {0}")]
    Engine(String),
    #[error("the image has {found} values, the model takes {expected}")]
    ImageLength { expected: usize, found: usize },
    /// The device is lost and none is left, or was lost in turn, to run the image on.
    #[error("the device that ran the image is lost: {0}")]
    Lost(String),
    /// The worker that had the image is gone.
    #[error("the model is being unloaded")]
    Closed,
}

/// No room for the images asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the queue is full: {admitted} images are admitted and {asked} more would pass the limit of {limit}"
)]
pub struct QueueFull {
    /// Images of others.
    pub admitted: usize,
    /// Images this ticket would have held.
    pub asked: usize,
    pub limit: usize,
}

/// The answer to one image and how it got it.
#[derive(Clone, Debug)]
pub struct Output {
    /// Logits wherever they were wanted.
    pub answer: Answer,
    /// From submission to the start of the batch.
    pub queued: Duration,
    /// The batch's forward pass.
    pub inference: Duration,
    pub batch_size: usize,
}

/// How busy a model is at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Images admitted and unanswered.
    pub admitted: usize,
    /// Those of them not yet queued.
    pub on_its_way: usize,
    /// Those of them queued.
    pub queued: usize,
    /// Of one worker: moving average over the recent batches; zero before the first.
    pub seconds_per_image: f64,
    /// Those who take batches.
    pub workers: usize,
}

impl Priority {
    pub const LEVELS: u8 = 10;

    /// `None` for a level that there is not.
    pub fn new(level: u64) -> Option<Self> {
        let level = u8::try_from(level).ok()?;
        (1..=Self::LEVELS).contains(&level).then_some(Self(level))
    }

    pub fn level(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    /// In the middle: a caller may go before and after those who say nothing.
    fn default() -> Self {
        Self(5)
    }
}

impl Batcher {
    /// Starts a worker thread for each engine. `on_lost` is called, by one of them, once every device is lost, before
    /// the images that were queued or running there are answered.
    ///
    /// # Errors
    /// When there is no engine, the metrics have no series for an engine's device, or the operating system refuses a
    /// thread.
    pub fn spawn(
        engines: Vec<Box<dyn Engine>>,
        setup: Setup<'_>,
        on_lost: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        if engines.is_empty() {
            return Err(std::io::Error::other("there is no engine"));
        }
        let devices: Vec<&str> = engines.iter().map(|e| e.info().device.as_str()).collect();
        let Setup {
            signature,
            config,
            metrics,
            ..
        } = setup;
        let queue = Arc::new(Queue::new(
            signature.image_len,
            config,
            Arc::clone(&metrics),
            &devices,
        ));
        // from here on a failure ends the workers that have started
        let handle = Arc::new(Handle {
            queue: Arc::clone(&queue),
        });
        let on_lost: Arc<dyn Fn() + Send + Sync> = Arc::new(on_lost);
        for (number, engine) in engines.into_iter().enumerate() {
            let on = engine.info().device.clone();
            let device = metrics.device(&on).ok_or_else(|| {
                std::io::Error::other(format!("there are no series for the device {on}"))
            })?;
            for bucket in (1..=config.max_batch).filter_map(|batch| engine.bucket(batch)) {
                device.replays.announce(bucket);
            }
            let worker = Worker {
                post: Post {
                    number,
                    model: setup.model.to_owned(),
                    queue: Arc::clone(&queue),
                    on,
                    device,
                    on_lost: Arc::clone(&on_lost),
                },
                engine,
                classes: signature.classes.max(1),
                normalization: Arc::clone(&signature.normalization),
                metrics: Arc::clone(&metrics),
            };
            let presence = worker.presence();
            // a thread's name cannot hold a zero byte
            let thread = std::thread::Builder::new().name(setup.model.replace('\0', ""));
            thread.spawn(move || {
                worker.run();
                drop(presence);
            })?;
        }
        Ok(Self { handle })
    }

    /// Takes the right to `images` images, whole or not at all.
    ///
    /// # Errors
    /// When `max_queue` leaves no room for all of them.
    pub fn admit(&self, images: usize) -> Result<Ticket, QueueFull> {
        Ticket::new(Arc::clone(&self.handle), images)
    }

    pub fn load(&self) -> Load {
        self.handle.queue.load()
    }

    /// The workers, to be watched as they end.
    pub fn remains(&self) -> Remains {
        Remains {
            queue: Arc::downgrade(&self.handle.queue),
        }
    }

    /// What was lost and why, once every device is: from then on nothing is answered.
    pub fn lost(&self) -> Option<String> {
        self.handle.queue.lost()
    }
}

impl Remains {
    /// Whether every worker has dropped its engine and left.
    pub fn have_ended(&self) -> bool {
        self.queue.strong_count() == 0
    }
}

impl Load {
    /// How long the images admitted so far will take, by the speed of the recent batches.
    pub fn backlog(&self) -> Duration {
        let one_by_one = self.admitted as f64 * self.seconds_per_image;
        Duration::try_from_secs_f64(one_by_one / self.workers.max(1) as f64)
            .unwrap_or(Duration::MAX)
    }
}

impl fmt::Debug for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remains")
            .field("have_ended", &self.have_ended())
            .finish()
    }
}

impl fmt::Debug for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher")
            .field("load", &self.load())
            .finish()
    }
}

/// Runs one batch of black images of each of the engine's buckets up to `max_batch` before it serves, so that no caller
/// pays for first allocations and none is the first to see a packing fail. Returns the logits of all.
///
/// # Errors
/// When the engine fails.
pub fn warm_up(
    engine: &mut dyn Engine,
    signature: &Signature,
    max_batch: usize,
) -> Result<Vec<f32>, BatchError> {
    let black = Image::Pixels(vec![0; signature.image_len]);
    let (mut all, mut staging) = (Vec::new(), Vec::new());
    let buckets = engine.prepare(max_batch.max(1));
    for batch in buckets.map_err(|error| BatchError::Engine(error.to_string()))? {
        let mut logits = vec![0.0; batch * signature.classes];
        let blacks = Batch {
            images: &vec![&black; batch],
            normalization: &signature.normalization,
            wanted: Wanted::Logits,
        };
        worker::forward(engine, &blacks, &mut staging, &mut logits)?;
        all.append(&mut logits);
    }
    Ok(all)
}
