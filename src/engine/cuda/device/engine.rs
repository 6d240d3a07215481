//! The fused engine on one slot of a GPU: images in, logits or the best of them out, by replaying the graph of the batch's
//! bucket.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaGraph};

use super::algorithm::Algorithm;
use super::cudnn::Cudnn;
use super::driver::{Context, bind};
use super::launch::MAX_BEST;
use super::matmul::CublasLt;
use super::model::{LayerOp, Model};
use super::slot::{Feed, Slot};
use super::tune;
use crate::engine::cuda::buckets;
use crate::engine::cuda::records::{Machine, Records};
use crate::engine::{
    Batch, Engine, EngineError, EngineInfo, Image, LayerProfile, Precision, Ran, Wanted, gather,
};
use crate::ir::Graph;
use crate::weights::Parameters;

/// A network on one slot of a GPU.
///
/// Fields are dropped in order: graphs before the plans that they replay, both before the memory that they work on.
#[derive(Debug)]
pub(crate) struct CudaEngine {
    /// Ascending by batch.
    captured: Vec<Captured>,
    slot: Slot,
    info: EngineInfo,
    /// Every size that is to run has been captured.
    prepared: bool,
}

/// Where and how a network is to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// Of the GPU, as CUDA counts.
    pub(crate) index: usize,
    pub(crate) precision: Precision,
    /// Engines side by side.
    pub(crate) slots: usize,
    /// The folder that keeps what was measured.
    pub(crate) records: Option<&'a Path>,
}

/// The network at one batch size.
struct Captured {
    graph: CudaGraph,
    batch: usize,
    algorithms: Vec<Option<Algorithm>>,
}

// SAFETY: a graph is bound to no thread; one at a time uses it, as it is not Sync.
#[allow(unsafe_code)]
unsafe impl Send for Captured {}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captured")
            .field("batch", &self.batch)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

impl CudaEngine {
    /// Moves a network to a GPU and makes the engines that run it there side by side.
    ///
    /// # Errors
    /// When the GPU does not answer or has no room, or the network does not fit the arithmetic.
    pub(crate) fn new(
        graph: &Graph,
        parameters: Parameters,
        target: &Target<'_>,
    ) -> Result<Vec<Self>, EngineError> {
        let (index, math) = (target.index, target.precision);
        let what = || format!("GPU cuda:{index} does not answer");
        let context = CudaContext::new(index).context(what)?;
        // SAFETY: every allocation of this context is used on the stream that it was made on, but for the constants,
        // which are there before the second stream is and are then only read.
        #[allow(unsafe_code)]
        unsafe {
            context.disable_event_tracking();
        }
        let machine = Machine {
            card: context.name().context(what)?,
            driver: driver_version()?,
            cudnn: Cudnn::version(),
            cublas: CublasLt::version(),
        };
        let stream = context.new_stream().context(what)?;
        let records = Records::open(target.records, &machine);
        let model = Arc::new(Model::new(graph, parameters, math, &stream, records)?);
        let info = EngineInfo {
            engine: "fused",
            precision: math.name(),
            isa: "cuda",
            device: format!("cuda:{index}"),
        };
        (0..target.slots)
            .map(|slot| {
                let stream = match slot {
                    0 => Arc::clone(&stream),
                    _ => context.new_stream().context(what)?,
                };
                Ok(Self {
                    captured: Vec::new(),
                    slot: Slot::new(Arc::clone(&model), stream)?,
                    info: info.clone(),
                    prepared: false,
                })
            })
            .collect()
    }

    /// Captures the network at these ascending batch sizes, in place of what was captured, and says what each takes.
    fn capture(&mut self, sizes: &[usize]) -> Result<Vec<(usize, f64)>, EngineError> {
        self.captured.clear();
        self.slot.make_room(sizes.last().copied().unwrap_or(1))?;
        let mut measured = Vec::new();
        for &batch in sizes {
            let slot = &self.slot;
            let algorithms = tune::algorithms(slot, batch);
            // what was measured is kept also where the rest fails, or the start is broken off
            if let Err(error) = slot.model.records().save() {
                tracing::warn!(%error, "what was measured cannot be kept for the next start");
            }
            let algorithms = algorithms?;
            slot.finish(|| slot.network(&algorithms, batch))?;
            let graph = slot.capture(|| slot.network(&algorithms, batch))?;
            let seconds = slot.seconds(f64::INFINITY, &graph)?;
            tracing::info!(batch, milliseconds = seconds * 1e3, "captured");
            measured.push((batch, seconds));
            self.captured.push(Captured {
                graph,
                batch,
                algorithms,
            });
        }
        Ok(measured)
    }

    /// Captures every bucket up to `max_batch`: those that are worth it, by the first slot's measurements.
    fn capture_buckets(&mut self, max_batch: usize) -> Result<(), EngineError> {
        bind(self.slot.stream.context())?;
        let started = Instant::now();
        let known = self.slot.model.buckets().get(&max_batch).cloned();
        let kept = match known {
            Some(kept) => {
                self.capture(&kept)?;
                kept
            }
            None => {
                let kept = buckets::choose(&self.capture(&buckets::candidates(max_batch))?);
                self.captured.retain(|of| kept.contains(&of.batch));
                self.slot.model.buckets().insert(max_batch, kept.clone());
                kept
            }
        };
        self.prepared = true;
        tracing::info!(buckets = ?kept, seconds = started.elapsed().as_secs_f64(), "ready");
        Ok(())
    }

    /// Runs an image as a tensor and takes its best: no graph holds these kernels, and the driver loads one when it is
    /// first launched.
    fn rehearse(&mut self) -> Result<(), EngineError> {
        let black = vec![0.0; self.slot.model.input.elements()];
        let mut logits = vec![0.0; self.slot.model.classes];
        let ran = self.run(1, Feed::Planes(&black), Wanted::Best(1), &mut logits);
        ran.map(drop)
    }

    /// Makes sure that a batch of that size can run: at its own size, if nothing has been made ready.
    fn ready(&mut self, batch: usize) -> Result<(), EngineError> {
        bind(self.slot.stream.context())?;
        match self.captured.last() {
            None => self.capture(&[batch]).map(drop),
            Some(largest) if largest.batch < batch && self.prepared => {
                let most = largest.batch;
                let what =
                    format!("a batch of {batch} images, but at most {most} were prepared for");
                Err(EngineError::Device(what))
            }
            Some(largest) if largest.batch < batch => self.capture(&[batch]).map(drop),
            Some(_) => Ok(()),
        }
    }

    /// The captured network that a batch runs in.
    fn of(&self, batch: usize) -> Result<&Captured, EngineError> {
        let captured = self
            .captured
            .iter()
            .find(|captured| captured.batch >= batch);
        captured.ok_or_else(|| EngineError::Device(format!("no graph holds {batch} images")))
    }

    /// Runs a batch: its images are gathered when they lie in pinned memory.
    fn run(
        &mut self,
        batch: usize,
        feed: Feed<'_>,
        wanted: Wanted,
        logits: &mut [f32],
    ) -> Result<Ran, EngineError> {
        let expected = batch * self.slot.model.classes;
        if logits.len() != expected || batch == 0 {
            return Err(EngineError::Length {
                what: "logits",
                expected,
                found: logits.len(),
            });
        }
        self.ready(batch)?;
        let started = Instant::now();
        self.slot.stage(feed)?;
        let gathered = started.elapsed();
        let bucket = self.of(batch)?.batch;
        self.slot.lay(feed, batch, bucket)?;
        let replayed = self.of(batch)?.graph.launch();
        replayed.context(|| format!("replaying a batch of {batch}"))?;
        let best = match wanted {
            Wanted::Best(k @ 1..=MAX_BEST) => {
                let k = k.min(self.slot.model.classes);
                Some(self.slot.take_best(batch, k)?)
            }
            _ => {
                self.slot.take_logits(logits)?;
                None
            }
        };
        Ok(Ran { gathered, best })
    }

    /// An error after which the card does not even wait any more is the device's last.
    fn examine<T>(&self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        // the first wait may tell of an earlier error that is over
        let waits = || self.slot.synchronize().or_else(|_| self.slot.synchronize());
        match result {
            Err(EngineError::Device(reason)) if waits().is_err() => Err(EngineError::Lost(reason)),
            result => result,
        }
    }
}

impl Drop for CudaEngine {
    fn drop(&mut self) {
        // for the graphs and plans; the slot does so for itself
        let _ = bind(self.slot.stream.context());
    }
}

impl Engine for CudaEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn prepare(&mut self, max_batch: usize) -> Result<Vec<usize>, EngineError> {
        let ready = self
            .capture_buckets(max_batch)
            .and_then(|()| self.rehearse());
        self.examine(ready)?;
        let sizes = self.captured.iter().map(|captured| captured.batch);
        Ok(sizes.collect())
    }

    fn bucket(&self, batch: usize) -> Option<usize> {
        self.of(batch).ok().map(|captured| captured.batch)
    }

    fn forward(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<(), EngineError> {
        let expected = batch * self.slot.model.input.elements();
        if input.len() != expected {
            return Err(EngineError::Length {
                what: "input",
                expected,
                found: input.len(),
            });
        }
        let ran = self.run(batch, Feed::Planes(input), Wanted::Logits, logits);
        self.examine(ran).map(drop)
    }

    fn forward_images(
        &mut self,
        batch: &Batch<'_>,
        staging: &mut Vec<f32>,
        logits: &mut [f32],
    ) -> Result<Ran, EngineError> {
        let &Batch {
            images,
            normalization,
            wanted,
        } = batch;
        let expected = self.slot.model.input.elements();
        if let Some(image) = images.iter().find(|image| image.elements() != expected) {
            let found = image.elements();
            return Err(EngineError::Length {
                what: "an image of the batch",
                expected,
                found,
            });
        }
        let only_pixels = images.iter().all(|image| matches!(image, Image::Pixels(_)));
        let ran = if only_pixels && self.slot.model.lays_pixels() {
            self.run(images.len(), Feed::Pixels(batch), wanted, logits)
        } else {
            let started = Instant::now();
            gather(images, normalization, staging)?;
            let gathered = started.elapsed();
            let ran = self.run(images.len(), Feed::Planes(staging), wanted, logits);
            ran.map(|ran| Ran {
                gathered: gathered + ran.gathered,
                ..ran
            })
        };
        self.examine(ran)
    }

    fn profile(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<Vec<LayerProfile>, EngineError> {
        self.forward(batch, input, logits)?;
        let (slot, captured) = (&self.slot, self.of(batch)?);
        let layers = slot
            .model
            .layers
            .iter()
            .zip(&captured.algorithms)
            .enumerate();
        let profiles = layers.map(|(index, (layer, algorithm))| {
            let seconds = slot.time(f64::INFINITY, || {
                slot.layer(index, algorithm.as_ref(), captured.batch)
            })?;
            let shape = layer.output.shape;
            let (macs, weights) = match &layer.op {
                LayerOp::Conv(conv) => (conv.macs, conv.weight_bytes),
                LayerOp::Pool { .. } | LayerOp::Map { .. } => (0, 0),
            };
            Ok(LayerProfile {
                name: layer.name.clone(),
                algorithm: match (algorithm, &layer.op) {
                    (Some(algorithm), _) => algorithm.kind(),
                    (None, LayerOp::Pool { .. }) => "pool",
                    (None, _) => "element-wise",
                },
                output: [shape.channels, shape.height, shape.width],
                macs: macs * captured.batch as u64,
                weights,
                time: Duration::from_secs_f64(seconds),
            })
        });
        profiles.collect()
    }
}

fn driver_version() -> Result<i32, EngineError> {
    let mut version = 0;
    // SAFETY: the driver writes one integer.
    #[allow(unsafe_code)]
    let status = unsafe { cudarc::driver::sys::cuDriverGetVersion(&raw mut version) };
    status.result().context(|| "asking the driver's version")?;
    Ok(version)
}
