//! The Classifier service.

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

use super::arrival::Arrival;
use super::{convert, stream};
use crate::server::pb::classifier_server::Classifier;
use crate::server::record::request_id;
use crate::server::{Core, ask, pb};
use crate::service::{Code, Error};

pub(super) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

#[tonic::async_trait]
impl Classifier for Service {
    async fn classify(
        &self,
        request: Request<pb::ClassifyRequest>,
    ) -> Result<Response<pb::ClassifyResponse>, Status> {
        let arrival = arrival(&request)?;
        let unary = arrival.unary.as_ref().ok_or_else(unlayered)?;
        let mut message = request.into_inner();
        if !message.id.is_empty() {
            // the id goes back as it came; the log gets one that is fit for it
            let id = request_id(Some(&message.id));
            Span::current().record("message_id", id);
        }
        let id = chosen_id(&mut message, &arrival.id);
        let ask = convert::ask(message);
        let result = ask::ask(&self.core, unary.room(), arrival.clock, ask, &unary.record).await;
        unary.record.outcome(&result);
        match result {
            Ok(reply) => Ok(Response::new(convert::response(id, reply))),
            Err(error) => Err(convert::status(error)),
        }
    }

    type ClassifyStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::ClassifyStreamResponse, Status>> + Send>>;

    async fn classify_stream(
        &self,
        request: Request<Streaming<pb::ClassifyRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        let arrival = arrival(&request)?;
        let answers = stream::answers(Arc::clone(&self.core), arrival, request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_models(
        &self,
        _: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let models = self.core.classify.models();
        Ok(Response::new(pb::ListModelsResponse {
            models: models.into_iter().map(convert::model).collect(),
        }))
    }
}

/// The message's own id, else the call's.
pub(super) fn chosen_id(message: &mut pb::ClassifyRequest, call: &str) -> String {
    let own = std::mem::take(&mut message.id);
    if own.is_empty() { call.to_owned() } else { own }
}

fn arrival<T>(request: &Request<T>) -> Result<Arc<Arrival>, Status> {
    let arrival = request.extensions().get::<Arc<Arrival>>();
    arrival.cloned().ok_or_else(unlayered)
}

/// The router puts the layer before the service.
fn unlayered() -> Status {
    convert::status(Error::new(
        Code::Internal,
        "the call did not pass the arrival layer",
    ))
}
