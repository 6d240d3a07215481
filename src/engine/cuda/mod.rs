//! The fused CUDA engine: the layers that every fused engine begins with ([`passes`](super::passes)), laid out in NHWC
//! in one arena ([`plan`]), and run by cuDNN and cuBLASLt with small kernels between them (`device`).
//!
//! The plan knows nothing of a device, so that it is held to the candle engine wherever tests run; `device` is compiled
//! where cuDNN is.

mod buckets;
#[cfg(feature = "cudnn")]
mod device;
mod plan;
mod records;

#[cfg(feature = "cudnn")]
pub(super) use device::{CudaEngine, Target};

/// What a plan makes of a batch, in plain loops.
#[cfg(test)]
pub(super) use plan::tests::logits as plan_logits;
