//! The work of a request without a server, and what it costs.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use resnetd::engine::{EngineChoice, EngineOptions, Precision};
use resnetd::imaging;
use resnetd::pool::Pool;
use resnetd::repository::{self, LoadedModel, ModelSpec};

/// The work of a request without a server.
pub struct Direct {
    pub model: LoadedModel,
    /// One preprocessed image after another.
    input: Vec<f32>,
    logits: Vec<f32>,
}

impl Direct {
    pub fn load(spec: &str, precision: Precision, threads: NonZeroUsize) -> Result<Self> {
        let spec: ModelSpec = spec.parse()?;
        let engine = EngineOptions {
            engine: EngineChoice::Fused,
            precision,
            pool: Some(Arc::new(Pool::new(threads)?)),
            ..EngineOptions::default()
        };
        let config = repository::Config {
            engine,
            ..repository::Config::default()
        };
        Ok(Self {
            model: repository::load(&spec, &config)?,
            input: Vec::new(),
            logits: Vec::new(),
        })
    }

    fn prepare(&self, photo: &[u8]) -> Result<Vec<f32>> {
        let image = imaging::decode(photo, &imaging::Config::default())?;
        Ok(self.model.preprocessing.apply(&image)?)
    }

    /// Decodes and preprocesses on this thread; returns how many images.
    pub fn prepare_all(&self, photos: &[Bytes]) -> Result<u64> {
        for photo in photos {
            self.prepare(photo)?;
        }
        Ok(photos.len() as u64)
    }

    /// Runs a batch of copies of the last image; returns how many.
    pub fn forward(&mut self, batch: usize) -> Result<u64> {
        let image = self.model.graph.input().elements();
        if self.input.len() != batch * image {
            self.input = (0..batch * image).map(|i| self.input[i % image]).collect();
        }
        self.logits.resize(batch * self.model.graph.classes(), 0.0);
        self.model.engines[0].forward(batch, &self.input, &mut self.logits)?;
        Ok(batch as u64)
    }

    /// Decodes, preprocesses and runs a batch of one.
    pub fn classify(&mut self, photo: &[u8]) -> Result<()> {
        self.input = self.prepare(photo)?;
        self.forward(1)?;
        Ok(())
    }
}

/// Seconds per image.
pub struct Cost {
    pub wall: f64,
    pub cpu: f64,
}

impl Cost {
    /// Repeats what says how many images it did.
    pub fn of(seconds: Duration, mut work: impl FnMut() -> Result<u64>) -> Result<Self> {
        work()?;
        let (started, cpu, mut images) = (Instant::now(), cpu_seconds(std::process::id())?, 0);
        while images == 0 || started.elapsed() < seconds {
            images += work()?;
        }
        let images = images as f64;
        Ok(Self {
            wall: started.elapsed().as_secs_f64() / images,
            cpu: (cpu_seconds(std::process::id())? - cpu) / images,
        })
    }
}

/// CPU-seconds that a process has used so far, of all its threads, those that spin for work included.
pub fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // the name, in parentheses, may hold anything; after it the 12th and 13th fields are user and system time
    let fields = stat.rsplit_once(") ").context("no name in stat")?.1;
    let ticks: Vec<f64> = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // in units of USER_HZ, a hundredth of a second on every architecture served
    Ok(ticks.iter().sum::<f64>() / 100.0)
}
