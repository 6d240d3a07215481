//! The queue of one model: images ready to run, by priority and then in the order they came, and the counts of admission,
//! under one lock.
//!
//! One lock rather than atomics beside it: the policy reads the queue and the counts together, and a worker that read
//! one before and the other after a change could sleep through it. Nothing is computed or sent while it is held.
//! Images whose caller left or whose deadline passed are dropped when a batch forms, before they cost compute, and
//! before a newcomer is refused for want of room.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::admission::Counts;
use super::policy::{Decision, Limits, View, decide};
use super::{BatchError, Config, Load, Output, Priority, QueueFull};
use crate::engine::Image;
use crate::telemetry::ModelMetrics;

/// One image ready to run.
pub(super) struct Entry {
    /// Of the queue's `image_len`.
    pub(super) image: Image,
    pub(super) priority: Priority,
    pub(super) deadline: Instant,
    pub(super) submitted: Instant,
    pub(super) answer: oneshot::Sender<Result<Output, BatchError>>,
}

pub(super) struct Queue {
    /// Values of one image.
    pub(super) image_len: usize,
    limits: Limits,
    metrics: Arc<ModelMetrics>,
    state: Mutex<State>,
    /// Signalled when the policy may decide otherwise than before; only the worker waits on it.
    news: Condvar,
}

struct State {
    counts: Counts,
    entries: VecDeque<Entry>,
    /// The last handle and ticket are gone: nothing more will come.
    closed: bool,
    /// The worker is gone: nothing more will be answered.
    abandoned: bool,
    /// Moving average of the recent batches; zero before the first.
    seconds_per_image: f64,
}

impl Queue {
    pub(super) fn new(image_len: usize, config: Config, metrics: Arc<ModelMetrics>) -> Self {
        Self {
            image_len,
            limits: Limits {
                max_batch: config.max_batch.max(1),
                max_queue_delay: config.max_queue_delay,
            },
            metrics,
            state: Mutex::new(State {
                counts: Counts::new(config.max_queue),
                entries: VecDeque::new(),
                closed: false,
                abandoned: false,
                seconds_per_image: 0.0,
            }),
            news: Condvar::new(),
        }
    }

    /// Changes a ticket from `held` to `wanted` images; the departed make room before anyone is refused.
    pub(super) fn resize(&self, held: usize, wanted: usize) -> Result<(), QueueFull> {
        let mut departed = VecDeque::new();
        let result = {
            let mut state = self.lock();
            let mut result = state.counts.resize(held, wanted);
            if result.is_err() {
                departed = self.remove_departed(&mut state, Instant::now());
                result = state.counts.resize(held, wanted);
            }
            if state.counts.on_its_way == 0 {
                self.news.notify_one();
            }
            result
        };
        answer_departed(departed);
        result
    }

    /// Queues an image that was on its way.
    pub(super) fn push(&self, entry: Entry) {
        let mut state = self.lock();
        state.counts.arrived();
        if state.abandoned {
            state.counts.answered(1);
            return;
        }
        let last = state
            .entries
            .iter()
            .rposition(|e| e.priority <= entry.priority);
        state.entries.insert(last.map_or(0, |at| at + 1), entry);
        self.show_depth(&state);
        self.news.notify_one();
    }

    /// Waits until a batch is due and takes it off the queue; `None` when the queue is closed and empty. Its images
    /// stay admitted until [`Queue::finished`].
    pub(super) fn next_batch(&self) -> Option<Vec<Entry>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let departed = self.remove_departed(&mut state, now);
            if !departed.is_empty() {
                drop(state);
                answer_departed(departed);
                state = self.lock();
                continue;
            }
            match decide(state.view(now), self.limits) {
                Decision::Dispatch(images) => {
                    let batch = state.entries.drain(..images).collect();
                    self.show_depth(&state);
                    return Some(batch);
                }
                Decision::WaitFor(left) => {
                    let waited = self.news.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Decision::WaitForImage if state.closed => return None,
                Decision::WaitForImage => {
                    state = self
                        .news
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Gives back the room of a batch; `inference` is its time, or `None` if it failed.
    pub(super) fn finished(&self, images: usize, inference: Option<Duration>) {
        let mut state = self.lock();
        state.counts.answered(images);
        if let Some(inference) = inference {
            let last = inference.as_secs_f64() / images.max(1) as f64;
            let before = state.seconds_per_image;
            state.seconds_per_image = if before == 0.0 {
                last
            } else {
                0.8 * before + 0.2 * last
            };
        }
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }

    /// The worker ends. After a regular end there is nothing to do; after a panic, the waiters' channels close.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        // what was queued or executing will not be answered; what is on its way still holds its tickets
        state.counts.admitted = state.counts.on_its_way;
        let left = std::mem::take(&mut state.entries);
        self.show_depth(&state);
        drop(state);
        drop(left);
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            admitted: state.counts.admitted,
            on_its_way: state.counts.on_its_way,
            queued: state.entries.len(),
            seconds_per_image: state.seconds_per_image,
        }
    }

    fn remove_departed(&self, state: &mut State, now: Instant) -> VecDeque<Entry> {
        if !state.entries.iter().any(|entry| entry.is_departed(now)) {
            return VecDeque::new();
        }
        let entries = std::mem::take(&mut state.entries);
        let (departed, staying) = entries
            .into_iter()
            .partition(|entry| entry.is_departed(now));
        let departed: VecDeque<Entry> = departed;
        state.entries = staying;
        state.counts.answered(departed.len());
        self.show_depth(state);
        departed
    }

    fn show_depth(&self, state: &State) {
        self.metrics.queue_depth.set(state.entries.len() as i64);
    }

    /// No code that can panic runs under the lock, so a poisoned one holds a sound state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn view(&self, now: Instant) -> View {
        let oldest = self.entries.iter().map(|entry| entry.submitted).min();
        View {
            queued: self.entries.len(),
            on_its_way: self.counts.on_its_way,
            oldest_wait: oldest.map_or(Duration::ZERO, |t| now.saturating_duration_since(t)),
        }
    }
}

impl Entry {
    fn is_departed(&self, now: Instant) -> bool {
        self.deadline <= now || self.answer.is_closed()
    }
}

/// Tells those still listening; a caller that left hears nothing.
fn answer_departed(departed: VecDeque<Entry>) {
    for entry in departed {
        let _ = entry.answer.send(Err(BatchError::Deadline));
    }
}
