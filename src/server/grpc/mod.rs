//! gRPC: the classifier, the Open Inference Protocol ([`v2`]), health and reflection behind one router.
//!
//! tonic decodes a message before its handler runs, so what must come first (the deadline, room in the queue, the
//! record of the request) happens in the layer of [`arrival`].

mod arrival;
mod convert;
mod ending;
mod messages;
mod service;
mod stream;
mod v2;

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tonic_reflection::server::Builder;

use super::pb::FILE_DESCRIPTOR_SET;
use super::pb::classifier_server::ClassifierServer;
use super::{Core, ServeError};
use crate::service::Readiness;
pub(super) use messages::UNIT;
use service::Service;

/// The services whose health is told: the server as a whole, and those that classify.
const TOLD: [&str; 3] = [
    "",
    <ClassifierServer<Service> as NamedService>::NAME,
    <v2::Server as NamedService>::NAME,
];

/// `tasks` gets the one that keeps health up to date.
pub(super) async fn router(core: &Arc<Core>, tasks: &TaskTracker) -> Result<Router, ServeError> {
    let classifier = ClassifierServer::new(Service::new(Arc::clone(core)))
        .max_decoding_message_size(core.config.max_body_bytes);
    let (reporter, health) = health_reporter();
    tell(&reporter, core.classify.is_ready()).await;
    tasks.spawn(keep_telling(Arc::clone(core), reporter));

    let descriptors = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(classifier)
        .add_service(v2::Server::new(Arc::clone(core)))
        .add_service(health)
        .add_service(descriptors().build_v1()?)
        .add_service(descriptors().build_v1alpha()?);
    let arrival = middleware::from_fn_with_state(Arc::clone(core), arrival::layer);
    Ok(routes.prepare().into_axum_router().layer(arrival))
}

async fn keep_telling(core: Arc<Core>, reporter: HealthReporter) {
    let mut readiness = core.classify.subscribe();
    loop {
        let ready = *readiness.borrow_and_update() == Readiness::Ready;
        tell(&reporter, ready).await;
        tokio::select! {
            () = core.closing.cancelled() => return,
            changed = readiness.changed() => if changed.is_err() { return },
        }
    }
}

async fn tell(reporter: &HealthReporter, ready: bool) {
    let status = if ready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for service in TOLD {
        reporter.set_service_status(service, status).await;
    }
}
