//! The service between protocols and models: admission, decode, preprocess, submit, top-k.
//!
//! Protocols hold [`Classify`] and translate; `classifier` admits and answers, `pipeline` takes one image from bytes to
//! predictions, `models` is the table of what is served and whether the server is ready.

mod classifier;
mod error;
mod models;
mod pipeline;
#[cfg(test)]
mod tests;
mod topk;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

pub use crate::imaging::Preprocessing;
pub use crate::repository::Provenance;
pub use classifier::{Admission, Classifier, Config, LoadError};
pub use error::{Code, Error};
pub use models::{ModelState, ModelStatus, Readiness, ServedModel};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What HTTP and gRPC hold: everything a protocol needs, and nothing of how it is done.
pub trait Classify: Send + Sync + 'static {
    /// The model that answers to a name (`None`: the default).
    fn find(&self, model: Option<&str>) -> Result<Arc<ServedModel>, Error>;

    /// Reserves room for `images` images of a model (`None`: the default) before the body is read.
    fn admit(&self, model: Option<&str>, images: usize) -> Result<Admission, Error> {
        Admission::new(self.find(model)?, images)
    }

    /// Classifies the images under an admission. Dropping the future withdraws the images still queued.
    fn classify(
        &self,
        admission: Admission,
        request: Request,
    ) -> BoxFuture<'_, Result<Reply, Error>>;

    /// Every model known, serving or not, in the order of registration; the first is the default unless one is named.
    fn models(&self) -> Vec<ModelStatus>;

    /// Whether every model has loaded and warmed up and the server is not draining.
    fn is_ready(&self) -> bool;

    /// Readiness now and every change of it.
    fn subscribe(&self) -> watch::Receiver<Readiness>;

    /// Turns readiness off for good; requests are still answered.
    fn drain(&self);
}

/// Images of one request; the model is in the [`Admission`].
#[derive(Clone, Debug)]
pub struct Request {
    /// Encoded images, 1 to --max-images-per-request (the protocol checks the number and resizes the admission).
    pub images: Vec<Bytes>,
    pub top_k: usize,
    /// When the request came in; `timing_ms.total` counts from here.
    pub received: Instant,
    pub deadline: Instant,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub model: String,
    pub version: String,
    pub depth: usize,
    /// One per image, in order. At least one is `Ok`; a request whose images all fail is the first one's error.
    pub results: Vec<Result<Vec<Prediction>, Error>>,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    pub class: usize,
    pub label: String,
    pub probability: f32,
}

/// The slowest image's time in each stage.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    pub decode: Duration,
    pub preprocess: Duration,
    pub queue: Duration,
    pub inference: Duration,
    pub total: Duration,
}
