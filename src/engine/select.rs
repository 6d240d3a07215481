//! Chooses an engine and device from the options and what the machine has.

use std::sync::Arc;

use super::{Engine, EngineError};
use crate::ir::Graph;
use crate::weights::Parameters;

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU if this build has CUDA and one answers, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// A GPU by its index.
    Cuda(usize),
}

/// `--precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    #[default]
    F32,
    Bf16,
}

/// What the operator asked of engines.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    pub device: DeviceChoice,
    pub precision: Precision,
}

/// Makes the engine for one graph.
pub fn select(
    graph: &Arc<Graph>,
    parameters: Parameters,
    options: &EngineOptions,
) -> Result<Box<dyn Engine>, EngineError> {
    let _ = (graph, parameters, options);
    unimplemented!()
}
