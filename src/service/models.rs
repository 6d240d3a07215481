//! The table of models and what their states make of the server: starting, ready or draining.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::{Code, Error};
use crate::batching::{self, Batcher};
use crate::engine::EngineInfo;
use crate::imaging::Preprocessing;
use crate::ir::{Counts, Shape};
use crate::repository::Provenance;
use crate::telemetry::ModelMetrics;

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
    pub engine: EngineInfo,
    /// Parameters and multiply-accumulates.
    pub counts: Counts,
    pub limits: batching::Config,
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
    fn new(state: ModelState) -> Self {
        let version = match &state {
            ModelState::Ready(model) => Some(model.version.clone()),
            _ => None,
        };
        Self {
            version,
            state,
            reload_error: None,
        }
    }
}

impl ModelStatus {
    /// The versions that serve, the newest first.
    pub fn ready(&self) -> impl Iterator<Item = &Arc<ServedModel>> {
        self.versions.iter().rev().filter_map(|v| match &v.state {
            ModelState::Ready(model) => Some(model),
            _ => None,
        })
    }

    /// What answers where no version is named; where none serves, the newest one's state.
    pub fn newest(&self) -> Option<&VersionStatus> {
        let ready = |v: &&VersionStatus| matches!(v.state, ModelState::Ready(_));
        let ready = self.versions.iter().rev().find(ready);
        ready.or_else(|| self.versions.last())
    }
}

/// What `/readyz` and the gRPC health service say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A model is still loading, or none serves.
    Starting,
    /// Every model has loaded and warmed up or is known to have failed, and at least one serves.
    Ready,
    /// The server is stopping; what comes is still answered. Final.
    Draining,
}

/// Every model known, and the readiness that follows from their states.
#[derive(Debug)]
pub(super) struct Models {
    /// In the order of registration.
    table: RwLock<Vec<ModelStatus>>,
    /// Who answers when a request names nobody; else the first of the table that has not failed.
    default: Option<String>,
    readiness: watch::Sender<Readiness>,
}

impl Models {
    pub(super) fn new(default: Option<String>) -> Self {
        Self {
            table: RwLock::default(),
            default,
            readiness: watch::Sender::new(Readiness::Starting),
        }
    }

    /// Sets a model's state, adding it if it is new.
    pub(super) fn set(&self, name: &str, state: ModelState) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match table.iter_mut().find(|m| m.name == name) {
            Some(model) => model.versions = vec![VersionStatus::new(state)],
            None => table.push(ModelStatus {
                name: name.to_owned(),
                versions: vec![VersionStatus::new(state)],
            }),
        }
        let mut versions = table.iter().flat_map(|model| &model.versions);
        let loading = versions.any(|v| matches!(v.state, ModelState::Loading));
        let serving = table.iter().any(|model| model.ready().next().is_some());
        let readiness = if serving && !loading {
            Readiness::Ready
        } else {
            Readiness::Starting
        };
        // under the table's lock, so that two changes cannot report in the wrong order
        self.turn(|now| {
            if now == Readiness::Draining {
                now
            } else {
                readiness
            }
        });
    }

    /// What answers to a name and version, or to none.
    pub(super) fn find(
        &self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> Result<Arc<ServedModel>, Error> {
        let table = self.read();
        let failed = |m: &ModelStatus| {
            let newest = m.newest().map(|newest| &newest.state);
            matches!(newest, Some(ModelState::Failed(_)))
        };
        let found = match name.or(self.default.as_deref()) {
            Some(name) => table.iter().find(|m| m.name == name),
            // a broken folder of --model-dir leaves the answering to the next
            None => table.iter().find(|m| !failed(m)).or_else(|| table.first()),
        };
        let state = |model: &ModelStatus| match version {
            None => model.newest().map(|newest| newest.state.clone()),
            Some(version) => {
                let mut versions = model.versions.iter();
                let named = versions.find(|v| v.version.as_deref() == Some(version));
                named.map(|named| named.state.clone())
            }
        };
        match found.map(|m| (&m.name, state(m))) {
            Some((_, Some(ModelState::Ready(model)))) => Ok(model),
            Some((name, Some(ModelState::Loading))) => {
                let error = Error::new(
                    Code::Unavailable,
                    format!("the model {name} is still loading; try again soon"),
                );
                Err(error.retry_after(Duration::from_secs(2)))
            }
            Some((name, Some(ModelState::Failed(reason)))) => Err(Error::new(
                Code::Unavailable,
                format!("the model {name} could not be loaded: {reason}"),
            )),
            _ => Err(not_found(name.or(self.default.as_deref()), &table)),
        }
    }

    pub(super) fn largest_input(&self) -> usize {
        let table = self.read();
        let ready = table.iter().flat_map(ModelStatus::ready);
        ready.map(|model| model.input.elements()).max().unwrap_or(0)
    }

    pub(super) fn list(&self) -> Vec<ModelStatus> {
        self.read().clone()
    }

    pub(super) fn drain(&self) {
        self.turn(|_| Readiness::Draining);
    }

    pub(super) fn readiness(&self) -> Readiness {
        *self.readiness.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    fn turn(&self, next: impl FnOnce(Readiness) -> Readiness) {
        self.readiness.send_if_modified(|now| {
            let next = next(*now);
            std::mem::replace(now, next) != next
        });
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<ModelStatus>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(name: Option<&str>, table: &[ModelStatus]) -> Error {
    let ready = |m: &&ModelStatus| m.ready().next().is_some();
    let served: Vec<&str> = table
        .iter()
        .filter(ready)
        .map(|m| m.name.as_str())
        .collect();
    let served = if served.is_empty() {
        "none".to_owned()
    } else {
        served.join(", ")
    };
    let message = match name {
        // a caller's text: quoted, and cut to what a model name could be
        Some(name) => format!(
            "there is no model {:?}; served: {served}",
            name.chars().take(80).collect::<String>()
        ),
        None => "no model is served yet".to_owned(),
    };
    Error::new(Code::ModelNotFound, message)
}
