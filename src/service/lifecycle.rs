//! What becomes of a model between its first load and its last unload: the catalog of sources, and the operations on it.
//!
//! There is one operation at a time. A new version is warm before it takes the old one's place in the table; requests
//! that hold the old one are answered by it, and its memory goes with the last of them. What cannot be loaded leaves what
//! serves serving.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::loading::{self, LoadError};
use super::table::{Models, listed, quoted};
use super::{Code, Error, ModelState, ServedModel};
use crate::batching;
use crate::repository::{self, LoadedModel, ModelSpec, RepositoryError, Stamp};
use crate::telemetry::Metrics;

/// Where models come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Asked for by name: the start fails without them, and they are served even if their files vanish.
    pub named: Vec<ModelSpec>,
    /// Found in `directory`: they come and go with their folders.
    pub found: Vec<ModelSpec>,
    /// `--model-dir`.
    pub directory: Option<PathBuf>,
    pub repository: repository::Config,
}

#[derive(Debug)]
pub(super) struct LifeCycle {
    pub(super) models: Arc<Models>,
    metrics: Arc<Metrics>,
    limits: batching::Config,
    /// Held during every operation.
    catalog: Mutex<Catalog>,
}

#[derive(Debug, Default)]
struct Catalog {
    entries: Vec<Entry>,
    directory: Option<PathBuf>,
    repository: repository::Config,
}

/// A model and what has been done about its files.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) spec: ModelSpec,
    /// In the model directory, with which it goes.
    pub(super) found: bool,
    /// The files of each version, as its spec names it, when it was last loaded, whatever came of it.
    pub(super) acted: BTreeMap<Option<String>, Stamp>,
}

/// Versions that could not be loaded, with the reasons.
#[derive(Debug)]
struct Failures(Vec<String>);

impl LifeCycle {
    pub(super) fn new(models: Models, metrics: Arc<Metrics>, limits: batching::Config) -> Self {
        Self {
            models: Arc::new(models),
            metrics,
            limits,
            catalog: Mutex::default(),
        }
    }

    pub(super) fn announce(&self, sources: Sources) {
        let mut catalog = self.catalog();
        let named = sources.named.into_iter().map(|spec| (spec, false));
        let found = sources.found.into_iter().map(|spec| (spec, true));
        for (spec, found) in named.chain(found) {
            self.models.announce(&spec.name);
            catalog.entries.push(Entry::new(spec, found));
        }
        catalog.directory = sources.directory;
        catalog.repository = sources.repository;
    }

    /// Loads what has been announced and not been loaded or unloaded by a call meanwhile.
    ///
    /// # Errors
    /// When none of the versions of a named model can serve.
    pub(super) fn load_announced(&self) -> Result<(), Error> {
        let (_, entries) = self.sources();
        for Entry { spec, found, .. } in entries {
            let mut catalog = self.catalog();
            let status = self.models.status(&spec.name);
            let newest = status.as_ref().and_then(|status| status.newest());
            if !newest.is_some_and(|newest| matches!(newest.state, ModelState::Loading)) {
                continue;
            }
            let Some((entry, config)) = catalog.entry(&spec.name) else {
                continue;
            };
            if let Err(failures) = self.bring(entry, config, |_| true)
                && !found
                && !self.serves(&spec.name)
            {
                return Err(failures.error(&spec.name));
            }
        }
        Ok(())
    }

    /// Loads every version of a model that is on disk.
    ///
    /// # Errors
    /// `ModelNotFound` for a name that is neither known nor that of a folder in the model directory; `Unavailable` when
    /// a version cannot be loaded.
    pub(super) fn load(&self, name: &str) -> Result<(), Error> {
        let mut catalog = self.catalog();
        if catalog.entry(name).is_none() {
            let spec = catalog.look_for(name)?;
            catalog.entries.push(Entry::new(spec, true));
        }
        let Some((entry, config)) = catalog.entry(name) else {
            return Ok(());
        };
        let brought = self.bring(entry, config, |_| true);
        brought.map_err(|failures| failures.error(name))
    }

    /// Takes every version of a model out of service, and its series with it.
    ///
    /// # Errors
    /// `ModelNotFound` for an unknown name.
    pub(super) fn unload(&self, name: &str) -> Result<(), Error> {
        let mut catalog = self.catalog();
        match self.models.unload(name) {
            Some(served) => self.retire(served),
            None => return Err(catalog.unknown(name)),
        }
        if let Some((entry, _)) = catalog.entry(name) {
            // what was never loaded is to stay so as well
            for spec in entry.spec.versions().unwrap_or_default() {
                let stamp = || Stamp::of(&spec.source);
                entry.acted.entry(spec.version).or_insert_with(stamp);
            }
        }
        self.metrics.remove_loads(name);
        tracing::info!(model = name, "unloaded");
        Ok(())
    }

    /// Loads the changed versions of a model and takes those gone from disk out of service.
    pub(super) fn refresh(&self, spec: &ModelSpec, changed: &[Option<String>]) {
        let mut catalog = self.catalog();
        if catalog.entry(&spec.name).is_none() {
            catalog.entries.push(Entry::new(spec.clone(), true));
        }
        if let Some((entry, config)) = catalog.entry(&spec.name) {
            // what failed is in the log and in the table
            let _ = self.bring(entry, config, |version| changed.contains(version));
        }
    }

    /// Takes a model whose folder is gone out of service and out of the table.
    pub(super) fn forget(&self, name: &str) {
        let mut catalog = self.catalog();
        catalog.entries.retain(|entry| entry.spec.name != name);
        self.retire(self.models.remove(name));
        self.metrics.remove_loads(name);
        tracing::info!(model = name, "unloaded: its folder is gone");
    }

    /// The model directory and what is known of each model.
    pub(super) fn sources(&self) -> (Option<PathBuf>, Vec<Entry>) {
        let catalog = self.catalog();
        (catalog.directory.clone(), catalog.entries.clone())
    }

    /// Warms a version up and swaps it in.
    ///
    /// # Errors
    /// When it cannot serve; all is then as before.
    pub(super) fn serve(&self, loaded: LoadedModel) -> Result<(), LoadError> {
        // the table holds what holds the workers, which call this
        let models = Arc::downgrade(&self.models);
        let on_lost = move || {
            if let Some(models) = models.upgrade() {
                models.look_for_losses();
            }
        };
        let served = loading::prepare(loaded, self.limits, &self.metrics, on_lost)?;
        let before = self.models.serve(Arc::new(served));
        self.retire(before);
        Ok(())
    }

    /// Loads the chosen ones of the versions on disk, the newest first, then takes those gone out of service.
    fn bring(
        &self,
        entry: &mut Entry,
        config: &repository::Config,
        chosen: impl Fn(&Option<String>) -> bool,
    ) -> Result<(), Failures> {
        let name = &entry.spec.name;
        let specs = match entry.spec.versions() {
            Ok(specs) => specs,
            Err(error) => {
                self.absent(entry, &error);
                return Err(Failures(vec![error.to_string()]));
            }
        };
        let chosen: Vec<&ModelSpec> = specs.iter().filter(|s| chosen(&s.version)).collect();
        let versions = chosen.iter().map(|spec| spec.version.as_deref());
        self.models.loading(name, versions);
        // what is to stay: the versions on disk, by the names they are served under
        let mut on_disk: Vec<Option<String>> = specs.iter().map(|s| s.version.clone()).collect();
        let mut failures = Vec::new();
        for spec in chosen.into_iter().rev() {
            // before the files are read: what changes meanwhile is a change
            let stamp = Stamp::of(&spec.source);
            entry.acted.insert(spec.version.clone(), stamp);
            match self.load_version(spec, config) {
                Ok(version) => on_disk.push(Some(version)),
                Err(reason) => failures.push(match &spec.version {
                    Some(version) => format!("version {version}: {reason}"),
                    None => reason,
                }),
            }
        }
        // of a model without version folders, whose version is in a file that cannot be read, all stays
        let known = on_disk.iter().any(Option::is_some);
        if known {
            let keep = |version: Option<&str>| on_disk.iter().any(|v| v.as_deref() == version);
            self.retire(self.models.retain(name, keep));
        }
        entry
            .acted
            .retain(|version, _| specs.iter().any(|s| s.version == *version));
        match failures.is_empty() {
            true => Ok(()),
            false => Err(Failures(failures)),
        }
    }

    /// Loads one version and returns its name.
    fn load_version(
        &self,
        spec: &ModelSpec,
        config: &repository::Config,
    ) -> Result<String, String> {
        let started = Instant::now();
        // a panic must not leave the model loading for ever, nor end the watch
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            let loaded = repository::load(spec, config).map_err(|e| e.to_string())?;
            let version = loaded.version.clone();
            self.serve(loaded).map_err(|e| e.to_string())?;
            Ok(version)
        }));
        let loaded = loaded.unwrap_or_else(|_| Err("the load panicked".to_owned()));
        let model = &spec.name;
        self.metrics.loaded(model, loaded.is_ok());
        match &loaded {
            Ok(version) => {
                let ms = started.elapsed().as_millis();
                tracing::info!(model, version, ms, "model is ready");
            }
            Err(reason) => self.failed(model, spec.version.as_deref(), reason),
        }
        loaded
    }

    /// A model whose versions cannot be told.
    fn absent(&self, entry: &mut Entry, error: &RepositoryError) {
        let name = &entry.spec.name;
        self.metrics.loaded(name, false);
        if entry.found && matches!(error, RepositoryError::NoVersions { .. }) {
            // its version folders have gone; a model.toml that has gone may be on its way back
            let gone: Vec<_> = entry.acted.keys().flatten().collect();
            let keep = |v: Option<&str>| !gone.iter().any(|gone| Some(gone.as_str()) == v);
            let served = self.models.retain(name, keep);
            self.retire(served);
            entry.acted = BTreeMap::from([(None, Stamp::of(&entry.spec.source))]);
        }
        self.failed(name, None, &error.to_string());
    }

    /// Shows and logs a failure.
    fn failed(&self, model: &str, version: Option<&str>, reason: &str) {
        self.models.fail(model, version, reason);
        let serving = match self.serves(model) {
            true => "; what serves goes on",
            false => "",
        };
        tracing::error!(
            model,
            version,
            "the model could not be loaded: {reason}{serving}"
        );
    }

    fn serves(&self, name: &str) -> bool {
        let status = self.models.status(name);
        status.is_some_and(|status| status.ready().next().is_some())
    }

    /// Removes the series of what has left service, but for those that its successor goes on with. Of what lost its
    /// devices they stay until it is loaded anew or unloaded.
    fn retire(&self, served: impl IntoIterator<Item = Arc<ServedModel>>) {
        for gone in served {
            let status = self.models.status(&gone.name);
            let goes_on = |status: &super::ModelStatus| {
                let mut ready = status.ready();
                ready.any(|served| served.series == gone.series)
            };
            if !status.as_ref().is_some_and(goes_on) {
                self.metrics.remove_model(&gone.series);
            }
        }
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog {
    fn entry(&mut self, name: &str) -> Option<(&mut Entry, &repository::Config)> {
        let entry = self.entries.iter_mut().find(|e| e.spec.name == name)?;
        Some((entry, &self.repository))
    }

    /// A folder of that name in the model directory, compared with what is there: a caller's text is never a path.
    fn look_for(&self, name: &str) -> Result<ModelSpec, Error> {
        let Some(directory) = &self.directory else {
            return Err(self.unknown(name));
        };
        let failed = |e: RepositoryError| Error::new(Code::Unavailable, e.to_string());
        let specs = repository::scan(directory).map_err(failed)?;
        let spec = specs.into_iter().find(|spec| spec.name == name);
        spec.ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Error {
        let known = listed(self.entries.iter().map(|entry| entry.spec.name.as_str()));
        let place = match self.directory {
            Some(_) => ", and no folder of that name in the model directory",
            None => "",
        };
        let name = quoted(name);
        let message = format!("there is no model {name}{place}; known: {known}");
        Error::new(Code::ModelNotFound, message)
    }
}

impl Entry {
    pub(super) fn new(spec: ModelSpec, found: bool) -> Self {
        Self {
            spec,
            found,
            acted: BTreeMap::new(),
        }
    }
}

impl Failures {
    fn error(&self, model: &str) -> Error {
        let reasons = self.0.join("; ");
        let message = format!("the model {model} could not be loaded: {reasons}");
        Error::new(Code::Unavailable, message)
    }
}
