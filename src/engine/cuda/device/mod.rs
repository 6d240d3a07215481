//! Thin wrappers of the CUDA libraries: a fused convolution of cuDNN, a fused matrix product of cuBLASLt.

mod cudnn;
mod math;
mod matmul;
