//! Every status but success: limits, deadlines, hang-ups.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::*;

#[tokio::test]
async fn every_refusal_has_its_status_and_code() {
    let server = TestServer::start().await;
    let tiff = [b"II*\0".as_slice(), &[0; 64]].concat();
    let mut truncated = png(RED);
    truncated.truncate(truncated.len() / 2);
    let cases: [(&str, Vec<u8>, (u16, &str)); 10] = [
        ("", Vec::new(), (400, "invalid_request")),
        ("?top_k=0", png(RED), (400, "invalid_request")),
        ("?top_k=101", png(RED), (400, "invalid_request")),
        ("?top_k=x", png(RED), (400, "invalid_request")),
        ("?topk=3", png(RED), (400, "invalid_request")),
        ("?model=other", png(RED), (404, "model_not_found")),
        ("", png_of(RED, 21), (413, "image_too_large")),
        ("", tiff, (415, "unsupported_image")),
        ("", truncated, (422, "undecodable_image")),
        (
            "",
            b"{\"not\": \"an image\"}".to_vec(),
            (400, "invalid_request"),
        ),
    ];
    for (query, body, (status, code)) in cases {
        let request = Client::new()
            .post(server.url(&format!("/classify{query}")))
            .body(body);
        assert_eq!(refused(request).await, (status, code.to_owned()), "{query}");
    }
    let (_, body) = send(
        Client::new()
            .post(server.url("/classify?model=other"))
            .body("x"),
    )
    .await;
    assert!(
        body["error"].as_str().unwrap().contains('m'),
        "names those served: {body}"
    );
    for (query, fine) in [("?model=m&top_k=100", 3), ("?model=", 3), ("?top_k=1", 1)] {
        let request = Client::new()
            .post(server.url(&format!("/classify{query}")))
            .body(png(RED));
        let (status, body) = send(request).await;
        assert_eq!(status, 200, "{query}: {body}");
        assert_eq!(
            body["results"][0]["predictions"].as_array().unwrap().len(),
            fine
        );
    }

    server.engine.fail(true);
    assert_eq!(
        refused(classify(&server).body(png(RED))).await,
        (500, "internal".into())
    );
    server.engine.fail(false);
    assert_eq!(
        send(classify(&server).body(png(RED))).await.0,
        200,
        "the server lives on"
    );
    assert_eq!(server.requests("http", "undecodable_image"), 1.0);
    assert_eq!(server.requests("http", "internal"), 1.0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_the_answer_can_be_read() {
    let server = TestServer::start().await;
    let limit = 256 << 10;
    let fits = classify(&server).body(vec![b'x'; limit]);
    assert_eq!(refused(fits).await, (422, "undecodable_image".into()));
    // announced
    let over = classify(&server).body(vec![b'x'; limit + 1]);
    assert_eq!(refused(over).await, (413, "body_too_large".into()));
    // streamed without a length
    let pieces = (0..40).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 10_000]));
    let streamed = classify(&server).body(Body::wrap_stream(tokio_stream::iter(pieces)));
    assert_eq!(refused(streamed).await, (413, "body_too_large".into()));
    // in a form
    let form = Form::new().part("a", Part::bytes(vec![b'x'; limit + 1]).file_name("a"));
    assert_eq!(
        refused(classify(&server).multipart(form)).await,
        (413, "body_too_large".into())
    );
    assert_eq!(
        server.metric("resnetd_rejected_total", &[("reason", "too_large")]),
        3.0
    );
    assert_eq!(server.requests("http", "body_too_large"), 3.0);
}

#[tokio::test]
async fn a_full_queue_refuses_before_the_body_and_whole_requests() {
    let server = TestServer::start().await;
    server.engine.hold();
    let images: Vec<Value> = (0..4).map(|_| b64(&png(RED))).collect();
    let body = json!({"images": images});
    let first: Vec<_> = (0..2)
        .map(|_| tokio::spawn(send(classify(&server).json(&body))))
        .collect();
    eventually("8 images are admitted", || server.admitted() == 8).await;

    let response = classify(&server).body(png(RED)).send().await.unwrap();
    assert_eq!(response.status(), 429);
    let after: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(after >= 1);
    assert_eq!(
        response.json::<Value>().await.unwrap()["code"],
        "queue_full"
    );
    // its body never comes, and need not
    let head = "POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n";
    let answer = common::exchange(server.bound.http, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");

    // several images count each, on the model that has no room for them
    let two = json!({"images": [b64(&png(RED)), b64(&png(RED))]});
    let other = server.classifier.load_model(colours("other").0);
    other.unwrap();
    assert_eq!(refused(classify(&server).json(&two)).await.0, 429);
    // the default's crowd is not the others'
    let named = json!({"images": [b64(&png(RED))], "model": "other"});
    assert_eq!(send(classify(&server).json(&named)).await.0, 200);
    let form = Form::new().part("a", file(BLUE)).text("model", "other");
    assert_eq!(send(classify(&server).multipart(form)).await.0, 200);
    let full = |labels: &[(&str, &str)]| server.metric("resnetd_rejected_total", labels);
    assert_eq!(full(&[("reason", "queue_full"), ("model", "m")]), 4.0);
    assert_eq!(full(&[("reason", "queue_full")]), 4.0);
    let counted = [("model", "m"), ("code", "queue_full")];
    assert_eq!(server.metric("resnetd_requests_total", &counted), 3.0);

    server.engine.release();
    for request in first {
        assert_eq!(request.await.unwrap().0, 200);
    }
    assert_eq!(
        send(classify(&server).json(&body)).await.0,
        200,
        "there is room again"
    );
    assert_eq!(server.requests("http", "queue_full"), 3.0);
    // what fails its checks is still a request for the model it names
    let none = json!({"images": [], "model": "other"});
    assert_eq!(refused(classify(&server).json(&none)).await.0, 400);
    let counted = [("model", "other"), ("code", "invalid_request")];
    assert_eq!(server.metric("resnetd_requests_total", &counted), 1.0);
}

#[tokio::test]
async fn more_images_than_ever_fit_are_no_full_queue() {
    let server = TestServer::with(resnetd::server::Config {
        max_images_per_request: 20,
        ..config()
    })
    .await;
    let nine: Vec<Value> = (0..9).map(|_| b64(&png(RED))).collect();
    let request = classify(&server).json(&json!({"images": nine}));
    assert_eq!(refused(request).await, (400, "invalid_request".into()));
    let full = server.metric("resnetd_rejected_total", &[("reason", "queue_full")]);
    assert_eq!(full, 0.0);
}

#[tokio::test]
async fn deadlines_are_answered_with_504() {
    let server = TestServer::start().await;
    server.engine.hold();
    for (ms, expected) in [
        ("50", (504, "deadline_exceeded")),
        ("0", (400, "invalid_request")),
        ("soon", (400, "invalid_request")),
        ("-1", (400, "invalid_request")),
    ] {
        let request = classify(&server)
            .header("x-request-timeout-ms", ms)
            .body(png(RED));
        assert_eq!(
            refused(request).await,
            (expected.0, expected.1.to_owned()),
            "{ms}"
        );
    }
    // a body that comes too late
    let head = "POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nx-request-timeout-ms: 50\r\n\r\n";
    let answer = common::exchange(server.bound.http, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    server.engine.release();
    // more than the server's limit is cut to it
    let request = classify(&server)
        .header("x-request-timeout-ms", "86400000")
        .body(png(RED));
    assert_eq!(send(request).await.0, 200);
    assert_eq!(server.requests("http", "deadline_exceeded"), 2.0);
}

#[tokio::test]
async fn who_hangs_up_leaves_the_queue_before_the_engine() {
    let server = TestServer::start().await;
    server.engine.hold();
    let holder = tokio::spawn(send(classify(&server).body(png(RED))));
    eventually("the first batch runs", || server.engine.executed() == 1).await;
    let gone: Vec<_> = (0..4)
        .map(|_| tokio::spawn(send(classify(&server).body(png(RED)))))
        .collect();
    eventually("4 more are admitted", || server.admitted() == 5).await;
    for request in gone {
        request.abort();
    }
    eventually("the hang-ups are noticed", || {
        server.requests("http", "cancelled") == 4.0
    })
    .await;
    server.engine.release();
    assert_eq!(holder.await.unwrap().0, 200);
    eventually("their room is given back", || server.admitted() == 0).await;
    assert_eq!(send(classify(&server).body(png(RED))).await.0, 200);
    assert_eq!(server.engine.executed(), 2, "nothing of those who left");
    assert_eq!(
        server.metric("resnetd_rejected_total", &[("reason", "cancelled")]),
        4.0
    );
}

#[tokio::test]
async fn a_body_that_stalls_is_refused_with_408() {
    let server = TestServer::with(resnetd::server::Config {
        body_timeout: Duration::from_millis(100),
        ..config()
    })
    .await;
    let head = "POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc";
    let answer = common::exchange(server.bound.http, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("body_timeout"), "{answer}");
    eventually("the room is given back", || server.admitted() == 0).await;
}

#[tokio::test]
async fn an_upload_broken_off_is_a_hang_up_and_a_malformed_one_is_not() {
    let server = TestServer::start().await;
    let head = "POST /classify HTTP/1.1\r\nhost: x\r\n";
    let whole = format!("{head}content-length: 10\r\n\r\nabc");
    let mut stream = TcpStream::connect(server.bound.http).await.unwrap();
    stream.write_all(whole.as_bytes()).await.unwrap();
    eventually("the request is admitted", || server.admitted() == 1).await;
    drop(stream);
    eventually("the hang-up is noticed", || {
        server.requests("http", "cancelled") == 1.0
    })
    .await;
    assert_eq!(server.admitted(), 0);

    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\nno length\r\n");
    let answer = common::exchange(server.bound.http, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(server.requests("http", "invalid_request"), 1.0);
}
