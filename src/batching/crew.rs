//! The workers of one model as its queue sees them: who is idle, how many images each device has under way, what is
//! lost.
//!
//! Workers are numbered from 0; those whose engines name the same device share its load and its fate. Plain data, which
//! the queue holds under its lock.

#[derive(Debug)]
pub(super) struct Crew {
    workers: Vec<Member>,
    devices: Vec<Device>,
    /// Rises with every worker that becomes idle.
    turn: u64,
}

#[derive(Debug)]
struct Member {
    /// Its place in the devices.
    device: usize,
    doing: Doing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Starts, or answers.
    Other,
    /// Waits for a batch since this turn.
    Waiting(u64),
    /// Runs so many images.
    Running(usize),
    /// Has left for good.
    Gone,
}

#[derive(Debug)]
struct Device {
    name: String,
    /// Why it is lost.
    lost: Option<String>,
}

impl Crew {
    /// One worker for each name of a device.
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut devices: Vec<Device> = Vec::new();
        let mut workers = Vec::new();
        for name in names {
            let known = devices.iter().position(|device| device.name == name);
            let device = known.unwrap_or_else(|| {
                devices.push(Device {
                    name: name.to_owned(),
                    lost: None,
                });
                devices.len() - 1
            });
            workers.push(Member {
                device,
                doing: Doing::Other,
            });
        }
        Self {
            workers,
            devices,
            turn: 0,
        }
    }

    /// The worker waits for a batch, from now on or still.
    pub(super) fn waits(&mut self, worker: usize) {
        if !matches!(self.workers[worker].doing, Doing::Waiting(_)) {
            self.workers[worker].doing = Doing::Waiting(self.turn);
            self.turn += 1;
        }
    }

    pub(super) fn starts(&mut self, worker: usize, images: usize) {
        self.workers[worker].doing = Doing::Running(images);
    }

    pub(super) fn ends(&mut self, worker: usize) {
        self.workers[worker].doing = Doing::Other;
    }

    /// The worker takes no more batches. Returns the images that it leaves behind.
    pub(super) fn leaves(&mut self, worker: usize) -> usize {
        match std::mem::replace(&mut self.workers[worker].doing, Doing::Gone) {
            Doing::Running(images) => images,
            _ => 0,
        }
    }

    /// Whether the worker takes no more batches.
    pub(super) fn has_left(&self, worker: usize) -> bool {
        self.workers[worker].doing == Doing::Gone
    }

    /// Takes the worker's device out, and with it all who work on it. Says whether it was there until now.
    pub(super) fn lose(&mut self, worker: usize, reason: &str) -> bool {
        let device = &mut self.devices[self.workers[worker].device];
        let is_news = device.lost.is_none();
        device.lost.get_or_insert_with(|| reason.to_owned());
        is_news
    }

    /// Whether the worker's device is lost.
    pub(super) fn has_lost(&self, worker: usize) -> bool {
        self.devices[self.workers[worker].device].lost.is_some()
    }

    /// Who takes the next batch: the waiting one whose device has the fewest images under way, and of equal ones the
    /// one that waits longest.
    pub(super) fn next(&self) -> Option<usize> {
        let waiting = self.staff().filter_map(|(number, worker)| {
            let Doing::Waiting(since) = worker.doing else {
                return None;
            };
            Some((self.under_way(number), since, number))
        });
        waiting.min().map(|(_, _, number)| number)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let waits = |worker: &Member| matches!(worker.doing, Doing::Waiting(_));
        self.staff().filter(|(_, worker)| waits(worker)).count()
    }

    /// Workers that take batches.
    pub(super) fn workers_left(&self) -> usize {
        self.staff().count()
    }

    /// Devices on which a worker takes batches.
    pub(super) fn devices_left(&self) -> usize {
        let devices = 0..self.devices.len();
        devices.filter(|&device| self.has_staff(device)).count()
    }

    /// Whether a worker takes batches on this one's device.
    pub(super) fn is_staffed(&self, worker: usize) -> bool {
        self.has_staff(self.workers[worker].device)
    }

    /// What was lost and why, once every device is.
    pub(super) fn lost(&self) -> Option<String> {
        if self.devices.iter().any(|device| device.lost.is_none()) {
            return None;
        }
        let reason = |device: &Device| Some(format!("{} ({})", device.name, device.lost.as_ref()?));
        let reasons: Vec<String> = self.devices.iter().filter_map(reason).collect();
        Some(format!("lost {}", reasons.join(", ")))
    }

    /// The workers that have neither left nor lost their device, with their numbers.
    fn staff(&self) -> impl Iterator<Item = (usize, &Member)> {
        let works = |&(number, worker): &(usize, &Member)| {
            worker.doing != Doing::Gone && !self.has_lost(number)
        };
        self.workers.iter().enumerate().filter(works)
    }

    fn has_staff(&self, device: usize) -> bool {
        self.staff().any(|(_, worker)| worker.device == device)
    }

    /// Images that the workers of this one's device run, also those on their way out.
    pub(super) fn under_way(&self, worker: usize) -> usize {
        let device = self.workers[worker].device;
        let workers = self.workers.iter().filter(|w| w.device == device);
        let images = workers.map(|worker| match worker.doing {
            Doing::Running(images) => images,
            _ => 0,
        });
        images.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two workers on each of two devices, all waiting, in the order of their numbers.
    fn four() -> Crew {
        let mut crew = Crew::new(["a", "b", "a", "b"]);
        assert_eq!(crew.next(), None, "nobody waits yet");
        (0..4).for_each(|worker| crew.waits(worker));
        crew
    }

    #[test]
    fn the_least_loaded_device_goes_first_then_who_waits_longest() {
        let mut crew = four();
        assert_eq!(crew.next(), Some(0));
        crew.starts(0, 3);
        assert_eq!(crew.next(), Some(1), "a runs three images, b none");
        crew.starts(1, 5);
        assert_eq!(crew.next(), Some(2), "a runs three images, b five");
        crew.ends(1);
        assert_eq!(crew.next(), Some(3), "b runs none");
        crew.waits(1);
        crew.waits(3);
        assert_eq!(crew.next(), Some(3), "1 waits for less long");
        crew.starts(3, 1);
        crew.starts(1, 2);
        assert_eq!(crew.next(), Some(2), "three on either");
        crew.starts(2, 1);
        assert_eq!(crew.next(), None);
        assert_eq!([0, 1, 2, 3].map(|w| crew.under_way(w)), [4, 3, 4, 3]);
    }

    #[test]
    fn a_device_is_lost_with_all_its_workers() {
        let mut crew = four();
        crew.starts(2, 7);
        assert!(crew.lose(2, "it burns"));
        assert!(!crew.lose(0, "it burnt"), "no news");
        assert!(crew.has_lost(0) && crew.has_lost(2) && !crew.has_lost(1));
        assert_eq!((crew.next(), crew.lost()), (Some(1), None));
        assert_eq!((crew.workers_left(), crew.devices_left()), (2, 1));
        assert_eq!((crew.leaves(2), crew.leaves(2)), (7, 0));
        crew.leaves(0);
        assert!(crew.has_left(0) && !crew.has_left(1));
        assert!(crew.is_staffed(1) && !crew.is_staffed(0));
        assert!(crew.lose(3, "it drowns"));
        assert_eq!((crew.workers_left(), crew.devices_left()), (0, 0));
        let lost = crew.lost().unwrap();
        assert_eq!(lost, "lost a (it burns), b (it drowns)");
        assert_eq!(crew.next(), None);
    }

    #[test]
    fn who_leaves_without_a_loss_leaves_the_device() {
        let mut crew = four();
        crew.leaves(0);
        assert_eq!((crew.workers_left(), crew.devices_left()), (3, 2));
        assert!(crew.has_left(0) && crew.is_staffed(0), "2 is there");
        crew.leaves(2);
        assert_eq!((crew.workers_left(), crew.devices_left()), (2, 1));
        crew.leaves(1);
        crew.leaves(3);
        assert!((0..4).all(|worker| crew.has_left(worker) && !crew.is_staffed(worker)));
        assert_eq!(crew.lost(), None, "nothing was");
    }
}
