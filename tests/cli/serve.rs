//! `resnetd serve`: which models, which settings, how it fails.

use std::path::Path;

use serde_json::Value;

use super::common::process::{Process, data, resnetd, run};
use super::common::{PATIENCE, metric, weights};
use super::refused;

const LOCAL: [&str; 4] = ["--http-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0"];

/// Posts so many images, of `model` if one is named.
async fn classify(process: &Process, images: usize, model: Option<&str>) -> (u16, Value) {
    let image = std::fs::read(data("preprocess/tiny.png")).unwrap();
    let mut form = reqwest::multipart::Form::new();
    for _ in 0..images {
        let part = reqwest::multipart::Part::bytes(image.clone()).file_name("tiny.png");
        form = form.part("file", part);
    }
    let query = model.map_or(String::new(), |model| format!("?model={model}"));
    let request = reqwest::Client::new().post(process.url(&format!("/classify{query}")));
    let response = request.multipart(form).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_start_with_its_reason() {
    let serve = |model: &str| refused(&[&["serve", "--model", model], LOCAL.as_slice()].concat());
    let error = serve("nosuch=missing.pth");
    assert!(
        error.contains("nosuch") && error.contains("`resnetd models`"),
        "{error}"
    );
    let error = serve("resnet20=missing.pth");
    assert!(error.contains("missing.pth"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resnet20.safetensors");
    std::fs::write(&file, weights::safetensors("resnet32")).unwrap();
    let error = serve(&format!("resnet20={}", file.display()));
    assert!(
        error.contains("layer1.3."),
        "names what does not fit: {error}"
    );

    let twice = format!("resnet32={}", file.display());
    let error = refused(
        &[
            &["serve", "--model", &twice, "--model", &twice],
            LOCAL.as_slice(),
        ]
        .concat(),
    );
    assert!(error.contains("two models are named resnet32"), "{error}");
    let error = refused(&[&["serve", "--default-model", "other"], LOCAL.as_slice()].concat());
    assert!(
        error.contains("--default-model other is not served"),
        "{error}"
    );
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let error = refused(&["serve", "--http-addr", &addr, "--grpc-addr", "127.0.0.1:0"]);
    assert!(error.contains(&addr) && error.contains("HTTP"), "{error}");
}

#[tokio::test]
async fn without_flags_the_embedded_model_is_served() {
    let process = Process::serve(&[]).await;
    let models = process.json("/models").await;
    assert_eq!(models["models"].as_array().unwrap().len(), 1);
    let model = &models["models"][0];
    assert_eq!(
        (&model["name"], &model["architecture"]),
        (&"resnet20-cifar10".into(), &"resnet20".into())
    );
    let (status, body) = classify(&process, 1, None).await;
    assert_eq!(
        (status, &body["model"], &body["depth"]),
        (200, &"resnet20-cifar10".into(), &20.into())
    );

    // the command for files says the same
    let ran = run(&[
        "classify",
        "--json",
        data("preprocess/tiny.png").to_str().unwrap(),
    ]);
    let line: Value = serde_json::from_str(&ran.stdout).unwrap();
    let pairs = |answer: &Value| -> Vec<(u64, f32)> {
        let pair = |p: &Value| {
            let probability = p["probability"].as_f64().unwrap() as f32;
            (p["class"].as_u64().unwrap(), probability)
        };
        let predictions = answer["predictions"].as_array().unwrap();
        predictions.iter().map(pair).collect()
    };
    assert_eq!(pairs(&body["results"][0]), pairs(&line));
}

#[tokio::test]
async fn a_broken_folder_is_shown_and_the_rest_serve() {
    let folder = tempfile::tempdir().unwrap();
    let dir = |name: &str| folder.path().join(name);
    weights::folder(&dir("a-net"), "plain20", "weights.safetensors");
    weights::folder(&dir("b-net"), "resnet20", "weights.pth");
    weights::folder(&dir("a-broken"), "resnet32", "weights.safetensors");
    std::fs::write(
        dir("a-broken/weights.safetensors"),
        weights::safetensors("resnet20"),
    )
    .unwrap();
    let from = folder.path().to_str().unwrap();
    let process = Process::serve(&["--model-dir", from]).await;

    let models = process.json("/models").await;
    let states: Vec<(&str, &str)> = models["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| {
            (
                model["name"].as_str().unwrap(),
                model["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            ("a-broken", "failed"),
            ("a-net", "ready"),
            ("b-net", "ready")
        ]
    );
    let reason = process.json("/models/a-broken").await["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        reason.contains("layer1.3."),
        "names what is missing: {reason}"
    );
    assert!(process.is_ready().await);
    let log = process.stderr();
    let logged = log
        .lines()
        .find(|line| line.contains("\"ERROR\""))
        .expect("an error is logged");
    assert!(
        logged.contains("broken") && logged.contains("layer1.3."),
        "{logged}"
    );

    let (status, body) = classify(&process, 1, None).await;
    assert_eq!(
        (status, &body["model"]),
        (200, &"a-net".into()),
        "the first that has not failed"
    );
    let (status, body) = classify(&process, 1, Some("b-net")).await;
    assert_eq!((status, &body["model"]), (200, &"b-net".into()));
    let (status, body) = classify(&process, 1, Some("a-broken")).await;
    assert_eq!((status, &body["code"]), (503, &"unavailable".into()));
    // only what was named
    let (status, body) = classify(&process, 1, Some("resnet20-cifar10")).await;
    assert_eq!((status, &body["code"]), (404, &"model_not_found".into()));
}

#[tokio::test]
async fn versions_are_served_and_the_watch_takes_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let net = folder.path().join("net");
    for version in ["2", "10"] {
        weights::folder(&net.join(version), "plain20", "weights.safetensors");
    }
    let from = folder.path().to_str().unwrap();
    let process = Process::serve(&["--model-dir", from, "--watch=50ms"]).await;
    let (status, body) = classify(&process, 1, None).await;
    assert_eq!((status, &body["version"]), (200, &"10".into()));

    weights::folder(&net.join("11"), "resnet20", "weights.safetensors");
    let started = std::time::Instant::now();
    while classify(&process, 1, None).await.1["version"] != "11" {
        assert!(started.elapsed() < PATIENCE, "{}", process.stderr());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let model = process.json("/models/net").await;
    let versions = model["versions"].as_array().unwrap().iter();
    let rows: Vec<(&str, &str)> = versions
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap();
            (text("version"), text("state"))
        })
        .collect();
    assert_eq!(rows, [("2", "ready"), ("10", "ready"), ("11", "ready")]);
    let text = process.metrics().await;
    let loads = |result| {
        let labels = [("model", "net"), ("result", result)];
        metric(&text, "resnetd_model_loads_total", &labels)
    };
    assert!(loads("ok") >= 3.0);

    // the commands without a server take the newest
    let named = format!("net={}", net.display());
    let image = data("preprocess/tiny.png");
    let ran = run(&[
        "classify",
        "--model",
        &named,
        image.to_str().unwrap(),
        "--json",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    std::fs::write(net.join("11/weights.safetensors"), "none").unwrap();
    let error = refused(&["classify", "--model", &named, image.to_str().unwrap()]);
    assert!(error.contains("11/weights.safetensors"), "{error}");
}

#[tokio::test]
async fn a_published_file_is_served_as_it_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("googlenet-1378be20.pth");
    std::fs::write(&file, weights::pth("googlenet")).unwrap();
    let model = format!("photos={}", file.display());
    let process = Process::serve(&["--model", &model]).await;
    let model = process.json("/models/photos").await;
    assert_eq!(model["architecture"], "googlenet");
    let preprocess = &model["preprocess"];
    assert_eq!(
        (&preprocess["resize"], &preprocess["crop"]),
        (&256.into(), &224.into())
    );
    assert_eq!(preprocess["mean"], serde_json::json!([0.5, 0.5, 0.5]));
    assert_eq!(preprocess["std"], serde_json::json!([0.5, 0.5, 0.5]));
    let provenance = &model["provenance"];
    assert_eq!(provenance["test_top1"], 69.778);
    assert_eq!(provenance["test_top5"], 89.53);
    let source = provenance["test_source"].as_str().unwrap();
    assert!(source.contains("torchvision"), "{source}");
    let (status, body) = classify(&process, 1, None).await;
    assert_eq!(status, 200, "{body}");
    let label = body["results"][0]["predictions"][0]["label"].as_str();
    assert!(
        label.is_some_and(|label| !label.starts_with("class_")),
        "{body}"
    );
}

#[test]
fn a_folder_of_nothing_says_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let model = format!("net={}", folder.path().display());
    let error = refused(&[&["serve", "--model", &model], LOCAL.as_slice()].concat());
    assert!(error.contains("expected model.toml in it"), "{error}");
    let ran = run(&["serve", "--watch=0s"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("--watch"), "{ran:?}");
}

#[tokio::test]
async fn a_pth_file_and_the_same_weights_as_safetensors_answer_alike() {
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str, path: &Path| format!("{name}={}", path.display());
    let (pth, other) = (folder.path().join("w.pth"), folder.path().join("net"));
    std::fs::write(&pth, weights::pth("resnet20")).unwrap();
    weights::folder(&other, "resnet20", "w.safetensors");
    let (first, second) = (model("resnet20", &pth), model("other", &other));
    let process = Process::serve(&["--model", &first, "--model", &second]).await;
    let (_, from_pth) = classify(&process, 1, None).await;
    assert_eq!(from_pth["model"], "resnet20", "the first is the default");
    let (_, from_folder) = classify(&process, 1, Some("other")).await;
    assert_eq!(from_folder["model"], "other");
    assert_eq!(from_pth["results"], from_folder["results"]);
    assert!(
        from_pth["results"][0]["predictions"].is_array(),
        "{from_pth}"
    );
}

#[tokio::test]
async fn the_environment_sets_what_no_flag_sets() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a-net", "net"] {
        weights::folder(&folder.path().join(name), "plain20", "weights.safetensors");
    }
    let mut command = resnetd();
    command.env("RESNETD_HTTP_ADDR", "127.0.0.1:0");
    command.env("RESNETD_MODEL_DIR", folder.path());
    command
        .env("RESNETD_DEFAULT_MODEL", "net")
        .env("RESNETD_MAX_BATCH", "1")
        .env("RESNETD_MAX_IMAGES_PER_REQUEST", "2");
    command.args(["serve", "--max-images-per-request", "8"]);
    let process = Process::start(command).await;
    let (status, body) = classify(&process, 8, None).await;
    assert_eq!(
        (status, &body["model"]),
        (200, &"net".into()),
        "the flag wins"
    );
    assert_eq!(classify(&process, 9, None).await.0, 400);
    let text = process.metrics().await;
    assert_eq!(
        metric(&text, "resnetd_batch_size_count", &[("model", "net")]),
        8.0
    );
    assert_eq!(
        metric(&text, "resnetd_batch_size_sum", &[("model", "net")]),
        8.0
    );

    let mut command = resnetd();
    command
        .env("RESNETD_MAX_BATCH", "many")
        .args(["serve"])
        .args(LOCAL);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("--max-batch")
    );
}

#[test]
fn every_flag_has_its_variable() {
    let help = run(&["serve", "--help"]).stdout;
    let is_flag = |line: &&str| line.trim_start().starts_with("--");
    let flags: Vec<&str> = help
        .lines()
        .filter(is_flag)
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert!(flags.len() >= 20, "{flags:?}");
    for flag in flags {
        let name = flag
            .trim_start_matches('-')
            .split('[')
            .next()
            .unwrap()
            .replace('-', "_")
            .to_uppercase();
        assert!(
            help.contains(&format!("[env: RESNETD_{name}=")),
            "{flag} has no RESNETD_{name}"
        );
    }
}
