//! The thread pool for CPU work ahead of the batcher (decoding, preprocessing): a fixed number of threads; the queue's
//! length is bounded by admission.

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
            // without a handler a panic ends the process; the job's waiter learns of it from its closed channel, and
            // the panic hook has printed it
            .panic_handler(|_| {})
            .build()?;
        Ok(Self { threads })
    }

    /// Queues `job`. A job reports through a channel, whose closing tells the waiter of a panic.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.threads.spawn_fifo(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_job_costs_no_thread() {
        let pool = Pool::new(NonZeroUsize::MIN).expect("one thread");
        let (answer, answers) = std::sync::mpsc::channel();
        for i in 0..3 {
            let answer = answer.clone();
            pool.spawn(move || {
                assert_ne!(i, 1, "this job panics on purpose");
                answer.send(i).expect("the test waits");
            });
        }
        drop(answer);
        assert_eq!(answers.iter().collect::<Vec<_>>(), [0, 2]);
    }
}
