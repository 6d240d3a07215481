//! When a batch goes: a pure function of what waits, what is coming and how long the oldest image has waited.
//!
//! A worker asks only while its engine is idle. If its device is idle too, an image waits for company only as long as
//! company is on its way: under low load no image waits at all. While another engine of the device runs a batch, to
//! start a small one gains little, for the two compete: images gather until the device is idle or their delay has
//! passed, so that under high load batches fill while the previous one runs. A full batch goes at once, and its copy
//! overlaps what the device computes.

use std::time::Duration;

/// What the worker sees when its engine is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Images ready to run.
    pub(super) queued: usize,
    /// Images admitted but not yet queued: being received, decoded or preprocessed.
    pub(super) on_its_way: usize,
    /// Images that other engines of the worker's device run.
    pub(super) under_way: usize,
    /// How long the one that came first has waited.
    pub(super) oldest_wait: Duration,
}

/// Largest batch and longest wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// At least 1.
    pub(super) max_batch: usize,
    pub(super) max_queue_delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Run the first so many images of the queue now.
    Dispatch(usize),
    /// Ask again after this time, or earlier if the view changes.
    WaitFor(Duration),
    /// Ask again when an image is queued.
    WaitForImage,
}

/// A batch goes when full, when its oldest image has waited the delay, and at once when the device is idle and nothing
/// is on its way.
pub(super) fn decide(view: View, limits: Limits) -> Decision {
    if view.queued == 0 {
        return Decision::WaitForImage;
    }
    let left = limits.max_queue_delay.saturating_sub(view.oldest_wait);
    let nothing_to_wait_for = view.on_its_way == 0 && view.under_way == 0;
    if view.queued >= limits.max_batch || nothing_to_wait_for || left.is_zero() {
        Decision::Dispatch(view.queued.min(limits.max_batch))
    } else {
        Decision::WaitFor(left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// While the device is idle.
    fn ask(queued: usize, on_its_way: usize, waited: Duration) -> Decision {
        ask_beside(0, queued, on_its_way, waited)
    }

    fn ask_beside(
        under_way: usize,
        queued: usize,
        on_its_way: usize,
        waited: Duration,
    ) -> Decision {
        let view = View {
            queued,
            on_its_way,
            under_way,
            oldest_wait: waited,
        };
        let limits = Limits {
            max_batch: 4,
            max_queue_delay: 2 * MS,
        };
        decide(view, limits)
    }

    #[test]
    fn the_rule_case_by_case() {
        use Decision::{Dispatch, WaitFor, WaitForImage};
        // nothing queued: whatever is coming, there is nothing to run
        assert_eq!(ask(0, 0, Duration::ZERO), WaitForImage);
        assert_eq!(ask(0, 9, Duration::ZERO), WaitForImage);
        // nothing on its way: at once
        assert_eq!(ask(1, 0, Duration::ZERO), Dispatch(1));
        assert_eq!(ask(3, 0, Duration::ZERO), Dispatch(3));
        // company on its way: up to the delay
        assert_eq!(ask(1, 1, Duration::ZERO), WaitFor(2 * MS));
        assert_eq!(ask(3, 9, MS / 2), WaitFor(3 * MS / 2));
        assert_eq!(ask(3, 9, 2 * MS), Dispatch(3));
        assert_eq!(ask(3, 9, 7 * MS), Dispatch(3));
        // full: at once, and no more than fits
        assert_eq!(ask(4, 9, Duration::ZERO), Dispatch(4));
        assert_eq!(ask(9, 9, Duration::ZERO), Dispatch(4));
        // the device is busy: up to the delay, whether more is on its way or not
        assert_eq!(ask_beside(1, 0, 0, Duration::ZERO), WaitForImage);
        assert_eq!(ask_beside(1, 1, 0, Duration::ZERO), WaitFor(2 * MS));
        assert_eq!(ask_beside(4, 3, 0, MS / 2), WaitFor(3 * MS / 2));
        assert_eq!(ask_beside(4, 3, 9, MS), WaitFor(MS));
        assert_eq!(ask_beside(4, 3, 0, 2 * MS), Dispatch(3));
        // but full: at once
        assert_eq!(ask_beside(4, 4, 0, Duration::ZERO), Dispatch(4));
        assert_eq!(ask_beside(1, 9, 9, Duration::ZERO), Dispatch(4));
    }

    /// Walks the rule along given times: arrivals every 0.5 ms while more are announced.
    #[test]
    fn a_batch_on_paused_time() {
        let arrivals: Vec<Duration> = (0..10).map(|i| i * MS / 2).collect();
        let mut now = Duration::ZERO;
        let gone_at = loop {
            let queued = arrivals.iter().filter(|&&t| t <= now).count();
            match ask(queued, arrivals.len() - queued, now) {
                Decision::Dispatch(n) => break (now, n),
                Decision::WaitFor(left) => {
                    let next = arrivals.iter().find(|&&t| t > now).copied();
                    now = next.map_or(now + left, |t| t.min(now + left));
                }
                Decision::WaitForImage => panic!("the first image is there at time zero"),
            }
        };
        assert_eq!(
            gone_at,
            (3 * MS / 2, 4),
            "full with the fourth image, before the delay"
        );
    }

    proptest! {
        #[test]
        fn dispatches_what_fits_or_waits_no_longer_than_the_delay(
            queued in 0usize..600,
            on_its_way in 0usize..3,
            under_way in 0usize..3,
            waited_us in 0u64..10_000,
            max_batch in 1usize..130,
            delay_us in 0u64..10_000,
        ) {
            let waited = Duration::from_micros(waited_us);
            let delay = Duration::from_micros(delay_us);
            let view = View { queued, on_its_way, under_way, oldest_wait: waited };
            match decide(view, Limits { max_batch, max_queue_delay: delay }) {
                Decision::Dispatch(n) => {
                    prop_assert_eq!(n, queued.min(max_batch));
                    prop_assert!(n > 0);
                    let nothing_to_wait_for = on_its_way == 0 && under_way == 0;
                    prop_assert!(queued >= max_batch || nothing_to_wait_for || waited >= delay);
                }
                Decision::WaitFor(left) => {
                    prop_assert!(queued > 0 && queued < max_batch);
                    prop_assert!(on_its_way > 0 || under_way > 0);
                    prop_assert!(!left.is_zero());
                    prop_assert_eq!(waited + left, delay);
                    // asked again at that time, with nothing else changed, it goes
                    let later = View { oldest_wait: waited + left, ..view };
                    let then = decide(later, Limits { max_batch, max_queue_delay: delay });
                    prop_assert_eq!(then, Decision::Dispatch(queued));
                    // and at once when there is nothing to wait for any more
                    let alone = View { on_its_way: 0, under_way: 0, ..view };
                    let then = decide(alone, Limits { max_batch, max_queue_delay: delay });
                    prop_assert_eq!(then, Decision::Dispatch(queued));
                }
                Decision::WaitForImage => prop_assert_eq!(queued, 0),
            }
        }
    }
}
