//! The one error code of the service; `server::status` maps it to HTTP and gRPC.

use std::fmt;
use std::time::Duration;

use crate::batching::{BatchError, QueueFull};
use crate::imaging::ImageError;

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
    /// 408 DEADLINE_EXCEEDED: no part of the body came for --body-timeout
    BodyTimeout,
    /// 413 RESOURCE_EXHAUSTED: a body over --max-body-bytes, or what tensors need if that is more
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
    /// 503 UNAVAILABLE: loading, failed, its devices lost, draining
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
    pub const ALL: [Self; 14] = [
        Code::InvalidRequest,
        Code::ModelNotFound,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::BodyTimeout,
        Code::BodyTooLarge,
        Code::ImageTooLarge,
        Code::UnsupportedImage,
        Code::UndecodableImage,
        Code::QueueFull,
        Code::Internal,
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Cancelled,
    ];

    /// snake_case, as in JSON errors and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::InvalidRequest => "invalid_request",
            Code::ModelNotFound => "model_not_found",
            Code::NotFound => "not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::BodyTimeout => "body_timeout",
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

    /// A request that is not what it must be.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// Says which image of a request the error is about, where it is about one.
    pub(super) fn of_image(self, index: usize) -> Self {
        match self.code {
            Code::UnsupportedImage | Code::UndecodableImage | Code::ImageTooLarge => Self {
                message: format!("image {index}: {}", self.message),
                ..self
            },
            _ => self,
        }
    }

    pub(super) fn retry_after(self, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..self
        }
    }

    /// The deadline passed, wherever the image was.
    pub(super) fn deadline() -> Self {
        Self::new(
            Code::DeadlineExceeded,
            "the deadline passed before the image was classified; allow more time or send fewer images at once",
        )
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        let code = match error {
            ImageError::Unsupported { .. } => Code::UnsupportedImage,
            ImageError::Undecodable(_) => Code::UndecodableImage,
            ImageError::TooLarge { .. } => Code::ImageTooLarge,
        };
        Self::new(code, error.to_string())
    }
}

impl From<QueueFull> for Error {
    fn from(full: QueueFull) -> Self {
        if full.asked > full.limit {
            // coming back later would not help
            let QueueFull { asked, limit, .. } = full;
            let message = format!(
                "the request has {asked} images, but at most {limit} are admitted at a time; send fewer"
            );
            return Self::new(Code::InvalidRequest, message);
        }
        Self::new(Code::QueueFull, full.to_string()).retry_after(Duration::from_secs(1))
    }
}

impl From<BatchError> for Error {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Deadline => Self::deadline(),
            // the cause stands in the log; it says nothing that a caller could act on
            BatchError::Engine(_) | BatchError::ImageLength { .. } => Self::new(
                Code::Internal,
                "the model failed on this batch of images; try again",
            ),
            BatchError::Lost(_) => Self::new(
                Code::Unavailable,
                "the device that ran the model is lost, and there was no other to run this image on; try again, \
                 elsewhere if you can",
            ),
            BatchError::Closed => Self::new(Code::Unavailable, error.to_string()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_all_there_and_their_names_differ() {
        let names: HashSet<&str> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        // discriminants are consecutive, so the last one's says how many there are
        assert_eq!(Code::Cancelled as usize + 1, Code::ALL.len());
        assert!(!names.contains("ok"));
    }

    #[test]
    fn a_request_that_can_never_fit_is_not_told_to_come_back() {
        let full = QueueFull {
            admitted: 0,
            asked: 9,
            limit: 8,
        };
        let error = Error::from(full);
        assert_eq!(
            (error.code, error.retry_after),
            (Code::InvalidRequest, None)
        );
        let error = Error::from(QueueFull { asked: 8, ..full });
        assert_eq!(error.code, Code::QueueFull);
        assert!(error.retry_after.is_some());
    }
}
