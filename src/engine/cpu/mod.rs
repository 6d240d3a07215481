//! The fused CPU engine: a graph lowered to layers ([`passes`]), made into a plan of prepared kernels and reused buffers
//! ([`plan`]), and run layer by layer on the process's pool ([`execute`]).
//!
//! Equal images give equal bits whatever their batch and the number of threads: every output value is summed in one
//! order.

mod adapter;
mod choose;
mod execute;
mod passes;
mod plan;

pub use adapter::FusedOp;
pub use choose::tune;
pub use execute::FusedEngine;
