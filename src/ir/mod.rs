//! The graph of a network: what every family builds and every engine reads.
//!
//! A graph is a list of nodes in execution order; each node names its operation, its inputs and the shape it
//! yields for one image. Nothing here computes: passes and engines live in `engine`.

mod builder;
mod counts;
mod graph;
mod memory;
mod node;
mod shape;

pub use builder::{Builder, Conv};
pub use counts::{Counts, DepthRule};
pub use graph::{Graph, Node, NodeId, Parameter, ParameterKind};
pub use node::{Op, Pool2d};
pub use shape::{Shape, windows};
