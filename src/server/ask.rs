//! One question to the service, whichever protocol it came by: the room taken before the body is read, and the checks
//! that both protocols make once they have read it.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Core;
use super::record::Record;
use crate::service::{Admission, Code, Error, ModelState, Reply, Request};

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

/// Room for a request whose body has not been read.
pub(super) struct Room {
    admission: Admission,
    /// Held at a model that the request did not ask for, because the body may name one that can answer.
    elsewhere: bool,
}

/// Takes room for one image before the body is read, so that a crowd is turned away at the price of its headers.
///
/// `model` is what the request names outside its body. Where only the body can name the model (`in_body`) and the
/// default cannot answer, room is held at any model that can.
pub(super) fn hold(
    core: &Core,
    model: Option<&str>,
    in_body: bool,
    record: &Record,
) -> Result<Room, Error> {
    let refused = match core.classify.admit(model, 1) {
        Ok(admission) => {
            record.model(Some(&admission.model));
            return Ok(Room {
                admission,
                elsewhere: false,
            });
        }
        Err(error) => error,
    };
    let default_is_away = matches!(refused.code, Code::Unavailable | Code::ModelNotFound);
    if !(in_body && model.is_none() && default_is_away) {
        return Err(refused);
    }
    let ready = core
        .classify
        .models()
        .into_iter()
        .find(|known| matches!(known.state, ModelState::Ready(_)))
        .ok_or(refused)?;
    Ok(Room {
        admission: core.classify.admit(Some(&ready.name), 1)?,
        elsewhere: true,
    })
}

/// Checks the request, settles its room and asks the service.
pub(super) async fn ask(
    core: &Core,
    room: Option<Room>,
    clock: Clock,
    ask: Ask,
    record: &Record,
) -> Result<Reply, Error> {
    let top_k = check(&ask, core.config.max_images_per_request)?;
    record.model(None);
    let admission = settle(core, room, ask.model.as_deref(), ask.images.len())?;
    record.model(Some(&admission.model));

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
    core: &Core,
    room: Option<Room>,
    model: Option<&str>,
    images: usize,
) -> Result<Admission, Error> {
    let held = room.filter(|room| match model {
        Some(name) => room.admission.model.name == name,
        None => !room.elsewhere,
    });
    match held {
        Some(Room { mut admission, .. }) => {
            admission.resize(images)?;
            Ok(admission)
        }
        None => core.classify.admit(model, images),
    }
}
