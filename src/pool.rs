//! The process's one pool of threads: layers of a forward pass run on it as loops that the caller shares in, decoding
//! and preprocessing as queued jobs.
//!
//! Loops come first, as they are short and someone waits. An idle thread spins while a loop is on and for about the time
//! between two layers after it, since waking one costs as much as a small layer takes. As the caller of a loop works on
//! it too, one thread fewer than there are may spin: one more would take a core from the loop. The queue is unbounded;
//! admission bounds its length.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kernels::{Lending, Threads};

/// How long an idle thread looks for work, from the end of the last loop, before it sleeps.
const SPIN: Duration = Duration::from_micros(30);

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of named threads. Dropping it lets queued jobs finish and does not wait for them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: usize,
}

#[derive(Default)]
struct Shared {
    /// The loop in progress, if any.
    lending: Lending,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Counts what there was to do, so that a thread notices news without a lock.
    news: AtomicUsize,
    /// Threads that look for news without a pause.
    spinners: AtomicUsize,
    /// Threads that sleep, or have decided to and will look at `news` once more.
    sleepers: AtomicUsize,
    /// Length of the queue.
    queued: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closing: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("queued", &self.queued)
            .field("sleepers", &self.sleepers)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(threads: NonZeroUsize) -> io::Result<Self> {
        let pool = Self {
            shared: Arc::default(),
            threads: threads.get(),
        };
        for i in 0..threads.get() {
            let shared = Arc::clone(&pool.shared);
            std::thread::Builder::new()
                .name(format!("compute-{i}"))
                .spawn(move || shared.work(threads.get() - 1))?;
        }
        Ok(pool)
    }

    /// Queues `job`; a panic in it is caught and reported by the panic hook alone, so jobs report through a channel
    /// whose closing tells the waiter.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        let shared = &self.shared;
        let mut queue = shared.queue();
        queue.jobs.push_back(Box::new(job));
        shared.queued.store(queue.jobs.len(), Ordering::Release);
        drop(queue);
        shared.news.fetch_add(1, Ordering::SeqCst);
        shared.wake(1);
    }
}

impl Threads for Pool {
    /// One loop has the pool's threads at a time; a second caller meanwhile runs its loop by itself.
    fn broadcast(&self, job: &(dyn Fn() + Sync)) {
        if self.threads == 1 {
            return job();
        }
        let panic: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
        let guarded = || {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                panic
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(payload);
            }
        };
        // the caller is one of the threads
        let helpers = self.threads - 1;
        let lent = self.shared.lending.lend(&guarded, helpers, || {
            self.shared.news.fetch_add(1, Ordering::SeqCst);
            // who spins sees the news; who stops spinning looks once more before sleeping
            let awake = self.shared.spinners.load(Ordering::SeqCst);
            self.shared.wake(helpers.saturating_sub(awake));
            guarded();
        });
        if !lent {
            guarded();
        }
        if let Some(payload) = panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    fn count(&self) -> usize {
        self.threads
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue().closing = true;
        self.shared.news.fetch_add(1, Ordering::SeqCst);
        self.shared.wake(self.threads);
    }
}

impl Shared {
    /// A thread's life; of all threads, so many may spin at a time.
    fn work(&self, spinners: usize) {
        loop {
            let seen = self.news.load(Ordering::SeqCst);
            self.lending.help();
            if let Some(job) = self.next_job() {
                // what a job leaves broken is its own; the thread goes on
                let _ = catch_unwind(AssertUnwindSafe(job));
            } else if !self.spin(seen, spinners) && !self.sleep(seen) {
                return;
            }
        }
    }

    fn next_job(&self) -> Option<Job> {
        if self.queued.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut queue = self.queue();
        let job = queue.jobs.pop_front();
        self.queued.store(queue.jobs.len(), Ordering::Release);
        job
    }

    /// Waits a little for news; false if none came or enough threads wait so, or work on a loop.
    fn spin(&self, seen: usize, most: usize) -> bool {
        let spinning = self.spinners.fetch_add(1, Ordering::SeqCst);
        if spinning + self.lending.helpers() >= most {
            self.spinners.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        let mut start = Instant::now();
        let news = loop {
            if self.news.load(Ordering::Relaxed) != seen {
                break true;
            }
            if self.lending.is_on() {
                start = Instant::now();
            } else if start.elapsed() >= SPIN {
                break false;
            }
            for _ in 0..8 {
                std::hint::spin_loop();
            }
        };
        self.spinners.fetch_sub(1, Ordering::SeqCst);
        news
    }

    /// Sleeps until there is news; false once the pool closes and no job is left.
    fn sleep(&self, seen: usize) -> bool {
        let mut queue = self.queue();
        // counted before the last look at `news`, which wakers change before they look at the count: one of the two
        // sees the other
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.news.load(Ordering::SeqCst) == seen && !queue.closing {
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        !(queue.closing && queue.jobs.is_empty())
    }

    /// Wakes so many threads, if so many sleep.
    fn wake(&self, threads: usize) {
        if threads == 0 || self.sleepers.load(Ordering::SeqCst) == 0 {
            return;
        }
        // a thread between its last look and its wait holds the lock
        drop(self.queue());
        for _ in 0..threads {
            self.wake.notify_one();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // nothing panics while the lock is held
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
