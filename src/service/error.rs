//! The one error code of the service; `server::status` maps it to HTTP and gRPC.

use std::fmt;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// 400 INVALID_ARGUMENT
    InvalidRequest,
    /// 404 NOT_FOUND
    ModelNotFound,
    /// 404 NOT_FOUND: no such path
    NotFound,
    /// 405 UNIMPLEMENTED
    MethodNotAllowed,
    /// 413 RESOURCE_EXHAUSTED... body over --max-body-bytes
    BodyTooLarge,
    /// 413 INVALID_ARGUMENT: an image over --max-image-pixels
    ImageTooLarge,
    /// 415 INVALID_ARGUMENT
    UnsupportedImage,
    /// 422 INVALID_ARGUMENT
    UndecodableImage,
    /// 429 RESOURCE_EXHAUSTED
    QueueFull,
    /// 500 INTERNAL
    Internal,
    /// 503 UNAVAILABLE: loading, failed, draining
    Unavailable,
    /// 504 DEADLINE_EXCEEDED
    DeadlineExceeded,
    /// 499, the caller left; only in logs and metrics
    Cancelled,
}

/// An error as a caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    /// A sentence: what was wrong, what was expected, what to do.
    pub message: String,
    /// For `QueueFull` and `Unavailable`: when to come back.
    pub retry_after: Option<Duration>,
}

impl Code {
    /// snake_case, as in JSON errors and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::InvalidRequest => "invalid_request",
            Code::ModelNotFound => "model_not_found",
            Code::NotFound => "not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::BodyTooLarge => "body_too_large",
            Code::ImageTooLarge => "image_too_large",
            Code::UnsupportedImage => "unsupported_image",
            Code::UndecodableImage => "undecodable_image",
            Code::QueueFull => "queue_full",
            Code::Internal => "internal",
            Code::Unavailable => "unavailable",
            Code::DeadlineExceeded => "deadline_exceeded",
            Code::Cancelled => "cancelled",
        }
    }
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
