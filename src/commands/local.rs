//! The service inside this process, for commands that classify files without a server.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::wanted::wanted;
use crate::batching;
use crate::config::LocalArgs;
use crate::repository;
use crate::service::{
    self, Classifier, Classify, Code, Input, Prediction, Priority, Request, ServedModel, Wanted,
};
use crate::telemetry::Metrics;

/// Images in flight: one batch computing, one being decoded.
pub(super) const IN_FLIGHT: usize = 64;
/// Files are answered however long they take.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// One model, loaded and answering.
pub(super) struct Local {
    classifier: Classifier,
    pub(super) model: Arc<ServedModel>,
}

impl Local {
    /// Loads the newest version of the one model that the flags name.
    pub(super) fn new(args: &LocalArgs) -> Result<Self> {
        let LocalArgs {
            models,
            engine,
            images,
        } = args;
        let pool = super::threads::pool(engine.threads())?;
        let wanted = wanted(models, engine.repository(&pool))?;
        let mut specs = wanted.named.iter().chain(&wanted.found);
        let chosen = match &models.default_model {
            Some(name) => specs.find(|spec| spec.name == *name),
            None if specs.clone().count() > 1 => {
                bail!("several models are named; choose one with --default-model")
            }
            None => specs.next(),
        };
        let spec = chosen.context("no model is named")?.newest()?;
        let config = service::Config {
            default_model: None,
            pool: Arc::clone(&pool),
            imaging: images.imaging(),
            batching: batching::Config::default(),
        };
        let metrics = Metrics::new(&Code::ALL.map(Code::as_str));
        let classifier = Classifier::new(config, metrics);
        let loaded = repository::load(&spec, &wanted.repository)?;
        classifier.load_model(loaded)?;
        let model = classifier
            .admit(None, 1)
            .map_err(anyhow::Error::from)?
            .model;
        Ok(Self { classifier, model })
    }

    /// Reads and classifies one file.
    pub(super) async fn classify(
        &self,
        file: &Path,
        top_k: usize,
    ) -> Result<Vec<Prediction>, service::Error> {
        let unreadable = |e: std::io::Error| {
            service::Error::new(
                Code::InvalidRequest,
                format!("cannot read {}: {e}", file.display()),
            )
        };
        let bytes = tokio::fs::read(file).await.map_err(unreadable)?;
        let received = Instant::now();
        let request = Request {
            inputs: vec![Input::Encoded(bytes.into())],
            wanted: Wanted::Best(top_k),
            priority: Priority::default(),
            whole: false,
            received,
            deadline: received + PATIENCE,
        };
        let admission = self.classifier.admit(None, 1)?;
        let reply = self.classifier.infer(admission, request).await?;
        let first = reply.results.into_iter().next();
        let scores = first.unwrap_or_else(|| {
            Err(service::Error::new(
                Code::Internal,
                "the image got no answer",
            ))
        })?;
        Ok(scores.predictions(&self.model.labels, top_k))
    }
}

/// A runtime for one command.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}
