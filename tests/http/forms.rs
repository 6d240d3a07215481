//! The forms of a request.

use super::*;

#[tokio::test]
async fn a_raw_image_is_classified_whatever_its_type_says() {
    let server = TestServer::start().await;
    for content_type in [
        None,
        Some("application/x-www-form-urlencoded"),
        Some("image/jpeg"),
        Some("text/plain; charset=utf-8"),
        Some("application/json"),
        Some("multipart/form-data"),
    ] {
        let mut request = classify(&server).body(png(GREEN));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let ranked = server.engine.ranked();
        let (status, body) = send(request).await;
        assert_eq!(status, 200, "{content_type:?}: {body}");
        assert_eq!(
            server.engine.ranked(),
            ranked + 1,
            "no logits are asked for"
        );
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
    assert_eq!(server.requests("http", "ok"), 6.0);
    assert_eq!(
        server.metric("resnetd_request_duration_seconds_count", &[("depth", "7")]),
        6.0
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
    type Case = (fn(Form) -> Form, &'static str, (u16, &'static str));
    let bad: [Case; 5] = [
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

    // curl's -d, and a body that says what it is only by its bytes
    for content_type in [
        "application/x-www-form-urlencoded",
        "image/png",
        "text/plain",
    ] {
        let text = format!("\n {}", json!({"images": [b64(&png(RED))]}));
        let request = classify(&server).header("content-type", content_type);
        let (status, body) = send(request.body(text)).await;
        assert_eq!(status, 200, "{content_type}: {body}");
    }

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
async fn a_body_may_name_a_model_where_the_default_cannot_answer() {
    let server = TestServer::loading(config()).await;
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
