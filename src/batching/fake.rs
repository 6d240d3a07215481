//! An engine for tests: instant, or held at a gate; it fails, panics or is lost on images that say so, finds the best
//! itself where it is told to, and counts what it ran.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::engine::{Batch, Best, Engine, EngineError, EngineInfo, Ran, Wanted, gather};

/// First value of an image that makes its batch fail.
pub(crate) const FAIL: f32 = -1001.0;
/// First value of an image that makes the engine panic.
pub(crate) const PANIC: f32 = -1002.0;
/// First value of an image on which the device is lost, whichever it is.
pub(crate) const LOST: f32 = -1003.0;

/// Long enough for any thread of a loaded machine to get its turn.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Logits are a function of each image alone.
pub(crate) struct Fake {
    info: EngineInfo,
    gate: Option<(Sender<usize>, Receiver<()>)>,
    record: Arc<Record>,
    logits: fn(&[f32], &mut [f32]),
    /// It finds the best itself.
    ranks: bool,
    pub(crate) buckets: Vec<usize>,
    /// Pads each batch up to one of its buckets.
    pub(crate) pads: bool,
    /// Closes when the engine is dropped.
    _alive: Sender<()>,
}

/// What an engine ran.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) images: AtomicUsize,
    pub(crate) batches: AtomicUsize,
    /// The input of the last batch.
    pub(crate) last: Mutex<Vec<f32>>,
    /// What was wanted of each batch.
    pub(crate) wanted: Mutex<Vec<Wanted>>,
    /// The device answers no more.
    lost: AtomicBool,
    /// Asked for a bucket, it panics: in its worker, outside the forward pass.
    broken: AtomicBool,
}

/// The test's side of an engine.
pub(crate) struct Remote {
    pub(crate) record: Arc<Record>,
    /// Sizes of batches that arrived at the gate.
    arrived: Receiver<usize>,
    /// Sends one batch through the gate.
    permits: Option<Sender<()>>,
    alive: Receiver<()>,
}

impl Fake {
    /// Runs everything at once.
    pub(crate) fn instant(logits: fn(&[f32], &mut [f32])) -> (Self, Remote) {
        let (mut fake, mut remote) = Self::gated(logits);
        fake.gate = None;
        remote.permits = None;
        (fake, remote)
    }

    /// Holds every batch until the test lets it pass.
    pub(crate) fn gated(logits: fn(&[f32], &mut [f32])) -> (Self, Remote) {
        let (arrive, arrived) = channel();
        let (permit, permits) = channel();
        let (_alive, alive) = channel();
        let record = Arc::new(Record::default());
        let fake = Self {
            info: EngineInfo {
                engine: "fake",
                precision: "f32",
                isa: "portable",
                device: "cpu".into(),
            },
            gate: Some((arrive, permits)),
            record: Arc::clone(&record),
            logits,
            ranks: false,
            buckets: vec![1],
            pads: false,
            _alive,
        };
        let remote = Remote {
            record,
            arrived,
            permits: Some(permit),
            alive,
        };
        (fake, remote)
    }

    pub(crate) fn on(mut self, device: &str) -> Self {
        self.info.device = device.to_owned();
        self
    }

    pub(crate) fn ranking(mut self) -> Self {
        self.ranks = true;
        self
    }

    pub(crate) fn in_precision(mut self, precision: &'static str) -> Self {
        self.info.precision = precision;
        self
    }
}

impl Remote {
    /// The device answers no more from the next batch on.
    pub(crate) fn lose(&self) {
        self.record.lost.store(true, Ordering::SeqCst);
    }

    /// The worker panics after its next batch.
    pub(crate) fn break_worker(&self) {
        self.record.broken.store(true, Ordering::SeqCst);
    }

    pub(crate) fn images(&self) -> usize {
        self.record.images.load(Ordering::SeqCst)
    }

    pub(crate) fn batches(&self) -> usize {
        self.record.batches.load(Ordering::SeqCst)
    }

    /// Waits for a batch at the gate and says its size.
    pub(crate) fn arrival(&self) -> usize {
        self.arrived
            .recv_timeout(PATIENCE)
            .expect("no batch came to the gate")
    }

    /// The size of a batch that comes to the gate within a time.
    pub(crate) fn arrived_within(&self, time: Duration) -> Option<usize> {
        self.arrived.recv_timeout(time).ok()
    }

    /// Whether the gate stays empty for a moment.
    pub(crate) fn nobody_comes(&self) -> bool {
        self.arrived_within(Duration::from_millis(60)).is_none()
    }

    /// Lets one batch pass.
    pub(crate) fn let_pass(&self) {
        self.permits
            .as_ref()
            .expect("the gate is open")
            .send(())
            .expect("the engine is gone");
    }

    /// Lets everything pass from now on.
    pub(crate) fn open(&mut self) {
        self.permits = None;
    }

    /// Waits until the worker has ended and dropped its engine.
    pub(crate) fn ended(&self) -> bool {
        use std::sync::mpsc::RecvTimeoutError::Disconnected;
        self.alive.recv_timeout(PATIENCE) == Err(Disconnected)
    }
}

impl Engine for Fake {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn prepare(&mut self, max_batch: usize) -> Result<Vec<usize>, EngineError> {
        let buckets = self.buckets.iter().copied();
        Ok(buckets.filter(|&from| from <= max_batch).collect())
    }

    fn bucket(&self, batch: usize) -> Option<usize> {
        let broken = self.record.broken.load(Ordering::SeqCst);
        assert!(!broken, "told to break the worker");
        let mut buckets = self.buckets.iter().copied();
        buckets.find(|&bucket| self.pads && bucket >= batch)
    }

    fn forward(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<(), EngineError> {
        if let Some((arrive, permits)) = &self.gate {
            let _ = arrive.send(batch);
            // an error means that the gate is open for good
            let _ = permits.recv();
        }
        let lost = |why: &str| Err(EngineError::Lost(why.into()));
        if self.record.lost.load(Ordering::SeqCst) {
            return lost("told to be lost");
        }
        self.record.batches.fetch_add(1, Ordering::SeqCst);
        self.record.images.fetch_add(batch, Ordering::SeqCst);
        *self.record.last.lock().unwrap() = input.to_vec();
        let (image_len, classes) = (input.len() / batch, logits.len() / batch);
        for (image, logits) in input
            .chunks_exact(image_len)
            .zip(logits.chunks_exact_mut(classes))
        {
            assert!(image[0] != PANIC, "told to panic");
            if image[0] == FAIL {
                return Err(EngineError::Device("told to fail".into()));
            }
            if image[0] == LOST {
                return lost("an image told it to be lost");
            }
            (self.logits)(image, logits);
        }
        Ok(())
    }

    fn forward_images(
        &mut self,
        batch: &Batch<'_>,
        staging: &mut Vec<f32>,
        logits: &mut [f32],
    ) -> Result<Ran, EngineError> {
        self.record.wanted.lock().unwrap().push(batch.wanted);
        let started = Instant::now();
        gather(batch.images, batch.normalization, staging)?;
        let gathered = started.elapsed();
        self.forward(batch.images.len(), staging, logits)?;
        let best = match batch.wanted {
            Wanted::Best(k) if self.ranks => {
                let rows = logits.chunks_exact(logits.len() / batch.images.len());
                let best = rows.map(|logits| Best::of(logits, k)).collect();
                // nobody is to read them
                logits.fill(f32::NAN);
                Some(best)
            }
            _ => None,
        };
        Ok(Ran { gathered, best })
    }
}

/// Waits for a condition that another thread brings about.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A random sequence (xorshift64*), the same on every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A value below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}
