//! The Open Inference Protocol v2: tensors in and out, goldens, and everything malformed. tests/conformance has the
//! clients that others wrote.

mod answers;
#[path = "../common/mod.rs"]
mod common;
mod goldens;
mod malformed;
mod malformed_grpc;

use common::TestServer;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response};
use resnetd::server::pb::inference as pb;
use resnetd::server::pb::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use serde_json::Value;
use tonic::transport::Channel;

const HEADER_LENGTH: &str = "inference-header-content-length";

async fn grpc(server: &TestServer) -> GrpcInferenceServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", server.bound.grpc)).unwrap();
    GrpcInferenceServiceClient::new(endpoint.connect().await.unwrap())
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// Posts an infer request to model `model` with these headers.
async fn post(
    server: &TestServer,
    model: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Response {
    let pair = |(name, value): &(&str, &str)| {
        let name = HeaderName::try_from(*name).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    };
    let headers: HeaderMap = headers.iter().map(pair).collect();
    let url = server.url(&format!("/v2/models/{model}/infer"));
    let request = Client::new().post(url).headers(headers).body(body);
    request.send().await.unwrap()
}

/// The JSON of an answer and the binary data after it.
async fn parts(response: Response) -> (Value, Vec<u8>) {
    assert_eq!(response.status(), 200, "{:?}", response.text().await);
    let length = response.headers().get(HEADER_LENGTH);
    let length = length.map(|length| length.to_str().unwrap().parse::<usize>().unwrap());
    let body = response.bytes().await.unwrap();
    let (json, binary) = body.split_at(length.unwrap_or(body.len()));
    (serde_json::from_slice(json).unwrap(), binary.to_vec())
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    bytes.chunks_exact(4).map(value).collect()
}

/// Elements of BYTES after their lengths.
fn framed(elements: &[&[u8]]) -> Vec<u8> {
    let frame = |element: &&[u8]| {
        let length = u32::try_from(element.len()).unwrap().to_le_bytes();
        [&length, *element].concat()
    };
    elements.iter().flat_map(frame).collect()
}

/// A gRPC request with one raw input tensor.
fn raw_request(model: &str, datatype: &str, shape: &[i64], raw: Vec<u8>) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: model.into(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: "input".into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
            ..Default::default()
        }],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    }
}
