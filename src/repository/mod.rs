//! What is served: model folders, weight files, hub repositories and the embedded model, as loaded models.

use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::{Engine, EngineOptions};
use crate::families::Architecture;
use crate::imaging::Preprocessing;
use crate::ir::Graph;

/// One `--model NAME=SOURCE`, or a folder of `--model-dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// Name in requests and metrics.
    pub name: String,
    pub source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The model inside the binary.
    Embedded,
    /// A weight file; the model's name is then an architecture.
    File(PathBuf),
    /// A folder with model.toml.
    Folder(PathBuf),
    /// A repository of the Hugging Face hub.
    Hub {
        repo: String,
        revision: Option<String>,
    },
}

/// A model ready to run.
pub struct LoadedModel {
    pub name: String,
    pub version: String,
    pub architecture: &'static Architecture,
    pub graph: Arc<Graph>,
    /// One per class.
    pub labels: Vec<String>,
    pub preprocessing: Preprocessing,
    pub engine: Box<dyn Engine>,
}

#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error("{0}")]
    Todo(String),
}

/// Parses `NAME=SOURCE`.
///
/// # Errors
/// A sentence that says what was expected.
impl std::str::FromStr for ModelSpec {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let _ = text;
        unimplemented!()
    }
}

/// The specs of every folder in `--model-dir`, by name.
pub fn scan(dir: &std::path::Path) -> Result<Vec<ModelSpec>, RepositoryError> {
    let _ = dir;
    unimplemented!()
}

/// Loads one model: reads its description, builds the graph, checks the weights, makes the engine.
pub fn load(spec: &ModelSpec, options: &EngineOptions) -> Result<LoadedModel, RepositoryError> {
    let _ = (spec, options);
    unimplemented!()
}
