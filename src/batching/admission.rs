//! Admission: how many images a model has taken on, and the tickets that stand for them.
//!
//! An image is on its way (its [`Ticket`] is held by whoever receives or decodes it), then queued, then executing, then
//! answered. It counts as admitted from the first to the last; the counts change under the queue's one lock, so that
//! the worker never sees an image in two states or in none.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::queue::{Entry, Queue};
use super::{BatchError, Output, QueueFull, Terms};
use crate::engine::Image;

/// Counts of one model's images. `admitted - on_its_way` are queued or executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) limit: usize,
    pub(super) admitted: usize,
    pub(super) on_its_way: usize,
}

impl Counts {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            admitted: 0,
            on_its_way: 0,
        }
    }

    /// Changes a ticket from `held` to `wanted` images, whole or not at all. Fewer always succeeds.
    pub(super) fn resize(&mut self, held: usize, wanted: usize) -> Result<(), QueueFull> {
        let others = self.admitted - held;
        if wanted > held && wanted > self.limit.saturating_sub(others) {
            return Err(QueueFull {
                admitted: others,
                asked: wanted,
                limit: self.limit,
            });
        }
        self.admitted = others + wanted;
        self.on_its_way = self.on_its_way - held + wanted;
        Ok(())
    }

    /// An image went from its ticket into the queue.
    pub(super) fn arrived(&mut self) {
        self.on_its_way -= 1;
    }

    /// So many images that were queued or executing are answered or withdrawn.
    pub(super) fn answered(&mut self, images: usize) {
        self.admitted -= images;
    }
}

/// What keeps a model's workers alive: handles and tickets share one, and the last to go closes the queue.
pub(super) struct Handle {
    pub(super) queue: Arc<Queue>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The right to have `images` images in the system; gives it back when dropped.
///
/// Dropping a ticket also tells the worker that these images are no longer on their way, so that others need not wait
/// for them.
pub struct Ticket {
    handle: Arc<Handle>,
    images: usize,
}

impl Ticket {
    pub(super) fn new(handle: Arc<Handle>, images: usize) -> Result<Self, QueueFull> {
        handle.queue.resize(0, images)?;
        Ok(Self { handle, images })
    }

    /// Number of images held.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Changes the number of images held (a ticket for one is taken before the body shows how many there are).
    ///
    /// # Errors
    /// When there is no room for all of them; the ticket then holds what it held.
    pub fn resize(&mut self, images: usize) -> Result<(), QueueFull> {
        self.handle.queue.resize(self.images, images)?;
        self.images = images;
        Ok(())
    }

    /// Splits off the right to one image, to travel with it through decode and queue.
    pub fn take_one(&mut self) -> Option<Ticket> {
        self.images = self.images.checked_sub(1)?;
        Some(Ticket {
            handle: Arc::clone(&self.handle),
            images: 1,
        })
    }

    /// Queues one image of the model's size under this one-image ticket. Dropping the receiver withdraws it.
    ///
    /// A receiver that closes without an answer means that the worker that had the image is gone
    /// ([`BatchError::Closed`]).
    pub fn submit(
        mut self,
        image: Image,
        terms: Terms,
    ) -> oneshot::Receiver<Result<Output, BatchError>> {
        let (answer, receiver) = oneshot::channel();
        let queue = Arc::clone(&self.handle.queue);
        let found = image.elements();
        if found != queue.image_len {
            drop(self);
            let _ = answer.send(Err(BatchError::ImageLength {
                expected: queue.image_len,
                found,
            }));
        } else if self.images > 0 {
            // the queue counts this image from here on; what else the ticket held is given back by its drop
            self.images -= 1;
            queue.push(Entry {
                image,
                terms,
                submitted: Instant::now(),
                retried: false,
                answer,
            });
        }
        receiver
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.images > 0 {
            // giving back always succeeds
            let _ = self.handle.queue.resize(self.images, 0);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("images", &self.images)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_or_not_at_all() {
        let mut counts = Counts::new(8);
        counts.resize(0, 5).unwrap();
        let full = counts.resize(0, 4).unwrap_err();
        assert_eq!((full.admitted, full.asked, full.limit), (5, 4, 8));
        assert_eq!(
            (counts.admitted, counts.on_its_way),
            (5, 5),
            "a refusal changes nothing"
        );
        counts.resize(0, 3).unwrap();
        // a ticket of 3 beside one of 5 cannot grow, but may stay and shrink
        let full = counts.resize(3, 4).unwrap_err();
        assert_eq!((full.admitted, full.asked), (5, 4));
        counts.resize(3, 3).unwrap();
        counts.resize(3, 1).unwrap();
        assert_eq!((counts.admitted, counts.on_its_way), (6, 6));
    }

    proptest! {
        /// Tickets that come, grow, shrink, queue and are answered: the counts are always the sums over them.
        #[test]
        fn counts_are_the_sums(steps in prop::collection::vec((0u8..4, 0usize..12, 0usize..8), 1..80)) {
            let mut counts = Counts::new(20);
            let mut tickets: Vec<usize> = Vec::new();
            let mut inside = 0;
            for (what, size, which) in steps {
                let index = which % tickets.len().max(1);
                let sum: usize = tickets.iter().sum::<usize>() + inside;
                match what {
                    0 => {
                        let fits = sum + size <= 20;
                        prop_assert_eq!(counts.resize(0, size).is_ok(), fits);
                        if fits {
                            tickets.push(size);
                        }
                    }
                    1 if !tickets.is_empty() => {
                        let held = tickets[index];
                        let fits = size <= held || sum - held + size <= 20;
                        prop_assert_eq!(counts.resize(held, size).is_ok(), fits);
                        if fits {
                            tickets[index] = size;
                        }
                    }
                    2 if tickets.get(index).is_some_and(|&n| n > 0) => {
                        tickets[index] -= 1;
                        inside += 1;
                        counts.arrived();
                    }
                    3 => {
                        let n = size.min(inside);
                        inside -= n;
                        counts.answered(n);
                    }
                    _ => {}
                }
                prop_assert_eq!(counts.on_its_way, tickets.iter().sum::<usize>());
                prop_assert_eq!(counts.admitted, counts.on_its_way + inside);
            }
        }
    }
}
