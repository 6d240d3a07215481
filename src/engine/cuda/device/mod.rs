//! The plan on a card.

mod cudnn;
mod kernels;
mod launch;
mod math;
mod matmul;
