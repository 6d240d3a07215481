//! `--watch`: has models loaded and unloaded when their files change.
//!
//! It asks the file system again and again, which works on network mounts and on the volumes of Kubernetes, where inotify
//! reports nothing. What it acts on has been the same in two looks, so that a copy in progress is left alone, and
//! differs from what was acted on last, so that a load that failed is not repeated.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::lifecycle::{Entry, LifeCycle};
use crate::repository::{self, ModelSpec, RepositoryError, Source, Stamp};

/// A watch that goes on until this is dropped.
#[derive(Debug)]
pub struct Watch {
    _stop: Sender<()>,
}

/// The files of each version of a model.
type Sight = BTreeMap<Option<String>, Stamp>;

struct Watcher {
    life: Arc<LifeCycle>,
    /// By the model's name, at the last look.
    seen: BTreeMap<String, Sight>,
    /// What could not be read at the last look, so that it is said once.
    unread: HashSet<String>,
}

impl Watch {
    pub(super) fn spawn(life: Arc<LifeCycle>, interval: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let watcher = Watcher {
            life,
            seen: BTreeMap::new(),
            unread: HashSet::new(),
        };
        let thread = std::thread::Builder::new().name("watch".to_owned());
        thread.spawn(move || watcher.run(interval, &stopped))?;
        Ok(Self { _stop: stop })
    }
}

impl Watcher {
    fn run(mut self, interval: Duration, stopped: &Receiver<()>) {
        while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            self.look();
        }
    }

    fn look(&mut self) {
        let mut unread = HashSet::new();
        let (directory, mut entries) = self.life.sources();
        let scanned = directory.map_or(Ok(Vec::new()), |dir| repository::scan(&dir));
        if let Err(error) = &scanned {
            self.cannot_read(&mut unread, "", &error.to_string());
        }
        for spec in scanned.iter().flatten() {
            if entries.iter().all(|entry| entry.spec.name != spec.name) {
                entries.push(Entry::new(spec.clone(), true));
            }
        }
        let mut seen = BTreeMap::new();
        for entry in &entries {
            let sight = match &scanned {
                // what is in there now cannot be told
                Err(_) if entry.found => continue,
                Ok(specs) if entry.found && !specs.contains(&entry.spec) => Ok(Sight::new()),
                _ => sight(&entry.spec, entry.found),
            };
            let name = &entry.spec.name;
            match sight {
                Ok(sight) => {
                    self.act(entry, &sight);
                    seen.insert(name.clone(), sight);
                }
                Err(error) => self.cannot_read(&mut unread, name, &error),
            }
        }
        self.seen = seen;
        self.unread = unread;
    }

    /// Does what follows from two equal looks at a model.
    fn act(&self, entry: &Entry, now: &Sight) {
        let name = &entry.spec.name;
        let Some(before) = self.seen.get(name) else {
            return;
        };
        if now.is_empty() && before.is_empty() {
            return self.life.forget(name);
        }
        let changed: Vec<Option<String>> = now
            .iter()
            .filter(|(version, stamp)| {
                before.get(*version) == Some(*stamp) && entry.acted.get(*version) != Some(*stamp)
            })
            .map(|(version, _)| version.clone())
            .collect();
        let mut acted = entry.acted.keys();
        let gone = acted.any(|v| !now.contains_key(v) && !before.contains_key(v));
        if gone || !changed.is_empty() {
            tracing::info!(model = name, "files have changed");
            self.life.refresh(&entry.spec, &changed);
        }
    }

    /// What serves goes on; it is logged once.
    fn cannot_read(&self, unread: &mut HashSet<String>, model: &str, error: &str) {
        if !self.unread.contains(model) {
            tracing::warn!(
                model,
                "cannot watch its files: {error}; what serves goes on"
            );
        }
        unread.insert(model.to_owned());
    }
}

/// The files of a model.
///
/// # Errors
/// When they are not there or cannot be read; but a folder of the model directory that holds no version is seen.
fn sight(spec: &ModelSpec, found: bool) -> Result<Sight, String> {
    let gone = match &spec.source {
        Source::File(path) => !path.is_file(),
        _ => false,
    };
    if gone {
        return Err(format!("{} is not there", spec.source));
    }
    let stamp = |spec: ModelSpec| {
        let stamp = Stamp::of(&spec.source);
        (spec.version, stamp)
    };
    match spec.versions() {
        Ok(specs) => Ok(specs.into_iter().map(stamp).collect()),
        Err(RepositoryError::NoVersions { .. }) if found => {
            Ok(BTreeMap::from([stamp(spec.clone())]))
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::batching;
    use crate::service::table::Models;
    use crate::service::{ModelState, Sources};
    use crate::telemetry::Metrics;

    /// A watcher of a model directory, which looks when the test says so.
    fn watcher(directory: &Path) -> Watcher {
        let models = Models::new(None);
        let life = LifeCycle::new(models, Metrics::new(&[]), batching::Config::default());
        life.announce(Sources {
            directory: Some(directory.to_owned()),
            ..Sources::default()
        });
        Watcher {
            life: Arc::new(life),
            seen: BTreeMap::new(),
            unread: HashSet::new(),
        }
    }

    impl Watcher {
        /// Versions of the model `m` that could not be loaded: those that were taken up, for none can be.
        fn tried(&self) -> Vec<String> {
            let status = self.life.models.status("m");
            let rows = status.into_iter().flat_map(|m| m.versions);
            let failed = rows.filter(|row| matches!(row.state, ModelState::Failed(_)));
            failed.filter_map(|row| row.version).collect()
        }
    }

    #[test]
    fn what_is_being_copied_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = |version: &str| directory.path().join("m").join(version);
        let mut watcher = watcher(directory.path());
        for version in ["1", "2"] {
            fs::create_dir_all(path(version)).unwrap();
        }
        let grow = |size: usize| fs::write(path("2").join("model.toml"), vec![b'#'; size]).unwrap();
        grow(1);
        watcher.look();
        assert!(watcher.tried().is_empty());
        for size in 2..5 {
            grow(size);
            watcher.look();
            // the one that stays the same is not held up
            assert_eq!(watcher.tried(), ["1"], "{size}");
        }
        watcher.look();
        assert_eq!(watcher.tried(), ["1", "2"]);
    }

    #[test]
    fn a_folder_that_is_missing_for_one_look_is_not_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (here, away) = (directory.path().join("m"), directory.path().join(".m"));
        let mut watcher = watcher(directory.path());
        fs::create_dir_all(here.join("1")).unwrap();
        watcher.look();
        watcher.look();
        assert_eq!(watcher.tried(), ["1"]);
        fs::rename(&here, &away).unwrap();
        watcher.look();
        assert_eq!(watcher.tried(), ["1"]);
        fs::rename(&away, &here).unwrap();
        watcher.look();
        assert_eq!(watcher.tried(), ["1"]);
        fs::rename(&here, &away).unwrap();
        watcher.look();
        watcher.look();
        assert!(watcher.life.models.list().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_remembered_until_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("models");
        let mut watcher = watcher(&gone);
        watcher.look();
        assert!(watcher.unread.contains(""));
        fs::create_dir(&gone).unwrap();
        watcher.look();
        assert!(watcher.unread.is_empty());
    }
}
