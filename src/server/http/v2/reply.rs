//! An infer request's answer: JSON, followed by the tensors that are wanted in binary form.

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::encoding::Encoding;
use super::request::HEADER_LENGTH;
use crate::server::oip::{Answer, OutputTensor, Values};
use crate::service::{Code, Error};

/// Smaller answers are not worth compressing.
const WORTH_COMPRESSING: usize = 1 << 10;

#[derive(Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'static str,
    datatype: &'static str,
    shape: [usize; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Binary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(Serialize)]
struct Binary {
    binary_data_size: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Floats(&'a [f32]),
    Texts(&'a [String]),
}

/// Writes an answer, compressed where the caller likes that and it is worth it. Takes milliseconds for large answers.
pub(super) fn write(answer: &Answer, accepted: Option<Encoding>) -> Result<Response, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::new(Code::Internal, error.to_string());
    let mut binary = Vec::new();
    let outputs = answer.outputs.iter();
    let outputs = outputs
        .map(|tensor| Output::of(tensor, &mut binary))
        .collect();
    let response = InferResponse {
        model_name: &answer.model.name,
        model_version: &answer.model.version,
        id: &answer.id,
        outputs,
    };
    let mut body = serde_json::to_vec(&response).map_err(|error| failed(&error))?;
    let header_length = body.len();
    let is_binary = answer.outputs.iter().any(|tensor| tensor.binary);
    body.append(&mut binary);
    let encoding = accepted.filter(|_| body.len() >= WORTH_COMPRESSING);
    if let Some(encoding) = encoding {
        body = encoding.encode(&body).map_err(|error| failed(&error))?;
    }

    let mut response = (StatusCode::OK, body).into_response();
    let headers = response.headers_mut();
    let content_type = if is_binary {
        headers.insert(HEADER_LENGTH, HeaderValue::from(header_length));
        "application/octet-stream"
    } else {
        "application/json"
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(encoding) = encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    }
    Ok(response)
}

impl<'a> Output<'a> {
    /// The values go into the JSON, or to the end of `binary`.
    fn of(tensor: &'a OutputTensor, binary: &mut Vec<u8>) -> Self {
        let (parameters, data) = if tensor.binary {
            let mut raw = tensor.raw();
            let size = Binary {
                binary_data_size: raw.len(),
            };
            binary.append(&mut raw);
            (Some(size), None)
        } else {
            let data = match &tensor.values {
                Values::Floats(values) => Data::Floats(values),
                Values::Texts(texts) => Data::Texts(texts),
            };
            (None, Some(data))
        };
        Self {
            name: tensor.name,
            datatype: tensor.datatype,
            shape: tensor.shape,
            parameters,
            data,
        }
    }
}
