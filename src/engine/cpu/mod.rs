//! The fused CPU engine: a graph lowered to layers ([`passes`](super::passes)), made into a plan of prepared kernels and
//! reused buffers ([`plan`]), and run layer by layer on the process's pool ([`execute`]).
//!
//! Equal images in batches of equal size give equal bits, whatever their neighbours and the number of threads: every
//! algorithm sums each output value in one order, and which algorithm a layer takes depends on nothing but its shape,
//! the batch size and the instruction set.

mod adapter;
mod buckets;
mod choose;
mod execute;
mod place;
mod plan;
mod tune;

pub use adapter::FusedOp;
pub use execute::FusedEngine;
pub use tune::tune;

use super::EngineError;
use super::passes::{self, Layer};
use crate::ir::Graph;
use crate::weights::Parameters;

/// Pixels of an output up to which a strided pointwise convolution has its input gathered first.
const GATHERED_PIXELS: usize = 14 * 14;

fn lower(graph: &Graph, parameters: &mut Parameters) -> Result<Vec<Layer>, EngineError> {
    passes::lower(graph, parameters, GATHERED_PIXELS)
}
