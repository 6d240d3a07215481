//! The queue of one model: images ready to run, by priority and then in the order they came, and the counts of
//! admission, under one lock.
//!
//! One lock rather than atomics beside it: the policy reads the queue and the counts together, and a worker that read
//! one before and the other after a change could sleep through it. Nothing is computed or sent while it is held.
//! Images whose caller left or whose deadline passed are dropped when a batch forms, before they cost compute, and
//! before a newcomer is refused for want of room.
//!
//! Several workers share the queue. Of those that wait, the crew says who goes next; that one alone asks the policy and
//! keeps its time, the others sleep. Whatever may change who is next, or what the policy says to that one, wakes it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::admission::Counts;
use super::crew::Crew;
use super::policy::{Decision, Limits, View, decide};
use super::{BatchError, Config, Load, Output, QueueFull, Terms};
use crate::engine::Image;
use crate::telemetry::ModelMetrics;

/// Why a device is lost whose engines may be well: nobody runs them any more.
const PANICKED: &str = "its worker panicked, which is a bug";

/// One image ready to run.
pub(super) struct Entry {
    /// Of the queue's `image_len`.
    pub(super) image: Image,
    pub(super) terms: Terms,
    pub(super) submitted: Instant,
    /// It was in a batch whose device was lost.
    pub(super) retried: bool,
    pub(super) answer: oneshot::Sender<Result<Output, BatchError>>,
}

pub(super) struct Queue {
    /// Values of one image.
    pub(super) image_len: usize,
    limits: Limits,
    metrics: Arc<ModelMetrics>,
    state: Mutex<State>,
    /// By worker, who alone waits on its own: signalled when it may be its turn, or the policy may decide otherwise
    /// than before.
    news: Vec<Condvar>,
}

/// What is to be done after a device was lost.
pub(super) struct Loss {
    pub(super) reason: String,
    /// Nobody has seen to it yet.
    pub(super) is_news: bool,
    /// Of the batch that ran there.
    pub(super) images: usize,
    pub(super) devices_left: usize,
    /// Images that cannot run elsewhere: to be answered with an error.
    pub(super) failed: Vec<Entry>,
}

struct State {
    counts: Counts,
    crew: Crew,
    entries: VecDeque<Entry>,
    /// The last handle and ticket are gone: nothing more will come.
    closed: bool,
    /// Moving average of the recent batches; zero before the first.
    seconds_per_image: f64,
}

impl Queue {
    /// `devices` are those of the workers, one for each.
    pub(super) fn new(
        image_len: usize,
        config: Config,
        metrics: Arc<ModelMetrics>,
        devices: &[&str],
    ) -> Self {
        Self {
            image_len,
            limits: Limits {
                max_batch: config.max_batch.max(1),
                max_queue_delay: config.max_queue_delay,
            },
            metrics,
            state: Mutex::new(State {
                counts: Counts::new(config.max_queue),
                crew: Crew::new(devices.iter().copied()),
                entries: VecDeque::new(),
                closed: false,
                seconds_per_image: 0.0,
            }),
            news: devices.iter().map(|_| Condvar::new()).collect(),
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
                self.wake_next(&state);
            }
            result
        };
        answer_departed(departed);
        result
    }

    /// Queues an image that was on its way, or answers it where nobody is left to run it.
    pub(super) fn push(&self, entry: Entry) {
        let mut state = self.lock();
        state.counts.arrived();
        if let Some(reason) = state.crew.lost() {
            state.counts.answered(1);
            drop(state);
            let _ = entry.answer.send(Err(BatchError::Lost(reason)));
            return;
        }
        let last = state
            .entries
            .iter()
            .rposition(|e| e.terms.priority <= entry.terms.priority);
        state.entries.insert(last.map_or(0, |at| at + 1), entry);
        self.show_depth(&state);
        self.wake_next(&state);
    }

    /// Waits until a batch is due and this worker's, and takes it off the queue; `None` when the queue is closed and
    /// empty or the worker's device is lost. Its images stay admitted until [`Queue::finished`] or [`Queue::lose`].
    pub(super) fn next_batch(&self, worker: usize) -> Option<Vec<Entry>> {
        let mut state = self.lock();
        state.crew.waits(worker);
        loop {
            if state.crew.has_lost(worker) || (state.closed && state.entries.is_empty()) {
                state.crew.leaves(worker);
                self.wake_next(&state);
                return None;
            }
            let now = Instant::now();
            let departed = self.remove_departed(&mut state, now);
            if !departed.is_empty() {
                drop(state);
                answer_departed(departed);
                state = self.lock();
                continue;
            }
            let decision = match state.crew.next() == Some(worker) {
                true => decide(state.view(worker, now), self.limits),
                false => Decision::WaitForImage,
            };
            let news = &self.news[worker];
            state = match decision {
                Decision::Dispatch(images) => {
                    let batch: Vec<Entry> = state.entries.drain(..images).collect();
                    state.crew.starts(worker, batch.len());
                    self.show_depth(&state);
                    // what is left is for another
                    self.wake_next(&state);
                    return Some(batch);
                }
                Decision::WaitFor(left) => {
                    let waited = news.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Decision::WaitForImage => news.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Gives back the room of the worker's batch; `inference` is its time, or `None` if it failed.
    pub(super) fn finished(&self, worker: usize, images: usize, inference: Option<Duration>) {
        let mut state = self.lock();
        state.counts.answered(images);
        state.crew.ends(worker);
        if let Some(inference) = inference {
            let last = inference.as_secs_f64() / images.max(1) as f64;
            let before = state.seconds_per_image;
            state.seconds_per_image = if before == 0.0 {
                last
            } else {
                0.8 * before + 0.2 * last
            };
        }
        // its device has less to do now: another that waits there may have the turn, and need wait no longer
        self.wake_next(&state);
    }

    /// Takes the device of a worker out whose batch it has failed for good. The images go back to where they were in
    /// the queue if another device is left, each of them once.
    pub(super) fn lose(&self, worker: usize, batch: Vec<Entry>, reason: &str) -> Loss {
        let mut state = self.lock();
        state.crew.ends(worker);
        self.take_out(&mut state, worker, batch, reason)
    }

    fn take_out(&self, state: &mut State, worker: usize, batch: Vec<Entry>, reason: &str) -> Loss {
        let is_news = state.crew.lose(worker, reason);
        let devices_left = state.crew.devices_left();
        let images = batch.len();
        let mut failed = Vec::new();
        // the last first, each before its equals, so that they keep their order
        for mut entry in batch.into_iter().rev() {
            match devices_left > 0 && !std::mem::replace(&mut entry.retried, true) {
                true => state.put_back(entry),
                false => failed.push(entry),
            }
        }
        if devices_left == 0 {
            failed.extend(std::mem::take(&mut state.entries));
        }
        state.counts.answered(failed.len());
        self.show_depth(state);
        // those on the same device are to leave
        self.wake_all();
        Loss {
            reason: reason.to_owned(),
            is_news,
            images,
            devices_left,
            failed,
        }
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake_all();
    }

    /// A worker ends. After a regular end there is nothing to do; after a panic its images have no answer, and where it
    /// was the last of its device, that counts as lost.
    pub(super) fn leave(&self, worker: usize) -> Option<Loss> {
        let mut state = self.lock();
        if state.crew.has_left(worker) {
            return None;
        }
        let images = state.crew.leaves(worker);
        state.counts.answered(images);
        if state.crew.is_staffed(worker) {
            self.wake_next(&state);
            return None;
        }
        let loss = self.take_out(&mut state, worker, Vec::new(), PANICKED);
        Some(Loss { images, ..loss })
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            admitted: state.counts.admitted,
            on_its_way: state.counts.on_its_way,
            queued: state.entries.len(),
            seconds_per_image: state.seconds_per_image,
            workers: state.crew.workers_left(),
        }
    }

    /// What was lost and why, once every device is.
    pub(super) fn lost(&self) -> Option<String> {
        self.lock().crew.lost()
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().crew.waiting()
    }

    /// With nothing queued there is nothing to wake for but the end.
    fn wake_next(&self, state: &State) {
        if state.entries.is_empty() {
            if state.closed {
                self.wake_all();
            }
        } else if let Some(news) = state.crew.next().and_then(|worker| self.news.get(worker)) {
            news.notify_one();
        }
    }

    fn wake_all(&self) {
        self.news.iter().for_each(Condvar::notify_one);
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
    /// Queues an image again, before those of its priority that came after it.
    fn put_back(&mut self, entry: Entry) {
        let place = |e: &Entry| (e.terms.priority, e.submitted);
        let at = self.entries.partition_point(|e| place(e) < place(&entry));
        self.entries.insert(at, entry);
    }

    fn view(&self, worker: usize, now: Instant) -> View {
        let oldest = self.entries.iter().map(|entry| entry.submitted).min();
        View {
            queued: self.entries.len(),
            on_its_way: self.counts.on_its_way,
            under_way: self.crew.under_way(worker),
            oldest_wait: oldest.map_or(Duration::ZERO, |t| now.saturating_duration_since(t)),
        }
    }
}

impl Entry {
    fn is_departed(&self, now: Instant) -> bool {
        self.terms.deadline <= now || self.answer.is_closed()
    }
}

/// Tells those still listening; a caller that left hears nothing.
fn answer_departed(departed: VecDeque<Entry>) {
    for entry in departed {
        let _ = entry.answer.send(Err(BatchError::Deadline));
    }
}
