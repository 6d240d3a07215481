//! The three forms of a classification request: an image as it is, a multipart form, JSON with base64.

use std::borrow::Cow;

use axum::body::Body;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{FromRequest, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::Deserialize;

use crate::server::Core;
use crate::server::ask::Ask;
use crate::server::guard::cause;
use crate::service::{Code, Error};

/// A value of a form field that is not a file; the longest meaningful one is a model's name.
const MAX_FIELD: usize = 4096;

/// What the content type says of the body. Only a form needs it (for the boundary); of all else the bytes say whether it
/// is JSON or an image, because callers send either under any type, and curl under a form's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Not expected to name a model.
    Image,
    Bytes,
    Multipart,
}

/// What the query says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    pub(super) model: Option<String>,
    pub(super) top_k: Option<usize>,
}

/// Bytes of a body that show whether it is JSON: noise that begins like it does not go on like it.
const JSON_START: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRequest<'a> {
    #[serde(borrow)]
    images: Vec<JsonImage<'a>>,
    model: Option<String>,
    top_k: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonImage<'a> {
    #[serde(borrow)]
    b64: Cow<'a, str>,
}

impl Form {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let content_type = content_type.to_ascii_lowercase();
        let (essence, parameters) = content_type.split_once(';').unwrap_or((&content_type, ""));
        if essence.trim() == "multipart/form-data" && parameters.contains("boundary=") {
            Form::Multipart
        } else if essence.trim_start().starts_with("image/") {
            Form::Image
        } else {
            Form::Bytes
        }
    }
}

impl Params {
    pub(super) fn of(uri: &Uri) -> Result<Self, Error> {
        let Query(params) = Query::<Self>::try_from_uri(uri).map_err(|error| {
            Error::invalid(format!(
                "the query is not understood: {error}; model (a name) and top_k (1 to 100) are"
            ))
        })?;
        Ok(Self {
            model: params.model.filter(|model| !model.is_empty()),
            ..params
        })
    }
}

/// Reads the body. More images than allowed are refused: of a form before the next is held, of JSON (held whole anyway)
/// before the first is decoded.
pub(super) async fn read(
    core: &Core,
    form: Form,
    params: Params,
    parts: Parts,
    body: Body,
) -> Result<Ask, Error> {
    let max_images = core.config.max_images_per_request;
    let mut ask = Ask {
        images: Vec::new(),
        model: params.model,
        top_k: params.top_k,
    };
    match form {
        Form::Image | Form::Bytes => {
            let bytes = collect(body).await?;
            if is_json(&bytes) {
                let parsed = core
                    .blocking(move || parse_json(&bytes, max_images))
                    .await?;
                ask.images = parsed.images;
                agree("model", &mut ask.model, parsed.model)?;
                agree("top_k", &mut ask.top_k, parsed.top_k)?;
            } else if !bytes.is_empty() {
                ask.images.push(Ok(bytes));
            }
        }
        Form::Multipart => {
            let request = Request::from_parts(parts, body);
            let form = Multipart::from_request(request, &()).await;
            let form = form.map_err(|error| Error::invalid(error.body_text()))?;
            read_form(form, &mut ask, max_images).await?;
        }
    }
    Ok(ask)
}

/// A file part is an image; so is a part without a file's name unless it is called `model` or `top_k`.
async fn read_form(mut form: Multipart, ask: &mut Ask, max_images: usize) -> Result<(), Error> {
    while let Some(field) = form.next_field().await.map_err(form_error)? {
        let is_file = field.file_name().is_some();
        match field.name() {
            Some("model") if !is_file => {
                let model = Some(value("model", field).await?).filter(|model| !model.is_empty());
                agree("model", &mut ask.model, model)?;
            }
            Some("top_k") if !is_file => {
                let text = value("top_k", field).await?;
                let top_k = text
                    .trim()
                    .parse()
                    .map_err(|_| Error::invalid(format!("top_k is {text:?}, expected 1 to 100")))?;
                agree("top_k", &mut ask.top_k, Some(top_k))?;
            }
            _ if ask.images.len() == max_images => {
                return Err(too_many(max_images));
            }
            _ => ask
                .images
                .push(Ok(field.bytes().await.map_err(form_error)?)),
        }
    }
    Ok(())
}

/// The text of a field that is not a file.
async fn value(name: &str, mut field: Field<'_>) -> Result<String, Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(form_error)? {
        if bytes.len() + chunk.len() > MAX_FIELD {
            return Err(Error::invalid(format!(
                "the form's {name} is longer than {MAX_FIELD} bytes"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid(format!("the form's {name} is not UTF-8")))
}

/// Whether the body begins as a JSON object, array or string; no image does.
fn is_json(body: &[u8]) -> bool {
    let text = body.trim_ascii_start();
    let plain = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    matches!(text.first(), Some(b'{' | b'[' | b'"')) && text.iter().take(JSON_START).all(plain)
}

fn parse_json(json: &[u8], max_images: usize) -> Result<Ask, Error> {
    let request: JsonRequest<'_> = serde_json::from_slice(json).map_err(|error| {
        // the error may quote what the caller wrote, however long that is
        let error: String = error.to_string().chars().take(300).collect();
        Error::invalid(format!(
            "the body is not the JSON expected: {error}; send {{\"images\":[{{\"b64\":\"...\"}}],\"model\":\"...\",\"top_k\":5}}"
        ))
    })?;
    if request.images.len() > max_images {
        return Err(too_many(max_images));
    }
    let images = request.images.iter().map(|image| {
        STANDARD
            .decode(image.b64.as_bytes())
            .map(Bytes::from)
            .map_err(|error| {
                let message = format!("the image's b64 is not base64: {error}");
                Error::new(Code::UndecodableImage, message)
            })
    });
    Ok(Ask {
        images: images.collect(),
        model: request.model.filter(|model| !model.is_empty()),
        top_k: request.top_k,
    })
}

/// Takes a value said in a second place; saying two different things is an error.
fn agree<T: PartialEq + std::fmt::Debug>(
    name: &str,
    first: &mut Option<T>,
    second: Option<T>,
) -> Result<(), Error> {
    match (&*first, second) {
        (Some(one), Some(other)) if *one != other => Err(Error::invalid(format!(
            "{name} is given as {one:?} and as {other:?}; give it once"
        ))),
        (_, None) => Ok(()),
        (_, some) => {
            *first = some;
            Ok(())
        }
    }
}

/// The whole body, which the guard has bounded.
pub(super) async fn collect(mut body: Body) -> Result<Bytes, Error> {
    // no more than the guard lets pass
    let announced = body.size_hint().lower();
    let mut bytes = BytesMut::with_capacity(usize::try_from(announced).unwrap_or(0));
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| cause(&error).unwrap_or_else(|| Error::invalid(error.to_string())))?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

fn form_error(error: axum::extract::multipart::MultipartError) -> Error {
    cause(&error).unwrap_or_else(|| {
        Error::invalid(format!("the form cannot be read: {}", error.body_text()))
    })
}

fn too_many(max_images: usize) -> Error {
    Error::invalid(format!(
        "the request has more than the {max_images} images allowed; send them in several requests"
    ))
}

#[cfg(test)]
mod tests {
    use super::is_json;

    #[test]
    fn the_first_bytes_tell_json_from_noise() {
        assert!(is_json(b"{\"images\":[]}"));
        assert!(is_json(b" \r\n[1]"));
        assert!(is_json(b"{"));
        assert!(!is_json(b"{\x00\xff\x91noise"));
        assert!(!is_json(b"\xff\xd8\xff\xe0 JPEG"));
        assert!(!is_json(b""));
    }
}
