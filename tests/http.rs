//! HTTP: every form of request, every status, request ids, limits.

mod common;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{BLUE, GREEN, RED, TestServer, colours, config, eventually, png, png_of};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// Sends a request and reads its JSON.
async fn send(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    (status, response.json().await.unwrap())
}

/// The same for a request that must fail; the code of its error.
async fn refused(request: RequestBuilder) -> (u16, String) {
    let (status, body) = send(request).await;
    assert!(
        body["error"]
            .as_str()
            .is_some_and(|error| !error.is_empty()),
        "{body}"
    );
    (
        status.as_u16(),
        body["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{body}"))
            .to_owned(),
    )
}

fn classify(server: &TestServer) -> RequestBuilder {
    Client::new().post(server.url("/classify"))
}

fn b64(bytes: &[u8]) -> Value {
    json!({"b64": STANDARD.encode(bytes)})
}

fn file(colour: [u8; 3]) -> Part {
    Part::bytes(png(colour)).file_name("a.png")
}

/// The most probable label of a result.
fn label(result: &Value) -> &str {
    result["predictions"][0]["label"]
        .as_str()
        .unwrap_or_else(|| panic!("{result}"))
}

#[tokio::test]
async fn a_raw_image_is_classified_whatever_its_type_says() {
    let server = TestServer::start().await;
    for content_type in [
        None,
        Some("application/x-www-form-urlencoded"),
        Some("image/jpeg"),
        Some("text/plain; charset=utf-8"),
    ] {
        let mut request = classify(&server).body(png(GREEN));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let (status, body) = send(request).await;
        assert_eq!(status, 200, "{content_type:?}: {body}");
        assert_eq!(body["model"], "m");
        assert_eq!(body["version"], "3");
        assert_eq!(body["depth"], 7);
        let predictions = body["results"][0]["predictions"].as_array().unwrap();
        assert_eq!(
            predictions.len(),
            3,
            "all classes, as there are fewer than 5"
        );
        assert_eq!(predictions[0]["class"], 1);
        assert_eq!(predictions[0]["label"], "green");
        let sum: f64 = predictions
            .iter()
            .map(|p| p["probability"].as_f64().unwrap())
            .sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        let timing = &body["timing_ms"];
        for stage in ["decode", "preprocess", "queue", "inference", "total"] {
            let ms = timing[stage]
                .as_f64()
                .unwrap_or_else(|| panic!("{stage}: {timing}"));
            assert!(
                ms >= 0.0 && ms <= timing["total"].as_f64().unwrap(),
                "{stage}: {timing}"
            );
        }
    }
    assert_eq!(server.requests("http", "ok"), 4.0);
    assert_eq!(
        server.metric("resnetd_request_duration_seconds_count", &[("depth", "7")]),
        4.0
    );
}

#[tokio::test]
async fn multipart_forms_carry_files_and_fields() {
    let server = TestServer::start().await;
    let form = Form::new()
        .part("first", file(RED))
        .text("top_k", "1")
        .part("second", file(BLUE))
        .text("model", "m");
    let (status, body) = send(classify(&server).multipart(form)).await;
    assert_eq!(status, 200, "{body}");
    let results = body["results"].as_array().unwrap();
    assert_eq!(
        results.iter().map(label).collect::<Vec<_>>(),
        ["red", "blue"]
    );
    assert_eq!(results[0]["predictions"].as_array().unwrap().len(), 1);

    let form = |part: fn(Form) -> Form| part(Form::new().part("a", file(RED)));
    let bad: [(fn(Form) -> Form, &str, (u16, &str)); 5] = [
        (|f| f.text("top_k", "0"), "", (400, "invalid_request")),
        (|f| f.text("top_k", "many"), "", (400, "invalid_request")),
        (
            |f| f.text("model", "x".repeat(5000)),
            "",
            (400, "invalid_request"),
        ),
        (|f| f.text("model", "other"), "", (404, "model_not_found")),
        (
            |f| f.text("top_k", "2"),
            "?top_k=3",
            (400, "invalid_request"),
        ),
    ];
    for (part, query, (status, code)) in bad {
        let request = Client::new()
            .post(server.url(&format!("/classify{query}")))
            .multipart(form(part));
        assert_eq!(refused(request).await, (status, code.to_owned()));
    }
    let many = (0..5).fold(Form::new(), |form, i| form.part(format!("{i}"), file(RED)));
    assert_eq!(refused(classify(&server).multipart(many)).await.0, 400);
    let none = Form::new().text("top_k", "3");
    assert_eq!(refused(classify(&server).multipart(none)).await.0, 400);
    let request = classify(&server)
        .header("content-type", "multipart/form-data")
        .body("--x--");
    assert_eq!(refused(request).await.0, 400, "no boundary");
    let request = classify(&server)
        .header("content-type", "multipart/form-data; boundary=x")
        .body("--x\r\nrest");
    assert_eq!(refused(request).await.0, 400, "cut off");
}

#[tokio::test]
async fn json_carries_base64_and_one_bad_image_fails_alone() {
    let server = TestServer::start().await;
    let body = json!({"images": [b64(&png(BLUE)), {"b64": "not base64!"}, b64(b"not an image"), b64(&png(RED))], "top_k": 2});
    let (status, body) = send(classify(&server).json(&body)).await;
    assert_eq!(status, 200, "{body}");
    let results = body["results"].as_array().unwrap();
    assert_eq!((label(&results[0]), label(&results[3])), ("blue", "red"));
    assert_eq!(results[0]["predictions"].as_array().unwrap().len(), 2);
    for bad in [1, 2] {
        assert_eq!(results[bad]["code"], "undecodable_image", "{body}");
        assert!(results[bad].get("predictions").is_none());
    }
    assert!(
        results[1]["error"].as_str().unwrap().contains("base64"),
        "{body}"
    );

    // all fail: the first one's error
    let large = b64(&png_of(RED, 21));
    let spoiled = json!({"b64": "%"});
    let body = json!({"images": [large, spoiled]});
    assert_eq!(
        refused(classify(&server).json(&body)).await,
        (413, "image_too_large".into())
    );
    let body = json!({"images": [spoiled, large]});
    let (status, body) = send(classify(&server).json(&body)).await;
    assert_eq!(status, 422);
    assert!(body["error"].as_str().unwrap().contains("base64"), "{body}");

    for wrong in [
        json!({"images": []}),
        json!({"images": [b64(&png(RED)), b64(b""), b64(b""), b64(b""), b64(b"")]}),
        json!({"images": "x"}),
        json!({"images": [b64(&png(RED))], "topk": 3}),
        json!({"images": [b64(&png(RED))], "top_k": 0}),
        json!({"images": [b64(&png(RED))], "top_k": 101}),
        json!({"images": [b64(&png(RED))], "top_k": -1}),
        json!([]),
    ] {
        assert_eq!(
            refused(classify(&server).json(&wrong)).await,
            (400, "invalid_request".into()),
            "{wrong}"
        );
    }
    let request = classify(&server)
        .header("content-type", "Application/JSON; charset=utf-8")
        .body("{");
    assert_eq!(refused(request).await.0, 400);
}

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
            (422, "undecodable_image"),
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
    assert_eq!(server.requests("http", "undecodable_image"), 2.0);
    assert_eq!(server.requests("http", "internal"), 1.0);
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_told_in_json() {
    let server = TestServer::start().await;
    let client = Client::new();
    for (method, path, status, allow) in [
        (Method::GET, "/", 404, None),
        (Method::POST, "/clasify", 404, None),
        (Method::GET, "/classify", 405, Some("POST")),
        (Method::DELETE, "/models/m", 405, Some("GET,HEAD")),
        (Method::POST, "/metrics", 405, Some("GET,HEAD")),
    ] {
        // a body that the connection must outlive
        let request = client
            .request(method, server.url(path))
            .body(vec![0; 200 << 10]);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        let allowed = response
            .headers()
            .get("allow")
            .map(|allow| allow.to_str().unwrap().to_owned());
        assert_eq!(allowed.as_deref(), allow, "{path}");
        assert!(response.headers().contains_key("x-request-id"));
        let body: Value = response.json().await.unwrap();
        assert_eq!(
            body["code"],
            if status == 404 {
                "not_found"
            } else {
                "method_not_allowed"
            }
        );
    }
}

#[tokio::test]
async fn models_health_and_metrics_are_shown() {
    let server = TestServer::loading(config()).await;
    let client = Client::new();
    let get = |path: &str| client.get(server.url(path));
    assert_eq!(send(get("/livez")).await.0, 200);
    assert_eq!(refused(get("/readyz")).await, (503, "unavailable".into()));
    let refusal = classify(&server).body(png(RED)).send().await.unwrap();
    assert_eq!(refusal.status(), 503);
    let after: u64 = refusal.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(after >= 1);
    assert_eq!(send(get("/models/m")).await.1["state"], "loading");

    server.classifier.load_model(colours("m").0).unwrap();
    server.classifier.mark_failed("broken", "no weights");
    assert_eq!(send(get("/readyz")).await.0, 200);
    let (_, body) = send(get("/models")).await;
    let models = body["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    assert_eq!(send(get("/models/m")).await.1, models[0]);
    let fields = [
        "name",
        "state",
        "architecture",
        "family",
        "depth",
        "classes",
        "input_size",
        "parameters",
        "device",
        "version",
    ];
    for field in fields {
        assert!(
            models[0].get(field).is_some_and(|value| !value.is_null()),
            "{field}: {body}"
        );
    }
    assert_eq!(models[0]["depth"], 7);
    assert_eq!(models[1]["state"], "failed");
    assert_eq!(models[1]["error"], "no weights");
    assert_eq!(
        refused(get("/models/other")).await,
        (404, "model_not_found".into())
    );
    assert_eq!(refused(get("/models/%FF")).await.0, 404);
    let request = client
        .post(server.url("/classify?model=broken"))
        .body(png(RED));
    assert_eq!(refused(request).await, (503, "unavailable".into()));

    let response = get("/metrics").send().await.unwrap();
    assert!(
        response.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(
        response
            .text()
            .await
            .unwrap()
            .contains("resnetd_requests_total{")
    );
}

#[tokio::test]
async fn request_ids_are_echoed_or_made() {
    let server = TestServer::start().await;
    let fit = "order 66/b";
    let response = classify(&server)
        .header("x-request-id", fit)
        .body(png(RED))
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["x-request-id"], fit);
    assert_eq!(response.json::<Value>().await.unwrap()["id"], fit);
    for unfit in ["x".repeat(129), "caf\u{e9}".into()] {
        let request = classify(&server)
            .header("x-request-id", unfit.as_bytes())
            .body(png(RED));
        let response = request.send().await.unwrap();
        let id = response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(id.len(), 36, "a UUID: {id}");
        assert_eq!(response.json::<Value>().await.unwrap()["id"], id);
    }
    let response = classify(&server)
        .header("x-request-id", "bad one")
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["x-request-id"]
        ),
        (422, &"bad one".parse().unwrap())
    );
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

    server.engine.release();
    for request in first {
        assert_eq!(request.await.unwrap().0, 200);
    }
    assert_eq!(
        send(classify(&server).json(&body)).await.0,
        200,
        "there is room again"
    );
    assert_eq!(server.requests("http", "queue_full"), 2.0);
}

#[tokio::test]
async fn deadlines_are_answered_with_504() {
    let server = TestServer::start().await;
    server.engine.hold();
    for (ms, expected) in [
        ("50", (504, "deadline_exceeded")),
        ("0", (400, "invalid_request")),
        ("soon", (400, "invalid_request")),
        ("30001", (400, "invalid_request")),
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
    let request = classify(&server)
        .header("x-request-timeout-ms", "30000")
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
async fn a_body_may_name_a_model_where_the_default_cannot_answer() {
    let server = TestServer::loading(config()).await;
    server.classifier.mark_failed("m", "no weights");
    server.classifier.load_model(colours("other").0).unwrap();
    let image = || json!([b64(&png(RED))]);
    let (status, body) =
        send(classify(&server).json(&json!({"images": image(), "model": "other"}))).await;
    assert_eq!(
        (status.as_u16(), &body["model"]),
        (200, &json!("other")),
        "{body}"
    );
    let form = Form::new().part("a", file(BLUE)).text("model", "other");
    assert_eq!(send(classify(&server).multipart(form)).await.0, 200);
    assert_eq!(
        refused(classify(&server).json(&json!({"images": image()}))).await,
        (503, "unavailable".into())
    );
    let request = Client::new().post(server.url("/classify?model=other"));
    let contradiction = request.json(&json!({"images": image(), "model": "m"}));
    assert_eq!(
        refused(contradiction).await,
        (400, "invalid_request".into())
    );
    assert_eq!(
        server.metric(
            "resnetd_requests_total",
            &[("model", "other"), ("code", "ok")]
        ),
        2.0
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
