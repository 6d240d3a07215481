//! The fused CUDA engine: the layers that every fused engine begins with ([`passes`](super::passes)), laid out in NHWC
//! in one arena ([`plan`]), and run by cuDNN and cuBLASLt with small kernels between them (`device`).
//!
//! The plan knows nothing of a device: [`reference`] runs it in plain loops, so that it is held to the other engines
//! wherever tests run. `device` is compiled where cuDNN is.

#[cfg(any(test, feature = "cudnn"))]
mod buckets;
#[cfg(feature = "cudnn")]
mod device;
mod plan;
#[cfg(any(test, feature = "cudnn"))]
mod records;
mod reference;

pub use reference::CudaReference;

#[cfg(feature = "cudnn")]
pub(super) use device::{CudaEngine, Target};
