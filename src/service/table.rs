//! The table of models, and what their states make of the server: starting, ready or draining.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::models::{ModelState, ModelStatus, Readiness, ServedModel, VersionStatus};
use super::{Code, Error};

/// Every model known, and the readiness that follows from their states.
#[derive(Debug)]
pub(super) struct Models {
    table: RwLock<Table>,
    /// Who answers when a request names nobody; else the first of the table that may.
    default: Option<String>,
    readiness: watch::Sender<Readiness>,
}

#[derive(Debug, Default)]
struct Table {
    /// In the order of registration.
    models: Vec<ModelStatus>,
    /// Models announced at the start that are still loading.
    awaited: Vec<String>,
    /// What served until it lost its last device, and has been neither loaded anew nor unloaded since.
    lost: Vec<Arc<ServedModel>>,
}

impl Table {
    fn model(&mut self, name: &str) -> &mut ModelStatus {
        let place = self.models.iter().position(|m| m.name == name);
        let place = place.unwrap_or_else(|| {
            self.models.push(ModelStatus {
                name: name.to_owned(),
                versions: Vec::new(),
            });
            self.models.len() - 1
        });
        &mut self.models[place]
    }

    fn readiness(&mut self) -> Readiness {
        let Self {
            models,
            awaited,
            lost,
        } = self;
        let loading = |row: &VersionStatus| matches!(row.state, ModelState::Loading);
        awaited.retain(|name| {
            let mut models = models.iter();
            models.any(|m| m.name == *name && m.versions.iter().any(loading))
        });
        let serving = models.iter().any(|model| model.ready().next().is_some());
        if !awaited.is_empty() {
            Readiness::Starting
        } else if !lost.is_empty() {
            Readiness::Lost
        } else if serving {
            Readiness::Ready
        } else {
            Readiness::Starting
        }
    }

    /// Takes what has lost its last device out of service.
    fn look_for_losses(&mut self) {
        let rows = self.models.iter_mut().flat_map(|m| &mut m.versions);
        for row in rows {
            let lost = |served: &Arc<ServedModel>| Some((served.batcher.lost()?, served.clone()));
            if let Some((what, served)) = row.ready().and_then(lost) {
                let reason = format!("it has {what}; load it anew when its devices answer again");
                *row = VersionStatus::new(row.version.take(), ModelState::Failed(reason));
                self.lost.push(served);
            }
        }
    }

    /// Forgets losses of a model and returns what served.
    fn forget_lost(
        &mut self,
        name: &str,
        forgets: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = Arc<ServedModel>> {
        self.lost
            .extract_if(.., move |lost| lost.name == name && forgets(&lost.version))
    }
}

/// Changes of the table; those that take something out of service return it.
impl Models {
    pub(super) fn new(default: Option<String>) -> Self {
        Self {
            table: RwLock::default(),
            default,
            readiness: watch::Sender::new(Readiness::Starting),
        }
    }

    /// Adds a model that is going to be loaded; the server is not ready before it is.
    pub(super) fn announce(&self, name: &str) {
        self.change(|table| {
            table.model(name).row(None).state = ModelState::Loading;
            table.awaited.push(name.to_owned());
        });
    }

    /// Shows as loading what of these versions does not serve; `None` is that of a model without version folders.
    pub(super) fn loading<'a>(
        &self,
        name: &str,
        versions: impl IntoIterator<Item = Option<&'a str>>,
    ) {
        self.change(|table| {
            let model = table.model(name);
            for version in versions {
                match version {
                    // the one row that there may be
                    None if model.ready().next().is_none() => {
                        model.versions = vec![VersionStatus::new(None, ModelState::Loading)];
                    }
                    None => {}
                    Some(_) => {
                        model.retain(|row| row.version.is_some());
                        let row = model.row(version);
                        if row.ready().is_none() {
                            row.state = ModelState::Loading;
                        }
                    }
                }
            }
        });
    }

    /// Serves a version, in place of what it was.
    pub(super) fn serve(&self, served: Arc<ServedModel>) -> Vec<Arc<ServedModel>> {
        self.change(|table| {
            let same = |version: &str| version == served.version;
            let mut before: Vec<_> = table.forget_lost(&served.name, same).collect();
            let model = table.model(&served.name);
            model.retain(|row| row.version.is_some());
            let row = model.row(Some(&served.version));
            before.extend(row.ready().cloned());
            let version = Some(served.version.clone());
            *row = VersionStatus::new(version, ModelState::Ready(served));
            before
        })
    }

    /// Shows what has lost its last device since the last change as failed. Every change looks for that, so that it is
    /// found whether the loss or the change comes first.
    pub(super) fn look_for_losses(&self) {
        self.change(|_| ());
    }

    /// Shows why a version could not be loaded; what serves goes on. `None`: the model, before its versions are known.
    pub(super) fn fail(&self, name: &str, version: Option<&str>, reason: &str) {
        self.change(|table| {
            let model = table.model(name);
            if version.is_none() && model.ready().next().is_none() {
                model.versions.clear();
            }
            if version.is_some() || model.versions.is_empty() {
                let row = model.row(version);
                if row.ready().is_none() {
                    row.state = ModelState::Failed(reason.to_owned());
                }
            }
            for row in &mut model.versions {
                let meant = version.is_none() || row.version.as_deref() == version;
                if meant && row.ready().is_some() {
                    row.reload_error = Some(reason.to_owned());
                }
            }
        });
    }

    /// Takes the versions that are not to be kept from a model.
    pub(super) fn retain(
        &self,
        name: &str,
        keep: impl Fn(Option<&str>) -> bool,
    ) -> Vec<Arc<ServedModel>> {
        self.change(|table| {
            let lost = table.forget_lost(name, |version| !keep(Some(version)));
            let mut gone: Vec<_> = lost.collect();
            let model = table.model(name);
            gone.extend(model.retain(|row| keep(row.version.as_deref())));
            if model.versions.is_empty() {
                model.row(None).state = ModelState::Unloaded;
            }
            gone
        })
    }

    /// Takes every version of a model out of service; `None` where there is no such model.
    pub(super) fn unload(&self, name: &str) -> Option<Vec<Arc<ServedModel>>> {
        self.change(|table| {
            let model = table.models.iter_mut().find(|m| m.name == name)?;
            let mut served: Vec<_> = model.ready().cloned().collect();
            for row in &mut model.versions {
                *row = VersionStatus::new(row.version.take(), ModelState::Unloaded);
            }
            served.extend(table.forget_lost(name, |_| true));
            Some(served)
        })
    }

    /// Takes a model from the table.
    pub(super) fn remove(&self, name: &str) -> Vec<Arc<ServedModel>> {
        self.change(|table| {
            let mut served: Vec<_> = table.forget_lost(name, |_| true).collect();
            let gone = table.models.extract_if(.., |m| m.name == name);
            served.extend(gone.flat_map(|m| m.ready().cloned().collect::<Vec<_>>()));
            served
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut table);
        table.look_for_losses();
        let readiness = table.readiness();
        // under the table's lock, so that two changes cannot report in the wrong order
        self.turn(|now| match now {
            Readiness::Draining => now,
            _ => readiness,
        });
        changed
    }
}

impl Models {
    /// What answers to a name and version, or to none.
    pub(super) fn find(
        &self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> Result<Arc<ServedModel>, Error> {
        let table = self.read();
        let models = &table.models;
        let may_answer = |m: &&ModelStatus| {
            let newest = m.newest().map(|newest| &newest.state);
            matches!(newest, Some(ModelState::Ready(_) | ModelState::Loading))
        };
        let name = name.or(self.default.as_deref());
        let found = match name {
            Some(name) => models.iter().find(|m| m.name == name),
            // a broken folder of --model-dir leaves the answering to the next, and so does what was unloaded
            None => models.iter().find(may_answer).or_else(|| models.first()),
        };
        let model = found.ok_or_else(|| not_found(name, models))?;
        let row = match version {
            None => model.newest(),
            Some(_) => {
                let mut rows = model.versions.iter();
                rows.find(|row| row.version.as_deref() == version)
            }
        };
        match row.map(|row| &row.state) {
            Some(ModelState::Ready(served)) => Ok(Arc::clone(served)),
            state => Err(refused(model, version, state)),
        }
    }

    pub(super) fn largest_input(&self) -> usize {
        let table = self.read();
        let ready = table.models.iter().flat_map(ModelStatus::ready);
        ready.map(|model| model.input.elements()).max().unwrap_or(0)
    }

    pub(super) fn list(&self) -> Vec<ModelStatus> {
        self.read().models.clone()
    }

    /// One model, if it is known.
    pub(super) fn status(&self, name: &str) -> Option<ModelStatus> {
        let table = self.read();
        table.models.iter().find(|m| m.name == name).cloned()
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

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a model that is known, or a version of it, does not answer.
fn refused(model: &ModelStatus, version: Option<&str>, state: Option<&ModelState>) -> Error {
    let what = match version {
        Some(version) => format!("version {} of the model {}", quoted(version), model.name),
        None => format!("the model {}", model.name),
    };
    match state {
        Some(ModelState::Loading) => {
            let message = format!("{what} is still loading; try again soon");
            Error::new(Code::Unavailable, message).retry_after(Duration::from_secs(2))
        }
        Some(ModelState::Failed(reason)) => {
            let message = format!("{what} has failed: {reason}");
            Error::new(Code::Unavailable, message)
        }
        Some(ModelState::Unloaded) => {
            let message = format!("{what} has been unloaded; it answers when it is loaded again");
            Error::new(Code::ModelNotFound, message)
        }
        Some(ModelState::Ready(_)) | None => {
            let versions = model.ready().map(|served| served.version.as_str());
            let served = listed(versions.collect::<Vec<_>>().into_iter().rev());
            let message = format!("there is no {what}; versions served: {served}");
            Error::new(Code::ModelNotFound, message)
        }
    }
}

fn not_found(name: Option<&str>, models: &[ModelStatus]) -> Error {
    let message = match name {
        Some(name) => {
            let ready = models.iter().filter(|m| m.ready().next().is_some());
            let served = listed(ready.map(|m| m.name.as_str()));
            format!("there is no model {}; served: {served}", quoted(name))
        }
        None => "no model is served yet".to_owned(),
    };
    Error::new(Code::ModelNotFound, message)
}

/// A caller's text, cut to what a name could be.
pub(super) fn quoted(name: &str) -> String {
    format!("{:?}", name.chars().take(80).collect::<String>())
}

/// Names with commas, or `none`.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
