//! Callers who leave while their images are queued.

use futures_util::StreamExt;
use resnetd::server::Config;
use resnetd::server::pb::classifier_client::ClassifierClient;
use resnetd::service::Classify;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::transport::Channel;

use super::client::{Ask, Client, message};
use super::common::{RED, TestServer, colours, config, eventually, png};

/// Callers at once.
const WAVE: usize = 100;
const WAVES: usize = 5;
/// Room for a wave and the image that holds the engine, not for two waves.
const MAX_QUEUE: usize = 128;

#[tokio::test]
async fn five_hundred_hang_ups_on_each_protocol_cost_no_compute() {
    let config = Config {
        max_concurrent_streams: WAVE as u32,
        ..config()
    };
    let mut server = TestServer::batching(config, 32, MAX_QUEUE).await;
    let (model, engine) = colours("m");
    server.classifier.load_model(model).unwrap();
    let warm_up = engine.executed();
    server.engine = engine;

    server.engine.hold();
    let client = Client::new(server.bound.http, server.bound.grpc);
    let holder = {
        let client = client.clone();
        tokio::spawn(async move { client.raw(Ask::one(png(RED))).await })
    };
    eventually("a batch runs", || server.engine.executed() == warm_up + 1).await;

    let mut sent = 0;
    for _ in 0..WAVES {
        let connections = http_wave(&server).await;
        sent += WAVE;
        queued(&server, sent).await;
        drop(connections);
        noticed(&server, "http", sent).await;
    }
    let channel = Channel::from_shared(format!("http://{}", server.bound.grpc)).unwrap();
    let grpc = ClassifierClient::new(channel.connect().await.unwrap());
    for wave in 0..WAVES {
        let calls: Vec<_> = if wave % 2 == 0 {
            (0..WAVE)
                .map(|_| tokio::spawn(unary(grpc.clone())))
                .collect()
        } else {
            (0..2)
                .map(|_| tokio::spawn(stream(grpc.clone(), WAVE / 2)))
                .collect()
        };
        sent += WAVE;
        queued(&server, sent).await;
        calls.iter().for_each(|call| call.abort());
        noticed(&server, "grpc", sent - WAVES * WAVE).await;
    }
    let cancelled = [("reason", "cancelled")];
    assert_eq!(
        server.metric("resnetd_rejected_total", &cancelled),
        sent as f64
    );

    // one image holds the engine; the room of all others is free
    let rest = server.classifier.admit(Some("m"), MAX_QUEUE - 1).unwrap();
    assert!(server.classifier.admit(Some("m"), 1).is_err());
    drop(rest);
    server.engine.release();
    assert_eq!(
        holder.await.unwrap().unwrap()[0].as_ref().unwrap()[0].0,
        0,
        "red"
    );
    client.unary(Ask::one(png(RED))).await.unwrap();
    assert_eq!(
        server.engine.executed(),
        warm_up + 2,
        "nothing of those who left"
    );
    eventually("all room is given back", || server.admitted() == 0).await;
}

/// Connections that have each sent a whole request.
async fn http_wave(server: &TestServer) -> Vec<TcpStream> {
    let image = png(RED);
    let head = format!(
        "POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        image.len()
    );
    let request = [head.as_bytes(), &image].concat();
    let mut connections = Vec::new();
    for _ in 0..WAVE {
        let mut stream = TcpStream::connect(server.bound.http).await.unwrap();
        stream.write_all(&request).await.unwrap();
        connections.push(stream);
    }
    connections
}

async fn unary(mut client: ClassifierClient<Channel>) {
    let answer = client
        .classify(message(Ask::one(png(RED)), String::new()))
        .await;
    panic!("answered: {answer:?}");
}

async fn stream(mut client: ClassifierClient<Channel>, requests: usize) {
    let messages = (0..requests).map(|i| message(Ask::one(png(RED)), i.to_string()));
    let messages: Vec<_> = messages.collect();
    let answers = client.classify_stream(tokio_stream::iter(messages)).await;
    let answer = answers.unwrap().into_inner().next().await;
    panic!("answered: {answer:?}");
}

/// Waits until every image sent has been decoded and preprocessed and stands in the queue.
async fn queued(server: &TestServer, sent: usize) {
    eventually("all are queued", || {
        let done = server.metric(
            "resnetd_stage_duration_seconds_count",
            &[("stage", "preprocess")],
        );
        let admission = server.classifier.admit(Some("m"), 0).unwrap();
        let load = admission.model.batcher.load();
        done == (sent + 1) as f64 && load.on_its_way == 0 && load.queued >= WAVE
    })
    .await;
}

async fn noticed(server: &TestServer, protocol: &str, sent: usize) {
    eventually("the hang-ups are noticed", || {
        server.requests(protocol, "cancelled") == sent as f64
    })
    .await;
}
