//! HTTP: every form of request, every status, request ids, limits.

#[path = "../common/mod.rs"]
mod common;
mod forms;
mod pages;
mod refusals;

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
