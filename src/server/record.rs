//! What is kept of a request: its id, one line in the log, one observation in the metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use uuid::Uuid;

use super::Core;
use crate::service::{Code, Error, ServedModel};
use crate::telemetry::{Metrics, Protocol, RejectReason};

const MAX_ID: usize = 128;

/// The caller's id where it is fit for logs and headers (printable ASCII, at most 128), else a new one.
pub(super) fn request_id(given: Option<&str>) -> String {
    match given {
        Some(id)
            if (1..=MAX_ID).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_graphic() || b == b' ') =>
        {
            id.to_owned()
        }
        _ => Uuid::new_v4().to_string(),
    }
}

/// A request being answered. Dropped without an outcome it counts as cancelled: the caller has gone.
pub(super) struct Record {
    metrics: Arc<Metrics>,
    protocol: Protocol,
    started: Instant,
    known: Mutex<Known>,
}

/// What has become known of the request.
#[derive(Default)]
struct Known {
    model: Option<Arc<ServedModel>>,
    /// Images it turned out to have.
    images: Option<usize>,
    outcome: Option<Result<(), Code>>,
    /// The service has the images and counts those it turns away.
    submitted: bool,
}

impl Record {
    pub(super) fn new(core: &Core, protocol: Protocol) -> Self {
        Self {
            metrics: Arc::clone(&core.metrics),
            protocol,
            started: Instant::now(),
            known: Mutex::default(),
        }
    }

    /// Which model the request is for, as far as is known.
    pub(super) fn model(&self, model: Option<&Arc<ServedModel>>) {
        self.known().model = model.cloned();
    }

    /// How many images the request has.
    pub(super) fn images(&self, images: usize) {
        self.known().images = Some(images);
    }

    /// The service has the request's images from here on.
    pub(super) fn submitted(&self) {
        self.known().submitted = true;
    }

    /// Whether an outcome has been noted.
    pub(super) fn is_settled(&self) -> bool {
        self.known().outcome.is_some()
    }

    pub(super) fn outcome<T>(&self, result: &Result<T, Error>) {
        match result {
            Ok(_) => self.known().outcome = Some(Ok(())),
            Err(error) => self.failed(error),
        }
    }

    pub(super) fn failed(&self, error: &Error) {
        self.known().outcome = Some(Err(error.code));
        match error.code {
            Code::Internal => tracing::error!(%error, "request failed"),
            code => tracing::debug!(%error, code = code.as_str(), "request refused"),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let known = self.known();
        let outcome = known.outcome.unwrap_or(Err(Code::Cancelled));
        let code = outcome.map_or_else(Code::as_str, |()| "ok");
        let model = known.model.as_deref();
        let series = model.map(|model| &*model.metrics);
        self.metrics.request(series, self.protocol, code, seconds);
        if let (Err(code), false) = (outcome, known.submitted)
            && let Some(reason) = turned_away(code)
        {
            let images = known.images.unwrap_or(1).max(1);
            self.metrics.rejected(series, reason, images as u64);
        }
        tracing::info!(
            code,
            model = model.map(|model| model.name.as_str()),
            seconds,
            "request"
        );
    }
}

/// Why a request was turned away before the service had its images.
fn turned_away(code: Code) -> Option<RejectReason> {
    match code {
        Code::QueueFull => Some(RejectReason::QueueFull),
        Code::BodyTooLarge => Some(RejectReason::TooLarge),
        Code::DeadlineExceeded | Code::BodyTimeout => Some(RejectReason::Deadline),
        Code::Cancelled => Some(RejectReason::Cancelled),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fit_ids_are_kept_and_others_replaced() {
        let longest = "x".repeat(MAX_ID);
        for fit in ["a", "order 66/b", longest.as_str()] {
            assert_eq!(request_id(Some(fit)), fit);
        }
        let longer = "x".repeat(MAX_ID + 1);
        for unfit in ["", "tab\there", "line\nbreak", "é", longer.as_str()] {
            let made = request_id(Some(unfit));
            assert_ne!(made, unfit);
            assert!(Uuid::parse_str(&made).is_ok(), "{made}");
        }
        assert_ne!(request_id(None), request_id(None));
    }
}
