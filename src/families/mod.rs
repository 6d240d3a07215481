//! Networks as data: one file a family, each turning a few numbers into a graph; `registry` is the one list.

mod registry;

pub use registry::{Architecture, all, find};
