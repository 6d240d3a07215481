//! The thread pool for CPU work ahead of the batcher (decoding, preprocessing): bounded threads, unbounded queue whose
//! length admission bounds.

use std::num::NonZeroUsize;

/// A fixed number of named threads that run jobs in the order they came.
#[derive(Debug)]
pub struct Pool {
    threads: rayon::ThreadPool,
}

impl Pool {
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(threads: NonZeroUsize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .thread_name(|i| format!("decode-{i}"))
            .build()?;
        Ok(Self { threads })
    }

    /// Queues `job`; a panic in it is caught and logged by nobody, so jobs report through a channel whose closing tells
    /// the waiter.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.threads.spawn_fifo(job);
    }
}
