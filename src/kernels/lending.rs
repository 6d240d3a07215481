//! A borrowed closure lent to other threads for the length of a call: what a persistent pool needs to run loops over
//! the caller's data.
//!
//! [`Lending::lend`] takes the closure back before it returns or unwinds: it first withdraws the offer and then waits
//! until no helper is inside. That wait is what makes the erased lifetime sound, so both live here, whatever the pool
//! does.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Job = &'static (dyn Fn() + Sync);

/// A place where one closure at a time can be offered.
#[derive(Default)]
pub struct Lending {
    offer: Mutex<Option<Offer>>,
    /// Whether there is an offer, for those who only look.
    on: AtomicBool,
    /// Helpers inside the closure.
    inside: AtomicUsize,
}

struct Offer {
    job: Job,
    /// Helpers that may still enter.
    places: usize,
}

impl std::fmt::Debug for Lending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lending")
            .field("inside", &self.inside)
            .finish_non_exhaustive()
    }
}

impl Lending {
    /// Offers `job` to at most `places` helpers while `meanwhile` runs. False, and nothing ran, if another closure is
    /// on offer.
    pub fn lend(&self, job: &(dyn Fn() + Sync), places: usize, meanwhile: impl FnOnce()) -> bool {
        // SAFETY: only the lifetime changes. Helpers reach the reference through `offer` alone and count themselves in
        // `inside` while they hold it; `Withdraw` empties `offer` and waits for `inside` to reach zero before `lend`
        // returns or unwinds, so no helper uses it beyond the borrow.
        let job = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), Job>(job) };
        {
            let mut offer = self.lock();
            // a lender that has withdrawn may still wait for its helpers; the count is theirs until then
            if offer.is_some() || self.inside.load(Ordering::Acquire) != 0 {
                return false;
            }
            *offer = Some(Offer { job, places });
            self.on.store(true, Ordering::Relaxed);
        }
        let _withdraw = Withdraw(self);
        meanwhile();
        true
    }

    /// Whether a closure is on offer; by the time the caller looks it may not be.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Helpers inside the closure just now.
    pub fn helpers(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }

    /// Runs the closure on offer, if there is one with a place left; says whether it did. A panic in the closure passes
    /// through.
    pub fn help(&self) -> bool {
        let job = {
            let mut offer = self.lock();
            match &mut *offer {
                Some(offer) if offer.places > 0 => {
                    offer.places -= 1;
                    // counted under the lock: a lender that withdraws afterwards sees it
                    self.inside.fetch_add(1, Ordering::AcqRel);
                    offer.job
                }
                _ => return false,
            }
        };
        let _leave = Leave(&self.inside);
        job();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Option<Offer>> {
        // nothing panics while the lock is held
        self.offer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Withdraw<'a>(&'a Lending);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        {
            let mut offer = self.0.lock();
            *offer = None;
            self.0.on.store(false, Ordering::Relaxed);
        }
        let mut spins = 0u32;
        while self.0.inside.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < 10_000 {
                std::hint::spin_loop();
            } else {
                // a helper lost its core: leave it this one
                std::thread::yield_now();
            }
        }
    }
}

struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}
