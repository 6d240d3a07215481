//! How long forward passes take.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::engine::Engine;

/// Of the weights and the input that are generated for measuring.
pub(super) const SEED: u64 = 20151210;

/// Durations of forward passes of one batch size, sorted; at least one.
#[derive(Debug)]
pub(super) struct Times(Vec<Duration>);

/// How much is run: some batches unmeasured, then for so long, and no fewer batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) warmup: usize,
    pub(super) time: Duration,
    pub(super) batches: usize,
}

impl Times {
    /// Runs as many batches as `effort` says.
    ///
    /// # Errors
    /// The engine's.
    pub(super) fn measure(
        engine: &mut dyn Engine,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
        effort: Effort,
    ) -> Result<Self> {
        for _ in 0..effort.warmup {
            engine.forward(batch, input, logits)?;
        }
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < effort.time || times.len() < effort.batches.max(1) {
            let begun = Instant::now();
            engine.forward(batch, input, logits)?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        Ok(Self(times))
    }

    /// Batches measured.
    pub(super) fn batches(&self) -> usize {
        self.0.len()
    }

    /// The smallest time that `percent` of the batches do not exceed, in milliseconds.
    pub(super) fn percentile_ms(&self, percent: usize) -> f64 {
        let index = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0[index].as_secs_f64() * 1e3
    }

    /// Images a second at the median.
    pub(super) fn images_per_second(&self, batch: usize) -> f64 {
        batch as f64 * 1e3 / self.percentile_ms(50)
    }
}
