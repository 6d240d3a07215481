//! One stream of a card with its handles and memory: launches layers, captures what is launched, and times it.

mod answers;
mod images;

use std::sync::Arc;

use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags_enum, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream, DriverError};

use super::algorithm::{Algorithm, Task};
use super::cudnn::Cudnn;
use super::driver::{Context, bind, turn};
use super::launch::{self, Operation, Widen, Work};
use super::matmul::CublasLt;
use super::memory::Memory;
use super::model::{self, LayerOp, Model};
use crate::engine::EngineError;
use crate::engine::cuda::plan::{Logits, Tensor};

pub(super) use images::Feed;

/// Launches in a graph that is timed: enough that the time between graphs does not count.
const REPEATS: usize = 8;

/// Timed runs, of which the fastest counts.
const RUNS: usize = 3;

/// How many times slower a first run may be than the best, as first runs are slow.
const HOPELESS: f64 = 4.0;

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) model: Arc<Model>,
    pub(super) cudnn: Cudnn,
    pub(super) lt: CublasLt,
    memory: Option<Memory>,
    pub(super) stream: Arc<CudaStream>,
}

impl Slot {
    pub(super) fn new(model: Arc<Model>, stream: Arc<CudaStream>) -> Result<Self, EngineError> {
        Ok(Self {
            model,
            cudnn: Cudnn::new(Arc::clone(&stream))?,
            lt: CublasLt::new(Arc::clone(&stream))?,
            memory: None,
            stream,
        })
    }

    /// Takes memory for batches up to `max_batch`, in place of what it had. Graphs captured before are void.
    pub(super) fn make_room(&mut self, max_batch: usize) -> Result<(), EngineError> {
        let _turn = turn();
        self.memory = None;
        self.memory = Some(Memory::new(&self.model, &self.stream, max_batch)?);
        Ok(())
    }

    pub(super) fn memory(&self) -> Result<&Memory, EngineError> {
        self.memory.as_ref().ok_or_else(no_memory)
    }

    pub(super) fn memory_mut(&mut self) -> Result<&mut Memory, EngineError> {
        self.memory.as_mut().ok_or_else(no_memory)
    }

    /// The task of a layer that has a choice of algorithms.
    pub(super) fn task(&self, index: usize, batch: usize) -> Option<Task<'_>> {
        let layer = self.model.layers.get(index)?;
        let LayerOp::Conv(conv) = &layer.op else {
            return None;
        };
        let last = index + 1 == self.model.layers.len();
        Some(Task {
            layer,
            conv,
            batch,
            to_logits: last && self.model.logits == Logits::Product,
        })
    }

    /// Puts one layer on the stream.
    pub(super) fn layer(
        &self,
        index: usize,
        algorithm: Option<&Algorithm>,
        batch: usize,
    ) -> Result<(), EngineError> {
        let layer = &self.model.layers[index];
        let (constants, memory) = (&self.model.constants, self.memory()?);
        match &layer.op {
            LayerOp::Conv(_) => match (algorithm, self.task(index, batch)) {
                (Some(algorithm), Some(task)) => algorithm.run(self, task),
                _ => Err(EngineError::Device(format!(
                    "layer {} has no algorithm",
                    layer.name
                ))),
            },
            LayerOp::Pool {
                reduce,
                rows,
                columns,
                window,
            } => self.work(&launch::Pool {
                element: self.model.math.element(),
                reduce: *reduce,
                input: self.tensor(&layer.input, batch)?,
                output: self.tensor(&layer.output, batch)?,
                rows: constants.address(*rows),
                columns: constants.address(*columns),
                window: *window,
            }),
            LayerOp::Map { stride, operations } => {
                let operation = |operation: &model::Operation| match *operation {
                    model::Operation::Bias(bias) => Operation::Bias(constants.address(bias)),
                    model::Operation::Affine { scale, shift } => Operation::Affine {
                        scale: constants.address(scale),
                        shift: constants.address(shift),
                    },
                    model::Operation::Add(value) => Operation::Add {
                        address: memory.address(&value, batch),
                        pitch: value.pitch,
                    },
                    model::Operation::Scale(factor) => Operation::Scale(factor),
                    model::Operation::Relu => Operation::Relu,
                };
                let operations: Vec<Operation> = operations.iter().map(operation).collect();
                self.map(layer.input, layer.output, batch, *stride, &operations)
            }
        }
    }

    /// Puts element-wise operations on the stream: as many kernels as they need, the later ones in place.
    pub(super) fn map(
        &self,
        input: Tensor,
        output: Tensor,
        batch: usize,
        stride: usize,
        operations: &[Operation],
    ) -> Result<(), EngineError> {
        let (first, rest) = operations.split_at(operations.len().min(launch::MAX_OPERATIONS));
        let mut kernel = launch::Map {
            element: self.model.math.element(),
            input: self.tensor(&input, batch)?,
            output: self.tensor(&output, batch)?,
            stride,
            operations: first,
        };
        self.work(&kernel)?;
        for operations in rest.chunks(launch::MAX_OPERATIONS) {
            kernel = launch::Map {
                input: kernel.output,
                stride: 1,
                operations,
                ..kernel
            };
            self.work(&kernel)?;
        }
        Ok(())
    }

    /// Puts all layers on the stream; `algorithms` are by layer.
    pub(super) fn network(
        &self,
        algorithms: &[Option<Algorithm>],
        batch: usize,
    ) -> Result<(), EngineError> {
        for (index, algorithm) in algorithms.iter().enumerate() {
            self.layer(index, algorithm.as_ref(), batch)?;
        }
        match self.model.logits {
            Logits::Product => Ok(()),
            Logits::Value(value) => self.widen(&value, batch),
        }
    }

    /// Puts a value of one pixel to the logits, in f32.
    pub(super) fn widen(&self, value: &Tensor, batch: usize) -> Result<(), EngineError> {
        self.work(&Widen {
            element: self.model.math.element(),
            input: self.tensor(value, batch)?,
            output: self.memory()?.logits.address,
        })
    }

    pub(super) fn work(&self, work: &impl Work) -> Result<(), EngineError> {
        let launched = self.model.kernels.run(&self.stream, work);
        launched.map_err(|error| EngineError::Device(error.to_string()))
    }

    /// A tensor of the arena as kernels see it.
    pub(super) fn tensor(
        &self,
        tensor: &Tensor,
        batch: usize,
    ) -> Result<launch::Tensor, EngineError> {
        Ok(launch::Tensor {
            address: self.memory()?.address(tensor, batch),
            images: batch,
            height: tensor.shape.height,
            width: tensor.shape.width,
            channels: tensor.shape.channels,
            pitch: tensor.pitch,
        })
    }

    /// Captures what `work` puts on the stream. It must have run before, as libraries load their kernels when they are
    /// first used.
    pub(super) fn capture(
        &self,
        work: impl FnOnce() -> Result<(), EngineError>,
    ) -> Result<CudaGraph, EngineError> {
        let what = || "capturing a graph";
        let _turn = turn();
        // other threads may allocate meanwhile
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).context(what)?;
        let capturing = Capturing(Some(&self.stream));
        work()?;
        let empty = || EngineError::Device("the captured graph is empty".to_owned());
        capturing.end().context(what)?.ok_or_else(empty)
    }

    /// Seconds that `work` takes on the card, without what the host takes to launch it. Measured no further once it is far
    /// slower than `best`.
    pub(super) fn time(
        &self,
        best: f64,
        work: impl Fn() -> Result<(), EngineError>,
    ) -> Result<f64, EngineError> {
        self.finish(&work)?;
        let graph = self.capture(|| (0..REPEATS).try_for_each(|_| work()))?;
        let repeats = REPEATS as f64;
        Ok(self.seconds(best * repeats, &graph)? / repeats)
    }

    /// Seconds that a graph takes: the fastest of some runs after one that counts only if it is hopeless beside `best`.
    pub(super) fn seconds(&self, best: f64, graph: &CudaGraph) -> Result<f64, EngineError> {
        let what = || "timing a graph";
        let once = || {
            let now = || {
                self.stream
                    .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
            };
            // the card is busy with one launch while the host makes the other, the one that is timed
            graph.launch().context(what)?;
            let start = now().context(what)?;
            graph.launch().context(what)?;
            let end = now().context(what)?;
            let milliseconds = start.elapsed_ms(&end).context(what)?;
            Ok::<f64, EngineError>(f64::from(milliseconds) / 1e3)
        };
        let first = once()?;
        if first > HOPELESS * best {
            return Ok(first);
        }
        (0..RUNS).try_fold(f64::INFINITY, |fastest, _| Ok(fastest.min(once()?)))
    }

    /// Puts work on the stream and waits for it, after an error too: what was launched before it may need what goes then.
    pub(super) fn finish(
        &self,
        work: impl FnOnce() -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let worked = work();
        let waited = self.synchronize();
        worked.and(waited)
    }

    pub(super) fn synchronize(&self) -> Result<(), EngineError> {
        self.stream.synchronize().context(|| "waiting for the card")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // whoever unloads a model may have run nothing on the card, and libraries free what they hold in the context of the
        // thread. A failure leaves nothing to do: the driver frees everything with the context
        let _ = bind(self.stream.context());
        let _turn = turn();
        self.memory = None;
    }
}

/// A stream that captures, and must not go on doing so when what it captures fails or panics.
struct Capturing<'a>(Option<&'a Arc<CudaStream>>);

impl Capturing<'_> {
    fn end(mut self) -> Result<Option<CudaGraph>, DriverError> {
        match self.0.take() {
            Some(stream) => end(stream),
            None => Ok(None),
        }
    }
}

impl Drop for Capturing<'_> {
    fn drop(&mut self) {
        if let Some(stream) = self.0 {
            // what was captured is of no use, and neither is why it cannot be ended
            let _ = end(stream);
        }
    }
}

fn end(stream: &Arc<CudaStream>) -> Result<Option<CudaGraph>, DriverError> {
    // an error of something dropped, which this call would return in place of ending the capture
    let _ = stream.context().check_err();
    stream.end_capture(CUgraphInstantiate_flags_enum(0))
}

fn no_memory() -> EngineError {
    EngineError::Device("the slot has no memory yet".to_owned())
}
