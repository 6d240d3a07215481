//! The service between protocols and models: admission, decode, preprocess, submit, scores.
//!
//! Protocols hold [`Classify`] and translate; `classifier` admits and answers, `pipeline` takes one image from bytes to
//! logits or the best of them, `scores` makes probabilities and top-k of either. `models` says what is served and `table` holds it, `lifecycle`
//! loads and unloads through `loading`, and `watching` has it done when files change.

mod classifier;
mod error;
mod lifecycle;
mod loading;
mod models;
mod pipeline;
mod scores;
mod table;
#[cfg(test)]
mod tests;
mod watching;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

pub use crate::batching::Priority;
pub use crate::engine::Wanted;
pub use crate::imaging::Preprocessing;
pub use crate::repository::Provenance;
pub use classifier::{Admission, Classifier, Config};
pub use error::{Code, Error};
pub use lifecycle::Sources;
pub use loading::LoadError;
pub use models::{ModelState, ModelStatus, Readiness, ServedModel, VersionStatus};
pub use scores::{Prediction, Scores};
pub use watching::Watch;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What HTTP and gRPC hold: everything a protocol needs, and nothing of how it is done.
pub trait Classify: Send + Sync + 'static {
    /// What answers to a model's name (`None`: the default) and version (`None`: the newest that is ready).
    fn find(&self, model: Option<&str>, version: Option<&str>) -> Result<Arc<ServedModel>, Error>;

    /// Reserves room for `images` images of a model (`None`: the default) before the body is read.
    fn admit(&self, model: Option<&str>, images: usize) -> Result<Admission, Error> {
        Admission::new(self.find(model, None)?, images)
    }

    /// Scores the images under an admission. Dropping the future withdraws the images still queued.
    fn infer(&self, admission: Admission, request: Request) -> BoxFuture<'_, Result<Reply, Error>>;

    /// Values of the largest image that a serving model takes as a tensor; 0 where none serves.
    fn largest_input(&self) -> usize;

    /// Every model known, serving or not, in the order of registration; the first is the default unless one is named.
    fn models(&self) -> Vec<ModelStatus>;

    /// Loads a model that is known or is found in the model directory, or loads it anew: every version on disk. What
    /// served before goes on until its successor is warm, and stays if that fails. Goes on if the future is dropped.
    fn load(&self, model: &str) -> BoxFuture<'static, Result<(), Error>>;

    /// Takes every version of a model out of service. Requests that have been admitted are answered.
    fn unload(&self, model: &str) -> BoxFuture<'static, Result<(), Error>>;

    /// Whether every model has loaded and warmed up and the server is not draining.
    fn is_ready(&self) -> bool;

    /// Readiness now and every change of it.
    fn subscribe(&self) -> watch::Receiver<Readiness>;

    /// Turns readiness off for good; requests are still answered.
    fn drain(&self);
}

/// One image as a request brings it.
#[derive(Clone, Debug)]
pub enum Input {
    /// A file: decoded and preprocessed here.
    Encoded(Bytes),
    /// `[c, h, w]` of the model's input, finite, preprocessed by the caller.
    Tensor(Vec<f32>),
}

/// Images of one request; the model is in the [`Admission`].
#[derive(Clone, Debug)]
pub struct Request {
    /// 1 to --max-images-per-request (the protocol checks the number and resizes the admission).
    pub inputs: Vec<Input>,
    /// Of each image: what [`Scores`] will be asked for.
    pub wanted: Wanted,
    pub priority: Priority,
    /// The first image that fails fails the request, and the others are withdrawn.
    pub whole: bool,
    /// When the request came in; `timing.total` counts from here.
    pub received: Instant,
    pub deadline: Instant,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub model: Arc<ServedModel>,
    /// One per image, in order. At least one is `Ok`, of a `whole` request all are; a request whose images all fail is the
    /// first one's error.
    pub results: Vec<Result<Scores, Error>>,
    pub timing: Timing,
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
