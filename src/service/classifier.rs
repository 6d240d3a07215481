//! The [`Classify`] that serves: admits requests and answers them, and has models loaded and unloaded.
//!
//! Every image of a request ends once, here: with scores, with an error, or withdrawn because its caller left;
//! that is where images and rejections are counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::lifecycle::{LifeCycle, Sources};
use super::loading::LoadError;
use super::pipeline::{Job, Pending};
use super::table::Models;
use super::watching::Watch;
use super::{
    BoxFuture, Classify, Code, Error, Input, ModelStatus, Readiness, Reply, Request, Scores,
    ServedModel, Timing,
};
use crate::batching::{self, QueueFull, Terms, Ticket};
use crate::imaging;
use crate::pool::Pool;
use crate::repository::LoadedModel;
use crate::telemetry::{Metrics, ModelMetrics, RejectReason, Served};

#[derive(Clone, Debug)]
pub struct Config {
    /// `--default-model`: who answers when a request names nobody; else the first model that has not failed.
    pub default_model: Option<String>,
    /// Where images are decoded and preprocessed.
    pub pool: Arc<Pool>,
    pub imaging: imaging::Config,
    /// Of every model.
    pub batching: batching::Config,
}

/// Models and the threads that prepare their images. Models come from [`Sources`], or one by one from
/// [`Classifier::load_model`].
#[derive(Debug)]
pub struct Classifier {
    config: Config,
    life: Arc<LifeCycle>,
}

/// Room in one model's queue; see [`Ticket`].
#[derive(Debug)]
pub struct Admission {
    pub model: Arc<ServedModel>,
    pub ticket: Ticket,
}

impl Classifier {
    pub fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        let models = Models::new(config.default_model.clone());
        Self {
            life: Arc::new(LifeCycle::new(models, metrics, config.batching)),
            config,
        }
    }

    /// Announces every model of the sources; [`Classifier::load_announced`] loads them.
    pub fn with_sources(self, sources: Sources) -> Self {
        self.life.announce(sources);
        self
    }

    /// Loads every announced model, one after the other: not for the async runtime's workers.
    ///
    /// # Errors
    /// When none of the versions of a model that was named can serve.
    pub fn load_announced(&self) -> Result<(), Error> {
        self.life.load_announced()
    }

    #[cfg(test)]
    pub(super) fn life(&self) -> &LifeCycle {
        &self.life
    }

    /// Watches the files of every source from now on, until the handle is dropped.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn watch(&self, interval: Duration) -> std::io::Result<Watch> {
        Watch::spawn(Arc::clone(&self.life), interval)
    }

    /// Announces a model that [`Classifier::load_model`] is going to bring.
    pub fn mark_loading(&self, name: &str) {
        self.life.models.announce(name);
    }

    /// Shows why a model could not be loaded; a version of it that serves goes on.
    pub fn mark_failed(&self, name: &str, reason: &str) {
        self.life.models.fail(name, None, reason);
    }

    /// Warms a version of a model up and serves it beside the others, in place of what it was. Takes the time of some
    /// forward passes: not for the async runtime's workers.
    ///
    /// # Errors
    /// When its parts do not fit each other or a forward pass fails. The model's state is then as before.
    pub fn load_model(&self, loaded: LoadedModel) -> Result<(), LoadError> {
        self.life.serve(loaded)
    }
}

impl Classify for Classifier {
    fn find(&self, model: Option<&str>, version: Option<&str>) -> Result<Arc<ServedModel>, Error> {
        self.life.models.find(model, version)
    }

    fn infer(&self, admission: Admission, request: Request) -> BoxFuture<'_, Result<Reply, Error>> {
        let unanswered = Unanswered {
            metrics: Arc::clone(&admission.model.metrics),
            images: request.inputs.len(),
            deadline: request.deadline,
        };
        Box::pin(self.answer(admission, request, unanswered))
    }

    fn largest_input(&self) -> usize {
        self.life.models.largest_input()
    }

    fn models(&self) -> Vec<ModelStatus> {
        self.life.models.list()
    }

    fn load(&self, model: &str) -> BoxFuture<'static, Result<(), Error>> {
        self.life_cycle(model, LifeCycle::load)
    }

    fn unload(&self, model: &str) -> BoxFuture<'static, Result<(), Error>> {
        self.life_cycle(model, LifeCycle::unload)
    }

    fn is_ready(&self) -> bool {
        self.life.models.readiness() == Readiness::Ready
    }

    fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.life.models.subscribe()
    }

    fn drain(&self) {
        self.life.models.drain();
    }
}

impl Classifier {
    /// Does something to a model on a thread that may block; it goes on if the future is dropped.
    fn life_cycle(
        &self,
        model: &str,
        operation: fn(&LifeCycle, &str) -> Result<(), Error>,
    ) -> BoxFuture<'static, Result<(), Error>> {
        let (life, model) = (Arc::clone(&self.life), model.to_owned());
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || operation(&life, &model));
            let lost = |_| Error::new(Code::Internal, "the model's load or unload broke off");
            work.await.map_err(lost)?
        })
    }

    async fn answer(
        &self,
        admission: Admission,
        request: Request,
        mut unanswered: Unanswered,
    ) -> Result<Reply, Error> {
        let model = Arc::clone(&admission.model);
        let received = request.received;
        let reply = self.scores(admission, request, &mut unanswered).await;
        let reply = reply.map(|(results, mut timing)| {
            timing.total = received.elapsed();
            Reply {
                model: Arc::clone(&model),
                results,
                timing,
            }
        });
        let statistics = &model.metrics.statistics;
        match &reply {
            Ok(Reply { timing, .. }) => statistics.succeeded(&Served {
                total: timing.total,
                queue: timing.queue,
                input: timing.decode + timing.preprocess,
                infer: timing.inference,
            }),
            Err(_) => statistics.failed(received.elapsed()),
        }
        reply
    }

    async fn scores(
        &self,
        mut admission: Admission,
        request: Request,
        unanswered: &mut Unanswered,
    ) -> Result<(Vec<Result<Scores, Error>>, Timing), Error> {
        let Request {
            inputs,
            wanted,
            priority,
            whole,
            deadline,
            ..
        } = request;
        let terms = Terms {
            wanted,
            priority,
            deadline,
        };
        let started = self.start(&mut admission, inputs, terms);
        let pending = started.inspect_err(|error| unanswered.refused(error))?;
        drop(admission);
        let mut results = Vec::with_capacity(pending.len());
        let mut timing = Timing::default();
        for (index, image) in pending.into_iter().enumerate() {
            let result = image.scores().await;
            unanswered.answered(&result);
            if let (Err(error), true) = (&result, whole) {
                return Err(error.clone().of_image(index));
            }
            results.push(result.map(|(scores, times)| {
                timing.widen(&times);
                scores
            }));
        }
        if results.iter().all(Result::is_err) {
            let first = results.into_iter().find_map(Result::err);
            return Err(first.unwrap_or_else(no_images));
        }
        Ok((results, timing))
    }

    /// Sends every image on its way, each under its own ticket.
    fn start(
        &self,
        admission: &mut Admission,
        inputs: Vec<Input>,
        terms: Terms,
    ) -> Result<Vec<Pending>, Error> {
        // no change where the protocol has done it, and never more images in the system than are admitted
        admission.resize(inputs.len())?;
        let mut pending = Vec::with_capacity(inputs.len());
        for input in inputs {
            let ticket = admission.ticket.take_one().ok_or_else(no_images)?;
            let job = Job {
                model: Arc::clone(&admission.model),
                ticket,
                terms,
            };
            pending.push(job.start(input, &self.config.pool, self.config.imaging));
        }
        Ok(pending)
    }
}

impl Admission {
    /// Reserves room for `images` images of a model. Whether a refusal is the request's last word, and so counts, is for
    /// the caller to know.
    ///
    /// # Errors
    /// `QueueFull` when there is no room for all of them, `InvalidRequest` where there never could be.
    pub fn new(model: Arc<ServedModel>, images: usize) -> Result<Self, Error> {
        match model.batcher.admit(images) {
            Ok(ticket) => Ok(Self { model, ticket }),
            Err(full) => Err(refused(&model, full)),
        }
    }

    /// Changes the number of images admitted, whole or not at all.
    ///
    /// # Errors
    /// `QueueFull` when there is no room for all of them, `InvalidRequest` where there never could be; the admission is
    /// then as before.
    pub fn resize(&mut self, images: usize) -> Result<(), Error> {
        self.ticket
            .resize(images)
            .map_err(|full| refused(&self.model, full))
    }
}

/// Says when to come back: when the images now admitted will be answered.
fn refused(model: &ServedModel, full: QueueFull) -> Error {
    let wait = model.batcher.load().backlog();
    let error = Error::from(full);
    match error.retry_after {
        Some(_) => error.retry_after(wait.clamp(Duration::from_secs(1), Duration::from_secs(30))),
        None => error,
    }
}

fn no_images() -> Error {
    Error::new(
        Code::InvalidRequest,
        "the request holds no image; send at least one",
    )
}

/// Images of a request that have not ended. Those left when it is dropped were withdrawn: by a caller that went away, by
/// a protocol whose own timer noticed the deadline first, or because another image failed the whole request.
struct Unanswered {
    metrics: Arc<ModelMetrics>,
    images: usize,
    deadline: Instant,
}

impl Unanswered {
    /// None was taken.
    fn refused(&mut self, error: &Error) {
        let images = std::mem::take(&mut self.images);
        if error.code == Code::QueueFull {
            self.metrics
                .rejected(RejectReason::QueueFull, images as u64);
        }
    }

    /// One image ended.
    fn answered<T>(&mut self, result: &Result<T, Error>) {
        self.images = self.images.saturating_sub(1);
        let reason = match result {
            Ok(_) => return self.metrics.images.inc(),
            Err(error) => match error.code {
                Code::DeadlineExceeded => RejectReason::Deadline,
                Code::ImageTooLarge => RejectReason::TooLarge,
                // the last is a tensor whose logits overflow
                Code::UnsupportedImage | Code::UndecodableImage | Code::InvalidRequest => {
                    RejectReason::InvalidImage
                }
                _ => return,
            },
        };
        self.metrics.rejected(reason, 1);
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if self.images > 0 {
            let late = Instant::now() >= self.deadline;
            let reason = if late {
                RejectReason::Deadline
            } else {
                RejectReason::Cancelled
            };
            self.metrics.rejected(reason, self.images as u64);
        }
    }
}

impl Timing {
    /// Takes the longer time of each stage.
    fn widen(&mut self, other: &Timing) {
        self.decode = self.decode.max(other.decode);
        self.preprocess = self.preprocess.max(other.preprocess);
        self.queue = self.queue.max(other.queue);
        self.inference = self.inference.max(other.inference);
    }
}
