//! Unary calls: answers, refusals, deadlines, hang-ups.

use super::*;

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
    server.classifier.load_model(colours("other").0).unwrap();
    let named = ClassifyRequest {
        model: "other".into(),
        ..red()
    };
    let elsewhere = client.classify(named).await;
    elsewhere.expect("the default's crowd is not the others'");
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
    let late = (Code::DeadlineExceeded, "body_timeout".to_owned());
    // the prefix of a message of 100 bytes, or not even that
    for (path, bytes) in [
        ("/resnetd.v1.Classifier/Classify", PREFIX),
        ("/resnetd.v1.Classifier/Classify", &[]),
        ("/resnetd.v1.Classifier/ListModels", &[]),
        ("/grpc.health.v1.Health/Check", &[]),
    ] {
        let (response, _open) = begun(&server, path, &[], bytes).await;
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!((status.code(), code(&status)), late, "{path}");
    }
    assert_eq!(server.admitted(), 0);
    let path = "/resnetd.v1.Classifier/ClassifyStream";
    let (response, _open) = begun(&server, path, &[], PREFIX).await;
    assert_eq!(
        (Code::DeadlineExceeded, "body_timeout".into()),
        last(response).await
    );
}

#[tokio::test]
async fn a_stream_that_says_nothing_does_not_hold_its_connection() {
    let server = TestServer::with(Config {
        idle_timeout: Duration::from_millis(100),
        ..config()
    })
    .await;
    let path = "/resnetd.v1.Classifier/ClassifyStream";
    let (response, _open) = begun(&server, path, &[], &[]).await;
    assert_eq!(
        (Code::Unavailable, "unavailable".into()),
        last(response).await
    );
}

#[tokio::test]
async fn an_unknown_encoding_is_unimplemented() {
    let server = TestServer::start().await;
    let path = "/resnetd.v1.Classifier/Classify";
    let headers = [("grpc-encoding", "gzip")];
    let (response, _open) = begun(&server, path, &headers, &[1, 0, 0, 0, 0]).await;
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(response.headers().contains_key("grpc-accept-encoding"));
    assert_eq!(server.requests("grpc", "invalid_request"), 1.0);
}

#[tokio::test]
async fn the_messages_id_stands_in_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let server = TestServer::start().await;
    let mut client = client(&server).await;
    for id in ["order-66", "two\nlines"] {
        let asked = ClassifyRequest {
            id: id.into(),
            ..request(&[png(RED)])
        };
        assert_eq!(client.classify(asked).await.unwrap().into_inner().id, id);
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("message_id=\"order-66\""), "{text}");
    assert!(!text.contains("two"), "{text}");
}

#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
