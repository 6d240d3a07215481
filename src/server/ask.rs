//! One question to the service, whichever protocol it came by: the room taken before the body is read, and the checks
//! that both protocols make once they have read it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Core;
use super::record::Record;
use crate::service::{
    Admission, Code, Error, Input, Prediction, Priority, Reply, Request, ServedModel, Timing,
    Wanted,
};

/// Classes reported where the caller does not say.
pub(super) const DEFAULT_TOP_K: usize = 5;
pub(super) const MAX_TOP_K: usize = 100;

/// A classification as its protocol understood it.
pub(super) struct Ask {
    /// Encoded images; an image that its wrapping spoiled (bad base64) fails alone.
    pub(super) images: Vec<Result<Bytes, Error>>,
    /// `None`: the default.
    pub(super) model: Option<String>,
    pub(super) top_k: Option<usize>,
}

/// The answer to an [`Ask`].
pub(super) struct Classified {
    pub(super) model: Arc<ServedModel>,
    /// One per image, in order.
    pub(super) results: Vec<Result<Vec<Prediction>, Error>>,
    pub(super) timing: Timing,
}

/// Room taken before the body is read.
pub(super) struct Held {
    admission: Admission,
    /// At what the header names, or at the default; else somewhere, until the body names a model.
    meant: bool,
}

/// When a request came and when its caller stops waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) received: Instant,
    pub(super) deadline: Instant,
}

impl Held {
    fn is_meant(&self, model: Option<&str>, version: Option<&str>) -> bool {
        let held = &self.admission.model;
        model.map_or(self.meant, |name| name == held.name)
            && version.is_none_or(|version| version == held.version)
    }
}

impl Clock {
    /// `wanted` is the caller's limit, `limit` the server's.
    pub(super) fn start(wanted: Option<Duration>, limit: Duration) -> Self {
        let received = Instant::now();
        Self {
            received,
            deadline: received + wanted.map_or(limit, |wanted| wanted.min(limit)),
        }
    }

    /// Runs `work` until the deadline.
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::time::timeout_at(self.deadline.into(), work)
            .await
            .unwrap_or_else(|_| {
                let waited = self.deadline.duration_since(self.received).as_millis();
                Err(Error::new(
                    Code::DeadlineExceeded,
                    format!("the request was not answered within its {waited} ms"),
                ))
            })
    }
}

/// Takes room for one image before the body is read, so that a crowd is turned away at the price of its headers.
///
/// `model` and `version` are what the request names outside its body. Where only the body can name the model (`in_body`) and the
/// default has no room, it is held at any model that has: the body may name that one.
pub(super) fn hold(
    core: &Core,
    (model, version): (Option<&str>, Option<&str>),
    in_body: bool,
    record: &Record,
) -> Result<Held, Error> {
    let wanted = core.classify.find(model, version);
    record.model(wanted.as_ref().ok());
    let refused = match wanted.and_then(|model| Admission::new(model, 1)) {
        Ok(admission) => {
            return Ok(Held {
                admission,
                meant: true,
            });
        }
        Err(error) => error,
    };
    if !in_body || model.is_some() {
        return Err(refused);
    }
    let known = core.classify.models();
    let mut ready = known.iter().filter_map(|model| model.ready().next());
    let elsewhere = ready.find_map(|model| Admission::new(Arc::clone(model), 1).ok());
    let held = |admission| Held {
        admission,
        meant: false,
    };
    elsewhere.map(held).ok_or(refused)
}

/// What the request is for, as it has turned out. A model that has been unloaded or replaced since room was taken at it
/// answers still where the request means it.
pub(super) fn identify(
    core: &Core,
    held: Option<&Held>,
    (model, version): (Option<&str>, Option<&str>),
    record: &Record,
) -> Result<Arc<ServedModel>, Error> {
    let found = core.classify.find(model, version).or_else(|error| {
        let held = held.filter(|held| held.is_meant(model, version));
        let held = held.ok_or(error)?;
        Ok(Arc::clone(&held.admission.model))
    });
    record.model(found.as_ref().ok());
    found
}

/// Checks the number of images, settles their room and asks the service. `held` is what [`hold`] took for them.
pub(super) async fn infer(
    core: &Core,
    held: Option<Held>,
    model: Arc<ServedModel>,
    request: Request,
    record: &Record,
) -> Result<Reply, Error> {
    let images = request.inputs.len();
    check(images, core.config.max_images_per_request)?;
    let admission = settle(held, model, images)?;
    record.submitted();
    core.classify.infer(admission, request).await
}

/// Classifies: [`infer`], and labels for what is most probable.
pub(super) async fn ask(
    core: &Core,
    held: Option<Held>,
    clock: Clock,
    ask: Ask,
    record: &Record,
) -> Result<Classified, Error> {
    let named = (ask.model.as_deref(), None);
    let model = identify(core, held.as_ref(), named, record);
    record.images(ask.images.len());
    let top_k = ask.top_k.unwrap_or(DEFAULT_TOP_K);
    if !(1..=MAX_TOP_K).contains(&top_k) {
        let message = format!("top_k is {top_k}, expected 1 to {MAX_TOP_K}");
        return Err(Error::invalid(message));
    }

    let mut spoiled = Vec::new();
    let mut inputs = Vec::with_capacity(ask.images.len());
    for (index, image) in ask.images.into_iter().enumerate() {
        // an empty image fails in the service too, and is counted there
        inputs.push(Input::Encoded(image.unwrap_or_else(|error| {
            spoiled.push((index, error));
            Bytes::new()
        })));
    }
    let request = Request {
        inputs,
        wanted: Wanted::Best(top_k),
        priority: Priority::default(),
        whole: false,
        received: clock.received,
        deadline: clock.deadline,
    };
    let answer = infer(core, held, model?, request, record).await;
    let reply = explain(answer, spoiled)?;
    let labels = &reply.model.labels;
    let results = reply.results.into_iter();
    let results = results.map(|result| Ok(result?.predictions(labels, top_k)));
    Ok(Classified {
        results: results.collect(),
        timing: reply.timing,
        model: reply.model,
    })
}

/// Puts what was wrong with the wrapping in place of what the service made of an empty image.
fn explain(answer: Result<Reply, Error>, spoiled: Vec<(usize, Error)>) -> Result<Reply, Error> {
    match answer {
        Ok(mut reply) => {
            for (index, error) in spoiled {
                if let Some(result) = reply.results.get_mut(index) {
                    *result = Err(error);
                }
            }
            Ok(reply)
        }
        Err(error) if error.code == Code::UndecodableImage => match spoiled.into_iter().next() {
            Some((0, first)) => Err(first),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

fn check(images: usize, max_images: usize) -> Result<(), Error> {
    let invalid = |message: String| Err(Error::invalid(message));
    if images == 0 {
        return invalid("the request has no image; send at least one".to_owned());
    }
    if images > max_images {
        return invalid(format!(
            "the request has {images} images, more than the {max_images} allowed; send them in several requests"
        ));
    }
    Ok(())
}

/// Room for all images at the model asked for: what was held if it is there, else taken anew.
fn settle(held: Option<Held>, model: Arc<ServedModel>, images: usize) -> Result<Admission, Error> {
    match held.filter(|held| Arc::ptr_eq(&held.admission.model, &model)) {
        Some(Held { mut admission, .. }) => {
            admission.resize(images)?;
            Ok(admission)
        }
        None => Admission::new(model, images),
    }
}
