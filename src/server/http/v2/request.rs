//! An infer request's body: JSON, JSON followed by binary data, or one encoded image.

use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use serde::Deserialize;

use super::json::{self, Short, Values};
use crate::server::oip::{Data, Infer, Parameters, Tensor, Value, frame};
use crate::service::Error;

/// Bytes of JSON at the beginning of the body; the rest is binary data.
pub(super) const HEADER_LENGTH: HeaderName =
    HeaderName::from_static("inference-header-content-length");

/// Inputs or outputs of a request; models have one and two.
const MAX_TENSORS: usize = 16;
/// Dimensions of a tensor; models have up to four.
const MAX_DIMENSIONS: usize = 16;

#[derive(Deserialize)]
struct InferRequest {
    #[serde(default)]
    id: Option<String>,
    #[serde(default, deserialize_with = "json::parameters")]
    parameters: Parameters,
    inputs: Short<Input, MAX_TENSORS>,
    #[serde(default)]
    outputs: Short<Output, MAX_TENSORS>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    datatype: String,
    shape: Short<i64, MAX_DIMENSIONS>,
    #[serde(default, deserialize_with = "json::parameters")]
    parameters: Parameters,
    #[serde(default)]
    data: Option<Values>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default, deserialize_with = "json::parameters")]
    parameters: Parameters,
}

/// How long the JSON is; `None` where it is the whole body.
///
/// # Errors
/// When the header is not a number.
pub(super) fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Error> {
    let Some(value) = headers.get(HEADER_LENGTH) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    text.trim().parse().map(Some).map_err(|_| {
        Error::invalid(format!(
            "{HEADER_LENGTH} is {text:?}, expected the number of bytes of the JSON"
        ))
    })
}

/// Reads a body, decompressed already. The model's name and version are in the path.
///
/// # Errors
/// Names the field that is wrong.
pub(super) fn read(body: Bytes, header_length: Option<usize>) -> Result<Infer, Error> {
    match header_length {
        Some(0) => Ok(raw(&body)),
        Some(length) if length > body.len() => Err(Error::invalid(format!(
            "{HEADER_LENGTH} is {length}, but the body has {} bytes",
            body.len()
        ))),
        Some(length) => with_binary(&body.slice(..length), body.slice(length..)),
        None => with_binary(&body, Bytes::new()),
    }
}

/// The body is one encoded image; its answer is in binary form.
fn raw(body: &[u8]) -> Infer {
    Infer {
        parameters: vec![("binary_data_output".to_owned(), Value::Bool(true))],
        inputs: vec![Tensor {
            name: crate::server::oip::INPUT.to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1],
            parameters: Parameters::new(),
            data: Data::Raw(frame([body]).into()),
        }],
        ..Infer::default()
    }
}

fn with_binary(json: &[u8], mut binary: Bytes) -> Result<Infer, Error> {
    let request: InferRequest = json::parse(json)?;
    let mut inputs = Vec::new();
    for input in request.inputs.0 {
        inputs.push(input.tensor(&mut binary)?);
    }
    if !binary.is_empty() {
        return Err(Error::invalid(format!(
            "{} bytes follow the JSON that no input's binary_data_size claims",
            binary.len()
        )));
    }
    let outputs = request.outputs.0.into_iter();
    Ok(Infer {
        id: request.id.unwrap_or_default(),
        parameters: request.parameters,
        inputs,
        outputs: outputs
            .map(|output| (output.name, output.parameters))
            .collect(),
        ..Infer::default()
    })
}

impl Input {
    /// Takes the input's share of the binary data, if it has one.
    fn tensor(self, binary: &mut Bytes) -> Result<Tensor, Error> {
        let shape = self.shape.0;
        let mut tensor = Tensor {
            name: self.name,
            datatype: self.datatype,
            shape,
            parameters: self.parameters,
            data: Data::None,
        };
        match (tensor.binary_size()?, self.data) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "an input has both data and binary_data_size; give its values once",
                ));
            }
            (Some(size), None) if size > binary.len() => {
                return Err(Error::invalid(format!(
                    "binary_data_size of the input is {size}, but {} bytes follow the JSON",
                    binary.len()
                )));
            }
            (Some(size), None) => tensor.data = Data::Raw(binary.split_to(size)),
            (None, Some(values)) => {
                nested_as_shaped(&values.lengths, &tensor.shape)?;
                tensor.data = values.data;
            }
            (None, None) => {}
        }
        Ok(tensor)
    }
}

/// Values may be nested as the shape is, or not at all.
fn nested_as_shaped(lengths: &[usize], shape: &[i64]) -> Result<(), Error> {
    let same = |(&length, &size): (&usize, &i64)| usize::try_from(size) == Ok(length);
    let nested = lengths.len() == shape.len() && lengths.iter().zip(shape).all(same);
    if lengths.len() > 1 && !nested {
        return Err(Error::invalid(format!(
            "the data of the input is nested as {lengths:?}, but its shape is {shape:?}"
        )));
    }
    Ok(())
}
