//! Health, reflection, the life of connections.

use super::*;

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
    let ended = changes.next().await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(
        answers.next().await.unwrap().unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(server.ended().await.cut, 0);
}

#[tokio::test]
async fn health_follows_the_loss_of_a_models_devices() {
    let server = TestServer::start().await;
    let channel = channel(&server).await;
    let mut client = HealthClient::new(channel.clone());
    assert_eq!(health(&mut client, "").await, ServingStatus::Serving);
    let watch = HealthCheckRequest {
        service: "resnetd.v1.Classifier".into(),
    };
    let mut changes = client.watch(watch).await.unwrap().into_inner();
    let first = changes.next().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    server.engine.lose();
    let mut classifier = ClassifierClient::new(channel);
    for _ in 0..2 {
        let refused = classifier.classify(request(&[png(RED)])).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    }
    let turned = changes.next().await.unwrap().unwrap();
    assert_eq!(turned.status(), ServingStatus::NotServing);
    server.classifier.load_model(colours("m").0).unwrap();
    let turned = changes.next().await.unwrap().unwrap();
    assert_eq!(turned.status(), ServingStatus::Serving);
    assert!(classifier.classify(request(&[png(RED)])).await.is_ok());
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
async fn an_open_reflection_stream_holds_up_nothing() {
    let server = TestServer::with(Config {
        drain_timeout: Duration::from_secs(600),
        ..config()
    })
    .await;
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let (response, _open) = begun(&server, path, &[], &[]).await;
    server.stop.drain();
    assert_eq!(
        (Code::Unavailable, "unavailable".into()),
        last(response).await
    );
    assert_eq!(server.ended().await.cut, 0);
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
