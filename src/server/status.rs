//! The one table from the service's error codes to HTTP's and gRPC's.

use axum::http::StatusCode;
use tonic::Code as Grpc;

use crate::service::Code;

/// What an error code is called on the wire.
pub(super) const fn of(code: Code) -> (StatusCode, Grpc) {
    match code {
        Code::InvalidRequest => (StatusCode::BAD_REQUEST, Grpc::InvalidArgument),
        Code::ModelNotFound | Code::NotFound => (StatusCode::NOT_FOUND, Grpc::NotFound),
        Code::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, Grpc::Unimplemented),
        Code::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, Grpc::DeadlineExceeded),
        Code::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Grpc::ResourceExhausted),
        Code::ImageTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Grpc::InvalidArgument),
        Code::UnsupportedImage => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Grpc::InvalidArgument),
        Code::UndecodableImage => (StatusCode::UNPROCESSABLE_ENTITY, Grpc::InvalidArgument),
        Code::QueueFull => (StatusCode::TOO_MANY_REQUESTS, Grpc::ResourceExhausted),
        Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Grpc::Internal),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Grpc::Unavailable),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, Grpc::DeadlineExceeded),
        // never sent: the caller is gone. 499 is no registered status, so a constant cannot name it
        Code::Cancelled => (StatusCode::BAD_REQUEST, Grpc::Cancelled),
    }
}
