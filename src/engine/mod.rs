//! Engines: a graph and its parameters made executable on one device.

mod answer;
mod buffers;
mod candle;
mod cpu;
mod cuda;
mod image;
mod passes;
#[cfg(test)]
mod random_graphs;
mod select;

use std::time::{Duration, Instant};

use crate::ir::{Graph, Node};
use crate::weights::Parameters;

pub use crate::kernels::{Element, Isa, Token, give_back};
pub use answer::{Answer, Best, Wanted};
pub use candle::CandleEngine;
pub use cpu::{FusedEngine, FusedOp, tune};
pub use cuda::CudaReference;
pub use image::{Image, Normalization, gather};
pub use select::{DeviceChoice, EngineChoice, EngineOptions, Precision, select, select_one};

/// Runs whole batches. An engine is owned by one thread.
pub trait Engine: Send {
    /// What runs, for `resnetd_model_info` and `bench`.
    fn info(&self) -> &EngineInfo;

    /// Makes ready for batches up to `max_batch`, so that none of them waits for what is done once. Returns the batch
    /// sizes that something of their own is computed for, ascending: each stands for those up to, or from, the next.
    ///
    /// # Errors
    /// When the device refuses.
    fn prepare(&mut self, max_batch: usize) -> Result<Vec<usize>, EngineError> {
        let _ = max_batch;
        Ok(vec![1])
    }

    /// The size that a batch of `batch` images is padded to and replayed at, where the engine does so.
    fn bucket(&self, batch: usize) -> Option<usize> {
        let _ = batch;
        None
    }

    /// Computes the logits of a batch.
    ///
    /// `input` is `[batch, c, h, w]` of the graph's input shape, `logits` is `[batch, classes]`; both row-major.
    /// Equal batches give equal bits.
    ///
    /// # Errors
    /// When the device fails. The engine stays usable for the next batch, but for one that is [`EngineError::Lost`].
    fn forward(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<(), EngineError>;

    /// Computes the logits of images as they come from the queue, `[batch, classes]`, or the best of each in their place
    /// where these are wanted and the engine finds them itself.
    ///
    /// `staging` is memory kept from batch to batch for engines that have none of their own.
    ///
    /// # Errors
    /// As `forward`; and when the images differ in length, or pixels are not three values each.
    fn forward_images(
        &mut self,
        batch: &Batch<'_>,
        staging: &mut Vec<f32>,
        logits: &mut [f32],
    ) -> Result<Ran, EngineError> {
        let started = Instant::now();
        gather(batch.images, batch.normalization, staging)?;
        let gathered = started.elapsed();
        self.forward(batch.images.len(), staging, logits)?;
        Ok(Ran {
            gathered,
            best: None,
        })
    }

    /// Like [`Engine::forward`], and says what each layer took.
    ///
    /// # Errors
    /// As `forward`; and when this engine does not time its layers.
    fn profile(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<Vec<LayerProfile>, EngineError> {
        let _ = (batch, input, logits);
        let engine = self.info().engine;
        Err(EngineError::Unavailable(format!(
            "the {engine} engine does not time its layers; use --engine fused"
        )))
    }
}

/// Images as they come from the queue.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub images: &'a [&'a Image],
    /// Of those that come as pixels.
    pub normalization: &'a Normalization,
    /// Of every image.
    pub wanted: Wanted,
}

/// How a batch went.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    /// Until its images lay where the engine reads them.
    pub gathered: Duration,
    /// Of each image, at least as many as were wanted and there are; `None`: the logits have been written, else not.
    pub best: Option<Vec<Best>>,
}

/// What one layer of one batch took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProfile {
    /// Prefix of its parameters' names, or its operation.
    pub name: String,
    /// What computed it.
    pub algorithm: &'static str,
    /// Channels, height and width of its output.
    pub output: [usize; 3],
    /// Multiply-accumulates of the batch.
    pub macs: u64,
    /// Bytes of its packed weights.
    pub weights: usize,
    pub time: Duration,
}

/// What an engine is, in the words of its metric labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// `candle` or `fused`.
    pub engine: &'static str,
    /// `f32`, `bf16`.
    pub precision: &'static str,
    /// Instruction set the kernels use (`amx`, `avx512`, `avx2`, `portable`, `cuda`).
    pub isa: &'static str,
    /// `cpu` or `cuda:0`.
    pub device: String,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{0}")]
    Device(String),
    /// The device answers no more: no engine on it is to be used again.
    #[error("the device answers no more: {0}")]
    Lost(String),
    #[error("{what} has {found} values, expected {expected}")]
    Length {
        what: &'static str,
        expected: usize,
        found: usize,
    },
    /// The build or the machine lacks what was asked for.
    #[error("{0}")]
    Unavailable(String),
}

/// Takes one parameter of a node; `leaf` is the last part of its name.
fn take(parameters: &mut Parameters, node: &Node, leaf: &str) -> Result<Vec<f32>, EngineError> {
    let name = format!("{}.{leaf}", node.name);
    let values = parameters.take(&name);
    values.ok_or_else(|| EngineError::Device(format!("parameter {name} is missing")))
}

/// Refuses slices whose lengths do not fit the graph and batch.
fn check_lengths(
    graph: &Graph,
    batch: usize,
    input: &[f32],
    logits: &[f32],
) -> Result<(), EngineError> {
    let lengths = [
        ("input", batch * graph.input().elements(), input.len()),
        ("logits", batch * graph.classes(), logits.len()),
    ];
    for (what, expected, found) in lengths {
        if batch == 0 || expected != found {
            return Err(EngineError::Length {
                what,
                expected,
                found,
            });
        }
    }
    Ok(())
}
