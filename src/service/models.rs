//! Models as callers see them: what serves, its versions, their states.

use std::sync::Arc;

use crate::batching::{self, Batcher};
use crate::engine::EngineInfo;
use crate::imaging::Preprocessing;
use crate::ir::{Counts, Shape};
use crate::repository::{Provenance, compare_versions};
use crate::telemetry::{ModelLabels, ModelMetrics};

/// A model that answers.
#[derive(Debug)]
pub struct ServedModel {
    /// Name in requests and metrics.
    pub name: String,
    pub version: String,
    /// `resnet50`.
    pub architecture: &'static str,
    /// `resnet`.
    pub family: &'static str,
    /// The number in the architecture's name.
    pub depth: usize,
    /// Shape of one preprocessed image.
    pub input: Shape,
    /// One per class.
    pub labels: Arc<[String]>,
    pub preprocessing: Preprocessing,
    /// Where the weights come from, as far as is known.
    pub provenance: Provenance,
    /// What its engines have in common; `device` is all of theirs, `cuda:0,cuda:1`.
    pub engine: EngineInfo,
    /// Parameters and multiply-accumulates.
    pub counts: Counts,
    pub limits: batching::Config,
    /// The labels of its metrics.
    pub(super) series: ModelLabels,
    pub metrics: Arc<ModelMetrics>,
    pub batcher: Batcher,
}

/// A model and its versions.
#[derive(Clone, Debug)]
pub struct ModelStatus {
    pub name: String,
    /// In ascending order; at least one.
    pub versions: Vec<VersionStatus>,
}

#[derive(Clone, Debug)]
pub struct VersionStatus {
    /// `None` until it is known: that of a folder without versions stands in its model.toml.
    pub version: Option<String>,
    pub state: ModelState,
    /// Why it could not be loaded anew, where it serves from before.
    pub reload_error: Option<String>,
}

#[derive(Clone, Debug)]
pub enum ModelState {
    Loading,
    Ready(Arc<ServedModel>),
    /// The reason, in words.
    Failed(String),
    /// Taken out of service.
    Unloaded,
}

impl VersionStatus {
    pub(super) fn new(version: Option<String>, state: ModelState) -> Self {
        Self {
            version,
            state,
            reload_error: None,
        }
    }

    pub(super) fn ready(&self) -> Option<&Arc<ServedModel>> {
        match &self.state {
            ModelState::Ready(model) => Some(model),
            _ => None,
        }
    }
}

impl ModelStatus {
    /// The versions that serve, the newest first.
    pub fn ready(&self) -> impl Iterator<Item = &Arc<ServedModel>> {
        self.versions.iter().rev().filter_map(VersionStatus::ready)
    }

    /// What answers where no version is named; where none serves, one that is loading, else the newest one's state.
    pub fn newest(&self) -> Option<&VersionStatus> {
        let newest = |wanted: fn(&ModelState) -> bool| {
            let mut versions = self.versions.iter().rev();
            versions.find(|v| wanted(&v.state))
        };
        newest(|state| matches!(state, ModelState::Ready(_)))
            .or_else(|| newest(|state| matches!(state, ModelState::Loading)))
            .or_else(|| self.versions.last())
    }

    /// The row of a version, made in its place if there is none.
    pub(super) fn row(&mut self, version: Option<&str>) -> &mut VersionStatus {
        let order = |row: &VersionStatus| {
            let of = row.version.as_deref().unwrap_or_default();
            compare_versions(of, version.unwrap_or_default())
        };
        let place = match self.versions.binary_search_by(order) {
            Ok(place) => place,
            Err(place) => {
                let row = VersionStatus::new(version.map(str::to_owned), ModelState::Unloaded);
                self.versions.insert(place, row);
                place
            }
        };
        &mut self.versions[place]
    }

    /// Takes away the rows that are not kept and returns what served in them.
    pub(super) fn retain(
        &mut self,
        keep: impl Fn(&VersionStatus) -> bool,
    ) -> Vec<Arc<ServedModel>> {
        let gone = self.versions.extract_if(.., |row| !keep(row));
        gone.filter_map(|row| row.ready().cloned()).collect()
    }
}

/// What `/readyz` and the gRPC health service say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A model announced at the start is still loading, or none serves.
    Starting,
    /// Every model announced at the start has loaded and warmed up or is known to have failed, and at least one serves.
    Ready,
    /// A model has lost its last device, and has not been loaded anew or unloaded since.
    Lost,
    /// The server is stopping; what comes is still answered. Final.
    Draining,
}
