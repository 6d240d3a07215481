//! The pool under load from several sides, and when loops and jobs panic.

use std::sync::mpsc;
use std::time::Duration;

use super::*;

fn pool(threads: usize) -> Pool {
    Pool::new(NonZeroUsize::new(threads).expect("not zero")).expect("threads")
}

/// Sums `0..n` in a shared loop.
fn sum(pool: &Pool, n: usize) -> usize {
    let (next, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    pool.broadcast(&|| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n {
                break;
            }
            total.fetch_add(i, Ordering::Relaxed);
        }
    });
    total.into_inner()
}

#[test]
fn loops_from_many_threads_beside_jobs() {
    for threads in [1, 2, 4] {
        let pool = pool(threads);
        let (done, jobs) = mpsc::channel();
        std::thread::scope(|scope| {
            for caller in 0..3 {
                let (pool, done) = (&pool, done.clone());
                scope.spawn(move || {
                    for n in 0..2000 {
                        assert_eq!(sum(pool, n % 50), (n % 50) * (n % 50).saturating_sub(1) / 2);
                        if n % 100 == caller {
                            let done = done.clone();
                            pool.spawn(move || done.send(n).expect("the test listens"));
                        }
                    }
                });
            }
        });
        drop(done);
        assert_eq!(jobs.iter().count(), 60);
    }
}

#[test]
fn loops_after_the_threads_fell_asleep() {
    let pool = pool(3);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(sum(&pool, 1000), 499_500);
    }
}

/// All threads must be inside the loop at once for it to end.
#[test]
fn a_loop_reaches_every_thread() {
    let pool = pool(3);
    let barrier = std::sync::Barrier::new(3);
    pool.broadcast(&|| {
        barrier.wait();
    });
}

#[test]
fn a_panic_in_a_loop_reaches_the_caller_and_the_pool_goes_on() {
    let pool = pool(2);
    for _ in 0..50 {
        let calls = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.broadcast(&|| {
                calls.fetch_add(1, Ordering::Relaxed);
                panic!("in the loop");
            });
        }));
        let payload = result.expect_err("passed on");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"in the loop"));
        assert!((1..=2).contains(&calls.into_inner()));
        assert_eq!(sum(&pool, 10), 45);
    }
}

#[test]
fn a_job_that_panics_takes_no_thread_with_it() {
    let pool = pool(1);
    pool.spawn(|| panic!("in the job"));
    let (done, job) = mpsc::channel();
    pool.spawn(move || done.send(()).expect("the test listens"));
    job.recv_timeout(Duration::from_secs(60))
        .expect("the thread lives");
}

#[test]
fn jobs_queued_at_the_drop_still_run() {
    let pool = pool(2);
    let (done, jobs) = mpsc::channel();
    for i in 0..100 {
        let done = done.clone();
        pool.spawn(move || done.send(i).expect("the test listens"));
    }
    drop((pool, done));
    assert_eq!(jobs.iter().count(), 100);
}
