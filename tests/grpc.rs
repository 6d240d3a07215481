//! gRPC: the classifier service, health, reflection, limits and streams.

mod common;

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

#[tokio::test]
async fn images_are_classified_and_one_bad_image_fails_alone() {
    let server = TestServer::start().await;
    let mut client = client(&server).await;
    let asked = ClassifyRequest {
        id: "mine".into(),
        top_k: 2,
        model: "m".into(),
        ..request(&[png(GREEN), b"not an image".to_vec(), png(BLUE)])
    };
    let reply = client.classify(asked).await.unwrap().into_inner();
    assert_eq!(
        (
            reply.id.as_str(),
            reply.model.as_str(),
            reply.version.as_str(),
            reply.depth
        ),
        ("mine", "m", "3", 7)
    );
    let labels: Vec<String> = reply.results.iter().map(label).collect();
    assert_eq!(labels, ["green", "undecodable_image", "blue"]);
    let Some(image_result::Result::Predictions(first)) = &reply.results[0].result else {
        panic!("{reply:?}");
    };
    assert_eq!(first.predictions.len(), 2);
    assert_eq!(first.predictions[0].class, 1);
    let timing = reply.timing.unwrap();
    assert!(timing.total_ms > 0.0 && timing.total_ms >= timing.inference_ms);

    let reply = client
        .classify(request(&[png(RED)]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.id.len(), 36, "made: {}", reply.id);
    let mut with_id = Request::new(request(&[png(RED)]));
    with_id
        .metadata_mut()
        .insert("x-request-id", "from-metadata".parse().unwrap());
    assert_eq!(
        client.classify(with_id).await.unwrap().into_inner().id,
        "from-metadata"
    );
    assert_eq!(server.requests("grpc", "ok"), 3.0);
    assert_eq!(server.requests("http", "ok"), 0.0);
}

#[tokio::test]
async fn every_refusal_has_its_status_and_code() {
    let server = TestServer::start().await;
    let mut client = client(&server).await;
    let tiff = [b"II*\0".as_slice(), &[0; 64]].concat();
    let red = || request(&[png(RED)]);
    let many: Vec<_> = (0..5).map(|_| png(RED)).collect();
    for (asked, status, code) in [
        (request(&[]), Code::InvalidArgument, "invalid_request"),
        (request(&many), Code::InvalidArgument, "invalid_request"),
        (
            ClassifyRequest {
                top_k: 101,
                ..red()
            },
            Code::InvalidArgument,
            "invalid_request",
        ),
        (
            ClassifyRequest {
                model: "other".into(),
                ..red()
            },
            Code::NotFound,
            "model_not_found",
        ),
        (
            request(&[png_of(RED, 21)]),
            Code::InvalidArgument,
            "image_too_large",
        ),
        (request(&[tiff]), Code::InvalidArgument, "unsupported_image"),
        (
            request(&[b"x".to_vec(), png_of(RED, 21)]),
            Code::InvalidArgument,
            "undecodable_image",
        ),
        (
            request(&[vec![0; 300 << 10]]),
            Code::ResourceExhausted,
            "body_too_large",
        ),
        (
            request(&vec![Vec::new(); 70_000]),
            Code::InvalidArgument,
            "invalid_request",
        ),
    ] {
        assert_eq!(refused(&mut client, asked).await, (status, code.to_owned()));
    }
    server.engine.fail(true);
    assert_eq!(
        refused(&mut client, red()).await,
        (Code::Internal, "internal".into())
    );
    server.engine.fail(false);
    client.classify(red()).await.unwrap();

    server.engine.hold();
    let mut other = client.clone();
    let eight = request(&[png(RED), png(RED), png(RED), png(RED)]);
    let same = eight.clone();
    let first = tokio::spawn(async move { other.classify(same).await.unwrap() });
    let mut other = client.clone();
    let second = tokio::spawn(async move { other.classify(eight).await.unwrap() });
    eventually("8 images are admitted", || server.admitted() == 8).await;
    let status = client.classify(red()).await.unwrap_err();
    assert_eq!(
        (status.code(), code(&status)),
        (Code::ResourceExhausted, "queue_full".into())
    );
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
    server.engine.release();
    first.await.unwrap();
    second.await.unwrap();

    assert_eq!(server.requests("grpc", "body_too_large"), 1.0);
    assert_eq!(server.requests("grpc", "queue_full"), 1.0);
    assert_eq!(
        server.metric(
            "resnetd_rejected_total",
            &[("reason", "too_large"), ("model", "m")]
        ),
        3.0,
        "two images, one message"
    );
    assert_eq!(server.requests("grpc", "cancelled"), 0.0);
}

#[tokio::test]
async fn a_message_that_is_no_request_is_the_callers_error() {
    let server = TestServer::start().await;
    let mut grpc = tonic::client::Grpc::new(channel(&server).await);
    grpc.ready().await.unwrap();
    // field 3 is a message here and a number there
    let wrong = ClassifyStreamResponse {
        id: String::new(),
        result: Some(classify_stream_response::Result::Error(Default::default())),
    };
    let codec: tonic_prost::ProstCodec<ClassifyStreamResponse, ClassifyStreamResponse> =
        Default::default();
    let path = "/resnetd.v1.Classifier/Classify".parse().unwrap();
    let status = grpc
        .unary(Request::new(wrong), path, codec)
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), code(&status)),
        (Code::InvalidArgument, "invalid_request".into())
    );
    assert_eq!(server.requests("grpc", "invalid_request"), 1.0);
    assert_eq!(server.admitted(), 0);
}

#[tokio::test]
async fn a_message_that_stalls_gives_its_room_back() {
    let server = TestServer::with(Config {
        body_timeout: Duration::from_millis(100),
        ..config()
    })
    .await;
    let (sender, chunks) = mpsc::channel::<Result<hyper::body::Frame<bytes::Bytes>, Status>>(1);
    // the prefix of a message of 100 bytes
    let prefix = bytes::Bytes::from_static(&[0, 0, 0, 0, 100]);
    sender
        .send(Ok(hyper::body::Frame::data(prefix)))
        .await
        .unwrap();
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(ReceiverStream::new(chunks)));
    let call = http::Request::post(format!(
        "http://{}/resnetd.v1.Classifier/Classify",
        server.bound.grpc
    ));
    let call = call
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    let mut wire = wire(&server).await.0;
    let response = tokio::time::timeout(PATIENCE, tower::Service::call(&mut wire, call))
        .await
        .unwrap()
        .unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(
        (status.code(), code(&status)),
        (Code::DeadlineExceeded, "body_timeout".into())
    );
    assert_eq!(server.admitted(), 0);
    drop(sender);
}

#[tokio::test]
async fn unknown_models_are_loading_or_listed() {
    let server = TestServer::loading(config()).await;
    let mut client = client(&server).await;
    assert_eq!(
        refused(&mut client, request(&[png(RED)])).await,
        (Code::Unavailable, "unavailable".into())
    );
    server.classifier.load_model(colours("m").0).unwrap();
    server.classifier.mark_failed("broken", "no weights");
    let models = client
        .list_models(ListModelsRequest {})
        .await
        .unwrap()
        .into_inner()
        .models;
    assert_eq!(models.len(), 2);
    assert_eq!(
        (models[0].name.as_str(), models[0].state()),
        ("m", model::State::Ready)
    );
    assert_eq!(
        (models[0].depth, models[0].classes, models[0].input_size),
        (7, 3, 8)
    );
    assert!(models[0].parameters > 0);
    assert_eq!(
        (models[1].state(), models[1].error.as_str()),
        (model::State::Failed, "no weights")
    );
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

#[tokio::test]
async fn deadlines_end_as_deadline_exceeded() {
    let server = TestServer::with(Config {
        request_timeout: Duration::from_millis(300),
        ..config()
    })
    .await;
    let (mut client, _connection) = patient_client(&server).await;
    server.engine.hold();
    for (timeout, expected) in [
        (None, (Code::DeadlineExceeded, "deadline_exceeded")),
        (Some("50m"), (Code::DeadlineExceeded, "deadline_exceeded")),
        (Some("1n"), (Code::DeadlineExceeded, "deadline_exceeded")),
        (
            Some("99999999H"),
            (Code::DeadlineExceeded, "deadline_exceeded"),
        ),
        (Some("soon"), (Code::InvalidArgument, "invalid_request")),
    ] {
        let mut asked = Request::new(request(&[png(RED)]));
        if let Some(timeout) = timeout {
            asked
                .metadata_mut()
                .insert("grpc-timeout", timeout.parse().unwrap());
        }
        let status = client.classify(asked).await.unwrap_err();
        assert_eq!(
            (status.code(), code(&status).as_str()),
            expected,
            "{timeout:?}"
        );
    }
    assert_eq!(server.requests("grpc", "deadline_exceeded"), 4.0);
    assert_eq!(server.requests("grpc", "cancelled"), 0.0);

    // a stream ends when its caller's time is over
    let (sender, requests) = mpsc::channel(4);
    sender.send(request(&[png(RED)])).await.unwrap();
    let mut asked = Request::new(ReceiverStream::new(requests));
    asked
        .metadata_mut()
        .insert("grpc-timeout", "100m".parse().unwrap());
    let mut answers = client.classify_stream(asked).await.unwrap().into_inner();
    let status = loop {
        match answers.next().await.expect("an end with a status") {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);
    server.engine.release();
}

#[tokio::test]
async fn who_hangs_up_leaves_the_queue_before_the_engine() {
    let server = TestServer::start().await;
    let client = client(&server).await;
    server.engine.hold();
    let mut holding = client.clone();
    let holder = tokio::spawn(async move { holding.classify(request(&[png(RED)])).await });
    eventually("the first batch runs", || server.engine.executed() == 1).await;
    let call = |mut client: Client| {
        tokio::spawn(async move { client.classify(request(&[png(RED)])).await })
    };
    let gone: Vec<_> = (0..3).map(|_| call(client.clone())).collect();
    let (sender, requests) = mpsc::channel(4);
    sender.send(request(&[png(RED)])).await.unwrap();
    sender.send(request(&[png(RED)])).await.unwrap();
    let answers = client
        .clone()
        .classify_stream(ReceiverStream::new(requests))
        .await
        .unwrap();
    eventually("all are admitted", || server.admitted() == 6).await;
    for call in gone {
        call.abort();
    }
    drop((answers, sender));
    eventually("the hang-ups are noticed", || {
        server.requests("grpc", "cancelled") == 5.0
    })
    .await;
    server.engine.release();
    holder.await.unwrap().unwrap();
    eventually("their room is given back", || server.admitted() == 0).await;
    client.clone().classify(request(&[png(RED)])).await.unwrap();
    assert_eq!(server.engine.executed(), 2, "nothing of those who left");
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

#[tokio::test]
async fn a_stream_answers_each_as_it_finishes_and_all_before_it_ends() {
    let server = TestServer::start().await;
    let mut client = client(&server).await;
    let (sender, mut answers) = stream(&mut client).await;
    let pair = |id: &str, what: &str| (id.to_owned(), what.to_owned());
    server.engine.hold();
    sender.send(tagged("a", png(GREEN))).await.unwrap();
    eventually("the first is classified", || server.engine.executed() == 1).await;
    sender.send(tagged("b", b"x".to_vec())).await.unwrap();
    assert_eq!(
        next(&mut answers).await,
        pair("b", "undecodable_image"),
        "overtakes"
    );
    sender
        .send(ClassifyRequest {
            model: "other".into(),
            ..tagged("caf\u{e9}", png(RED))
        })
        .await
        .unwrap();
    assert_eq!(
        next(&mut answers).await,
        pair("caf\u{e9}", "model_not_found")
    );
    sender.send(tagged("d", png(BLUE))).await.unwrap();
    drop(sender);
    eventually("both are admitted", || server.admitted() == 2).await;
    server.engine.release();
    let mut rest = [next(&mut answers).await, next(&mut answers).await];
    rest.sort();
    assert_eq!(rest, [pair("a", "green"), pair("d", "blue")]);
    assert!(answers.next().await.is_none(), "ends well");

    // more than are in flight at once
    let many = tokio_stream::iter((0..200).map(|i| tagged(&format!("{i}"), b"x".to_vec())));
    let answers = client.classify_stream(many).await.unwrap().into_inner();
    let mut ids: Vec<String> = answers.map(|answer| answer.unwrap().id).collect().await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

#[tokio::test]
async fn a_message_over_the_limit_ends_its_stream_after_what_came_before() {
    let server = TestServer::start().await;
    let mut client = client(&server).await;
    let (sender, mut answers) = stream(&mut client).await;
    sender.send(tagged("a", png(GREEN))).await.unwrap();
    sender.send(tagged("b", vec![0; 300 << 10])).await.unwrap();
    assert_eq!(next(&mut answers).await.0, "a");
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), code(&status)),
        (Code::ResourceExhausted, "body_too_large".into())
    );
}

async fn health(client: &mut HealthClient<Channel>, service: &str) -> ServingStatus {
    let asked = HealthCheckRequest {
        service: service.into(),
    };
    client.check(asked).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn health_follows_readiness_and_turns_before_the_drain() {
    let server = TestServer::loading(Config {
        drain_delay: Duration::from_millis(500),
        ..config()
    })
    .await;
    let channel = channel(&server).await;
    let mut client = HealthClient::new(channel.clone());
    for service in ["", "resnetd.v1.Classifier"] {
        assert_eq!(
            health(&mut client, service).await,
            ServingStatus::NotServing
        );
    }
    let watch = HealthCheckRequest {
        service: "resnetd.v1.Classifier".into(),
    };
    let mut changes = client.watch(watch).await.unwrap().into_inner();
    assert_eq!(
        changes.next().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    server.classifier.load_model(colours("m").0).unwrap();
    assert_eq!(
        changes.next().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    assert_eq!(health(&mut client, "").await, ServingStatus::Serving);
    let (_open, mut answers) = stream(&mut ClassifierClient::new(channel.clone())).await;

    server.stop.drain();
    assert_eq!(
        changes.next().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    assert!(!server.classifier.is_ready());
    assert_eq!(health(&mut client, "").await, ServingStatus::NotServing);
    ClassifierClient::new(channel)
        .classify(request(&[png(RED)]))
        .await
        .expect("still served");
    // open streams are ended rather than waited for
    assert!(changes.next().await.is_none());
    assert_eq!(
        answers.next().await.unwrap().unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(server.ended().await.cut, 0);
}

#[tokio::test]
async fn both_versions_of_reflection_show_the_services() {
    let server = TestServer::start().await;
    macro_rules! services {
        ($version:ident) => {{
            use tonic_reflection::pb::$version as pb;
            let mut client =
                pb::server_reflection_client::ServerReflectionClient::new(channel(&server).await);
            let ask = |request| pb::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(request),
            };
            use pb::server_reflection_request::MessageRequest;
            use pb::server_reflection_response::MessageResponse;
            let requests = [
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol(
                    "resnetd.v1.Classifier".into(),
                )),
            ];
            let answers = client
                .server_reflection_info(tokio_stream::iter(requests))
                .await
                .unwrap();
            let mut answers = answers.into_inner();
            let listed = answers
                .next()
                .await
                .unwrap()
                .unwrap()
                .message_response
                .unwrap();
            let MessageResponse::ListServicesResponse(listed) = listed else {
                panic!("{listed:?}");
            };
            let described = answers
                .next()
                .await
                .unwrap()
                .unwrap()
                .message_response
                .unwrap();
            assert!(
                matches!(described, MessageResponse::FileDescriptorResponse(_)),
                "{described:?}"
            );
            listed
                .service
                .into_iter()
                .map(|service| service.name)
                .collect::<Vec<_>>()
        }};
    }
    for services in [services!(v1), services!(v1alpha)] {
        for expected in ["resnetd.v1.Classifier", "grpc.health.v1.Health"] {
            assert!(services.iter().any(|name| name == expected), "{services:?}");
        }
    }
}

#[tokio::test]
async fn an_old_connection_is_told_to_go_and_finishes_its_calls() {
    let server = TestServer::with(Config {
        max_connection_age: Some(Duration::from_millis(300)),
        ..config()
    })
    .await;
    let (mut client, connection) = patient_client(&server).await;
    server.engine.hold();
    let call = tokio::spawn(async move { client.classify(request(&[png(RED)])).await });
    eventually("the image is classified", || server.engine.executed() == 1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!connection.is_finished());
    server.engine.release();
    call.await.unwrap().expect("accepted before the GOAWAY");
    tokio::time::timeout(PATIENCE, connection)
        .await
        .expect("the connection ends")
        .unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = TestServer::with(Config {
        idle_timeout: Duration::from_millis(200),
        ..config()
    })
    .await;
    let (mut client, connection) = patient_client(&server).await;
    client.classify(request(&[png(RED)])).await.unwrap();
    tokio::time::timeout(PATIENCE, connection)
        .await
        .expect("the connection ends")
        .unwrap();
    // one that never speaks
    let mut silent = tokio::net::TcpStream::connect(server.bound.grpc)
        .await
        .unwrap();
    let mut rest = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest);
    let _ = tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("the connection ends");
}
