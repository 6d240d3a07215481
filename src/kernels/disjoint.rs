//! Writing one slice from several threads: each task is claimed once, and a task's region belongs to it alone.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::layout::Layout;

/// Threads that kernels run on.
pub trait Threads: Sync {
    /// Calls `job` on one or more threads at once and returns when every call has; a panic in `job` is passed on.
    fn broadcast(&self, job: &(dyn Fn() + Sync));

    /// How many threads a broadcast can reach.
    fn count(&self) -> usize;
}

/// The calling thread alone.
#[derive(Clone, Copy, Debug)]
pub struct Serial;

impl Threads for Serial {
    fn broadcast(&self, job: &(dyn Fn() + Sync)) {
        job();
    }

    fn count(&self) -> usize {
        1
    }
}

/// Tasks a thread that a loop should have, so that the last ones end together.
pub(super) const TASKS: usize = 4;

/// Part `i` of `count` things in parts as even as can be.
pub(super) fn even(count: usize, parts: usize, i: usize) -> Range<usize> {
    i * count / parts..(i + 1) * count / parts
}

/// Runs `body` once for each task number below `tasks`. Each thread takes its own run of neighbouring numbers, in order,
/// and then what is left of the others' runs.
///
/// That no number is claimed twice rests on the counters here and not on what `threads` does.
pub(super) fn claim(threads: &dyn Threads, tasks: usize, body: impl Fn(usize) + Sync) {
    let runs = threads.count().min(tasks);
    if runs <= 1 {
        (0..tasks).for_each(body);
        return;
    }
    let next: Vec<AtomicUsize> = (0..runs)
        .map(|run| AtomicUsize::new(even(tasks, runs, run).start))
        .collect();
    let entered = AtomicUsize::new(0);
    threads.broadcast(&|| {
        let first = entered.fetch_add(1, Ordering::Relaxed);
        for i in 0..runs {
            let run = (first + i) % runs;
            loop {
                let task = next[run].fetch_add(1, Ordering::Relaxed);
                if task >= even(tasks, runs, run).end {
                    break;
                }
                body(task);
            }
        }
    });
}

/// Runs `body` for every chunk of `len` values of `data`, on `threads`.
pub(super) fn chunks(
    threads: &dyn Threads,
    data: &mut [f32],
    len: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) {
    let count = data.len() / len.max(1);
    let data = Disjoint::new(data);
    claim(threads, count, |i| {
        // SAFETY: chunk i lies within the data and is claimed once.
        body(i, unsafe { data.region(i * len, len) });
    });
}

/// Runs `body` for every block of every image of a tensor, on `threads`, with the numbers of the two.
///
/// # Panics
/// When the data is shorter than the layout and the batch say.
pub(super) fn blocks(
    threads: &dyn Threads,
    layout: &Layout,
    batch: usize,
    data: &mut [f32],
    body: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let data = Disjoint::new(&mut data[..layout.extent(batch)]);
    claim(threads, batch * layout.blocks(), |i| {
        let (image, block) = (i / layout.blocks(), i % layout.blocks());
        let start = image * layout.image() + block * layout.block();
        // SAFETY: the block lies within the data and is claimed once.
        body(image, block, unsafe { data.region(start, layout.block()) });
    });
}

/// An exclusively borrowed slice whose parts are handed to threads.
pub(super) struct Disjoint<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the only access is `region`, whose caller vouches that regions in use at one time do not overlap.
unsafe impl Sync for Disjoint<'_> {}

impl<'a> Disjoint<'a> {
    pub(super) fn new(data: &'a mut [f32]) -> Self {
        Self {
            start: data.as_mut_ptr(),
            len: data.len(),
            borrow: PhantomData,
        }
    }

    /// The first value; what is read or written through it is the caller's to vouch for.
    pub(super) fn start(&self) -> *mut f32 {
        self.start
    }

    /// The `len` values from `from` on.
    ///
    /// # Safety
    /// No other region in use at the same time overlaps this one. The bounds are checked.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller vouches that regions do not overlap"
    )]
    pub(super) unsafe fn region(&self, from: usize, len: usize) -> &mut [f32] {
        assert!(
            from <= self.len && len <= self.len - from,
            "a region outside its slice"
        );
        // SAFETY: within the borrowed slice by the assertion; exclusive by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}
