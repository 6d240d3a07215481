//! One question to the service, whichever protocol it came by: the room taken before the body is read, and the checks
//! that both protocols make once they have read it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Core;
use super::record::Record;
use crate::service::{Admission, Code, Error, ModelState, Reply, Request, ServedModel};

/// Classes reported where the caller does not say.
pub(super) const DEFAULT_TOP_K: usize = 5;
pub(super) const MAX_TOP_K: usize = 100;

/// A request as its protocol understood it.
pub(super) struct Ask {
    /// Encoded images; an image that its wrapping spoiled (bad base64) fails alone.
    pub(super) images: Vec<Result<Bytes, Error>>,
    /// `None`: the default.
    pub(super) model: Option<String>,
    pub(super) top_k: Option<usize>,
}

/// When a request came and when its caller stops waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) received: Instant,
    pub(super) deadline: Instant,
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
/// `model` is what the request names outside its body. Where only the body can name the model (`in_body`) and the
/// default has no room, it is held at any model that has: the body may name that one.
pub(super) fn hold(
    core: &Core,
    model: Option<&str>,
    in_body: bool,
    record: &Record,
) -> Result<Admission, Error> {
    let wanted = core.classify.find(model);
    record.model(wanted.as_ref().ok());
    let refused = match wanted.and_then(|model| Admission::new(model, 1)) {
        Ok(admission) => return Ok(admission),
        Err(error) => error,
    };
    if !in_body || model.is_some() {
        return Err(refused);
    }
    let mut known = core.classify.models().into_iter();
    let elsewhere = known.find_map(|known| match known.state {
        ModelState::Ready(model) => Admission::new(model, 1).ok(),
        _ => None,
    });
    elsewhere.ok_or(refused)
}

/// Checks the request, settles its room and asks the service. `held` is what [`hold`] took for it.
pub(super) async fn ask(
    core: &Core,
    held: Option<Admission>,
    clock: Clock,
    ask: Ask,
    record: &Record,
) -> Result<Reply, Error> {
    let model = core.classify.find(ask.model.as_deref());
    record.model(model.as_ref().ok());
    record.images(ask.images.len());
    let top_k = check(&ask, core.config.max_images_per_request)?;
    let admission = settle(held, model?, ask.images.len())?;

    let mut spoiled = Vec::new();
    let mut images = Vec::with_capacity(ask.images.len());
    for (index, image) in ask.images.into_iter().enumerate() {
        // an empty image fails in the service too, and is counted there
        images.push(image.unwrap_or_else(|error| {
            spoiled.push((index, error));
            Bytes::new()
        }));
    }
    let request = Request {
        images,
        top_k,
        received: clock.received,
        deadline: clock.deadline,
    };
    record.submitted();
    explain(core.classify.classify(admission, request).await, spoiled)
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

fn check(ask: &Ask, max_images: usize) -> Result<usize, Error> {
    let invalid = |message: String| Err(Error::new(Code::InvalidRequest, message));
    let images = ask.images.len();
    if images == 0 {
        return invalid("the request has no image; send at least one".to_owned());
    }
    if images > max_images {
        return invalid(format!(
            "the request has {images} images, more than the {max_images} allowed; send them in several requests"
        ));
    }
    let top_k = ask.top_k.unwrap_or(DEFAULT_TOP_K);
    if !(1..=MAX_TOP_K).contains(&top_k) {
        return invalid(format!("top_k is {top_k}, expected 1 to {MAX_TOP_K}"));
    }
    Ok(top_k)
}

/// Room for all images at the model asked for: what was held if it is there, else taken anew.
fn settle(
    held: Option<Admission>,
    model: Arc<ServedModel>,
    images: usize,
) -> Result<Admission, Error> {
    match held.filter(|held| Arc::ptr_eq(&held.model, &model)) {
        Some(mut admission) => {
            admission.resize(images)?;
            Ok(admission)
        }
        None => Admission::new(model, images),
    }
}
