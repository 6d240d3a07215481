//! The fused engine on CUDA.

#[cfg(feature = "cudnn")]
mod device;
