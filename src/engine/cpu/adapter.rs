//! The fused engine as an operation on candle tensors.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::FusedEngine;
use crate::engine::Engine;
use crate::ir::Graph;

/// Takes `[n, c, h, w]` and yields `[n, classes]`, f32 on the CPU.
#[derive(Debug)]
pub struct FusedOp {
    engine: Mutex<FusedEngine>,
    input: crate::ir::Shape,
    classes: usize,
}

impl FusedOp {
    pub fn new(engine: FusedEngine, graph: &Graph) -> Self {
        Self {
            engine: Mutex::new(engine),
            input: graph.input(),
            classes: graph.classes(),
        }
    }

    /// Logits of a batch.
    ///
    /// # Errors
    /// When the tensor's shape, type or device does not fit.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        images.contiguous()?.apply_op1_no_bwd(self)
    }
}

impl CustomOp1 for FusedOp {
    fn name(&self) -> &'static str {
        "resnetd-fused"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        if (c, h, w) != (self.input.channels, self.input.height, self.input.width) {
            bail!("the images are {c}x{h}x{w}, expected {}", self.input);
        }
        let (Some((start, end)), CpuStorage::F32(values)) = (layout.contiguous_offsets(), storage)
        else {
            bail!("the images must be contiguous f32");
        };
        let mut logits = vec![0.0; n * self.classes];
        // a panic in a layer leaves nothing behind that the next batch reads
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let result = engine.forward(n, &values[start..end], &mut logits);
        result.map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(logits), Shape::from((n, self.classes))))
    }
}
