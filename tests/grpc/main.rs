//! gRPC: the classifier service, health, reflection, limits and streams.

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod operation;
mod streams;

use std::time::Duration;

use axum::http;
use common::{BLUE, GREEN, PATIENCE, RED, TestServer, colours, config, eventually, png, png_of};
use futures_util::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use resnetd::server::Config;
use resnetd::server::pb::classifier_client::ClassifierClient;
use resnetd::server::pb::{
    ClassifyRequest, ClassifyStreamResponse, ListModelsRequest, classify_stream_response,
    image_result, model,
};
use resnetd::service::Classify;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::util::BoxService;

type Client = ClassifierClient<Channel>;

async fn channel(server: &TestServer) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", server.bound.grpc)).unwrap();
    endpoint.connect().await.unwrap()
}

async fn client(server: &TestServer) -> Client {
    ClassifierClient::new(channel(server).await)
}

fn request(images: &[Vec<u8>]) -> ClassifyRequest {
    ClassifyRequest {
        images: images.iter().map(|image| image.clone().into()).collect(),
        ..Default::default()
    }
}

/// The most probable label of a result, or its error's code.
fn label(result: &resnetd::server::pb::ImageResult) -> String {
    match result.result.as_ref().unwrap() {
        image_result::Result::Predictions(predictions) => predictions.predictions[0].label.clone(),
        image_result::Result::Error(error) => error.code.clone(),
    }
}

/// The status of a call that must fail, and the service's own code for it.
async fn refused(
    client: &mut Client,
    request: impl tonic::IntoRequest<ClassifyRequest>,
) -> (Code, String) {
    let status = client.classify(request).await.unwrap_err();
    assert!(!status.message().is_empty());
    (status.code(), code(&status))
}

fn code(status: &Status) -> String {
    let code = status
        .metadata()
        .get("resnetd-code")
        .unwrap_or_else(|| panic!("{status:?}"));
    code.to_str().unwrap().to_owned()
}

type Wire = BoxService<
    http::Request<tonic::body::Body>,
    http::Response<hyper::body::Incoming>,
    hyper::Error,
>;

/// A caller that keeps no time of its own, so that only the server can end a call; and its connection.
async fn patient_client(server: &TestServer) -> (ClassifierClient<Wire>, JoinHandle<()>) {
    let (wire, connection) = wire(server).await;
    let origin = format!("http://{}", server.bound.grpc).parse().unwrap();
    (ClassifierClient::with_origin(wire, origin), connection)
}

async fn wire(server: &TestServer) -> (Wire, JoinHandle<()>) {
    let stream = tokio::net::TcpStream::connect(server.bound.grpc)
        .await
        .unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.unwrap();
    let connection = tokio::spawn(async move {
        let _ = connection.await;
    });
    let service = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    (BoxService::new(service), connection)
}

/// What came of a call, and what keeps its body from ending.
type Begun = (
    http::Response<hyper::body::Incoming>,
    (
        Wire,
        mpsc::Sender<Result<hyper::body::Frame<bytes::Bytes>, Status>>,
    ),
);

/// The prefix of a message of 100 bytes.
const PREFIX: &[u8] = &[0, 0, 0, 0, 100];

/// Begins a call whose body says `bytes` and then nothing more.
async fn begun(
    server: &TestServer,
    path: &str,
    headers: &[(&str, &str)],
    bytes: &'static [u8],
) -> Begun {
    let (sender, chunks) = mpsc::channel(1);
    if !bytes.is_empty() {
        let piece = hyper::body::Frame::data(bytes::Bytes::from_static(bytes));
        sender.send(Ok(piece)).await.unwrap();
    }
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(ReceiverStream::new(chunks)));
    let mut call = http::Request::post(format!("http://{}{path}", server.bound.grpc))
        .header("content-type", "application/grpc");
    for (name, value) in headers {
        call = call.header(*name, *value);
    }
    let mut wire = wire(server).await.0;
    let response = tower::Service::call(&mut wire, call.body(body).unwrap());
    let response = tokio::time::timeout(PATIENCE, response).await;
    (response.unwrap().unwrap(), (wire, sender))
}

/// The status that a stream ends with.
async fn last(response: http::Response<hyper::body::Incoming>) -> (Code, String) {
    let body = http_body_util::BodyExt::collect(response.into_body());
    let body = tokio::time::timeout(PATIENCE, body).await.unwrap().unwrap();
    let status = Status::from_header_map(body.trailers().unwrap()).unwrap();
    (status.code(), code(&status))
}

async fn stream(
    client: &mut Client,
) -> (
    mpsc::Sender<ClassifyRequest>,
    Streaming<ClassifyStreamResponse>,
) {
    let (sender, requests) = mpsc::channel(16);
    let answers = client
        .classify_stream(ReceiverStream::new(requests))
        .await
        .unwrap();
    (sender, answers.into_inner())
}

fn tagged(id: &str, image: Vec<u8>) -> ClassifyRequest {
    ClassifyRequest {
        id: id.into(),
        ..request(&[image])
    }
}

/// Id and most probable label or error code of the next answer.
async fn next(answers: &mut Streaming<ClassifyStreamResponse>) -> (String, String) {
    let answer = tokio::time::timeout(PATIENCE, answers.next())
        .await
        .unwrap();
    let answer = answer.expect("an answer").unwrap();
    let what = match answer.result.unwrap() {
        classify_stream_response::Result::Response(response) => {
            assert_eq!(response.id, answer.id);
            label(&response.results[0])
        }
        classify_stream_response::Result::Error(error) => error.code,
    };
    (answer.id, what)
}
