//! What one slot holds on the card and in pinned memory for batches up to a size.

use std::sync::Arc;

use cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DeviceRepr, PinnedHostSlice, ValidAsZeroBits,
};

use super::driver::{Context, room};
use super::launch::{MAX_BEST, TopK};
use super::model::Model;
use crate::engine::cuda::plan::Tensor;
use crate::engine::{EngineError, Normalization};

/// Bytes that a layer's algorithm may ask for.
pub(super) const WORKSPACE: usize = 128 << 20;

const MIB: f64 = (1 << 20) as f64;

#[derive(Debug)]
pub(super) struct Memory {
    /// Bytes of one value in the arena.
    element: usize,
    arena: Block<u8>,
    workspace: Block<u8>,
    /// Images as they come: 8-bit pixels, or f32 planes.
    pub(super) input: Block<u8>,
    /// `[max_batch, classes]`.
    pub(super) logits: Block<f32>,
    /// The best of them, where these alone are wanted.
    pub(super) best: Block<u8>,
    /// What each level of each channel becomes, once it is there.
    pub(super) table: Block<f32>,
    pub(super) table_of: Option<Normalization>,
    /// The host's sides: of `input`, and of `logits` or `best`.
    pub(super) from: PinnedHostSlice<u8>,
    pub(super) to: PinnedHostSlice<u8>,
}

/// Where one layer's operands are on the card. Bias and residual are of the type of y.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands {
    pub(super) x: u64,
    pub(super) w: u64,
    /// `[out]`.
    pub(super) bias: u64,
    pub(super) residual: Option<u64>,
    pub(super) y: u64,
    /// [`WORKSPACE`] bytes; holds nothing between calls.
    pub(super) workspace: u64,
}

/// An allocation and its address.
#[derive(Debug)]
pub(super) struct Block<T> {
    _memory: CudaSlice<T>,
    pub(super) address: u64,
}

impl Memory {
    /// # Errors
    /// When the card or the host has no room: what is needed and what there is.
    pub(super) fn new(
        model: &Model,
        stream: &Arc<CudaStream>,
        max_batch: usize,
    ) -> Result<Self, EngineError> {
        let element = model.math.element().bytes();
        let arena = max_batch * model.arena * element;
        let input = max_batch * model.input.elements() * size_of::<f32>();
        let logits = max_batch * model.classes;
        let best = TopK::bytes(max_batch, MAX_BEST);
        let answers = best.max(logits * size_of::<f32>());
        let context = stream.context();
        // before anything is taken
        let room = room(context);
        let what = || {
            let [weights, arena, input, workspace] =
                [model.constants.bytes(), arena, input, WORKSPACE].map(|n| n as f64 / MIB);
            format!(
                "the model needs {arena:.0} MiB for the activations of {max_batch} images, {workspace:.0} MiB of \
                 workspace and {input:.0} MiB for the images, in each of its slots, beside its {weights:.0} MiB of \
                 weights; {room}"
            )
        };
        // SAFETY: both are written before they are read: `from` by each batch for what is copied from it, `to` by each
        // copy from the card for what is read.
        #[allow(unsafe_code)]
        let (from, to) = unsafe {
            let from = context.alloc_pinned(input);
            (from, context.alloc_pinned_with_flags(answers, 0))
        };
        let pinned = || format!("pinned memory for {max_batch} images");
        Ok(Self {
            element,
            arena: Block::new(stream, arena).context(what)?,
            workspace: Block::new(stream, WORKSPACE).context(what)?,
            input: Block::new(stream, input).context(what)?,
            logits: Block::new(stream, logits).context(what)?,
            best: Block::new(stream, best).context(what)?,
            table: Block::new(stream, 3 * 256).context(what)?,
            table_of: None,
            from: from.context(pinned)?,
            to: to.context(pinned)?,
        })
    }

    /// Where a tensor of a batch begins.
    pub(super) fn address(&self, tensor: &Tensor, batch: usize) -> u64 {
        self.arena.address + (tensor.offset(batch) * self.element) as u64
    }

    pub(super) fn workspace(&self) -> u64 {
        self.workspace.address
    }
}

impl<T: DeviceRepr + ValidAsZeroBits> Block<T> {
    /// `len` zeros.
    fn new(stream: &Arc<CudaStream>, len: usize) -> Result<Self, cudarc::driver::DriverError> {
        let memory = stream.alloc_zeros::<T>(len)?;
        let (address, _) = memory.device_ptr(stream);
        Ok(Self {
            address,
            _memory: memory,
        })
    }
}
