//! What well-formed requests get: the same as `/classify`, in the forms that were asked for.

use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::json;
use tokio_stream::StreamExt;

use super::common::{BLUE, GREEN, RED, TestServer, colours, config, eventually, png};
use super::*;

fn bytes_request(images: &[Vec<u8>]) -> Value {
    let images: Vec<String> = images.iter().map(|image| STANDARD.encode(image)).collect();
    json!({"inputs": [{"name": "input", "datatype": "BYTES", "shape": [images.len()], "data": images}]})
}

/// The model's input for an image of one colour.
fn tensor(colour: [u8; 3]) -> Vec<f32> {
    let plane = |value: u8| [f32::from(value) / 255.0 - 0.5; 64];
    colour.into_iter().flat_map(plane).collect()
}

fn numbers(tensor: &Value) -> Vec<f32> {
    let data = tensor["data"]
        .as_array()
        .unwrap_or_else(|| panic!("{tensor}"));
    data.iter()
        .map(|number| number.as_f64().unwrap() as f32)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn photographs_get_the_bits_that_classify_gives() {
    let server = TestServer::start().await;
    let photos = [png(RED), png(GREEN), png(BLUE), png([90, 100, 110])];
    for photo in photos {
        let classified = Client::new()
            .post(server.url("/classify"))
            .body(photo.clone());
        let classified: Value = classified.send().await.unwrap().json().await.unwrap();
        let predictions = classified["results"][0]["predictions"].as_array().unwrap();
        let expected: Vec<String> = predictions
            .iter()
            .map(|p| {
                format!(
                    "{}:{}:{}",
                    p["probability"],
                    p["class"],
                    p["label"].as_str().unwrap()
                )
            })
            .collect();

        let mut request = bytes_request(std::slice::from_ref(&photo));
        request["outputs"] = json!([
            {"name": "probabilities", "parameters": {"classification": 3}},
            {"name": "logits"},
        ]);
        let (answer, _) = parts(post(&server, "m", &[], request.to_string().into()).await).await;
        assert_eq!(answer["outputs"][0]["data"], json!(expected));
        assert_eq!(answer["outputs"][0]["shape"], json!([1, 3]));
        assert_eq!(answer["outputs"][1]["datatype"], "FP32");

        // the body as it is, and gRPC
        let (raw, binary) =
            parts(post(&server, "m", &[(HEADER_LENGTH, "0")], photo.clone()).await).await;
        assert_eq!(raw["outputs"][0]["parameters"]["binary_data_size"], 12);
        let request = raw_request("m", "BYTES", &[1], framed(&[&photo]));
        let by_grpc = grpc(&server)
            .await
            .model_infer(request)
            .await
            .unwrap()
            .into_inner();
        let contents: Vec<u8> = by_grpc.raw_output_contents.concat();
        assert_eq!(binary, contents);
        assert_eq!(floats(&binary[..12]), numbers(&answer["outputs"][1]));
        let mut probabilities = floats(&binary[12..]);
        probabilities.sort_by(|a, b| b.total_cmp(a));
        let classified: Vec<f32> = predictions
            .iter()
            .map(|p| p["probability"].as_f64().unwrap() as f32)
            .collect();
        assert_eq!(probabilities, classified);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_flat_nested_and_binary_say_the_same() {
    let server = TestServer::start().await;
    let values = [tensor(RED), tensor(BLUE)].concat();
    let rows = |plane: &[f32]| plane.chunks(8).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let planes = |image: &[f32]| image.chunks(64).map(rows).collect::<Vec<_>>();
    let nested: Vec<_> = values.chunks(192).map(planes).collect();
    let mut answers = Vec::new();
    for data in [json!(values), json!(nested)] {
        let request = json!({"id": "order 66", "inputs": [
            {"name": "input", "datatype": "FP32", "shape": [2, 3, 8, 8], "data": data}
        ]});
        let (answer, _) =
            parts(post(&server, "m/versions/3", &[], request.to_string().into()).await).await;
        assert_eq!(
            (&answer["id"], &answer["model_version"]),
            (&json!("order 66"), &json!("3"))
        );
        assert_eq!(answer["outputs"].as_array().unwrap().len(), 2);
        answers.push(answer["outputs"].clone());
    }
    assert_eq!(answers[0], answers[1]);
    let logits = numbers(&answers[0][0]);
    // ten times the mean of each plane
    assert!(
        (logits[0] - 10.0 * (250.0 / 255.0 - 0.5)).abs() < 1e-5,
        "{logits:?}"
    );
    assert!(logits[5] > 0.0 && logits[3] < 0.0, "{logits:?}");
    let request = raw_request("m", "FP32", &[2, 3, 8, 8], le_bytes(&values));
    let answer = grpc(&server)
        .await
        .model_infer(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(floats(&answer.raw_output_contents[0]), logits);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_compressed_both_ways() {
    let server = TestServer::start().await;
    let images: Vec<_> = [RED, GREEN, BLUE, RED].map(png).into();
    let mut request = bytes_request(&images);
    let plain = request.to_string().into_bytes();
    let (expected, _) = parts(post(&server, "m", &[], plain.clone()).await).await;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&plain).unwrap();
    for (encoding, body) in [
        ("gzip", gzip.finish().unwrap()),
        ("deflate", zlib.finish().unwrap()),
    ] {
        assert!(body.len() < plain.len());
        let (answer, _) =
            parts(post(&server, "m", &[("content-encoding", encoding)], body).await).await;
        assert_eq!(answer, expected);
    }
    // small answers are sent as they are
    let accept = [("accept-encoding", "gzip")];
    let answer = post(&server, "m", &accept, plain).await;
    assert_eq!(answer.headers().get("content-encoding"), None);
    // long ids make long answers
    request["id"] = json!("x".repeat(4000));
    let answer = post(&server, "m", &accept, request.to_string().into()).await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let body = answer.bytes().await.unwrap();
    let mut text = String::new();
    GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["outputs"], expected["outputs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_timeout_is_kept() {
    let server = TestServer::batching(config(), 1, 16).await;
    let (model, engine) = colours("m");
    server.classifier.load_model(model).unwrap();
    engine.hold();
    let url = server.url("/v2/models/m/infer");
    let send = move |parameters: Value| {
        let request = json!({"parameters": parameters, "inputs": [
            {"name": "input", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": tensor(RED)}
        ]});
        let sent = Client::new().post(&url).body(request.to_string()).send();
        tokio::spawn(async move { sent.await.unwrap().status().as_u16() })
    };
    let started = engine.executed();
    let first = send(json!({"timeout": 30_000_000, "priority": 1}));
    eventually("the first executes", || engine.executed() > started).await;
    assert_eq!(send(json!({"timeout": 20_000})).await.unwrap(), 504);
    engine.release();
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(
        engine.executed(),
        started + 1,
        "the late one is not computed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_in_order_and_outlives_an_error() {
    let server = TestServer::start().await;
    let mut requests = Vec::new();
    for (id, colour) in [("a", RED), ("b", GREEN), ("c", BLUE)] {
        let mut request = raw_request("m", "BYTES", &[1], framed(&[&png(colour)]));
        request.id = id.into();
        requests.push(request);
    }
    requests[1].inputs[0].name = "image".into();
    let answers = grpc(&server)
        .await
        .model_stream_infer(tokio_stream::iter(requests))
        .await;
    let answers: Vec<_> = answers.unwrap().into_inner().collect().await;
    let answers: Vec<pb::ModelStreamInferResponse> =
        answers.into_iter().map(Result::unwrap).collect();
    let ids = answers
        .iter()
        .map(|answer| answer.infer_response.as_ref().unwrap().id.as_str());
    assert_eq!(ids.collect::<Vec<_>>(), ["a", "b", "c"]);
    let errors = answers.iter().map(|answer| answer.error_message.is_empty());
    assert_eq!(errors.collect::<Vec<_>>(), [true, false, true]);
    assert!(
        answers[1].error_message.contains("\"image\""),
        "{}",
        answers[1].error_message
    );
}
