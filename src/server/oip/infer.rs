//! One infer request from its parts to its output tensors.

use std::sync::Arc;

use super::given;
use super::outputs::{self, Requested};
use super::parameters::{self, Parameters};
use super::tensor::{self, Tensor};
use crate::server::Core;
use crate::server::ask::{self, Clock, Held};
use crate::server::record::Record;
use crate::service::{Code, Error, Request, Scores, ServedModel};

/// A request as its protocol understood it.
#[derive(Debug, Default)]
pub(in crate::server) struct Infer {
    pub(in crate::server) model: String,
    /// Empty: the newest that is ready.
    pub(in crate::server) version: String,
    /// Comes back as it is.
    pub(in crate::server) id: String,
    pub(in crate::server) parameters: Parameters,
    pub(in crate::server) inputs: Vec<Tensor>,
    pub(in crate::server) outputs: Vec<Requested>,
}

#[derive(Debug)]
pub(in crate::server) struct Answer {
    pub(in crate::server) model: Arc<ServedModel>,
    pub(in crate::server) id: String,
    pub(in crate::server) outputs: Vec<outputs::Tensor>,
}

/// Checks the request, asks the service, and makes the tensors. An image that fails fails the request: a tensor has no
/// place for an error. `held` is what was taken for it before its body was read.
pub(in crate::server) async fn infer(
    core: &Core,
    held: Option<Held>,
    clock: Clock,
    infer: Infer,
    record: &Record,
) -> Result<Answer, Error> {
    let Infer {
        model,
        version,
        id,
        parameters,
        inputs,
        outputs,
    } = infer;
    if model.is_empty() {
        return Err(Error::invalid("the name of the model is empty"));
    }
    let named = (Some(model.as_str()), given(&version));
    let model = ask::identify(core, held.as_ref(), named, record)?;
    let schedule = parameters::schedule(&parameters)?;
    let outputs = outputs::wanted(&outputs, &parameters, model.labels.len())?;
    let image = [model.input.channels, model.input.height, model.input.width];
    let max_images = core.config.max_images_per_request;
    let inputs = ask::blocking(move || tensor::images(inputs, image, max_images)).await?;
    record.images(inputs.len());

    let timeout = schedule
        .timeout
        .and_then(|limit| clock.received.checked_add(limit));
    let request = Request {
        inputs,
        priority: schedule.priority,
        received: clock.received,
        deadline: timeout.map_or(clock.deadline, |at| at.min(clock.deadline)),
    };
    let reply = ask::infer(core, held, model, request, record).await;
    // where all images fail, the error is the first one's
    let reply = reply.map_err(|error| of_image(0, error))?;
    let scores = every(reply.results)?;
    let model = Arc::clone(&reply.model);
    let outputs = ask::blocking(move || {
        let tensors = outputs
            .into_iter()
            .map(|output| output.tensor(&scores, &model));
        Ok(tensors.collect())
    });
    Ok(Answer {
        outputs: outputs.await?,
        model: reply.model,
        id,
    })
}

/// The scores of all images, or the first error.
fn every(results: Vec<Result<Scores, Error>>) -> Result<Vec<Scores>, Error> {
    let numbered = results.into_iter().enumerate();
    let scores = numbered.map(|(index, result)| result.map_err(|error| of_image(index, error)));
    scores.collect()
}

/// Says which image an error is about, where it is about one.
fn of_image(index: usize, error: Error) -> Error {
    match error.code {
        Code::UnsupportedImage | Code::UndecodableImage | Code::ImageTooLarge => Error {
            message: format!("image {index} of the input: {}", error.message),
            ..error
        },
        _ => error,
    }
}
