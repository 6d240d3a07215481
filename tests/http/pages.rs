//! What is shown, and what does not exist.

use super::*;

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
    let request = client
        .post(server.url("/classify?model=other"))
        .body(png(RED));
    let (_, body) = send(request).await;
    let message = body["error"].as_str().unwrap();
    assert!(message.ends_with("served: m"), "{message}");

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
async fn readiness_tells_loading_from_failed() {
    let server = TestServer::loading(config()).await;
    let client = Client::new();
    let ready = || send(client.get(server.url("/readyz")));
    assert!(ready().await.1["error"].to_string().contains("loading"));
    server.classifier.mark_failed("m", "no weights");
    let (status, body) = ready().await;
    assert_eq!(status, 503);
    assert!(body["error"].to_string().contains("no model"), "{body}");
}

#[tokio::test]
async fn a_model_without_a_device_turns_readiness_off_until_it_is_loaded_anew() {
    let server = TestServer::start().await;
    let client = Client::new();
    let get = |path: &str| client.get(server.url(path));
    server.classifier.load_model(colours("other").0).unwrap();
    assert_eq!(send(get("/readyz")).await.0, 200);
    let ask = |model: &str| {
        let url = server.url(&format!("/classify?model={model}"));
        client.post(url).body(png(RED))
    };
    server.engine.lose();
    for _ in 0..2 {
        assert_eq!(refused(ask("m")).await, (503, "unavailable".into()));
    }
    let (status, body) = send(get("/readyz")).await;
    assert_eq!(status, 503);
    let error = body["error"].as_str().unwrap();
    assert!(error.contains("lost the devices"), "{error}");
    let (_, shown) = send(get("/models/m")).await;
    assert_eq!(shown["state"], "failed");
    let error = shown["error"].as_str().unwrap();
    assert!(error.contains("cpu (the test took it away)"), "{error}");
    // others serve on
    assert_eq!(send(ask("other")).await.0, 200);
    server.classifier.load_model(colours("m").0).unwrap();
    assert_eq!(send(get("/readyz")).await.0, 200);
    assert_eq!(send(ask("m")).await.0, 200);
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
