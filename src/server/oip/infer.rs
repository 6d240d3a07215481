//! One infer request from its parts to its output tensors.

use std::sync::Arc;

use super::given;
use super::outputs::{self, Requested};
use super::parameters::{self, Parameters};
use super::tensor::{self, Tensor};
use crate::server::Core;
use crate::server::ask::{self, Clock, Held};
use crate::server::record::Record;
use crate::service::{Error, Request, ServedModel, Wanted};

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
    let inputs = core.blocking(move || tensor::images(inputs, image, max_images));
    let inputs = clock.within(inputs).await?;
    record.images(inputs.len());

    let timeout = schedule
        .timeout
        .and_then(|limit| clock.received.checked_add(limit));
    let request = Request {
        inputs,
        wanted: Wanted::Logits,
        priority: schedule.priority,
        whole: true,
        received: clock.received,
        deadline: timeout.map_or(clock.deadline, |at| at.min(clock.deadline)),
    };
    let reply = ask::infer(core, held, model, request, record).await?;
    let scores = reply.results.into_iter().collect::<Result<Vec<_>, _>>()?;
    let model = Arc::clone(&reply.model);
    let outputs = core.blocking(move || {
        let tensors = outputs
            .into_iter()
            .map(|output| output.tensor(&scores, &model));
        tensors.collect()
    });
    Ok(Answer {
        outputs: outputs.await?,
        model: reply.model,
        id,
    })
}
