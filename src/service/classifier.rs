//! The [`Classify`] that serves: loads models into batchers, admits requests, answers them.
//!
//! Every image of a request ends once, here: with scores, with an error, or withdrawn because its caller left;
//! that is where images and rejections are counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::models::Models;
use super::pipeline::{Job, Pending};
use super::{
    BoxFuture, Classify, Code, Error, Input, ModelState, ModelStatus, Priority, Readiness, Reply,
    Request, Scores, ServedModel, Timing,
};
use crate::batching::{self, BatchError, Batcher, QueueFull, Ticket};
use crate::imaging;
use crate::ir::Shape;
use crate::pool::Pool;
use crate::repository::LoadedModel;
use crate::telemetry::{Metrics, ModelInfo, ModelLabels, ModelMetrics, RejectReason, Served};

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

/// Models and the threads that prepare their images. Models arrive by [`Classifier::mark_loading`], then
/// [`Classifier::load_model`] or [`Classifier::mark_failed`].
#[derive(Debug)]
pub struct Classifier {
    config: Config,
    models: Models,
    metrics: Arc<Metrics>,
}

/// Room in one model's queue; see [`Ticket`].
#[derive(Debug)]
pub struct Admission {
    pub model: Arc<ServedModel>,
    pub ticket: Ticket,
}

/// Why a loaded model cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the model has {classes} classes but {labels} labels; give one label per class")]
    Labels { classes: usize, labels: usize },
    #[error("preprocessing yields {crop}x{crop} RGB images, but the network takes {input}")]
    Input { crop: u32, input: Shape },
    #[error("the warm-up failed: {0}")]
    WarmUp(BatchError),
    #[error("the warm-up gave values that are not finite; the weights may be damaged")]
    NotFinite,
    #[error("the model's thread could not be started: {0}")]
    Thread(std::io::Error),
}

impl Classifier {
    pub fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        Self {
            models: Models::new(config.default_model.clone()),
            config,
            metrics,
        }
    }

    /// Announces a model. Announce every one before the first is loaded: the server is ready when none is loading.
    pub fn mark_loading(&self, name: &str) {
        self.models.set(name, ModelState::Loading);
    }

    /// Shows a model as failed; requests that name it are told why.
    pub fn mark_failed(&self, name: &str, reason: impl Into<String>) {
        self.models.set(name, ModelState::Failed(reason.into()));
    }

    /// Warms a model up and serves it. Takes the time of a forward pass: not for the async runtime's workers.
    ///
    /// # Errors
    /// When its parts do not fit each other or its first forward pass fails. The model's state is then as before.
    pub fn load_model(&self, loaded: LoadedModel) -> Result<(), LoadError> {
        let LoadedModel {
            name,
            version,
            architecture,
            graph,
            labels,
            preprocessing,
            provenance,
            mut engine,
        } = loaded;
        let (input, classes) = (graph.input(), graph.classes());
        let crop = preprocessing.crop;
        if (input.channels, input.height, input.width) != (3, crop as usize, crop as usize) {
            return Err(LoadError::Input { crop, input });
        }
        if labels.len() != classes {
            let labels = labels.len();
            return Err(LoadError::Labels { classes, labels });
        }
        let logits = batching::warm_up(engine.as_mut(), input.elements(), classes)
            .map_err(LoadError::WarmUp)?;
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(LoadError::NotFinite);
        }

        let info = engine.info().clone();
        let counts = graph.counts();
        let series = ModelLabels {
            model: name.clone(),
            family: architecture.family.to_owned(),
            depth: architecture.depth.to_string(),
            version: version.clone(),
            device: info.device.clone(),
        };
        let metrics = self.metrics.model(&series);
        let limits = self.config.batching;
        let batcher = Batcher::spawn(
            &name,
            engine,
            input.elements(),
            classes,
            limits,
            Arc::clone(&metrics),
        )
        .map_err(LoadError::Thread)?;
        let model_info = ModelInfo {
            engine: info.engine.to_owned(),
            precision: info.precision.to_owned(),
            isa: info.isa.to_owned(),
            parameters: counts.parameters,
        };
        self.metrics.set_model_info(&series, &model_info);
        let model = ServedModel {
            name,
            version,
            architecture: architecture.name,
            family: architecture.family,
            depth: architecture.depth,
            input,
            labels: labels.into(),
            preprocessing,
            provenance,
            engine: info,
            counts,
            limits,
            metrics,
            batcher,
        };
        let name = model.name.clone();
        self.models.set(&name, ModelState::Ready(Arc::new(model)));
        Ok(())
    }
}

impl Classify for Classifier {
    fn find(&self, model: Option<&str>, version: Option<&str>) -> Result<Arc<ServedModel>, Error> {
        self.models.find(model, version)
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
        self.models.largest_input()
    }

    fn models(&self) -> Vec<ModelStatus> {
        self.models.list()
    }

    fn load(&self, _model: &str) -> BoxFuture<'static, Result<(), Error>> {
        unimplemented!()
    }

    fn unload(&self, _model: &str) -> BoxFuture<'static, Result<(), Error>> {
        unimplemented!()
    }

    fn is_ready(&self) -> bool {
        self.models.readiness() == Readiness::Ready
    }

    fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.models.subscribe()
    }

    fn drain(&self) {
        self.models.drain();
    }
}

impl Classifier {
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
            priority,
            whole,
            deadline,
            ..
        } = request;
        let started = self.start(&mut admission, inputs, priority, deadline);
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
        priority: Priority,
        deadline: Instant,
    ) -> Result<Vec<Pending>, Error> {
        // no change where the protocol has done it, and never more images in the system than are admitted
        admission.resize(inputs.len())?;
        let mut pending = Vec::with_capacity(inputs.len());
        for input in inputs {
            let ticket = admission.ticket.take_one().ok_or_else(no_images)?;
            let job = Job {
                model: Arc::clone(&admission.model),
                ticket,
                priority,
                deadline,
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
