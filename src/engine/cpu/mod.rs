//! The fused CPU engine: a graph lowered to layers ([`passes`]), made into a plan of prepared kernels and reused buffers
//! ([`plan`]), and run layer by layer on the process's pool ([`execute`]).
//!
//! Equal images in batches of equal size give equal bits, whatever their neighbours and the number of threads: every
//! algorithm sums each output value in one order, and which algorithm a layer takes depends on nothing but its shape,
//! the batch size and the instruction set.

mod adapter;
mod buckets;
mod choose;
mod execute;
mod passes;
mod place;
mod plan;
mod tune;

pub use adapter::FusedOp;
pub use execute::FusedEngine;
pub use tune::tune;
