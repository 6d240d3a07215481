//! Weight files: named tensors from safetensors or PyTorch files, checked against a graph's parameter list.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::ir::Graph;

/// Where tensors come from: a file, an embedded file, the generator.
pub trait WeightSource {
    /// Name and shape of every floating-point tensor held.
    fn shapes(&self) -> &BTreeMap<String, Vec<usize>>;

    /// Values of one tensor in row-major order, converted to f32.
    ///
    /// # Errors
    /// When the name is unknown or its data cannot be read.
    fn read(&self, name: &str) -> Result<Vec<f32>, WeightsError>;
}

#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("{0}")]
    Todo(String),
}

/// The values of every parameter of one graph, by name; exactly the graph's names with the graph's shapes.
#[derive(Debug, Default)]
pub struct Parameters {
    values: HashMap<String, Vec<f32>>,
}

impl Parameters {
    /// Reads what `graph` needs from `source`.
    ///
    /// # Errors
    /// The lists of missing, unexpected and mis-shaped names, or a read error.
    pub fn load(graph: &Graph, source: &dyn WeightSource) -> Result<Self, WeightsError> {
        let _ = (graph, source);
        unimplemented!()
    }

    /// Values of one parameter; present for every name the graph lists.
    pub fn values(&self, name: &str) -> Option<&[f32]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// Takes one parameter out, so that an engine can free it once packed.
    pub fn take(&mut self, name: &str) -> Option<Vec<f32>> {
        self.values.remove(name)
    }
}

/// Opens a weight file; its content decides whether it is safetensors or PyTorch's zip form.
pub fn open(path: &Path) -> Result<Box<dyn WeightSource>, WeightsError> {
    let _ = path;
    unimplemented!()
}

/// A safetensors file that is part of the binary.
pub fn embedded(bytes: &'static [u8]) -> Result<Box<dyn WeightSource>, WeightsError> {
    let _ = bytes;
    unimplemented!()
}
