//! What is served: model folders, weight files, hub repositories and the embedded model, as loaded models.
//!
//! Each kind of source is read into a `Description` (architecture, weights, labels, preprocessing), in which what is not
//! said is filled in for published weights (`presets`); from there on all are one: the graph is built for the classes the weights have, checked against them, and given to an engine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::engine::{Engine, EngineError, EngineOptions};
use crate::families::Architecture;
use crate::imaging::Preprocessing;
use crate::ir::Graph;
use crate::weights::WeightsError;

mod assemble;
mod embedded;
mod folder;
mod hub;
mod labels;
mod presets;
mod source;
mod timm;
mod versions;

pub use folder::Provenance;
pub use hub::HubConfig;
pub use presets::Preset;
pub use source::{ModelSpec, Source, scan};
pub use versions::{Stamp, compare_versions};

/// How models are loaded.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub engine: EngineOptions,
    pub hub: HubConfig,
}

/// A model ready to run.
pub struct LoadedModel {
    pub name: String,
    /// The name of a version's folder; else from model.toml; of a hub model the start of its commit; else `1`.
    pub version: String,
    pub architecture: &'static Architecture,
    pub graph: Arc<Graph>,
    /// One per class.
    pub labels: Vec<String>,
    pub preprocessing: Preprocessing,
    /// Where the weights come from and what they are worth, as far as model.toml says or they are known by name.
    pub provenance: Provenance,
    /// At least one; they differ in nothing but their devices, and share what is queued.
    pub engines: Vec<Box<dyn Engine>>,
}

impl LoadedModel {
    /// The devices of the engines, each once, with commas between: `cuda:0,cuda:1`.
    pub fn devices(&self) -> String {
        let mut devices: Vec<&str> = Vec::new();
        for engine in &self.engines {
            let device = engine.info().device.as_str();
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        devices.join(",")
    }
}

impl fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedModel")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("architecture", &self.architecture.name)
            .field("engine", &self.engines.first().map(|engine| engine.info()))
            .field("devices", &self.devices())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// A name or source that is not written as it must be.
    #[error("{0}")]
    Spec(String),
    /// A file or folder that cannot be read or does not hold what it should.
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error(
        "{path} is no model folder: expected {MANIFEST} in it, or a folder with {MANIFEST} for each version, as in \
         {path}/1/{MANIFEST}", MANIFEST = folder::MANIFEST
    )]
    NoVersions { path: PathBuf },
    #[error("unknown architecture {name:?}; {}", known(.near))]
    Architecture {
        name: String,
        /// The most similar names there are.
        near: Vec<&'static str>,
    },
    #[error("hf:{repo}: {reason}")]
    Hub { repo: String, reason: String },
    /// Parts that are right in themselves and do not belong together.
    #[error("{0}")]
    Misfit(String),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

fn known(near: &[&str]) -> String {
    format!(
        "the nearest are {} (`resnetd models` lists all)",
        near.join(", ")
    )
}

impl RepositoryError {
    fn file(path: &Path, reason: impl ToString) -> Self {
        Self::File {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Loads one version of a model: reads its description, builds the graph, checks the weights, makes the engine.
///
/// Blocks on files, and on the network for a hub model.
///
/// # Errors
/// What was wrong with which file or setting; the caller knows the model's name.
pub fn load(spec: &ModelSpec, config: &Config) -> Result<LoadedModel, RepositoryError> {
    let started = Instant::now();
    source::check_name(&spec.name)?;
    if let Some(version) = &spec.version {
        versions::check_version(version)
            .map_err(|reason| RepositoryError::Spec(format!("{}: the {reason}", spec.source)))?;
    }
    tracing::info!(model = spec.name, source = %spec.source, "loading");
    let mut description = match &spec.source {
        Source::Embedded => embedded::describe(),
        Source::File(path) => assemble::describe_file(&spec.name, path),
        Source::Folder(path) => folder::describe(path),
        Source::Hub { repo, revision } => timm::describe(repo, revision.as_deref(), &config.hub),
    }?;
    if let Some(version) = &spec.version {
        description.version.clone_from(version);
    }
    let model = assemble::assemble(&spec.name, description, &config.engine)?;
    tracing::info!(
        model = model.name,
        version = model.version,
        architecture = model.architecture.name,
        classes = model.labels.len(),
        parameters = model.graph.counts().parameters,
        device = model.devices(),
        ms = started.elapsed().as_millis() as u64,
        "loaded"
    );
    Ok(model)
}

#[cfg(test)]
mod tests;
