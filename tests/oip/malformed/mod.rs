//! Malformed HTTP requests: each gets its status and a sentence that names what is wrong, and the server lives on.

mod outputs;
mod syntax;
mod tensors;
mod transport;

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::common::{RED, TestServer, png, png_of};
use super::*;

/// A request, the status it must get, and words that its error must have.
struct Case {
    what: &'static str,
    model: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: u16,
    words: &'static str,
}

fn case(what: &'static str, body: impl Into<Vec<u8>>, words: &'static str) -> Case {
    Case {
        what,
        model: "m",
        headers: Vec::new(),
        body: body.into(),
        status: 400,
        words,
    }
}

impl Case {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn gets(self, status: u16) -> Self {
        Self { status, ..self }
    }

    fn to(self, model: &'static str) -> Self {
        Self { model, ..self }
    }
}

/// A good input of one image, to be spoiled.
fn good() -> Value {
    json!({"name": "input", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": vec![0.5; 192]})
}

/// A request whose only input has a field spoiled.
fn input(field: &str, value: Value) -> Vec<u8> {
    let mut input = good();
    input[field] = value;
    json!({"inputs": [input]}).to_string().into()
}

fn without(field: &str) -> Vec<u8> {
    let mut input = good();
    input.as_object_mut().unwrap().remove(field);
    json!({"inputs": [input]}).to_string().into()
}

/// A good request with parameters.
fn parameters(parameters: Value) -> Vec<u8> {
    json!({"inputs": [good()], "parameters": parameters})
        .to_string()
        .into()
}

fn outputs(outputs: Value) -> Vec<u8> {
    json!({"inputs": [good()], "outputs": outputs})
        .to_string()
        .into()
}

fn bytes_input(shape: Value, data: Value) -> Vec<u8> {
    json!({"inputs": [{"name": "input", "datatype": "BYTES", "shape": shape, "data": data}]})
        .to_string()
        .into()
}

/// JSON that announces `size` bytes of an input, and what follows it.
fn binary(
    datatype: &str,
    shape: Value,
    size: Value,
    data: &[u8],
    what: &'static str,
    words: &'static str,
) -> Case {
    let header = json!({"inputs": [{
        "name": "input", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size},
    }]});
    let header = header.to_string();
    let length = header.len().to_string();
    case(what, [header.as_bytes(), data].concat(), words).with(HEADER_LENGTH, length)
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::best());
    writer.write_all(body).unwrap();
    writer.finish().unwrap()
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_refused_with_what_is_wrong_and_the_server_lives_on() {
    let server = TestServer::start().await;
    let cases = [
        transport::cases(),
        syntax::cases(),
        tensors::cases(),
        outputs::cases(),
        transport::amplifying(),
    ];
    let mut wrong = Vec::new();
    for case in cases.iter().flatten() {
        let headers: Vec<(&str, &str)> =
            case.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let answer = post(&server, case.model, &headers, case.body.clone()).await;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        let error = body["error"].as_str().unwrap_or_default();
        if status != case.status || !error.contains(case.words) || error.len() > 1500 {
            wrong.push(format!("{}: {status} {error}", case.what));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.iter().map(Vec::len).sum::<usize>() >= 40);
    let (answer, _) = parts(post(&server, "m", &[], input("name", json!("input"))).await).await;
    assert_eq!(answer["model_name"], "m");
    assert_eq!(server.admitted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_about_models_have_small_bodies_and_say_what_is_wrong_with_them() {
    let server = TestServer::start().await;
    let large = format!(r#"{{"parameters":{{"a":"{}"}}}}"#, "x".repeat(100_000));
    let cases = [
        ("repository/index", "no JSON".to_owned(), 400, "JSON"),
        (
            "repository/index",
            r#"{"ready":"yes"}"#.to_owned(),
            400,
            "ready",
        ),
        ("repository/index", large.clone(), 413, "bytes"),
        ("repository/models/m/load", "7".to_owned(), 400, "JSON"),
        ("repository/models/m/load", large, 413, "bytes"),
        (
            "repository/models/m/load",
            r#"{"parameters":{"config":"{}"}}"#.to_owned(),
            400,
            "config",
        ),
        (
            "repository/models/m/unload",
            r#"{"parameters":{"unload_dependents":"yes"}}"#.to_owned(),
            400,
            "unload_dependents",
        ),
        (
            "repository/models/nobody/load",
            String::new(),
            404,
            "nobody",
        ),
        (
            "repository/models/nobody/unload",
            "{}".to_owned(),
            404,
            "nobody",
        ),
    ];
    for (path, body, status, words) in cases {
        let request = Client::new()
            .post(server.url(&format!("/v2/{path}")))
            .body(body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}, {words}");
        let body: Value = answer.json().await.unwrap();
        let error = body["error"].as_str().unwrap();
        assert!(error.contains(words), "{path}: {error}");
    }
    for path in [
        "models/m",
        "models/m/versions/3",
        "models/m/config",
        "models/m/stats",
        "models/stats",
    ] {
        let answer = reqwest::get(server.url(&format!("/v2/{path}")))
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
}
