//! The fused engine on CUDA.

mod device;
