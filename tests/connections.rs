//! The life of connections and of the server: timeouts, caps, ages, draining.

mod common;

use std::time::{Duration, Instant};

use common::{PATIENCE, RED, TestServer, config, eventually, exchange, png, read_response};
use resnetd::server::{Config, Stop};
use resnetd::service::Classify;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GET: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
/// A limit under test, and what must not be reached.
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(600);

async fn connect(server: &TestServer) -> TcpStream {
    TcpStream::connect(server.bound.http).await.unwrap()
}

/// Waits until the server closes the connection; what it still sent.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    // a reset is a close too
    let _ = reading.expect("the server closes the connection");
    rest
}

#[tokio::test]
async fn a_header_that_does_not_end_is_cut_off() {
    let server = TestServer::with(Config {
        header_timeout: SHORT,
        idle_timeout: LONG,
        ..config()
    })
    .await;
    let mut silent = connect(&server).await;
    let mut slow = connect(&server).await;
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    assert!(closed(&mut silent).await.is_empty());
    closed(&mut slow).await;

    // a connection that rests after a request is not reading a header, but a started one is timed again
    let mut used = connect(&server).await;
    used.write_all(GET).await.unwrap();
    assert!(read_response(&mut used).await.starts_with("HTTP/1.1 200 "));
    tokio::time::sleep(SHORT * 3).await;
    used.write_all(GET).await.unwrap();
    assert!(
        read_response(&mut used).await.starts_with("HTTP/1.1 200 "),
        "rested, not closed"
    );
    used.write_all(b"GET ").await.unwrap();
    closed(&mut used).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let server = TestServer::with(Config {
        header_timeout: LONG,
        idle_timeout: SHORT,
        ..config()
    })
    .await;
    let mut idle = connect(&server).await;
    idle.write_all(GET).await.unwrap();
    read_response(&mut idle).await;
    assert!(closed(&mut idle).await.is_empty());

    server.engine.hold();
    let image = png(RED);
    let mut busy = connect(&server).await;
    let head = format!(
        "POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        image.len()
    );
    busy.write_all(&[head.as_bytes(), &image].concat())
        .await
        .unwrap();
    eventually("the image is classified", || server.engine.executed() == 1).await;
    tokio::time::sleep(SHORT * 3).await;
    server.engine.release();
    assert!(read_response(&mut busy).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn connections_over_the_cap_wait_for_one_to_leave() {
    let server = TestServer::with(Config {
        max_connections: 2,
        ..config()
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&server).await;
        stream.write_all(GET).await.unwrap();
        read_response(&mut stream).await;
        open.push(stream);
    }
    let addr = server.bound.http;
    let waiting = tokio::spawn(async move { exchange(addr, GET).await });
    tokio::time::sleep(SHORT).await;
    assert!(!waiting.is_finished());
    drop(open.pop());
    let answer = tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_refused_upload_can_be_sent_to_its_end_before_the_answer_is_read() {
    let server = TestServer::start().await;
    let body = vec![b'x'; 400 << 10];
    let head = format!(
        "POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = connect(&server).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    // slow enough that the refusal is long out when the last piece goes
    for piece in body.chunks(100 << 10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(piece).await.unwrap();
    }
    let answer = read_response(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    // a peer that asks first is told at once, and sends nothing
    let head = format!(
        "POST /classify HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = exchange(server.bound.http, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn draining_turns_readiness_then_closes_then_finishes() {
    let delay = Duration::from_millis(500);
    let server = TestServer::with(Config {
        drain_delay: delay,
        ..config()
    })
    .await;
    let client = reqwest::Client::new();
    let ready = |client: &reqwest::Client| client.get(server.url("/readyz")).send();
    assert_eq!(ready(&client).await.unwrap().status(), 200);
    server.engine.hold();
    let accepted = tokio::spawn(client.post(server.url("/classify")).body(png(RED)).send());
    eventually("the image is classified", || server.engine.executed() == 1).await;
    let mut idle = connect(&server).await;
    idle.write_all(GET).await.unwrap();
    read_response(&mut idle).await;

    let started = Instant::now();
    server.stop.drain();
    eventually("readiness turns", || !server.classifier.is_ready()).await;
    // still served, on connections that then close
    let refusal = ready(&client).await.unwrap();
    assert_eq!(refusal.status(), 503);
    assert_eq!(refusal.headers()["connection"], "close");
    assert_eq!(
        client
            .get(server.url("/livez"))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert!(closed(&mut idle).await.is_empty());
    assert!(
        started.elapsed() >= delay,
        "closed before the delay was over"
    );
    while TcpStream::connect(server.bound.http).await.is_ok() {
        assert!(started.elapsed() < PATIENCE, "still accepts");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!server.serving.is_finished(), "a request is left");
    server.engine.release();
    assert_eq!(accepted.await.unwrap().unwrap().status(), 200);
    assert_eq!(server.ended().await.cut, 0);
}

#[tokio::test]
async fn what_is_not_done_within_the_drain_timeout_is_cut_off() {
    let server = TestServer::with(Config {
        drain_delay: Duration::ZERO,
        drain_timeout: SHORT,
        ..config()
    })
    .await;
    server.engine.hold();
    let request = reqwest::Client::new()
        .post(server.url("/classify"))
        .body(png(RED))
        .send();
    let request = tokio::spawn(request);
    eventually("the image is classified", || server.engine.executed() == 1).await;
    server.stop.drain();
    let engine = server.engine.clone();
    assert_eq!(server.ended().await.cut, 1);
    assert!(request.await.unwrap().is_err());
    engine.release();
}

#[tokio::test]
async fn only_classifications_hold_up_the_end() {
    let server = TestServer::with(Config {
        header_timeout: LONG,
        idle_timeout: LONG,
        drain_delay: Duration::ZERO,
        drain_timeout: LONG,
        ..config()
    })
    .await;
    let grpc = async || TcpStream::connect(server.bound.grpc).await.unwrap();
    let silent = grpc().await;
    let mut half = connect(&server).await;
    half.write_all(b"GET /livez HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    // says hello with empty settings, and never answers a ping
    let mut deaf = grpc().await;
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    deaf.write_all(hello).await.unwrap();
    let mut settings = [0];
    deaf.read_exact(&mut settings).await.unwrap();
    server.stop.drain();
    assert_eq!(server.ended().await.cut, 0);
    drop((silent, half, deaf));
}

#[tokio::test]
async fn sigterm_drains_and_a_second_one_ends() {
    let stop = Stop::on_signals().unwrap();
    let server = TestServer::stopped_by(
        Config {
            drain_delay: LONG,
            ..config()
        },
        stop,
    )
    .await;
    let terminate = || {
        let kill = format!("kill -TERM {}", std::process::id());
        let status = std::process::Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap();
        assert!(status.success());
    };
    terminate();
    eventually("readiness turns", || !server.classifier.is_ready()).await;
    let client = reqwest::Client::new();
    let request = client.post(server.url("/classify")).body(png(RED));
    assert_eq!(request.send().await.unwrap().status(), 200, "still serves");
    assert!(!server.serving.is_finished());
    terminate();
    server.ended().await;
}

#[tokio::test]
async fn told_to_end_now_it_waits_for_nothing() {
    let server = TestServer::with(Config {
        drain_delay: LONG,
        drain_timeout: LONG,
        ..config()
    })
    .await;
    let mut open = connect(&server).await;
    open.write_all(GET).await.unwrap();
    read_response(&mut open).await;
    server.stop.drain();
    eventually("readiness turns", || !server.classifier.is_ready()).await;
    server.stop.now();
    server.ended().await;
    closed(&mut open).await;
}
