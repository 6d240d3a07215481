//! Load, unload, reload and the watch, with real model folders and without a server.

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod watch;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{PATIENCE, RED, png};
use resnetd::pool::Pool;
use resnetd::repository;
use resnetd::service::{
    self, Classifier, Classify, Code, Error, Input, ModelState, Priority, Reply, Request, Sources,
    VersionStatus, Wanted,
};
use resnetd::telemetry::Metrics;
use resnetd::{batching, imaging};
use tempfile::TempDir;

use common::weights::{self, folder};

/// A model directory and the service over it.
struct House {
    directory: TempDir,
    metrics: Arc<Metrics>,
    classifier: Arc<Classifier>,
}

impl House {
    /// Over a model directory with these folders of small models.
    fn new(folders: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in folders {
            model(&directory.path().join(name));
        }
        let sources = Sources {
            found: repository::scan(directory.path()).unwrap(),
            directory: Some(directory.path().to_owned()),
            ..Sources::default()
        };
        Self::over(directory, sources)
    }

    /// Over a folder that is named, as `m`.
    fn named(folders: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in folders {
            model(&directory.path().join(name));
        }
        let spec = format!("m={}", directory.path().join("m").display());
        let sources = Sources {
            named: vec![spec.parse().unwrap()],
            ..Sources::default()
        };
        Self::over(directory, sources)
    }

    fn over(directory: TempDir, sources: Sources) -> Self {
        let metrics = Metrics::new(&Code::ALL.map(Code::as_str));
        let config = service::Config {
            default_model: None,
            pool: Arc::new(Pool::new(NonZeroUsize::new(2).unwrap()).unwrap()),
            imaging: imaging::Config::default(),
            batching: batching::Config::default(),
        };
        let classifier = Classifier::new(config, Arc::clone(&metrics)).with_sources(sources);
        Self {
            directory,
            metrics,
            classifier: Arc::new(classifier),
        }
    }

    fn loaded(folders: &[&str]) -> Self {
        let house = Self::new(folders);
        house.classifier.load_announced().unwrap();
        house
    }

    fn path(&self, folder: &str) -> PathBuf {
        self.directory.path().join(folder)
    }

    /// The rows of a model; none where it is not known.
    fn rows(&self, name: &str) -> Vec<VersionStatus> {
        let models = self.classifier.models().into_iter();
        let rows = models.filter(|m| m.name == name).map(|m| m.versions);
        rows.flatten().collect()
    }

    /// Versions and states of a model, as in `1 ready, 2 failed`; with a star where it could not be loaded anew.
    fn states(&self, name: &str) -> String {
        let rows = self.rows(name).into_iter().map(|row| {
            let state = match row.state {
                ModelState::Loading => "loading",
                ModelState::Ready(_) => "ready",
                ModelState::Failed(_) => "failed",
                ModelState::Unloaded => "unloaded",
            };
            let star = if row.reload_error.is_some() { "*" } else { "" };
            format!("{} {state}{star}", row.version.as_deref().unwrap_or("?"))
        });
        rows.collect::<Vec<_>>().join(", ")
    }

    /// `resnetd_model_loads_total`: well and badly.
    fn loads(&self, name: &str) -> [f64; 2] {
        let text = self.metrics.render();
        ["ok", "failed"].map(|result| {
            let labels = [("model", name), ("result", result)];
            common::metric(&text, "resnetd_model_loads_total", &labels)
        })
    }

    fn has_series(&self, label: &str, value: &str) -> bool {
        self.metrics
            .render()
            .contains(&format!("{label}=\"{value}\""))
    }

    async fn classify(&self, name: &str) -> Result<Reply, Error> {
        let admission = self.classifier.admit(Some(name), 1)?;
        self.classifier.infer(admission, request()).await
    }
}

fn request() -> Request {
    let received = Instant::now();
    Request {
        inputs: vec![Input::Encoded(png(RED).into())],
        wanted: Wanted::Best(1),
        priority: Priority::default(),
        whole: false,
        received,
        deadline: received + PATIENCE,
    }
}

/// A folder of a network that loads fast.
fn model(path: &Path) {
    folder(path, "plain20", "w.safetensors");
}

/// Cuts the weights of a folder short.
fn spoil(path: &Path) {
    std::fs::write(path.join("w.safetensors"), b"no weights").unwrap();
}

/// Writes them anew.
fn mend(path: &Path) {
    std::fs::write(path.join("w.safetensors"), weights::safetensors("plain20")).unwrap();
}

/// Some looks of the watch below.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(400)).await;
}
