//! The table of models and what their states make of the server: starting, ready or draining.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::{Code, Error};
use crate::batching::Batcher;
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
    pub metrics: Arc<ModelMetrics>,
    pub batcher: Batcher,
}

#[derive(Clone, Debug)]
pub struct ModelStatus {
    pub name: String,
    pub state: ModelState,
}

#[derive(Clone, Debug)]
pub enum ModelState {
    Loading,
    Ready(Arc<ServedModel>),
    /// The reason, in words.
    Failed(String),
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
            Some(model) => model.state = state,
            None => table.push(ModelStatus {
                name: name.to_owned(),
                state,
            }),
        }
        let loading = table.iter().any(|m| matches!(m.state, ModelState::Loading));
        let serving = table
            .iter()
            .any(|m| matches!(m.state, ModelState::Ready(_)));
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

    /// The model that answers to a name, or to none.
    pub(super) fn find(&self, name: Option<&str>) -> Result<Arc<ServedModel>, Error> {
        let table = self.read();
        let found = match name.or(self.default.as_deref()) {
            Some(name) => table.iter().find(|m| m.name == name),
            // a broken folder of --model-dir leaves the answering to the next
            None => table
                .iter()
                .find(|m| !matches!(m.state, ModelState::Failed(_)))
                .or_else(|| table.first()),
        };
        match found.map(|m| (&m.name, &m.state)) {
            Some((_, ModelState::Ready(model))) => Ok(Arc::clone(model)),
            Some((name, ModelState::Loading)) => {
                let error = Error::new(
                    Code::Unavailable,
                    format!("the model {name} is still loading; try again soon"),
                );
                Err(error.retry_after(Duration::from_secs(2)))
            }
            Some((name, ModelState::Failed(reason))) => Err(Error::new(
                Code::Unavailable,
                format!("the model {name} could not be loaded: {reason}"),
            )),
            None => Err(not_found(name.or(self.default.as_deref()), &table)),
        }
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
    let ready = |m: &&ModelStatus| matches!(m.state, ModelState::Ready(_));
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
