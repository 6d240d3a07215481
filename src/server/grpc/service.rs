//! The Classifier service.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, Span};

use super::arrival::arrival;
use super::stream::Answer;
use super::{convert, stream};
use crate::server::ask::Clock;
use crate::server::pb::classifier_server::Classifier;
use crate::server::pb::classify_stream_response::Result as Streamed;
use crate::server::record::{Record, request_id};
use crate::server::{Core, ask, pb};
use crate::telemetry::Protocol;

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
        let unary = arrival.unary()?;
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
        let core = Arc::clone(&self.core);
        let answers = stream::answers::<_, _, FuturesUnordered<_>>(
            core,
            arrival,
            request.into_inner(),
            streamed,
        );
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

/// One request of a stream.
fn streamed(
    core: Arc<Core>,
    clock: Clock,
    mut request: pb::ClassifyRequest,
) -> Answer<pb::ClassifyStreamResponse> {
    let id = if request.id.is_empty() {
        request_id(None)
    } else {
        chosen_id(&mut request, "")
    };
    // the id goes back as it came; the log gets one that is fit for it
    let span = tracing::info_span!("request", id = request_id(Some(&id)));
    let answer = async move {
        let record = Record::new(&core, Protocol::Grpc);
        let result = ask::ask(&core, None, clock, convert::ask(request), &record).await;
        record.outcome(&result);
        let result = match result {
            Ok(reply) => Streamed::Response(convert::response(id.clone(), reply)),
            Err(error) => Streamed::Error(convert::error(error)),
        };
        pb::ClassifyStreamResponse {
            id,
            result: Some(result),
        }
    };
    Box::pin(answer.instrument(span))
}

/// The message's own id, else the call's.
fn chosen_id(message: &mut pb::ClassifyRequest, call: &str) -> String {
    let own = std::mem::take(&mut message.id);
    if own.is_empty() { call.to_owned() } else { own }
}
